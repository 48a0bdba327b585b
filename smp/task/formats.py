"""The formats of an export: what each needs, its files, and other engines in place of torch."""

import copy
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from smp.fast.compact_file import compact_as_csr, save_compact
from smp.fast.dead_units import PRUNABLE
from smp.fast.products import compiled_products
from smp.fast.sparse import accelerate, linears_to_accelerate
from smp.files import check_regular, replaced_file
from smp.model.save import save_model
from smp.text import first_line, is_number

Format = Literal["dense", "csr", "onnx", "openvino-bf16", "openvino-int8"]
FORMATS: tuple[Format, ...] = get_args(Format)
ABOUT = "smp_format.json"
EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {  # format: (extra, packages to write it)
    "onnx": ("onnx", ("onnx", "onnxscript", "onnxruntime")),
    "openvino-bf16": ("openvino", ("openvino",)),
    "openvino-int8": ("openvino", ("openvino", "nncf")),
}


class EngineModel(nn.Module):
    """A model of another engine, called like a stock question-answering model, on the CPU.

    predict: {name: array (B, L)} -> (start, end) logits (B, L); tokens: the most in one input;
    precision: of its arithmetic.
    """

    def __init__(self, predict: Callable, tokens: int | None, precision: str):
        super().__init__()
        self.predict, self.precision = predict, precision
        self.config = SimpleNamespace(max_position_embeddings=tokens)

    @property
    def base_model(self) -> nn.Module:
        """Return the module itself, because an engine has no separate encoder."""
        return self

    def forward(self, **inputs: torch.Tensor) -> QuestionAnsweringModelOutput:
        pair = self.predict({name: tensor.cpu().numpy() for name, tensor in inputs.items()})
        start, end = (torch.from_numpy(np.array(logits, np.float32)) for logits in pair)
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)


def why_not(kind: str, model: nn.Module) -> str | None:
    """Return in one line why this format cannot be written here or hold the model, or None."""
    extra, packages = EXTRAS.get(kind, ("", ()))
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        return f'{kind} needs {", ".join(missing)}: pip install "bert-smp[{extra}]"'
    if kind != "csr":
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this line replaces the warning
        if compiled_products() is None:
            return "csr needs a C compiler with OpenMP: install gcc, or set CC to one"
    if model.config.model_type not in PRUNABLE:
        return (f"csr cannot hold a {model.config.model_type} model: expected one of "
                f"{', '.join(PRUNABLE)}")
    linears = [linear for _, linear in linears_to_accelerate(model)]
    if (most := max(linear.in_features for linear in linears)) > 65536:
        return f"csr cannot hold a matrix with {most:,} columns: expected at most 65,536"
    if not any(is_sparse(linear.weight) for linear in linears):
        return "csr cannot make the model smaller: no matrix has a third of its weights at zero"
    return None


def is_sparse(weight: torch.Tensor) -> bool:
    """Return whether CSR needs fewer bytes: 6 for each kept weight, instead of 4 for each."""
    return 6 * int(weight.count_nonzero()) < 4 * weight.numel()


def padded_pair(window: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the window twice, once with padding at its end, so that exporters keep the mask."""
    pair = {name: torch.cat([tensor] * 2) for name, tensor in window.items()}
    pair["attention_mask"][0, -1] = 0
    return pair


def write_dense(host: nn.Module, tokenizer: Any, is_compact: bool, folder: Path) -> dict:
    """Write a stock model, or the compact file if units were removed."""
    (save_compact if is_compact else save_model)(host, tokenizer, folder)
    return {"packages": ["bert-smp" if is_compact else "transformers", "torch"]}


def write_csr(host: nn.Module, tokenizer: Any, model: nn.Module, window: dict,
              folder: Path) -> dict:
    """Write the compact file with CSR matrices; list those whose CSR product is faster."""
    save_compact(host, tokenizer, folder)
    base = host.base_model
    prefix = next(name for name, module in host.named_modules() if module is base)
    compact_as_csr(folder, [f"{prefix}.{name}.weight".lstrip(".")
                            for name, linear in linears_to_accelerate(host)
                            if is_sparse(linear.weight)])
    choice = accelerate(copy.deepcopy(model), window).acceleration
    return {"packages": ["bert-smp", "torch", "C compiler"], "matrices": len(choice),
            "products": [one["matrix"] for one in choice if one["product"] != "dense"]}


def write_onnx(model: nn.Module, window: dict[str, torch.Tensor], folder: Path) -> dict:
    """Write model.onnx: the inputs of `window`, of any batch size and length; two logits."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    sides = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    pair = padded_pair(window)
    with replaced_file(folder / "model.onnx") as draft, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch and transformers about their own calls
        torch.onnx.export(
            model, (), draft, kwargs=pair, input_names=list(pair), dynamo=True,
            external_data=False, output_names=["start_logits", "end_logits"],
            dynamic_shapes=dict.fromkeys(pair, sides), verbose=False,
        )
    return {"packages": ["onnxruntime", "transformers"]}


def onnx_model(path: Path, tokens: int | None) -> EngineModel:
    """Return an ONNX file as a model, run by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # spinning threads would slow down the next format
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return EngineModel(lambda inputs: session.run(
        ["start_logits", "end_logits"], {name: inputs[name] for name in names}), tokens, "fp32")


def read_about(folder: Path) -> dict:
    """Return the content of a format's smp_format.json. Raises ValueError if it is damaged."""
    path = folder / ABOUT
    try:
        check_regular(path)
        about = json.loads(path.read_text("utf-8"))
        numbers = [about["max_length"], about["stride"], about["tokens"] or 1]
        fits = about["format"] in FORMATS and all(
            isinstance(each, int) and is_number(each) for each in numbers)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({first_line(error)}): export the run again"
                         ) from None
    if not fits:
        raise ValueError(f"{path}: expected a format of {', '.join(FORMATS)} and whole numbers: "
                         "export the run again")
    return about
