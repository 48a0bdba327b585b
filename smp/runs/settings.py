"""The settings of a run: one frozen set of plain values, all of which its record contains."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, NoReturn

from smp.runs.methods import DISTILLATIONS, FINE_TUNED, METHODS, method_of, stage_of
from smp.runs.profiles import DEFAULT_PROFILE, PROFILES, preset
from smp.text import file_part, is_number

HEADS = ("auto", "label words", "embedding rows", "trained")  # see `load_student`


@dataclass(frozen=True)
class Settings:
    """All settings of a run. A fraction "of the run" is a fraction of its optimizer steps."""

    profile: str  # named choice of settings
    # model and data
    model: str  # Hub name, local folder, or all-MiniLM-L6-v2 (embedded)
    data: str  # Hub name, SQuAD-format file or folder, or synthetic (embedded)
    n_train: int | None  # training questions; None: all
    n_valid: int  # questions held out of the training set, for curves
    n_eval: int | None  # questions of the evaluation set; None: all
    longest_passage: int | None = None  # words; questions on longer passages are left out
    max_length: int | None = 384  # tokens in a window of question and passage; None: from the data
    stride: int = 128  # tokens that neighbouring windows share
    # the method
    method: str = "smp-l"  # smp-l, smp-s, magnitude, movement, movement-s, soft-movement
    distill: str = "none"  # what a student learns from its teacher: none, logits, hidden
    density: float = 1.0  # fraction of the encoder's weights that stay, (0, 1]
    # optimisation
    batch_size: int = 32  # windows in a step
    epochs: float = 10  # passes over the training questions
    learning_rate: float = 2e-2  # of the scores; of all weights when fine-tuning
    weight_learning_rate: float = 3e-5  # of the weights, if a pruning method trains them
    head_learning_rate: float = 1e-3  # of a trained head on frozen weights
    bias_norm_learning_rate: float = 0.0  # of biases and LayerNorms; 0: frozen, as in SMP
    head: str = "auto"  # auto, label words, embedding rows, trained; auto: label words if possible
    init_head_from_teacher: bool = False  # the student's head starts as its teacher's
    optim: str = "adamw_torch"  # adamw_torch, adamw_hf (eps before bias correction, as in SMP)
    warmup_fraction: float = 0.0  # fraction of the run in which the learning rate rises
    dropout: float = 0.1  # probability
    precision: str = "auto"  # fp32, bf16, fp16; auto: the fastest on the device
    seed: int = 0  # random seed of a new head, the order of the questions, dropout
    data_seed: int = 0  # random seed of the choice of questions, if not all are used
    # the mask over time (density v, its ramp N, the regulariser's weight lambda and ramp T)
    temperature: float = 1.0  # p of SMP-S
    score_init: float = 0.0  # scores start at this * |W| / mean |W|; 0 in SMP
    density_hold_fraction: float = 0.0  # fraction of the run before the density falls
    density_ramp_fraction: float = 22_670 / 27_670  # N as a fraction of the run
    regulariser: float = 400.0  # final weight of the regulariser, lambda_f
    regulariser_ramp_fraction: float = 1.0  # T as a fraction of the run
    threshold: float = 0.1  # final tau of soft movement, a value of sigma(S)
    # distillation
    distill_weight: float = 0.5  # alpha: loss = (1 - alpha) CE + alpha KD
    distill_temperature: float = 2.0  # tau
    hidden_distill_weight: float = 100.0  # beta, of the distance to the teacher's hidden states
    n_validations: int = 8  # validations during training
    n_mask_snapshots: int = 24  # snapshots of the masks during training

    def show(self, *names: str) -> None:
        """Print the profile, the changes to it, and the named settings (without names, all)."""
        changes = ", ".join(f"{name} {value}" for name, value in changed_settings(self).items())
        print(f"profile {self.profile}, {f'changed: {changes}' if changes else 'no changes'}")
        values = {name: getattr(self, name) for name in names or asdict(self)}
        cells = [f"{name:22} {float(f'{v:.4g}'):g}" if isinstance(v, float) else f"{name:22} {v}"
                 for name, v in values.items()]
        half = (len(cells) + 1) // 2
        for left, right in zip(cells[:half], [*cells[half:], ""]):
            print(f"  {left:44}{right}".rstrip())

    @property
    def stage(self) -> str:
        """The part of the profile: "fine-tune", "smp" or "smp-kd"."""
        return stage_of(self.method, self.distill)

    @property
    def student_head(self) -> str:
        """The kind of head that the student is loaded with."""
        return "trained" if self.init_head_from_teacher else self.head

    @property
    def trains_biases_and_norms(self) -> bool:
        """Whether a pruning method trains biases and LayerNorms."""
        return self.bias_norm_learning_rate > 0

    @property
    def freezes_weights(self) -> bool:
        """Whether the encoder's matrices keep their values."""
        return self.method != FINE_TUNED and method_of(self).freezes_weights


