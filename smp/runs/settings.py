"""The settings of a run: one frozen set of plain values, all of which its record contains."""

from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, NoReturn

from smp.model.kinds import HEADS
from smp.runs.methods import method_names, method_of
from smp.runs.profiles import PROFILES, default_profile, preset
from smp.text import is_number


@dataclass(frozen=True)
class Settings:
    """All settings of a run. A fraction "of the run" is a fraction of its optimizer steps."""

    profile: str
    task: str  # "fine-tune", "smp" or "smp-kd"
    # model and data
    model: str  # Hub name, local folder, or "all-MiniLM-L6-v2" (embedded)
    data: str  # Hub name, SQuAD-format file or folder, or "almanac" (embedded)
    n_train: int | None  # training questions; None: all
    n_valid: int  # questions held out of the training set, for curves
    n_eval: int | None  # questions of the evaluation set; None: all
    longest_passage: int | None = None  # words; questions on longer passages are left out
    max_length: int = 384  # tokens in a window of question and passage
    stride: int = 128  # tokens that neighbouring windows share
    # optimisation
    batch_size: int = 32
    epochs: float = 10
    learning_rate: float = 2e-2  # of the scores; of all weights when fine-tuning
    weight_learning_rate: float = 3e-5  # of the weights, if a pruning method trains them
    head_learning_rate: float = 1e-3  # of a trained head on frozen weights
    vector_learning_rate: float = 0.0  # of biases and LayerNorms; 0: frozen, as in SMP
    head: str = "auto"  # one of HEADS; "auto": label words if the model has them, else trained
    warmup: float = 0.0  # fraction of the run in which the learning rate rises
    dropout: float = 0.1
    precision: str = "auto"  # "fp32", "bf16", "fp16"; "auto": the fastest on the device
    seed: int = 0  # of a new head, the order of the questions, dropout
    data_seed: int = 0  # of the questions that are drawn, if not all are used
    # the mask (density v, its ramp N, the regulariser's weight lambda and ramp T)
    method: str = "smp"  # see METHODS
    density: float = 1.0  # fraction of the encoder's weights that stay, (0, 1]
    sharing: str = "local"  # "local": SMP-L, the same density everywhere; "shared": SMP-S
    temperature: float = 1.0  # p of SMP-S
    score_start: float = 0.0  # scores start at this * |W| / mean |W|; 0 in SMP
    density_hold: float = 0.0  # fraction of the run before the density falls
    density_ramp: float = 22_670 / 27_670  # N as a fraction of the run
    regulariser: float = 400.0  # final weight of the regulariser, lambda_f
    regulariser_ramp: float = 1.0  # T as a fraction of the run
    regulariser_rule: str = "cubic"  # lambda(t): a "cubic" ramp, or proportional to "density"
    threshold: float = 0.1  # final tau of soft movement, a value of sigma(S)
    # distillation
    kd_weight: float = 0.5  # alpha: loss = (1 - alpha) CE + alpha KD
    kd_temperature: float = 2.0  # tau
    hidden_weight: float = 0.0  # beta, of the distance to the teacher's hidden states; 0 in SMP
    n_snapshots: int = 8  # validations during training
    n_masks: int = 24  # snapshots of the masks during training

    @property
    def trains_biases_and_norms(self) -> bool:
        """Whether a pruning method trains biases and LayerNorms."""
        return self.vector_learning_rate > 0

    @property
    def freezes_weights(self) -> bool:
        """Whether the encoder's matrices keep their values."""
        return self.task != "fine-tune" and method_of(self).freezes_weights


SETTING_DEFAULTS = {f.name: f.default for f in fields(Settings) if f.default is not MISSING}
MASK_SETTINGS = ("method", "density", "sharing")


def refuse_value(name: str, value: Any, expected: str) -> NoReturn:
    """Raise the ValueError of a wrong setting."""
    raise ValueError(f"{name.upper()}={value!r}: expected {expected}")


