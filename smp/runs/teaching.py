"""Find the teacher of a student, or fine-tune one with the same loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import set_seed

from smp.data.reading import data_fingerprint
from smp.model.load import load_qa_model
from smp.model.predict import evaluate_answers
from smp.model.save import count_parameters, model_bytes, model_fingerprint, save_model
from smp.model.teacher import load_teacher
from smp.runs.run import begin_record, find_teacher, finish_record, keep_record, run_checkpoints
from smp.runs.settings import Settings, choose_settings
from smp.runs.training import prepare_training

SAME_AS_STUDENT = (
    "model data n_train n_valid n_eval data_seed longest_passage max_length stride batch_size "
    "precision seed"
).split()


def train_teacher(fit: Callable, settings: Settings, data: dict, features: dict, tokenizer: Any,
                  model_sha: str, results: Path, checkpoints: str | None = None
                  ) -> tuple[Path, dict]:
    """Fine-tune the student's encoder as BERT_FINETUNE_QA does; return (folder, record).

    fit: the training loop, called with the arguments of `prepare_training`; settings: the
    student's; data, features: {"train", "eval"}; checkpoints: see `run_checkpoints`.
    """
    teaching = choose_settings(settings.profile, "fine-tune",
                               **{name: getattr(settings, name) for name in SAME_AS_STUDENT})
    set_seed(teaching.seed)
    teacher, _, _ = load_qa_model(teaching.model, teaching.dropout)
    record = begin_record(teaching, model_sha, data_fingerprint(data["eval"]),
                          data_fingerprint(data["train"]))
    saved = run_checkpoints(record, results, checkpoints)
    training = prepare_training(teacher, features["train"], tokenizer, teaching, checkpoints=saved)
    fit(**training)
    scores, _ = evaluate_answers(
        teacher, data["eval"], features["eval"], tokenizer, teaching.precision)
    folder = save_model(teacher, tokenizer, results / "models" / record["name"])
    record = finish_record(
        record, training["watch"].run(), scores, head="trained",
        params_total=count_parameters(teacher), bytes_model=model_bytes(folder),
        n_train=len(data["train"]), n_eval=len(data["eval"]))
    keep_record(record, results, folder)
    saved.clear()
    return folder, record


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
            found = train_teacher(fit, settings, data, features, tokenizer, model_sha, results,
                                  checkpoints)
        name, record = str(found[0]), found[1]
    teacher = load_teacher(name, tokenizer, settings.max_length, student.config)
    if record and record["data_sha"] == data_fingerprint(data["eval"]):
        em = record["em"]  # measured on the same questions
    else:
        em = evaluate_answers(
            teacher, data["eval"], features["eval"], tokenizer, settings.precision)[0]["em"]
    sha = model_fingerprint(teacher, with_head=True)
    return teacher, {"name": Path(name).name, "em": em, "sha": sha}, record
