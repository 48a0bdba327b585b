"""Ship it.

A trained run lies in results/models/: what of it must go to whoever uses it, how large that is,
and how fast. The mask file and the compact model are made here, and what is said of them is
measured on the run's own questions: every form reads the same windows in turns, one at a time,
and its answers are compared with those of the saved model.
"""

import copy
import json
from pathlib import Path

import numpy as np
import torch

from smp.data.reading import load_squad
from smp.data.windows import featurise
from smp.fast.compact_file import save_compact
from smp.fast.dead_units import prune_dead_units
from smp.fast.sparse import accelerate
from smp.files import replace_text_file
from smp.model.load import find_model, load_qa_model, load_student
from smp.model.save import model_bytes, stock_model
from smp.runs.record import check_record
from smp.task.cards import model_card, record_task
from smp.task.formats import (
    entropy_bytes,
    export_onnx,
    onnx_reader,
    read_in_turns,
    torch_reader,
    window_inputs,
)
from smp.task.mask_file import TRAINED, load_masks, save_masks
from smp.task.task import MASK_FILE, head_weights, load_task
from smp.text import as_millions, markdown_table


def read_run(folder):
    """(record, masks or None) of a saved run; ValueError or FileNotFoundError where it is none."""
    path = Path(folder) / "record.json"
    find_model(str(folder))  # says what is wrong with the folder
    try:
        record = check_record(json.loads(path.read_text(encoding="utf-8")))
        if record.get("head") not in ("label words", "embedding rows", "trained"):
            raise ValueError(f"its head is {record.get('head')!r}")
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no record.json: name a run in results/models") from (
            None)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no record of a run: {error}") from None
    is_task = record["method"].startswith("SMP")
    return record, load_masks(Path(folder) / MASK_FILE) if is_task else None


def export_masks(folder, record, found, model):
    """Writes the mask file as it is written today, whatever form it had. -> what is told of it"""
    masks, about = found
    about = {"base_revision": None, "settings": record["settings"]} | record_task(record) | about
    if record["head"] == "trained":
        about["head_weights"] = head_weights(model)
    size, bound = save_masks(masks, folder / MASK_FILE, **about), entropy_bytes(masks)
    head, vectors = (
        sum(array.nbytes for array in about.get(kind, {}).values()) for kind in TRAINED
    )
    return {"bytes": size, "bytes_entropy_bound": round(bound), "bytes_head": head,
            "bytes_vectors": vectors,
            "above_bound": (size - head - vectors) / bound if bound else None}


def same_answers(answers, wanted):
    """How many of the answers are the same text."""
    pairs = zip(answers, wanted, strict=True)
    return sum(one["prediction_text"] == other["prediction_text"] for one, other in pairs)


class Formats:
    """The forms in which one task can be shipped, by name: a reader, its parameters, its bytes."""

    def __init__(self):
        self.readers, self.parameters, self.bytes = {}, {}, {}

    def add(self, name, model, size=None, read=None):
        self.readers[name] = read or torch_reader(model)
        self.parameters[name] = sum(int(p.count_nonzero()) for p in model.parameters())
        self.bytes[name] = size


def open_saved(folder, head):
    """(model, tokenizer) of a saved run, with the head it was trained with."""
    if head == "label words":
        return load_student(str(folder), head=head)[:2]
    return load_qa_model(str(folder))[:2]


def add_base_and_masks(forms, folder, base, record):
    """The untouched base model and the base with the mask file on it; where there is no base
    here, a printed line says so."""
    try:
        from_masks = load_task(base, folder)[0]
        untouched = load_student(base, head=record["head"])[0]
    except (FileNotFoundError, ValueError) as error:
        print(f"the mask file was not tried on its base, name it with --base: {error}")
        return
    forms.add("base, not pruned", untouched)
    forms.add("base + mask file", from_masks, (folder / MASK_FILE).stat().st_size)


def add_compact(forms, folder, model, tokenizer, example):
    """The compact model, saved in compact/, and with CSR products. -> (what went, what is CSR)"""
    small = copy.deepcopy(model)
    gone = prune_dead_units(small)
    host = stock_model(model, str(folder))
    host = small if host is model else host
    if host is not small:  # of a label-word head, saved as the masked language model
        prune_dead_units(host)
    save_compact(host, tokenizer, folder / "compact")
    forms.add("compact", small, model_bytes(folder / "compact"))
    fast = copy.deepcopy(small)
    forms.add("compact, CSR", small, read=torch_reader(accelerate(fast, example)))
    return gone, fast.acceleration