def check_settings(settings: Settings) -> Settings:
    """Return the settings. Raises ValueError, one line, for a value that cannot work."""

    def need(names: str, good: Callable, expected: str) -> None:
        for name in names.split():
            value = getattr(settings, name)
            if not good(value):
                refuse_value(name, value, expected)

    def whole(low: int, high: float = 2**32) -> Callable:
        return lambda v: isinstance(v, int) and is_number(v, low, high)

    for name in settings.__dict__:  # a seed can be no larger
        need(name, lambda v: not (isinstance(v, int | float) and abs(v) >= 2**32),
             "a number below 4294967296")
    need("model data", lambda v: isinstance(v, str) and v.strip(), "a name or a path, as text")
    need("n_train n_eval longest_passage", lambda v: v is None or whole(1)(v),
         "a whole number from 1")
    need("n_valid stride seed data_seed", whole(0), "a whole number from 0")
    need("n_snapshots", whole(0, 1000), "a whole number from 0 to 1000")
    need("n_masks", whole(1, 1000), "a whole number from 1 to 1000")  # the last one is drawn
    need("max_length batch_size", whole(1), "a whole number from 1")
    need("epochs learning_rate temperature kd_temperature", lambda v: is_number(v) and v > 0,
         "a number above 0")
    need("head_learning_rate vector_learning_rate weight_learning_rate regulariser score_start "
         "hidden_weight", is_number, "a number from 0")
    need("density density_ramp regulariser_ramp", lambda v: is_number(v, 0, 1) and v > 0,
         "a number above 0 and at most 1")
    need("dropout warmup density_hold threshold", lambda v: is_number(v, 0, 1) and v < 1,
         "a number from 0 and below 1")
    need("kd_weight", lambda v: is_number(v, 0, 1), "a number from 0 to 1")
    need("method", method_names().__contains__, "one of " + ", ".join(method_names()))
    need("regulariser_rule", ("cubic", "density").__contains__, '"cubic" or "density"')
    need("density_hold", lambda v: v < settings.density_ramp,
         f"less than DENSITY_RAMP={settings.density_ramp:g}")
    need("head", HEADS.__contains__, "one of " + ", ".join(HEADS))
    need("sharing", ("local", "shared").__contains__, '"local" (SMP-L) or "shared" (SMP-S)')
    need("precision", ("auto", "fp32", "bf16", "fp16").__contains__,
         '"auto", "fp32", "bf16" or "fp16"')
    need("stride", lambda v: v < settings.max_length, f"less than MAX_LENGTH={settings.max_length}")
    return settings


def has_effect(name: str, value: Any, task: str, freezes_weights: bool) -> bool:
    """Return whether a changed setting matters to a run: without mask or teacher, theirs do not."""
    if name in MASK_SETTINGS:
        return task != "fine-tune"
    if name == "hidden_weight" or (name, value) == ("head", "teacher"):
        return task == "smp-kd"
    return name != "vector_learning_rate" or freezes_weights  # else all weights have one rate


def choose_settings(profile: str | None = None, task: str = "fine-tune", **changes: Any
                    ) -> Settings:
    """Return the profile's settings for a task, with every change that is not None.

    From weak to strong: defaults, preset of the density, profile, method, changes. Raises
    ValueError with one line for an unknown name or a value that cannot work.
    """
    profile = default_profile() if profile is None else profile
    if not isinstance(profile, str) or profile not in PROFILES:
        refuse_value("profile", profile, "one of " + ", ".join(PROFILES))
    tasks = [name for name in PROFILES[profile] if name != "common"]
    if task not in tasks:
        refuse_value("task", task, "one of " + ", ".join(tasks))
    known = {field.name for field in fields(Settings)} - {"profile", "task"}
    for name in changes:
        if name not in known:
            expected = ", ".join(sorted(known))
            raise ValueError(f"unknown setting {name!r}: expected one of {expected}")
    changes = {name: value for name, value in changes.items() if value is not None}
    base = PROFILES[profile]["common"] | PROFILES[profile][task]
    plain = check_settings(Settings(profile, task, **base | changes))
    changes = {name: value for name, value in changes.items()
               if has_effect(name, value, task, plain.freezes_weights)}
    if task == "fine-tune":
        return Settings(profile, task, **base | changes)
    values = preset(task, plain.density, plain.sharing) | base | method_of(plain).defaults
    if not plain.freezes_weights:
        values |= {"weight_learning_rate": PROFILES[profile]["fine-tune"]["learning_rate"]}
    return check_settings(Settings(profile, task, **values | changes))


def changed_settings(settings: Settings) -> dict:
    """Return {name: value} of the settings that differ from the profile's."""
    base = asdict(choose_settings(settings.profile, settings.task))
    return {name: value for name, value in asdict(settings).items() if base[name] != value}
