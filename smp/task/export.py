"""Export a saved run: model card, compact model, and the size and speed of each format.

The formats take turns on the same windows of the run's own questions, one window at a time. Their
answers and logits are compared with those of the saved model.
"""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from smp.data.reading import load_squad
from smp.data.windows import featurise
from smp.fast.compact_file import save_compact
from smp.fast.dead_units import prune_dead_units
from smp.fast.sparse import accelerate
from smp.files import replace_text_file
from smp.model.load import find_model
from smp.model.save import model_bytes
from smp.model.student import STUDENT_HEADS, load_student, stock_model
from smp.runs.record import read_record
from smp.task.answerer import load_any_task, load_saved
from smp.task.cards import model_card
from smp.task.formats import (
    export_onnx,
    onnx_predictor,
    predict_in_turns,
    torch_predictor,
    window_inputs,
)
from smp.task.mask_file import MASK_FILE, TRAINED
from smp.task.validate import load_any_masks
from smp.text import as_millions, markdown_table

MASK_FIELDS = {"name", "label", "method", "base", "base_sha", "head", "settings", "data"}


def read_run(folder: Path) -> tuple[dict, tuple[dict, dict] | None]:
    """Return (record, result of `load_any_masks` or None without masks) of a saved run.

    If the folder contains a mask file and no model, the record is the file's metadata. Raises
    ValueError or FileNotFoundError with one line.
    """
    path, masks = folder / "record.json", folder / MASK_FILE
    if masks.is_file() and not (folder / "config.json").exists():
        found = load_any_masks(masks)
        if missing := MASK_FIELDS - found[1].keys():
            raise ValueError(f"{masks}: its metadata have no {', '.join(sorted(missing))}")
        return found[1] | {"model": found[1]["base"], "model_sha": found[1]["base_sha"]}, found
    find_model(str(folder))  # raises if the folder has no model
    try:
        record = read_record(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no record.json: use a run in results/models"
                                ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a record of a run: {error}") from None
    if record["head"] not in STUDENT_HEADS:
        raise ValueError(f"{path} is not a record of a run: its head is {record['head']!r}, "
                         f"expected one of {', '.join(STUDENT_HEADS)}")
    return record, load_any_masks(masks) if record["bytes_mask_file"] else None


def entropy_bytes(masks: dict[str, np.ndarray]) -> float:
    """Return the entropy of the masks in bytes: n H(k / n) bits for k of n weights of a matrix."""
    bits = 0.0
    for mask in masks.values():
        kept = np.count_nonzero(mask)
        bits += sum(c * np.log2(mask.size / c) for c in (kept, mask.size - kept) if c)
    return bits / 8


def measure_mask_file(path: Path, masks: dict, about: dict) -> dict:
    """Return the bytes of a mask file and of its parts, and the entropy of its masks."""
    size, bound = path.stat().st_size, entropy_bytes(masks)
    head, vectors = (sum(each.nbytes for each in about.get(kind, {}).values()) for kind in TRAINED)
    return {"bytes": size, "bytes_entropy_bound": round(bound), "bytes_head": head,
            "bytes_vectors": vectors,
            "above_bound": (size - head - vectors) / bound if bound else None}


def add_base_and_masks(forms: dict, folder: Path, base: str, head: str) -> None:
    """Add the base model alone and with the mask file; print a line if there is no such base."""
    try:
        from_masks, _, _ = load_any_task(base, folder)
        untouched, _, _ = load_student(base, head=head)
    except (FileNotFoundError, ValueError) as error:
        print(f"The mask file is not measured without its base model: set --base ({error})")
        return
    size = (folder / MASK_FILE).stat().st_size
    forms["base, not pruned"] = torch_predictor(untouched), untouched, None
    forms["base + mask file"] = torch_predictor(from_masks), from_masks, size


def add_compact(
    forms: dict, folder: Path, model: nn.Module, tokenizer: Any, example: dict, base: str
) -> tuple[dict, list[dict]]:
    """Save the compact model; add it with dense and CSR products; return the results of both.

    base: the name that the model, or the base model of its masks, was loaded by.
    """
    small, host = copy.deepcopy(model), stock_model(model, base)
    removed = prune_dead_units(small)
    if host is not model:  # a label-word head is saved with its masked language model
        prune_dead_units(host)
    save_compact(small if host is model else host, tokenizer, folder / "compact")
    fast = accelerate(copy.deepcopy(small), example)
    forms["compact"] = torch_predictor(small), small, model_bytes(folder / "compact")
    forms["compact, CSR"] = torch_predictor(fast), small, None
    return removed, fast.acceleration


def questions_of_run(settings: dict, data: str | None) -> Dataset:
    """Return the questions that the run was evaluated on, from `data` if it is given."""
    try:
        return load_squad(data or settings["data"], 1, 0, None, settings["data_seed"],
                          settings.get("longest_passage"))["eval"]
    except FileNotFoundError as error:  # a record contains only the last part of a path
        line = f"{error}; set --data to the run's questions" if data is None else error
        raise FileNotFoundError(line) from None


def export_run(
    folder: Path | str, data: str | None = None, base: str | None = None, onnx: bool = False,
    questions: int = 200, into: Path | None = None,
) -> dict:
    """Write a run's model card, compact/, model.onnx if `onnx`, and measurements in export.json.

    folder: a run in results/models/, or a folder with a mask file; data, base: its questions and
    its base model, if they differ from the record; into: the folder to write into, if it is another
    one. Returns the content of export.json. Raises ValueError or FileNotFoundError with one line.
    """
    folder = Path(folder)
    into = into or folder
    record, found = read_run(folder)
    settings = record["settings"]
    asked = questions_of_run(settings, data)
    asked = asked.select(range(min(questions, len(asked))))
    base = base or (found[1].get("base", record["model"]) if found else None)
    is_model = (folder / "config.json").exists()
    if is_model or not base:
        model, tokenizer = load_saved(str(folder))
    else:
        model, tokenizer, _ = load_any_task(base, folder)
    into.mkdir(parents=True, exist_ok=True)
    features = featurise(asked, tokenizer, settings["max_length"], settings["stride"])
    windows = sorted(window_inputs(features), key=lambda window: window["input_ids"].shape[1])
    example = windows[len(windows) // 2]
    report = {"run": record["name"], "mask_file": None, "questions": len(asked)}
    forms: dict[str, tuple] = {}  # {name: (predictor, model with its parameters, bytes or None)}
    if found and base:
        report["mask_file"] = measure_mask_file(folder / MASK_FILE, *found)
        add_base_and_masks(forms, folder, base, record["head"])
    forms["plain model"] = torch_predictor(model), model, model_bytes(folder) if is_model else None
    if record["method"] != "fine-tuned":
        report["compact"], report["csr"] = add_compact(
            forms, into, model, tokenizer, example, str(folder) if is_model else str(base))
    if onnx:
        size = export_onnx(model, example, into / "model.onnx")
        forms["ONNX"] = onnx_predictor(into / "model.onnx"), model, size
    replace_text_file(into / "README.md", model_card(record))
    runs = predict_in_turns({name: form[0] for name, form in forms.items()}, asked, features)
    _, answers, logits = runs["plain model"]
    texts, finite = [answer["prediction_text"] for answer in answers], np.isfinite(logits)
    report["threads"] = torch.get_num_threads()
    report["forms"] = [
        {"form": name, "bytes": forms[name][2],
         "parameters": sum(int(p.count_nonzero()) for p in forms[name][1].parameters()), **speed,
         "same_answers": sum(a["prediction_text"] == text for a, text in zip(own, texts)),
         "largest_difference": float(np.abs(theirs[finite] - logits[finite]).max())}
        for name, (speed, own, theirs) in runs.items()
    ]
    replace_text_file(into / "export.json", json.dumps(report, indent=1) + "\n")
    return report


def export_markdown(report: dict) -> str:
    """Return the table and notes of a report of `export_run`, for a terminal."""
    rows = [
        [form["form"], "–" if form["bytes"] is None else f"{form['bytes'] / 1e6:.2f} MB",
         as_millions(form["parameters"]), f"{form['ms']:.1f}", f"{form['times']:.2f}",
         f"{form['same_answers']} of {report['questions']}", f"{form['largest_difference']:.1e}"]
        for form in report["forms"]
    ]
    first = report["forms"][0]["form"]
    header = ["Format", "Size on disk", "Parameters, not 0", "ms per question", "Speed-up",
              "Answer agreement", "Max logit difference"]
    lines = [
        f"{report['run']}: {report['questions']} questions, one at a time, the formats in turns, "
        f"{report['threads']} threads. Median time; speed-up over: {first}. Answers and logits are "
        "compared with those of the plain model.", markdown_table(header, rows),
    ]
    if masks := report["mask_file"]:
        lines.append(
            f"Mask file: {masks['bytes']:,} bytes, of which the head takes {masks['bytes_head']:,} "
            f"and biases and LayerNorms {masks['bytes_vectors']:,}. The rest is "
            f"{masks['above_bound']:.3f} times the entropy of the masks, "
            f"{masks['bytes_entropy_bound']:,} bytes."
        )
    if "compact" in report:
        before, after = report["compact"]["parameters"]
        sparse = sum(one["product"] != "dense" for one in report["csr"])
        lines.append(f"Compact: {before:,} parameters became {after:,}. {sparse} of "
                     f"{len(report['csr'])} matrices are faster as CSR.")
    return "\n\n".join(lines)
