"""The runs of a sweep: shared data and teacher, then training, evaluation and record of each."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from transformers import set_seed

from smp.cli.train import DEFAULT_PARTS, Parts, attach_pruning, teacher_loss
from smp.data.reading import data_fingerprint, load_squad
from smp.data.windows import featurise, fit_windows
from smp.method.loop import span_loss
from smp.model.load import readable_tokens
from smp.model.predict import evaluate_answers, is_first_process
from smp.model.save import count_parameters, model_fingerprint
from smp.model.student import load_student
from smp.model.teacher import check_layers, copy_head, load_teacher, teacher_logits
from smp.runs.methods import FINE_TUNED, method_label
from smp.runs.record import run_name, write_record
from smp.runs.run import begin_record, find_teacher, finish_record, run_checkpoints
from smp.runs.settings import Settings
from smp.runs.teaching import fine_tune
from smp.task.apply import describe_task
from smp.task.mask_file import MASK_FILE, save_masks


class Grid:
    """The runs of a sweep with their shared questions, windows and teacher logits.

    runs: settings of one model and one dataset; results: the folder of the records and models, also
    searched for a teacher if none is named; checkpoints: a folder for the checkpoints of the
    current run, if not in results. Raises FileNotFoundError if a run needs a teacher and there is
    none, ValueError if the teacher is incompatible with the student.
    """

    def __init__(self, runs: list[Settings], results: Path | str, teacher: str | None = None,
                 checkpoints: str | None = None, parts: Parts = DEFAULT_PARTS):
        for run in runs:
            parts.check(run)
        self.parts, self.results, self.checkpoints = parts, Path(results), checkpoints
        first = runs[0]
        from_teacher = any(run.init_head_from_teacher for run in runs)
        model, self.tokenizer, _ = load_student(
            first.model, max_length=first.max_length,
            head="trained" if from_teacher else first.student_head)
        self.model_sha, self.config = model_fingerprint(model), model.config
        self.data = load_squad(
            first.data, first.n_train, first.n_valid, first.n_eval, first.data_seed,
            first.longest_passage)
        self.runs = [fit_windows(run, self.data["train"], self.tokenizer, readable_tokens(model))
                     for run in runs]
        self.teacher: dict = {}
        self.begun: dict[Settings, dict] = {}
        self.teacher_model: Any = None
        self.logits: Any = None
        if any(run.stage == "smp-kd" for run in runs) and (
                teacher or all(run.method != FINE_TUNED for run in runs)):
            self.choose_teacher(teacher)
            if from_teacher:
                copy_head(model, self.teacher_model)  # raises for an incompatible teacher
        length, stride = self.runs[0].max_length or 0, self.runs[0].stride
        self.windows = {part: featurise(self.data[part], self.tokenizer, length, stride)
                        for part in ("train", "eval")}
        self.data_sha, self.train_sha = (
            data_fingerprint(self.data[part]) for part in ("eval", "train"))
        # All records begin before the first run, so their commit is that of the loaded code.
        self.begun = {
            run: begin_record(run, self.model_sha, self.data_sha, self.train_sha,
                              self.teacher if run.stage == "smp-kd" else None, parts.variant)
            for run in self.runs
        }
        if not parts.trains_biases_and_norms:  # their learning rate is that of another part
            for run, begun in self.begun.items():
                begun["label"] = method_label(run.method, run.distill)

    def choose_teacher(self, name: str | None) -> None:
        """Load the teacher and check it against student and runs.

        The teacher is the named model, or the sweep's first fine-tuned one, or the newest one in
        results, in this order.
        """
        settings = self.runs[0]
        own = [self.begun[run]["name"] for run in self.runs if run.method == FINE_TUNED]
        if name is not None:
            folder, em = Path(name), None
        elif found := find_teacher(self.results, self.model_sha, settings.data, *own[:1]):
            folder, em = found[0], found[1]["em"]
        else:
            raise FileNotFoundError(
                f"no fine-tuned {settings.model} for this data in {self.results / 'models'}: " + (
                    f"remove {own[0]}.json, its record, to train it again" if own else
                    f"add {FINE_TUNED} to --methods, or name a --teacher"))
        model = load_teacher(str(folder), self.tokenizer, settings.max_length, self.config)
        if any(run.distill == "hidden" for run in self.runs):
            check_layers(self.config, model.config)
        sha = model_fingerprint(model, with_head=True)
        self.teacher_model, self.teacher = model, {"name": folder.name, "em": em, "sha": sha}
        for run, begun in self.begun.items():
            if run.stage == "smp-kd":
                begun["teacher"] = self.teacher
                begun["name"] = run_name(begun)

    def loss(self, settings: Settings, student: Any) -> Callable:
        """Return the loss for `fit`. The teacher's logits are computed once for all runs."""
        if settings.stage != "smp-kd":
            return span_loss
        if settings.distill == "logits" and self.logits is None:
            self.logits = teacher_logits(
                self.teacher_model, self.windows["train"], self.tokenizer, settings.precision)
            self.teacher_model.cpu()  # most runs need its logits only
        return teacher_loss(settings, student, self.teacher_model, self.logits, self.parts)

    def run(self, settings: Settings) -> dict:
        """Train and evaluate one of the runs, write its record and return it."""
        if settings.method == FINE_TUNED:
            train = partial(self.parts.train, optimizer_class=self.parts.optimizer)
            return fine_tune(train, self.begun[settings], settings, self.data, self.windows,
                             self.results, self.checkpoints)
        begun = self.begun[settings]
        set_seed(settings.seed)  # the next line may initialise a new head
        model, tokenizer, head = load_student(
            settings.model, settings.dropout, settings.max_length, settings.student_head)
        params_total = count_parameters(model)
        if settings.init_head_from_teacher:
            copy_head(model, self.teacher_model)
        loss = self.loss(settings, model)
        pruning = attach_pruning(model, settings, self.parts)
        checkpoints = run_checkpoints(begun, self.results, self.checkpoints)
        run = self.parts.train(
            model, self.windows["train"], tokenizer, settings, pruning, loss,
            checkpoints=checkpoints, optimizer_class=self.parts.optimizer)
        masks, layers = pruning.masks.numpy(), pruning.masks.counts()
        pruning.masks.merge()
        scores, _ = evaluate_answers(
            model, self.data["eval"], self.windows["eval"], tokenizer, settings.precision)
        n_eval, mask_bytes = len(self.data["eval"]), None
        # Without frozen weights, a mask file would lack the trained weights.
        if not pruning.masks.trains_weights and is_first_process():
            revision = getattr(model.config, "_commit_hash", None)
            mask_bytes = save_masks(
                masks, self.results / "models" / begun["name"] / MASK_FILE,
                **describe_task(begun, model, settings.model, revision, head, scores, n_eval),
            )
        record = finish_record(
            begun, run, scores, head=head, params_total=params_total, layers=layers,
            bytes_mask_file=mask_bytes, n_train=len(self.data["train"]), n_eval=n_eval)
        if is_first_process():
            write_record(record, self.results)
            checkpoints.clear()
        return record