def questions_of_run(settings, data=None):
    """The questions that the run was evaluated on, of `data` where they are named."""
    try:
        return load_squad(data or settings["data"], 1, 0, None, settings["data_seed"],
                          settings.get("longest_passage"))["eval"]
    except FileNotFoundError as error:
        # a record keeps of a path only its last part, for whose machine it lay on is no matter
        line = f"{error}; name the run's questions with --data" if data is None else error
        raise FileNotFoundError(line) from None


def export_run(folder, data=None, base=None, onnx=False, questions=200):
    """Writes what can be shipped of a saved run beside it, and ship.json; returns what that says.

    folder: a run in results/models/; data, base: where its questions and its base model are, if not
    where the record says. Into the folder go the mask file, a model card, compact/, and model.onnx
    if wanted. Raises ValueError or FileNotFoundError with one line.
    """
    folder = Path(folder)
    record, found = read_run(folder)
    settings = record["settings"]
    asked = questions_of_run(settings, data)
    asked = asked.select(range(min(questions, len(asked))))
    model, tokenizer = open_saved(folder, record["head"])
    features = featurise(asked, tokenizer, settings["max_length"], settings["stride"])
    windows = sorted(window_inputs(features), key=lambda window: window["input_ids"].shape[1])
    example = windows[len(windows) // 2]
    forms, report = Formats(), {"run": record["name"], "mask_file": None, "questions": len(asked)}
    if found:
        report["mask_file"] = export_masks(folder, record, found, model)
        add_base_and_masks(forms, folder, base or found[1].get("base", record["model"]), record)
    forms.add("plain model", model, model_bytes(folder))
    if record["method"] != "fine-tuned":
        report["compact"], report["csr"] = add_compact(forms, folder, model, tokenizer, example)
    if onnx:
        size = export_onnx(model, example, folder / "model.onnx")
        forms.add("ONNX", model, size, onnx_reader(folder / "model.onnx"))
    replace_text_file(folder / "README.md", model_card(record))
    read = read_in_turns(forms.readers, asked, features)
    _, answers, logits = read["plain model"]
    there, report["threads"] = np.isfinite(logits), torch.get_num_threads()
    report["forms"] = [
        {"form": name, "bytes": forms.bytes[name], "parameters": forms.parameters[name], **speed,
         "same_answers": same_answers(own, answers),
         "largest_difference": float(np.abs(theirs[there] - logits[there]).max())}
        for name, (speed, own, theirs) in read.items()
    ]
    replace_text_file(folder / "ship.json", json.dumps(report, indent=1) + "\n")
    return report


def export_markdown(report):
    """The table of a report of `ship`, for a terminal."""
    rows = [
        [form["form"], "–" if form["bytes"] is None else f"{form['bytes'] / 1e6:.2f} MB",
         as_millions(form["parameters"]), f"{form['ms']:.1f}", f"{form['times']:.2f}",
         f"{form['same_answers']} of {report['questions']}", f"{form['largest_difference']:.1e}"]
        for form in report["forms"]
    ]
    first = report["forms"][0]["form"]
    header = ["Form", "To Ship", "Parameters, not 0", "ms/Question", "Times Faster", "Same Answers",
              "Largest Difference"]
    lines = [
        f"{report['run']}: {report['questions']} questions one by one, read by each form in turns, "
        f"{report['threads']} threads; median, times faster than: {first}; answers and logits "
        "beside those of the plain model.", markdown_table(header, rows),
    ]
    if masks := report["mask_file"]:
        lines.append(
            f"mask file: {masks['bytes']:,} bytes, of them {masks['bytes_head']:,} of a head and "
            f"{masks['bytes_vectors']:,} of biases and LayerNorms; the rest is "
            f"{masks['above_bound']:.3f} of the entropy bound, {masks['bytes_entropy_bound']:,}"
        )
    if "compact" in report:
        before, after = report["compact"]["parameters"]
        sparse = sum(one["product"] != "dense" for one in report["csr"])
        lines.append(f"compact: {before:,} parameters became {after:,}; of {len(report['csr'])} "
                     f"matrices {sparse} are read faster as CSR")
    return "\n\n".join(lines)