SETTING_DEFAULTS = {f.name: f.default for f in fields(Settings) if f.default is not MISSING}
STAGES: dict[str, dict] = {
    "fine-tune": {"method": FINE_TUNED}, "smp": {}, "smp-kd": {"distill": "logits"},
}
OF_A_MASK = ("method", "density")
OF_A_TEACHER = ("distill", "hidden_distill_weight", "init_head_from_teacher")


def refuse_value(name: str, value: Any, expected: str) -> NoReturn:
    """Raise the ValueError of a wrong setting."""
    raise ValueError(f"{name} is {value!r}: expected {expected}")


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
    need("n_validations", whole(0, 1000), "a whole number from 0 to 1000")
    need("n_mask_snapshots", whole(1, 1000), "a whole number from 1 to 1000")  # the last is drawn
    need("batch_size", whole(1), "a whole number from 1")
    need("max_length", lambda v: v is None or whole(1)(v), "a whole number from 1")
    need("epochs learning_rate temperature distill_temperature", lambda v: is_number(v) and v > 0,
         "a number above 0")
    need("head_learning_rate bias_norm_learning_rate weight_learning_rate regulariser score_init "
         "hidden_distill_weight", is_number, "a number from 0")
    need("density density_ramp_fraction regulariser_ramp_fraction",
         lambda v: is_number(v, 0, 1) and v > 0, "a number above 0 and at most 1")
    need("dropout warmup_fraction density_hold_fraction threshold",
         lambda v: is_number(v, 0, 1) and v < 1, "a number from 0 and below 1")
    need("distill_weight", lambda v: is_number(v, 0, 1), "a number from 0 to 1")
    need("method", [FINE_TUNED, *METHODS].__contains__, "one of " + ", ".join(METHODS))
    need("distill", DISTILLATIONS.__contains__, "one of " + ", ".join(DISTILLATIONS))
    need("init_head_from_teacher",
         lambda v: v is False or v is True and settings.head in ("auto", "trained"),
         "False, or True with the head auto or trained")
    need("density_hold_fraction", lambda v: v < settings.density_ramp_fraction,
         f"less than density_ramp_fraction, {settings.density_ramp_fraction:g}")
    need("head", HEADS.__contains__, "one of " + ", ".join(HEADS))
    need("precision", ("auto", "fp32", "bf16", "fp16").__contains__, "auto, fp32, bf16 or fp16")
    need("optim", ("adamw_torch", "adamw_hf").__contains__, "adamw_torch or adamw_hf")
    longest = settings.max_length
    need("stride", lambda v: longest is None or v < longest, f"less than max_length, {longest}")
    return settings


def has_effect(name: str, stage: str, freezes_weights: bool) -> bool:
    """Return whether a setting has an effect; some need a mask, a teacher or frozen weights."""
    if name in OF_A_MASK:
        return stage != "fine-tune"
    if name in OF_A_TEACHER:
        return stage == "smp-kd"
    return name != "bias_norm_learning_rate" or freezes_weights  # else all weights have one rate


def choose_settings(profile: str | None = None, stage: str = "fine-tune",
                    methods: Iterable[str] = METHODS, **changes: Any) -> Settings:
    """Return the profile's settings for a stage, changed by every value that is not None.

    Precedence, lowest first: defaults, preset of the density, profile, method, changes. Raises
    ValueError with one line for an unknown name or a value that cannot work.
    """
    profile = DEFAULT_PROFILE if profile is None else profile
    if not isinstance(profile, str) or profile not in PROFILES:
        refuse_value("profile", profile, "one of " + ", ".join(PROFILES))
    if stage not in STAGES:
        refuse_value("stage", stage, "one of " + ", ".join(STAGES))
    known = {field.name for field in fields(Settings)} - {"profile"}
    for name in changes:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0) or sorted(known)
            raise ValueError(f"unknown setting {name!r}: did you mean {near[0]}?")
    changes = {name: value for name, value in changes.items() if value is not None}
    base = PROFILES[profile]["common"] | STAGES[stage] | PROFILES[profile][stage]
    if file_part(str(changes.get("data", base["data"]))) != file_part(base["data"]):
        base["max_length"] = None  # the profile's length is that of its own data
    plain = check_settings(Settings(profile, **base | changes))
    changes = {name: value for name, value in changes.items()
               if has_effect(name, stage, plain.freezes_weights)}
    if stage == "fine-tune":
        return Settings(profile, **base | changes)
    if plain.method not in methods:
        refuse_value("method", plain.method, "one of " + ", ".join(methods))
    values = preset(stage, plain.density, plain.method) | base | method_of(plain).defaults
    if not plain.freezes_weights:
        values |= {"weight_learning_rate": PROFILES[profile]["fine-tune"]["learning_rate"]}
    chosen = check_settings(Settings(profile, **values | changes))
    if chosen.stage != stage:
        refuse_value("distill", chosen.distill, "logits or hidden in a run with a teacher")
    return chosen


def changed_settings(settings: Settings) -> dict:
    """Return {name: value} of the settings that differ from the profile's."""
    base = asdict(choose_settings(settings.profile, settings.stage))
    return {name: value for name, value in asdict(settings).items() if base[name] != value}
