"""The pruning methods. Each is one line that names its class in smp/method/."""

from typing import Any, NamedTuple

FINE_TUNED = "fine-tuned"  # the setting `method` of a run without a mask
DISTILLATIONS = ("none", "logits", "hidden")  # the setting `distill`


class Method(NamedTuple):
    """One value of the setting `method`.

    label: the name in tables. masks: "file.Class" in smp/method/. defaults: settings that differ
    from those of SMP. competes: the layers of one kind of matrix compete for its kept weights, as
    in SMP-S; otherwise every matrix has the same density. freezes_weights: only scores and head
    are trained; otherwise the layers too, but not the embeddings. pruning: "file.Class" of the
    masks over time.
    """

    label: str
    masks: str
    defaults: dict = {}
    competes: bool = False
    freezes_weights: bool = False
    pruning: str = "schedule.Pruning"


# Sanh et al., Movement Pruning, NeurIPS 2020, on SQuAD, 55,330 steps: the density is 1 in the first
# 5,400, while the learning rate rises, and the final density in the last 10,800.
MAGNITUDE = dict(warmup_fraction=5_400 / 55_330, density_hold_fraction=5_400 / 55_330,
                 density_ramp_fraction=44_530 / 55_330, regulariser=0.0, head="trained")
MOVEMENT = dict(MAGNITUDE, learning_rate=1e-2)
SOFT_MOVEMENT = dict(MOVEMENT, score_init=0.0, regulariser=400.0)

METHODS = {
    "smp-l": Method("SMP-L", "masks.Masks", freezes_weights=True),
    "smp-s": Method("SMP-S", "masks.Masks", competes=True, freezes_weights=True),
    "magnitude": Method("magnitude", "baselines.MagnitudeMasks", MAGNITUDE),
    "movement": Method("movement", "baselines.MovementMasks", MOVEMENT),
    "movement-s": Method("movement-S", "baselines.MovementMasks", MOVEMENT, competes=True),
    "soft-movement": Method("soft movement", "baselines.SoftMovementMasks", SOFT_MOVEMENT,
                            pruning="baselines.SoftPruning"),
}


def method_of(settings: Any) -> Method:
    """Return the pruning method of the settings."""
    return METHODS[settings.method]


def stage_of(method: str, distill: str) -> str:
    """Return the part of a profile that a run belongs to: "fine-tune", "smp" or "smp-kd"."""
    if method == FINE_TUNED:
        return "fine-tune"
    return "smp" if distill == "none" else "smp-kd"


def method_label(method: str, distill: str = "none", trains_biases_and_norms: bool = False) -> str:
    """Return the name in tables: "SMP-S + KD + hidden states" of "smp-s" and "hidden"."""
    return (
        (FINE_TUNED if method == FINE_TUNED else METHODS[method].label)
        + " + KD" * (distill != "none")
        + " + hidden states" * (distill == "hidden")
        + " + biases, LayerNorms" * trains_biases_and_norms
    )
