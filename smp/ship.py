# %% [markdown]
# ## Ship it
#
# A trained run lies in results/models/: what of it must go to whoever uses it, how large that is,
# and how fast. The mask file and the compact model are made here, and what is said of them is
# measured on the run's own questions: every form reads the same windows in turns, one at a time,
# and its answers are compared with those of the saved model.

# %%
import copy
import importlib.util
import json
import logging
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch

# %%
from smp.answers import decode_answers

# %%
from smp.card import model_card, record_task

# %%
from smp.compact import compact, save_compact

# %%
from smp.maskfile import TRAINED, load_masks, save_masks

# %%
from smp.models import (
    find_model,
    load_qa_model,
    load_student,
    model_bytes,
    stock_model,
)

# %%
from smp.results import as_millions, check_record, markdown_table, replace_text_file

# %%
from smp.sparse import accelerate

# %%
from smp.squad import featurise, load_squad

# %%
from smp.task import MASK_FILE, head_weights, load_task

# %%
from smp.train import MODEL_INPUTS

# %%
def entropy_bytes(masks):
    """The bytes that no code of the masks is expected to do without: n H(k / n) bits for each."""
    bits = 0.0
    for mask in masks.values():
        kept = np.count_nonzero(mask)
        bits += sum(c * np.log2(mask.size / c) for c in (kept, mask.size - kept) if c)
    return bits / 8


def export_onnx(model, example, path):
    """Writes the model as an ONNX file with the inputs of `example`, of any batch and length, and
    the outputs start_logits and end_logits. ValueError where the packages for that are missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime")
               if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"ONNX needs {', '.join(missing)}: pip install -r requirements.txt")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # else it tells what is not needed
    path, names = Path(path), list(example)
    draft = path.with_name(path.stem + ".part.onnx")

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, *inputs):
            out = self.model(**dict(zip(names, inputs)))
            return out.start_logits, out.end_logits

    sides = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    pair = tuple(torch.cat([example[name]] * 2) for name in names)  # a side of 1 would stay 1
    try:
        torch.onnx.export(
            Logits().eval(), pair, draft, input_names=names, dynamo=True, external_data=False,
            output_names=["start_logits", "end_logits"], dynamic_shapes=((sides,) * len(names),),
            verbose=False,
        )
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path.stat().st_size


def onnx_reader(path):
    """{name: tensor} -> (start, end) logits of an ONNX file, in ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # its threads would take the cores from whoever has the next turn
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return lambda inputs: session.run(None, {name: t.numpy() for name, t in inputs.items()})


def torch_reader(model):
    """The same of a model."""
    model.eval()

    def read(inputs):
        with torch.inference_mode():
            out = model(**inputs)
        return out.start_logits.numpy(), out.end_logits.numpy()

    return read

# %%
def window_inputs(features):
    """[{name: tensor (1, L)}] of the windows, as a model takes them."""
    columns = [name for name in MODEL_INPUTS if name in features.column_names]
    return [{name: torch.tensor([row[name]]) for name in columns}
            for row in features.with_format(None).select_columns(columns)]


def read_in_turns(readers, examples, features):
    """{name: ({"ms", "times"}, answers, logits)} of each reader, on the same windows in turns.

    ms: the median over the questions, all windows of one together; times: the median of how many
    times faster than the first reader, question by question.
    """
    windows, of = window_inputs(features), np.asarray(features["example"][:])
    longest = max(window["input_ids"].shape[1] for window in windows)
    logits = {name: np.full((2, len(windows), longest), -np.inf, np.float32) for name in readers}
    seconds = {name: np.zeros(len(examples)) for name in readers}
    for read in readers.values():
        read(windows[0])  # warms up
    order = list(readers)
    for row, window in enumerate(windows):
        for name in order:
            began = time.perf_counter()
            said = readers[name](window)
            seconds[name][of[row]] += time.perf_counter() - began
            for side in range(2):
                logits[name][side, row, : said[side].shape[1]] = said[side][0]
        order = order[1:] + order[:1]  # each comes after each other
    first = seconds[next(iter(readers))]
    return {
        name: ({"ms": 1000 * statistics.median(own), "times": statistics.median(first / own)},
               decode_answers(examples, features, *logits[name]), logits[name])
        for name, own in seconds.items()
    }

# %%
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


def ship_masks(folder, record, found, model):
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

# %%
def same_answers(answers, wanted):
    """How many of the answers are the same text."""
    pairs = zip(answers, wanted, strict=True)
    return sum(one["prediction_text"] == other["prediction_text"] for one, other in pairs)

# %%
class Forms:
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
    gone = compact(small)
    host = stock_model(model, str(folder))
    host = small if host is model else host
    if host is not small:  # of a label-word head, saved as the masked language model
        compact(host)
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


def ship(folder, data=None, base=None, onnx=False, questions=200):
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
    forms, report = Forms(), {"run": record["name"], "mask_file": None, "questions": len(asked)}
    if found:
        report["mask_file"] = ship_masks(folder, record, found, model)
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

# %%
def ship_markdown(report):
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
