"""Train with a loop; find the teacher of a student, or fine-tune one with the same loop."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import set_seed

from smp.data.reading import data_fingerprint
from smp.fast.speed_up import speed_up
from smp.model.load import load_qa_model
from smp.model.predict import evaluate_answers, is_first_process, make_accelerator
from smp.model.save import count_parameters, model_bytes, model_fingerprint, save_model
from smp.model.teacher import load_teacher
from smp.runs.run import begin_record, find_teacher, finish_record, keep_record, run_checkpoints
from smp.runs.settings import Settings, choose_settings
from smp.runs.training import prepare_training

SAME_AS_STUDENT = ("model data n_train n_valid n_eval data_seed longest_passage max_length stride "
                   "batch_size precision seed").split()


def run_training(fit: Callable, model: nn.Module, features: Dataset, tokenizer: Any,
                 settings: Settings, pruning: Any = None, **watched: Any) -> dict:
    """Train the model in place with `fit`, which includes the loss; return `Watch.run`.

    watched: validate, checkpoints, snapshots and optimizer_class of `prepare_training`.
    """
    speed_up(model)
    training = prepare_training(model, features, tokenizer, settings, pruning, **watched)
    fit(**training)
    return training["watch"].run()


def fine_tune(train: Callable, begun: dict, settings: Settings, data: dict, features: dict,
              results: Path, checkpoints: str | None = None) -> dict:
    """Train all weights, save the model for `find_teacher`, write its record and return it.

    train: `run_training` with the loop as its first argument; data, features: {"train", "eval"};
    checkpoints: see `run_checkpoints`.
    """
    set_seed(settings.seed)  # the next line may initialise a new head
    model, tokenizer, _ = load_qa_model(settings.model, settings.dropout, settings.max_length)
    saved = run_checkpoints(begun, results, checkpoints)
    run = train(model, features["train"], tokenizer, settings, None, checkpoints=saved)
    scores, _ = evaluate_answers(
        model, data["eval"], features["eval"], tokenizer, settings.precision)
    record = finish_record(begun, run, scores, head="trained", params_total=count_parameters(model),
                           n_train=len(data["train"]), n_eval=len(data["eval"]))
    if is_first_process():
        folder = save_model(model, tokenizer, results / "models" / begun["name"])
        record["bytes_model"] = model_bytes(folder)
        keep_record(record, results, folder, saved)
    # The next run may load this model as its teacher.
    make_accelerator(settings.precision).wait_for_everyone()
    return record


def find_or_train_teacher(fit: Callable, name: str | None, settings: Settings, data: dict,
                          features: dict, student: nn.Module, tokenizer: Any, results: Path,
                          checkpoints: str | None, model_sha: str
                          ) -> tuple[nn.Module, dict, dict | None]:
    """Return (teacher, {"name", "em", "sha"} for the record, its own record if it has one).

    name: a folder, .zip or Hub name. None: the newest fine-tuned model of this encoder and data in
    `results`; without one, it trains one. model_sha: fingerprint of the encoder; fit,
    data, features, checkpoints: see `train_teacher`.
    """
    found, record = None, None
    if not name:
        found = find_teacher(results, model_sha, settings.data)
        if not found:
            print(f"no fine-tuned {settings.model} in {results / 'models'}: fine-tuning one first")
            teaching = choose_settings(settings.profile, "fine-tune", **{
                name: getattr(settings, name) for name in SAME_AS_STUDENT})
            begun = begin_record(teaching, model_sha, data_fingerprint(data["eval"]),
                                 data_fingerprint(data["train"]))
            record = fine_tune(partial(run_training, fit), begun, teaching, data, features, results,
                               checkpoints)
            found = results / "models" / record["name"], record
        name, record = str(found[0]), found[1]
    teacher = load_teacher(name, tokenizer, settings.max_length, student.config)
    if record and record["data_sha"] == data_fingerprint(data["eval"]):
        em = record["em"]  # measured on the same questions
    else:
        em = evaluate_answers(
            teacher, data["eval"], features["eval"], tokenizer, settings.precision)[0]["em"]
    sha = model_fingerprint(teacher, with_head=True)
    return teacher, {"name": Path(name).name, "em": em, "sha": sha}, record
