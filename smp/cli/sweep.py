"""`smp sweep`: run a grid of methods × densities × seeds through the loop of the notebooks.

Each finished run leaves its record in results/sweep/. A run whose record is there is skipped, and
the current run has its checkpoints, so the same command continues a stopped sweep.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import set_seed

from smp.cli.parameters import read_number, read_parameters
from smp.cli.paths import ROOT, minutes_since
from smp.cli.table import sweep_table
from smp.cli.train import DEFAULT_PARTS, Parts, attach_pruning, teacher_loss
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
from smp.runs.settings import Settings, choose_settings
from smp.task.apply import MASK_FILE, describe_task
from smp.task.mask_file import save_masks


def plan_sweep(profile: str, methods: list[str], densities: list, seeds: list,
               **changes: Any) -> list[Settings]:
    """Return the settings of each run: seed by seed, then by density, then by method.

    changes: as `choose_settings` takes them, the same for every run. Raises ValueError for a value
    that cannot work.
    """
    runs = [
        choose_settings(profile, task, **changes | chosen | {"density": density, "seed": seed})
        for seed in seeds for density in densities for task, chosen in map(read_method, methods)
    ]
    return list(dict.fromkeys(runs))


class Sweep:
    """What the runs of a sweep share: the questions, their windows, the teacher's logits.

    runs: of one model and one dataset, as `plan_sweep` returns them; results: the folder with
    models/, where a teacher is looked for if none is named; checkpoints: a folder for those of the
    current run, if not in results. Raises FileNotFoundError if a run needs a teacher and there is
    none, ValueError for a teacher that does not fit.
    """

    def __init__(self, runs: list[Settings], results: Path | str, teacher: str | None = None,
                 checkpoints: str | None = None, parts: Parts = DEFAULT_PARTS):
        for run in runs:
            parts.check(run)
        self.parts, self.results, self.checkpoints = parts, Path(results), checkpoints
        self.folder, first = self.results / "sweep", runs[0]
        model, self.tokenizer, _ = load_student(
            first.model, max_length=first.max_length, head=first.head
        )
        self.model_sha = model_fingerprint(model)
        self.teacher: dict = {}
        self.teacher_model: Any = None
        self.logits: Any = None
        distilled = [run for run in runs if run.task == "smp-kd"]
        if distilled:
            self.choose_teacher(teacher, distilled, model)
        self.data = load_squad(
            first.data, first.n_train, first.n_valid, first.n_eval, first.data_seed,
            first.longest_passage,
        )
        self.windows = {
            part: featurise(self.data[part], self.tokenizer, first.max_length, first.stride)
            for part in ("train", "eval")
        }
        data_sha = data_fingerprint(self.data["eval"])
        self.begun = {  # all before the first run, so that the commit is that of the loaded code
            run: begin_record(record_method(run), run, self.model_sha, data_sha,
                              self.teacher if run.task == "smp-kd" else None, parts.variant)
            for run in runs
        }

    def choose_teacher(self, name: str | None, runs: list[Settings], student: Any) -> None:
        """Load the named or the newest teacher and check it against student and runs."""
        settings = runs[0]
        if name is not None:
            folder, em = Path(name), None
        elif found := find_teacher(self.results, self.model_sha, settings.data):
            folder, em = found[0], found[1]["em"]
        else:
            raise FileNotFoundError(
                f"no fine-tuned {settings.model} for this data in {self.results / 'models'}: run "
                "the first notebook with the same model and data, or name a TEACHER"
            )
        model = load_teacher(str(folder), self.tokenizer, settings.max_length, student.config)
        if any(run.hidden_weight for run in runs):
            check_layers(student.config, model.config)
        if any(run.head == "teacher" for run in runs):
            copy_head(student, model)  # raises if it does not fit
        sha = model_fingerprint(model, with_head=True)
        self.teacher_model, self.teacher = model, {"name": folder.name, "em": em, "sha": sha}

    def loss(self, settings: Settings, student: Any) -> Callable:
        """Return the loss for `fit`. The teacher's logits are computed once for all runs."""
        if settings.task != "smp-kd":
            return span_loss
        if not settings.hidden_weight and self.logits is None:
            self.logits = teacher_logits(
                self.teacher_model, self.windows["train"], self.tokenizer, settings.precision
            )
            self.teacher_model.cpu()  # most runs need its logits only
        return teacher_loss(settings, student, self.teacher_model, self.logits, self.parts)

    def run(self, settings: Settings) -> dict:
        """Train and evaluate one of the runs, write its record and return it."""
        begun = self.begun[settings]
        set_seed(settings.seed)  # a new head is drawn next
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
        n_eval, mask_bytes = len(self.data["eval"]), None
        if settings.freezes_weights and is_first_process():  # else the mask is not the whole model
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


def sweep(options: Namespace, parts: Parts = DEFAULT_PARTS) -> int:
    """Run what has no record yet, then draw all records; return the exit code.

    Raises OSError or ValueError with one line, before anything runs, for input that cannot work.
    """
    parameters = {name.lower(): value for name, value in read_parameters(options).items()}
    results = Path(parameters.pop("results", ROOT / "results"))
    teacher, profile = parameters.pop("teacher", None), parameters.pop("profile")
    checkpoints, more = parameters.pop("checkpoints", None), parameters.pop("set", {})
    densities = [read_number("density", text) for text in options.densities]
    seeds = [read_number("seed", text) for text in options.seeds]
    runs = plan_sweep(profile, options.methods, densities, seeds, **parameters | more)
    done = {record["name"]: record for record in read_records(results / "sweep")}
    grid = Sweep(runs, results, teacher, checkpoints, parts)
    left = [run for run in runs if grid.begun[run]["name"] not in done]
    first = is_first_process()  # the only one to print, under accelerate's launcher

    def show(line: str) -> None:
        if first:
            print(line, flush=True)

    show(f"{len(runs)} cells, {len(runs) - len(left)} of them done before")
    for name in (begun["name"] for begun in grid.begun.values() if begun["name"] in done):
        before = done[name]["teacher"]
        if before and before.get("sha", grid.teacher["sha"]) != grid.teacher["sha"]:
            show(f"{name}: done with another teacher of that name; remove its record to have it "
                 "run again")
    begin = time.monotonic()
    for number, run in enumerate(left, 1):
        name = grid.begun[run]["name"]
        show(f"[{number}/{len(left)}] {name}")
        try:
            record = grid.run(run)
        except KeyboardInterrupt:
            print(f"\nsweep: interrupted in {name}; the same command goes on with it",
                  file=sys.stderr)
            return 130
        except (OSError, ValueError, FloatingPointError, MemoryError) as error:
            print(f"sweep: {name} stopped: {error}", file=sys.stderr)
            return 1
        show(f"      EM {record['em']:.3f}  F1 {record['f1']:.3f}  density "
             f"{record['density']:.1%}, {minutes_since(begin)} so far")
    return sweep_table(results) if first else 0
