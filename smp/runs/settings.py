"""Settings and profiles.

Every run is described by one frozen set of plain numbers. A *profile* is a named choice of
them: a smaller profile has smaller numbers, never other code. Whatever you change in the
parameter cell replaces the profile's value, and the record of the run keeps the whole set.
"""

from dataclasses import MISSING, asdict, dataclass, fields

from smp.model.kinds import HEADS
from smp.runs.methods import method_names, method_of
from smp.runs.profiles import PROFILES, default_profile, preset


@dataclass(frozen=True)
class Settings:
    profile: str
    task: str  # "fine-tune", "smp" or "smp-kd"
    # what is trained on what
    model: str  # Hub name, local folder, or "all-MiniLM-L6-v2" (embedded)
    data: str  # Hub name, SQuAD-format file or folder, or "almanac" (embedded)
    n_train: int | None  # questions to train on; None: all there are
    n_valid: int  # questions held out of train, for curves and choices
    n_eval: int | None  # questions of the evaluation set; None: all
    longest_passage: int | None = None  # words; questions on longer passages are left out
    max_length: int = 384  # tokens a window: question and passage together
    stride: int = 128  # tokens that neighbouring windows share
    # optimisation
    batch_size: int = 32
    epochs: float = 10
    learning_rate: float = 2e-2  # of the scores; of all weights when fine-tuning
    weight_learning_rate: float = 3e-5  # of the weights, where a method trains them too
    head_learning_rate: float = 1e-3  # of a trained head beside frozen weights
    vector_learning_rate: float = 0.0  # of the layers' biases and LayerNorms; 0 in SMP: frozen
    head: str = "auto"  # one of HEADS; "auto": label words where they can be had, else trained
    warmup: float = 0.0  # share of the run in which the learning rate rises
    dropout: float = 0.1
    precision: str = "auto"  # "fp32", "bf16", "fp16"; "auto": what the device is fast at
    seed: int = 0  # of a new head, the order of the questions, dropout
    data_seed: int = 0  # of which questions are drawn, where not all are used
    # the mask (density v, its ramp N, the regulariser's weight lambda and ramp T)
    method: str = "smp"  # or one it is compared with, see METHODS
    density: float = 1.0  # share of the encoder's weights that stay, (0, 1]
    sharing: str = "local"  # "local": SMP-L, the same share everywhere; "shared": SMP-S
    temperature: float = 1.0  # p of SMP-S
    score_start: float = 0.0  # scores start at this * |W| / mean |W|; 0 in SMP
    density_hold: float = 0.0  # share of the run before the density falls
    density_ramp: float = 22_670 / 27_670  # N as a share of the run
    regulariser: float = 400.0  # final weight of the regulariser, lambda_f
    regulariser_ramp: float = 1.0  # T as a share of the run
    regulariser_rule: str = "cubic"  # lambda(t): "cubic" of its own, or tied to "density"
    threshold: float = 0.1  # final tau of soft movement, a value of sigma(S)
    # distillation
    kd_weight: float = 0.5  # alpha: loss = (1 - alpha) CE + alpha KD
    kd_temperature: float = 2.0  # tau
    hidden_weight: float = 0.0  # beta, of the distance from the teacher's hidden states; 0 in SMP
    n_snapshots: int = 8  # validations along the way (in older records, of masks kept too)
    n_masks: int = 24  # masks kept along the way, for the explorer

    @property
    def trains_vectors(self):
        return self.vector_learning_rate > 0

    @property
    def freezes_weights(self):
        """Whether the encoder's matrices keep their values."""
        return self.task != "fine-tune" and method_of(self).freezes_weights

SETTING_DEFAULTS = {f.name: f.default for f in fields(Settings) if f.default is not MISSING}


def refuse_value(name, value, expected):
    raise ValueError(f"{name.upper()}={value!r}: expected {expected}")


