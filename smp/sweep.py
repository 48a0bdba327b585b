# %% [markdown]
# ## A grid of runs
#
# Methods × densities × seeds, all through the loop of the notebooks. Each finished cell leaves its
# record in results/sweep/; a cell whose record is there is not run again, and the one at work has
# its checkpoints, so a sweep that was stopped goes on with the same command.

# %%
from pathlib import Path

from transformers import set_seed

# %%
from smp.baselines import attach_pruning

# %%
from smp.commands import read_method

# %%
from smp.distill import ask_teacher, distilled_loss, load_teacher, take_head

# %%
from smp.hidden import check_layers

# %%
from smp.maskfile import save_masks

# %%
from smp.models import count_parameters, load_student, model_fingerprint

# %%
from smp.record import begin_record, find_teacher, finish_record, run_checkpoints

# %%
from smp.results import write_record

# %%
from smp.settings import choose_settings

# %%
from smp.squad import data_fingerprint, featurise, load_squad

# %%
from smp.task import MASK_FILE, describe_task

# %%
from smp.train import evaluate_answers, fit, is_first_process

# %%
def plan_sweep(profile, methods, densities, seeds, **changes):
    """[Settings], one a cell: seed by seed, then by density, so that a row to compare is early.

    changes: as `choose_settings` takes them, the same for every cell. Raises ValueError, before
    anything is run, for a value that cannot work.
    """
    cells = []
    for seed in seeds:
        for density in densities:
            for method in methods:
                task, chosen = read_method(method)
                cells.append(choose_settings(
                    profile, task, **changes | chosen | {"density": density, "seed": seed}
                ))
    return list(dict.fromkeys(cells))


def record_method(settings):
    """"SMP", "movement + KD", ...: what a record calls it."""
    name = "SMP" if settings.method == "smp" else settings.method
    return name + " + KD" * (settings.task == "smp-kd")

# %%
class Sweep:
    """What the cells of a sweep share: the questions, their windows, the teacher's logits.

    cells: of one model and one set of data, as `plan_sweep` makes them; results: the folder that
    holds models/, where a teacher is looked for if none is named; checkpoints: a folder for those
    of the cell at work, if not in results. Raises FileNotFoundError where a cell needs a teacher
    and there is none, ValueError for one that does not fit.
    """

    def __init__(self, cells, results, teacher=None, checkpoints=None):
        self.results, self.checkpoints, first = Path(results), checkpoints, cells[0]
        self.folder = self.results / "sweep"
        model, self.tokenizer, _ = load_student(
            first.model, max_length=first.max_length, head=first.head
        )
        self.model_sha, self.student_config = model_fingerprint(model), model.config
        self.teacher = self.teacher_model = self.teacher_logits = None
        listening = [cell for cell in cells if cell.task == "smp-kd"]
        if listening:
            self.load_teacher(teacher, listening, model)
        self.data = load_squad(
            first.data, first.n_train, first.n_valid, first.n_eval, first.data_seed,
            first.longest_passage,
        )
        self.data_sha = data_fingerprint(self.data["eval"])
        self.windows = {
            part: featurise(self.data[part], self.tokenizer, first.max_length, first.stride)
            for part in ("train", "eval")
        }
        self.begun = {cell: self.begin(cell) for cell in cells}  # of the code that is loaded now

    def load_teacher(self, teacher, cells, student):
        """The teacher of these cells, checked against the student before anything is run."""
        settings = cells[0]
        if teacher is not None:
            folder, em = teacher, None
        elif found := find_teacher(self.results, self.model_sha, settings.data):
            folder, em = found[0], found[1]["em"]
        else:
            raise FileNotFoundError(
                f"no fine-tuned {settings.model} for this data in {self.results / 'models'}: run "
                "the first notebook with the same model and data, or name a TEACHER"
            )
        self.teacher_model = load_teacher(
            str(folder), self.tokenizer, settings.max_length, self.student_config
        )
        if any(cell.hidden_weight for cell in cells):
            check_layers(self.student_config, self.teacher_model.config)
        if any(cell.head == "teacher" for cell in cells):
            take_head(student, self.teacher_model)  # of no use but to see that it fits
        self.teacher = {"name": Path(folder).name, "em": em,
                        "sha": model_fingerprint(self.teacher_model, with_head=True)}

    def begin(self, settings):
        """The cell's record before it is run; its name says whether it has been run."""
        teacher = self.teacher if settings.task == "smp-kd" else None
        return begin_record(record_method(settings), settings, self.model_sha, self.data_sha,
                            teacher)

    def ask_teacher(self, settings):
        """Once, for all cells that listen to its logits."""
        listens = settings.task == "smp-kd" and not settings.hidden_weight
        if listens and self.teacher_logits is None:
            self.teacher_logits = ask_teacher(
                self.teacher_model, self.windows["train"], self.tokenizer, settings.precision
            )
            self.teacher_model.cpu()  # most cells need its logits only

    def loss(self, settings, student):
        """What `fit` minimises."""
        if settings.task != "smp-kd":
            return {}
        return {"loss_function": distilled_loss(
            self.teacher_logits, settings, student, self.teacher_model
        )}

    def run(self, settings):
        """Trains and evaluates one of the cells, writes its record and returns it."""
        begun = self.begun[settings]
        self.ask_teacher(settings)
        set_seed(settings.seed)  # before a new head is drawn
        model, tokenizer, head = load_student(
            settings.model, settings.dropout, settings.max_length, settings.head
        )
        params_total = count_parameters(model)
        if settings.head == "teacher":
            take_head(model, self.teacher_model)
        loss = self.loss(settings, model)
        pruning = attach_pruning(model, settings)
        checkpoints = run_checkpoints(begun, self.results, self.checkpoints)
        run = fit(model, self.windows["train"], tokenizer, settings, pruning, **loss,
                  checkpoints=checkpoints)
        masks, layers = pruning.masks.numpy(), pruning.masks.layers()
        pruning.masks.bake()
        scores, _ = evaluate_answers(
            model, self.data["eval"], self.windows["eval"], tokenizer, settings.precision
        )
        n_eval = len(self.data["eval"])
        mask_bytes = None  # of a method that trains the weights, the mask is not the model
        if settings.method == "smp" and is_first_process():
            revision = getattr(model.config, "_commit_hash", None)
            mask_bytes = save_masks(
                masks, self.folder / "models" / begun["name"] / MASK_FILE,
                **describe_task(begun, model, settings.model, revision, head, scores, n_eval),
            )
        record = finish_record(
            begun, run, scores, head=head, params_total=params_total, layers=layers,
            bytes_mask_file=mask_bytes, n_train=len(self.data["train"]), n_eval=n_eval,
        )
        if is_first_process():
            write_record(record, self.folder)
            checkpoints.clear()
        return record
