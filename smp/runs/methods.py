"""The pruning methods. Each is one line that names its class in smp/method/."""

from typing import Any, NamedTuple


class Method(NamedTuple):
    """What `smp sweep` calls a method.

    method: the setting `method`, and the name in records. masks: "file.Class" in smp/method/.
    defaults: settings that differ from those of SMP. sharing: fixes the setting `sharing`.
    freezes_weights: only scores and head are trained. pruning: "file.Class" of the masks over time.
    """

    method: str
    masks: str
    defaults: dict = {}
    sharing: str | None = None
    freezes_weights: bool = False
    pruning: str = "schedule.Pruning"

    @property
    def settings(self) -> dict:
        """The settings that choose this method."""
        return {"method": self.method} | ({"sharing": self.sharing} if self.sharing else {})


# Sanh et al., Movement Pruning, NeurIPS 2020, on SQuAD: of 55,330 steps the learning rate rises for
# 5,400, while everything is kept, and the last 10,800 keep the final density.
FINE_PRUNING = dict(sharing="local", warmup=5_400 / 55_330, density_hold=5_400 / 55_330,
                    density_ramp=44_530 / 55_330)
MAGNITUDE = dict(**FINE_PRUNING, regulariser=0.0)
MOVEMENT = dict(**FINE_PRUNING, learning_rate=1e-2, regulariser=0.0)
SOFT_MOVEMENT = dict(**FINE_PRUNING, learning_rate=1e-2, score_start=0.0)

METHODS = {
    "smp-l": Method("smp", "masks.Masks", sharing="local", freezes_weights=True),
    "smp-s": Method("smp", "masks.Masks", sharing="shared", freezes_weights=True),
    "magnitude": Method("magnitude", "baselines.MagnitudeMasks", MAGNITUDE),
    "movement": Method("movement", "baselines.MovementMasks", MOVEMENT),
    "movement-s": Method("movement", "baselines.MovementMasks", MOVEMENT, sharing="shared"),
    "soft-movement": Method("soft movement", "baselines.SoftMovementMasks", SOFT_MOVEMENT,
                            pruning="baselines.SoftPruning"),
}


def method_of(settings: Any) -> Method:
    """Return the method that the setting `method` names."""
    return next(one for one in METHODS.values() if one.method == settings.method)


def method_names() -> list[str]:
    """Return the values of the setting `method`."""
    return list(dict.fromkeys(one.method for one in METHODS.values()))


def record_method(settings: Any) -> str:
    """Return the method as records name it: "SMP", "movement + KD", ..."""
    name = "SMP" if settings.method == "smp" else settings.method
    return name + " + KD" * (settings.task == "smp-kd")


def record_methods() -> list[str]:
    """Return what a record may name as its method, in the order of the tables."""
    names = ["SMP" if name == "smp" else name for name in method_names()]
    return ["fine-tuned", *(name + kd for name in names for kd in ("", " + KD"))]


def read_method(text: str) -> tuple[str, dict]:
    """Return task and settings of "smp-s+kd": ("smp-kd", {"method": "smp", "sharing": "shared"}).

    Raises ValueError with one line for any other word.
    """
    name, _, teacher = text.lower().partition("+")
    if name not in METHODS or teacher not in ("", "kd") or text.endswith("+"):
        known = ", ".join(METHODS)
        raise ValueError(f"METHODS={text!r}: expected some of {known}, each also with +kd")
    return ("smp-kd" if teacher else "smp"), METHODS[name].settings


def sweep_method(settings: dict) -> str:
    """Return what `read_method` reads, of the settings of a record: "smp-s+kd"."""
    names = [name for name, one in METHODS.items() if one.settings.items() <= settings.items()]
    name = max(names, key=lambda name: len(METHODS[name].settings))  # movement-s before movement
    return name + "+kd" * (settings["task"] == "smp-kd")