def check_settings(settings):
    """Raises ValueError with one line that names the setting and what was expected."""

    def is_number(value, kind=(int, float)):
        return isinstance(value, kind) and not isinstance(value, bool) and value == value

    def need(name, good, expected):
        value = getattr(settings, name)
        if not good(value):
            refuse_value(name, value, expected)

    for name in settings.__dict__:  # a seed can be no larger, and nothing else wants to be
        need(name, lambda v: not is_number(v) or abs(v) < 2**32, "a number below 4294967296")
    for name in ("model", "data"):
        need(name, lambda v: isinstance(v, str) and v.strip(), "a name or a path, as text")
    for name in ("n_train", "n_eval", "longest_passage"):
        need(name, lambda v: v is None or (is_number(v, int) and v >= 1), "a whole number from 1")
    for name in ("n_valid", "stride", "seed", "data_seed"):
        need(name, lambda v: is_number(v, int) and v >= 0, "a whole number from 0")
    need("n_snapshots", lambda v: is_number(v, int) and 0 <= v <= 1000,
         "a whole number from 0 to 1000")
    need("n_masks", lambda v: is_number(v, int) and 1 <= v <= 1000,  # the last one is looked at
         "a whole number from 1 to 1000")
    for name in ("max_length", "batch_size"):
        need(name, lambda v: is_number(v, int) and v >= 1, "a whole number from 1")
    for name in ("epochs", "learning_rate", "temperature", "kd_temperature"):
        need(name, lambda v: is_number(v) and v > 0, "a number above 0")
    for name in ("head_learning_rate", "vector_learning_rate", "weight_learning_rate",
                 "regulariser", "score_start", "hidden_weight"):
        need(name, lambda v: is_number(v) and v >= 0, "a number from 0")
    for name in ("density", "density_ramp", "regulariser_ramp"):
        need(name, lambda v: is_number(v) and 0 < v <= 1, "a number above 0 and at most 1")
    for name in ("dropout", "warmup", "density_hold", "threshold"):
        need(name, lambda v: is_number(v) and 0 <= v < 1, "a number from 0 and below 1")
    need("kd_weight", lambda v: is_number(v) and 0 <= v <= 1, "a number from 0 to 1")
    need("method", lambda v: isinstance(v, str) and v in method_names(),
         "one of " + ", ".join(method_names()))
    need("regulariser_rule", lambda v: v in ("cubic", "density"), '"cubic" or "density"')
    need("density_hold", lambda v: v < settings.density_ramp,
         f"less than DENSITY_RAMP={settings.density_ramp:g}")
    need("head", lambda v: isinstance(v, str) and v in HEADS, "one of " + ", ".join(HEADS))
    need("sharing", lambda v: v in ("local", "shared"), '"local" (SMP-L) or "shared" (SMP-S)')
    need("precision", lambda v: v in ("auto", "fp32", "bf16", "fp16"),
         '"auto", "fp32", "bf16" or "fp16"')
    need("stride", lambda v: v < settings.max_length, f"less than MAX_LENGTH={settings.max_length}")
    return settings

MASK_SETTINGS = ("method", "density", "sharing")


def with_meaning(task, freezes_weights, changes):
    """The changes that mean something to a task: when fine-tuning there is no mask, only smp-kd
    has a teacher to take something from, and what trains all weights trains every vector."""
    def means(name, value):
        of_mask = name in MASK_SETTINGS
        of_teacher = name == "hidden_weight" or (name, value) == ("head", "teacher")
        of_vectors = name == "vector_learning_rate"
        return not (of_mask and task == "fine-tune" or of_teacher and task != "smp-kd"
                    or of_vectors and not freezes_weights)

    return {name: value for name, value in changes.items() if means(name, value)}


def choose_settings(profile=None, task="fine-tune", **changes):
    """The profile's settings for a task, with every change that is not None put in.

    From weak to strong: defaults, the preset of the density, the profile, the method, the changes.

    Raises ValueError with one line for an unknown profile, task, name or unusable value.
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
    common, own = PROFILES[profile]["common"], PROFILES[profile][task]
    plain = check_settings(Settings(profile, task, **common | own | changes))
    changes = with_meaning(task, plain.freezes_weights, changes)  # what has none was checked all the same
    if task == "fine-tune":
        return Settings(profile, task, **common | own | changes)
    values = preset(task, plain.density, plain.sharing) | common | own
    values |= method_of(plain).defaults
    if not plain.freezes_weights:
        values |= dict(weight_learning_rate=PROFILES[profile]["fine-tune"]["learning_rate"])
    return check_settings(Settings(profile, task, **values | changes))


def changed_settings(settings):
    """What differs from the profile: {name: value}; empty where nothing was changed."""
    base = asdict(choose_settings(settings.profile, settings.task))
    return {name: value for name, value in asdict(settings).items() if base[name] != value}
