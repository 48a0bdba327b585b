"""Model cards: the README.md of a mask file or a saved model, with metadata for the Hub."""

import re
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from smp.text import as_percent, is_number

TORCH_START = """\
import numpy as np
import torch
from transformers import {model_class}, AutoTokenizer

folder, question, passage = "this folder", "a question", "a passage"
model = {model_class}.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
pair = tokenizer(question, passage, return_tensors="pt", return_offsets_mapping=True)
spans = pair.pop("offset_mapping")[0].tolist()
with torch.inference_mode():
    out = model(**pair)
"""
PLAIN_HEAD = TORCH_START.format(model_class="AutoModelForQuestionAnswering") + """\
start, end = out.start_logits[0].numpy(), out.end_logits[0].numpy()
"""
WORD_HEAD = TORCH_START.format(model_class="AutoModelForMaskedLM") + """\
yes, no = (tokenizer.encode(" " + word, add_special_tokens=False)[0] for word in ("yes", "no"))
start, end = out.logits[0, :, yes].numpy(), out.logits[0, :, no].numpy()
"""
ENGINE_START = """\
import numpy as np
import {engine}
from transformers import AutoTokenizer

folder, question, passage = "this folder", "a question", "a passage"
tokenizer = AutoTokenizer.from_pretrained(folder)
pair = tokenizer(question, passage, return_tensors="np", return_offsets_mapping=True)
spans = pair.pop("offset_mapping")[0].tolist()
"""
ONNX = ENGINE_START.format(engine="onnxruntime") + """\
model = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
inputs = {each.name: pair[each.name] for each in model.get_inputs()}
start, end = (logits[0] for logits in model.run(["start_logits", "end_logits"], inputs))
"""
OPENVINO = ENGINE_START.format(engine="openvino") + """\
hint = {"INFERENCE_PRECISION_HINT": "bf16"}  # fp32 on a CPU without units for bf16
model = openvino.Core().compile_model(folder + "/model.xml", "CPU", hint)
out = model({port.any_name: pair[port.any_name] for port in model.inputs})
start, end = out["start_logits"][0], out["end_logits"][0]
"""
ANSWER = """\
inside = [part == 1 for part in pair.sequence_ids(0)]  # tokens of the passage
possible = np.tril(np.triu(np.outer(inside, inside)), 29)  # spans of at most 30 tokens
score = np.where(possible, start[:, None] + end, -np.inf)
first, last = np.unravel_index(score.argmax(), score.shape)
print(passage[spans[first][0] : spans[last][1]])
"""
PROJECT = """\
from smp import load_answerer  # of the package bert-smp

print(load_answerer("this folder")("a question", "a passage")["answer"])
"""
FORMAT_NOTES = {
    "dense": "Weights in fp32.",
    "compact": "Weights in fp32, without dead units. Stock classes cannot load their shapes.",
    "csr": "The pruned matrices are compressed sparse rows. A C function multiplies those that "
           "were faster on the machine of the export. Without a C compiler all products are dense.",
    "onnx": "ONNX in fp32, for ONNX Runtime.",
    "openvino-bf16": "OpenVINO. Weights are stored as fp16. Arithmetic is bf16 if the CPU has "
                     "units for it, otherwise fp32.",
    "openvino-int8": "OpenVINO in int8, calibrated on training questions, with one scale for each "
                     "output channel of a matrix.",
}
MASK_CODE = """\
from smp import PrunedModel  # of the repository that made the masks

pruned = PrunedModel.from_pretrained({base!r}, "this folder")
print(pruned.answer("a question", "a passage"))
"""
TASK_CODE = """\
from smp import PrunedModel  # of the package bert-smp
from transformers import pipeline

pruned = PrunedModel.from_pretrained({base!r}, "this folder")
run = pipeline({task!r}, pruned.model, tokenizer=pruned.tokenizer)
print(run("a text"))
"""
PRUNED_NOTE = """\
The pruned weights are stored as zeros, so the file is as large as that of the base model, and \
dense inference is as slow. The mask file and the compact model are smaller.

"""
WORD_HEAD_NOTE = """\
Its head is the frozen masked-LM head of the base model: the masked-LM logits of *yes* and *no* \
are the start and end logits. No stock question-answering class has such a head, so the model is \
loaded as a masked language model.

"""


