"""OpenVINO models: conversion, int8 with calibration, and inference in place of torch."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smp.task.formats import EngineModel, padded_pair

PRECISIONS = {"f32": "fp32", "f16": "fp16"}
MOST_LOST = 0.005  # EM; int8 that loses more leaves layers out


@contextmanager
def quiet() -> Iterator[None]:
    """Keep openvino and nncf from sending usage data, as in CI, and from printing on stdout."""
    before = {name: os.environ.get(name) for name in ("CI", "NNCF_CI")}
    os.environ |= dict.fromkeys(before, "true")
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")  # of tracing
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def convert(model: nn.Module, window: dict[str, torch.Tensor]) -> Any:
    """Return the OpenVINO model: the inputs of `window`, of any batch size and length."""
    with quiet():
        import openvino

        return openvino.convert_model(model, example_input=padded_pair(window))


def save_openvino(model: Any, folder: Path) -> None:
    """Write model.xml and model.bin; weights that are not int8 are stored as fp16."""
    import openvino

    folder.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=True)


def openvino_model(source: Any, tokens: int | None, hint: str = "bf16") -> EngineModel:
    """Return an .xml file or an OpenVINO model as a model for the CPU.

    hint: precision of what is not int8. Its `precision` is what the CPU really uses: fp32 without
    units for bf16.
    """
    import openvino

    core = openvino.Core()
    model = core.read_model(source) if isinstance(source, Path) else source
    compiled = core.compile_model(model, "CPU", {
        "INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()})
    names = [port.any_name for port in compiled.inputs]
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    precision = PRECISIONS.get(used, used)
    if any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()):
        precision = f"int8, {precision}"

    def predict(inputs):
        out = compiled({name: inputs[name] for name in names})
        return out["start_logits"], out["end_logits"]

    return EngineModel(predict, tokens, precision)


def in_int8(values: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Return the values rounded to 8 bits, with one scale or one for each row."""
    most = values.abs().amax() if dim is None else values.abs().amax(dim, keepdim=True)
    scale = most.clamp_min(1e-12) / 127
    return (values / scale).round() * scale


@torch.no_grad()
def by_sensitivity(model: nn.Module, windows: list[dict[str, torch.Tensor]]) -> list[str]:
    """Return the names of the linear layers; int8 in the first changes the logits most."""
    def logits():
        outs = [model(**window) for window in windows]
        return torch.cat([torch.cat([out.start_logits, out.end_logits], 1) for out in outs], 1)

    exact, changes = logits(), {}
    for name, linear in model.named_modules():
        if type(linear) is nn.Linear and linear.weight.numel():
            weight = linear.weight.data
            linear.weight.data = in_int8(weight, 1)
            hook = linear.register_forward_pre_hook(lambda _, inputs: (in_int8(inputs[0]),))
            changes[name] = float((logits() - exact).abs().mean())
            hook.remove()
            linear.weight.data = weight
    return sorted(changes, key=lambda name: -changes[name])


def quantise(model: nn.Module, windows: list[dict[str, torch.Tensor]],
             lost: Callable[[nn.Module], float], tokens: int | None) -> tuple[Any, dict]:
    """Return (OpenVINO model in int8, {"windows", "tried": [{"left_out", "lost_em"}], "left_out"}).

    windows: inputs to calibrate with; lost: EM that a model loses against fp32. If plain int8 loses
    more than MOST_LOST, the most sensitive layers stay in floating point: 1, 2, 4, ... of them, up
    to half. Weights have one scale for each output channel.
    """
    with quiet():
        import nncf

    nncf.set_log_level(logging.ERROR)
    arrays = [{name: t.numpy() for name, t in window.items()} for window in windows]
    tried: list[tuple[float, list[str], Any]] = []
    ranked: list[str] = []
    counts = [0]
    for count in counts:
        with quiet():
            scope = nncf.IgnoredScope(validate=False, patterns=[
                rf"__module\.{re.escape(name)}/.*" for name in ranked[:count]])
            small = nncf.quantize(
                convert(model, windows[0]), nncf.Dataset(arrays), subset_size=len(arrays),
                model_type=nncf.ModelType.TRANSFORMER, ignored_scope=scope)
        loss = lost(openvino_model(small, tokens))
        tried.append((loss, ranked[:count], small))
        if loss <= MOST_LOST:
            break
        ranked = ranked or by_sensitivity(model, windows[:8])
        if max(1, 2 * count) <= len(ranked) // 2:
            counts.append(max(1, 2 * count))
    _, left_out, best = min(tried, key=lambda one: (one[0] > MOST_LOST, one[0]))
    return best, {"windows": len(windows), "left_out": left_out, "tried": [
        {"left_out": len(names), "lost_em": loss} for loss, names, _ in tried]}
