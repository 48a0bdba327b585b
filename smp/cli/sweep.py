"""A grid of runs.

Methods × densities × seeds, all through the loop of the notebooks. Each finished cell leaves its
record in results/sweep/; a cell whose record is there is not run again, and the one at work has
its checkpoints, so a sweep that was stopped goes on with the same command.
"""

import sys
import time
from pathlib import Path

from transformers import set_seed

from smp.cli.parameters import read_number, read_parameters
from smp.cli.paths import ROOT, minutes_since
from smp.cli.table import sweep_table
from smp.cli.train import Parts, attach_pruning, teacher_loss
from smp.data.reading import data_fingerprint, load_squad
from smp.data.windows import featurise
from smp.method.loop import span_loss
from smp.model.device import is_first_process
from smp.model.load import load_student
from smp.model.predict import evaluate_answers
from smp.model.save import count_parameters, model_fingerprint
from smp.model.teacher import check_layers, copy_head, load_teacher, teacher_logits
from smp.runs.methods import read_method, record_method
from smp.runs.read import read_records
from smp.runs.record import write_record
from smp.runs.run import begin_record, find_teacher, finish_record, run_checkpoints
from smp.runs.settings import choose_settings
from smp.task.mask_file import save_masks
from smp.task.task import MASK_FILE, describe_task


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


class Sweep:
    """What the cells of a sweep share: the questions, their windows, the teacher's logits.

    cells: of one model and one set of data, as `plan_sweep` makes them; results: the folder that
    holds models/, where a teacher is looked for if none is named; checkpoints: a folder for those
    of the cell at work, if not in results. Raises FileNotFoundError where a cell needs a teacher
    and there is none, ValueError for one that does not fit.
    """

    def __init__(self, cells, results, teacher=None, checkpoints=None, parts=Parts()):
        self.parts = parts
        self.results, self.checkpoints, first = Path(results), checkpoints, cells[0]
        self.folder = self.results / "sweep"
        model, self.tokenizer, _ = load_student(
            first.model, max_length=first.max_length, head=first.head
        )
        self.model_sha, self.student_config = model_fingerprint(model), model.config
        self.teacher = self.teacher_model = self.logits = None
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
            copy_head(student, self.teacher_model)  # of no use but to see that it fits
        self.teacher = {"name": Path(folder).name, "em": em,
                        "sha": model_fingerprint(self.teacher_model, with_head=True)}

    def begin(self, settings):
        """The cell's record before it is run; its name says whether it has been run."""
        teacher = self.teacher if settings.task == "smp-kd" else None
        return begin_record(record_method(settings), settings, self.model_sha, self.data_sha,
                            teacher, self.parts.variant)

    def loss(self, settings, student):
        """Return what `fit` minimises. Cached teacher logits are computed once for all runs."""
        if settings.task != "smp-kd":
            return span_loss
        if not settings.hidden_weight and self.logits is None:
            self.logits = teacher_logits(
                self.teacher_model, self.windows["train"], self.tokenizer, settings.precision
            )
            self.teacher_model.cpu()  # most runs need its logits only
        return teacher_loss(settings, student, self.teacher_model, self.logits, self.parts)

    def run(self, settings):
        """Trains and evaluates one of the cells, writes its record and returns it."""
        begun = self.begun[settings]
        set_seed(settings.seed)  # of a new head
        model, tokenizer, head = load_student(
            settings.model, settings.dropout, settings.max_length, settings.head
        )
        params_total = count_parameters(model)
        if settings.head == "teacher":
            copy_head(model, self.teacher_model)
        loss = self.loss(settings, model)
        pruning = attach_pruning(model, settings, self.parts)
        checkpoints = run_checkpoints(begun, self.results, self.checkpoints)
        run = self.parts.train(
            model, self.windows["train"], tokenizer, settings, pruning, loss,
            checkpoints=checkpoints, optimizer_class=self.parts.optimizer,
        )
        masks, layers = pruning.masks.numpy(), pruning.masks.counts()
        pruning.masks.merge()
        scores, _ = evaluate_answers(
            model, self.data["eval"], self.windows["eval"], tokenizer, settings.precision
        )
        n_eval = len(self.data["eval"])
        mask_bytes = None  # of a method that trains the weights, the mask is not the model
        if settings.freezes_weights and is_first_process():
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


def sweep(options, parts=Parts()):
    """Runs the cells of the grid that have no record yet, then draws them all. -> exit code"""
    try:
        parameters = {name.lower(): value for name, value in read_parameters(options).items()}
        results = Path(parameters.pop("results", ROOT / "results"))
        teacher, profile = parameters.pop("teacher", None), parameters.pop("profile")
        checkpoints, more = parameters.pop("checkpoints", None), parameters.pop("set", {})
        numbers = {"densities": [read_number("density", text) for text in options.densities],
                   "seeds": [read_number("seed", text) for text in options.seeds]}
        cells = plan_sweep(profile, options.methods, **numbers, **parameters | more)
        done = {record["name"]: record for record in read_records(results / "sweep")}
        grid = Sweep(cells, results, teacher, checkpoints, parts)
    except (OSError, ValueError) as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 2
    left = [cell for cell in cells if grid.begun[cell]["name"] not in done]
    first = is_first_process()  # of several, under accelerate's launcher, one speaks

    def say(line):
        if first:
            print(line, flush=True)

    say(f"{len(cells)} cells, {len(cells) - len(left)} of them done before")
    for name in (begun["name"] for begun in grid.begun.values() if begun["name"] in done):
        teacher = done[name]["teacher"]
        if teacher and teacher.get("sha", grid.teacher["sha"]) != grid.teacher["sha"]:
            say(f"{name}: done with another teacher of that name; remove its record to have it "
                "run again")
    begin = time.monotonic()
    for number, cell in enumerate(left, 1):
        name = grid.begun[cell]["name"]
        say(f"[{number}/{len(left)}] {name}")
        try:
            record = grid.run(cell)
        except KeyboardInterrupt:
            print(f"\nsweep: interrupted in {name}; the same command goes on with it",
                  file=sys.stderr)
            return 130
        except (OSError, ValueError, FloatingPointError, MemoryError) as error:
            print(f"sweep: {name} stopped: {error}", file=sys.stderr)
            return 1
        say(f"      EM {record['em']:.3f}  F1 {record['f1']:.3f}  density "
            f"{record['density']:.1%}, {minutes_since(begin)} so far")
    return sweep_table(results) if first else 0
