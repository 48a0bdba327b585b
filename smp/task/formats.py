"""Ship it.

A trained run lies in results/models/: what of it must go to whoever uses it, how large that is,
and how fast. The mask file and the compact model are made here, and what is said of them is
measured on the run's own questions: every form reads the same windows in turns, one at a time,
and its answers are compared with those of the saved model.
"""

import importlib.util
import logging
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from smp.data.answers import decode_answers
from smp.model.predict import MODEL_INPUTS


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
