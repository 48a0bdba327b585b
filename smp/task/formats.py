"""Run a model in several formats on the same windows; measure time, answers and logits."""

import importlib.util
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from smp.data.answers import decode_answers
from smp.files import replaced_file
from smp.model.predict import MODEL_INPUTS


def export_onnx(model: nn.Module, example: dict[str, torch.Tensor], path: Path) -> int:
    """Write the model as an ONNX file and return its bytes.

    Inputs are those of `example`, with any batch size and length; outputs are start_logits and
    end_logits. Raises ValueError if a package for that is missing.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime")
               if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"ONNX needs {', '.join(missing)}: pip install \"bert-smp[export]\"")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    sides = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    pair = {name: torch.cat([tensor] * 2) for name, tensor in example.items()}  # 1 would stay 1
    with replaced_file(path) as draft:
        torch.onnx.export(
            model.eval(), (), draft, kwargs=pair, input_names=list(pair), dynamo=True,
            external_data=False, output_names=["start_logits", "end_logits"],
            dynamic_shapes=dict.fromkeys(pair, sides), verbose=False,
        )
    return path.stat().st_size


def onnx_predictor(path: Path) -> Callable:
    """Return {name: tensor} -> (start, end) logits of an ONNX file, by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # spinning threads would slow down the next format
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return lambda inputs: session.run(None, {name: t.numpy() for name, t in inputs.items()})


def torch_predictor(model: nn.Module) -> Callable:
    """Return {name: tensor} -> (start, end) logits of a model on the CPU."""
    model.eval()

    def predict(inputs):
        with torch.inference_mode():
            out = model(**inputs)
        return out.start_logits.numpy(), out.end_logits.numpy()

    return predict


def window_inputs(features: Dataset) -> list[dict[str, torch.Tensor]]:
    """Return the windows as model inputs [{name: tensor (1, L)}]."""
    columns = [name for name in MODEL_INPUTS if name in features.column_names]
    return [{name: torch.tensor([row[name]]) for name in columns}
            for row in features.with_format(None).select_columns(columns)]


def predict_in_turns(predictors: dict[str, Callable], examples: Dataset,
                     features: Dataset) -> dict:
    """Return {name: ({"ms", "times"}, answers, logits (2, windows, L))} of predictors, in turns.

    ms: the median time of a question, all its windows together; times: the median over questions
    of the speed-up over the first predictor.
    """
    windows, of = window_inputs(features), np.asarray(features["example"][:])
    longest = max(window["input_ids"].shape[1] for window in windows)
    logits = {name: np.full((2, len(windows), longest), -np.inf, np.float32) for name in predictors}
    seconds = {name: np.zeros(len(examples)) for name in predictors}
    for predict in predictors.values():
        predict(windows[0])  # warm-up
    order = list(predictors)
    for row, window in enumerate(windows):
        for name in order:
            began = time.perf_counter()
            pair = predictors[name](window)
            seconds[name][of[row]] += time.perf_counter() - began
            logits[name][:, row, : pair[0].shape[1]] = np.concatenate(pair)
        order = order[1:] + order[:1]  # so that each is first equally often
    first = seconds[next(iter(predictors))]
    return {
        name: ({"ms": 1000 * statistics.median(own), "times": statistics.median(first / own)},
               decode_answers(examples, features, *logits[name]), logits[name])
        for name, own in seconds.items()
    }