def one_line(text: object) -> str:
    """Return a text of a record without line breaks and invisible characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def escaped_markdown(text: object) -> str:
    """Return a text of a record as one line that has no effect as Markdown or HTML."""
    special = r"(?<=www)\.|[^\w \-+,;%='\"/()?.]"
    line = re.sub(special, lambda found: f"&#{ord(found[0])};", one_line(text))
    return line.replace("_", "\\_")


def known_metrics(about: dict) -> dict[str, float]:
    """Return {one-line name: number} of the metrics of a task."""
    metrics = about.get("metrics")
    return {one_line(kind): value for kind, value in metrics.items()
            if is_number(value)} if isinstance(metrics, dict) else {}


def card_metadata(about: dict) -> str:
    """Return the card's YAML block for the Hub, of the fields that are known."""
    name, data, base, task, license = (
        one_line(about[field]) if about.get(field) else None
        for field in ("name", "data", "base", "task", "license"))
    found: Any = {"exact_match": about.get("em"), "f1": about.get("f1")} | known_metrics(about)
    task = task or "question-answering"
    scores = [
        EvalResult(
            task_type=task, dataset_type=data, dataset_name=data,
            metric_type=kind, metric_value=round(value, 4),
        )
        for kind, value in found.items() if data and name and is_number(value, 0, 1)
    ]
    block = ModelCardData(
        model_name=name, eval_results=scores or None, base_model=base, license=license,
        datasets=[data] if data else None,
        pipeline_tag=task, tags=["static-model-pruning"],
    )
    return f"---\n{block.to_yaml()}\n---\n"


def card_table(about: dict, has_vectors: bool, of: str = "") -> str:
    """Return the list of method, size and scores; has_vectors: biases and LayerNorms trained.

    of: the model of the scores, if it is another one.
    """
    known = {name: escaped_markdown(value) for name, value in about.items()
             if isinstance(value, str)}
    lines = [f"- base model: {known.get('base')}, weights {known.get('base_sha')}"]
    if "label" in known:
        lines.append(f"- method: {known['label']}")
    if is_number(about.get("density"), 0, 1):
        lines.append(f"- remaining encoder weights: {as_percent(about['density'])}")
    if "head" in known:
        lines.append(f"- head: {known['head']}")
    if about.get("task") and "data" in known:
        lines.append(f"- trained on: {known['data']}")
    lines += [f"- {escaped_markdown(kind)}: {value:.4f}"
              for kind, value in known_metrics(about).items()]
    if has_vectors:
        lines.append("- the biases and LayerNorms of the encoder's layers are trained")
    if all(is_number(about.get(name)) for name in ("em", "f1", "n_eval")):
        lines.append(
            f"- Exact Match {about['em']:.4f}, F1 {about['f1']:.4f}{of} on {about['n_eval']:,} "
            f"questions of {known.get('data')} ({known.get('data_sha')})"
        )
    return "\n".join(lines) + "\n"


def mask_card(about: dict, size: int) -> str:
    """Return the card of a mask file of `size` bytes; about: as `load_masks` returns it."""
    name = escaped_markdown(about.get("name", "masks"))
    task = about.get("task", "question-answering")
    code = MASK_CODE if task == "question-answering" else TASK_CODE
    code = code.format(base=about.get("base"), task=one_line(task))
    return (
        f"{card_metadata(about)}\n# {name}\n\nThe masks of one task: which weights of the base "
        f"model's encoder remain. The file has {size:,} bytes and is applied to the base model.\n\n"
        f"{card_table(about, 'vectors' in about)}\n```python\n{code}```\n"
    )


def about_run(record: dict) -> tuple[dict, bool]:
    """Return (the fields of a card, whether biases and LayerNorms are trained) of a run."""
    about = record | {"base": record["model"], "base_sha": record["model_sha"]}
    return about, record["settings"].get("bias_norm_learning_rate", 0) > 0


def model_card(record: dict) -> str:
    """Return the card of a saved model, from the record of its run."""
    about, has_vectors = about_run(record)
    notes, code = "", PLAIN_HEAD
    if record["method"] != "fine-tuned":
        notes += PRUNED_NOTE
    if record["head"] == "label words":
        notes, code = notes + WORD_HEAD_NOTE, WORD_HEAD
    return (
        f"{card_metadata(about)}\n# {escaped_markdown(record['name'])}\n\nA model for extractive "
        f"question answering. {notes}{card_table(about, has_vectors)}\n```python\n{code}{ANSWER}"
        "```\n"
    )


def format_card(record: dict, about: dict) -> str:
    """Return the card of one format of a run; about: the content of its smp_format.json."""
    run, has_vectors = about_run(record)
    kind = "compact" if about["format"] == "dense" and about["compact"] else about["format"]
    words = record["head"] == "label words"
    code = {"dense": WORD_HEAD if words else PLAIN_HEAD, "onnx": ONNX,
            "openvino-bf16": OPENVINO, "openvino-int8": OPENVINO}.get(kind)
    without_scores = {name: value for name, value in run.items() if name not in ("em", "f1")}
    return (
        f"{card_metadata(without_scores)}\n# {escaped_markdown(record['name'])}: {kind}\n\nA model "
        f"for extractive question answering. {FORMAT_NOTES[kind]} It reads at most "
        f"{about['tokens']} tokens; `load_answerer` of bert-smp also answers on longer passages, "
        f"in windows of {about['max_length']} tokens.\n\n"
        f"Packages: {', '.join(about['packages'])}.\n\n"
        + WORD_HEAD_NOTE * (words and kind == "dense")
        + card_table(run, has_vectors, " of the run's fp32 model")
        + f"\n```python\n{code + ANSWER if code else PROJECT}```\n"
    )
