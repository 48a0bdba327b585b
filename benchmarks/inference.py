"""Inference of a pruned BERT-base on a CPU: CSR products, other engines and bf16."""

import importlib.util
import logging
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForQuestionAnswering

from benchmarks.measure import BEST, DEFAULT, children_in_turns, result
from smp.fast.dead_units import prune_dead_units
from smp.fast.products import compiled_products
from smp.fast.sparse import accelerate
from smp.fast.speed_up import speed_up
from smp.model.encoder import encoder_linears
from smp.model.predict import pick_precision
from smp.task.formats import onnx_model
from smp.task.openvino_model import openvino_model

TOKENS = 384  # of the passage
DENSITIES = (0.5, 0.1, 0.03)
ROUNDS = 5
TORCH, SPED_UP, COMPACT = "dense, torch", "dense, torch with speed_up", "a third of heads and " \
    "neurons removed"
ENGINES = {  # way: the packages that it needs; torch.onnx.export needs the last two
    "dense, ONNX Runtime": ("onnxruntime", "onnx", "onnxscript"),
    "dense, OpenVINO": ("openvino", "onnx", "onnxscript"),
}


def bert(density=1.0):
    """Return a BERT-base with random weights on the CPU; each is kept with this probability."""
    torch.manual_seed(0)
    model = BertForQuestionAnswering(BertConfig()).eval()
    with torch.no_grad():
        for *_, linear in encoder_linears(model) if density < 1 else ():
            linear.weight.mul_(torch.rand_like(linear.weight) < density)
    return model


def passage():
    ids = torch.randint(1000, 20_000, (1, TOKENS), generator=torch.manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def answer_with(model, batch, kind=None):
    with torch.inference_mode(), torch.autocast("cpu", kind, enabled=kind is not None):
        model(**batch)


def function_of(way, batch, path):
    """Return the function that answers the batch in one of the ways."""
    if "ONNX" in way:
        return partial(answer_with, onnx_model(Path(path), None), batch)
    if "OpenVINO" in way:
        model = openvino_model(Path(path), None, "bf16" if "bf16" in way else "f32")
        return partial(answer_with, model, batch)
    kept, _, sparse = way.partition("% kept")
    model = bert(float(kept) / 100 if sparse else 1.0)
    if sparse:
        model = accelerate(model, batch)
    elif way == SPED_UP:
        speed_up(model)
    elif way == COMPACT:
        for block in model.bert.encoder.layer:
            for linear in (block.attention.self.value, block.intermediate.dense):
                linear.weight.data[: len(linear.weight) // 3] = 0
        prune_dead_units(model)
    return partial(answer_with, model, batch, torch.bfloat16 if "bf16" in way else None)


def answers(turn, way, path):
    """Answer in each turn. The first turn, which does not count, prepares the model."""
    turn()
    answer = function_of(way, passage(), path)
    answer()
    while True:
        turn()
        answer()


def missing(packages):
    return [name for name in packages if importlib.util.find_spec(name) is None]


def measure():
    if needed := missing(sorted({name for each in ENGINES.values() for name in each})):
        print(f"some engines are not measured, because these are not installed: {needed}")
    if compiled_products() is None:
        print("no C compiler with OpenMP, so CSR uses torch's own product")
    engines = [way for way, packages in ENGINES.items() if not missing(packages)]
    dense = [TORCH, SPED_UP, *engines]
    bf16 = [f"{way} in bf16" for way in (TORCH, *engines) if "ONNX" not in way] \
        if pick_precision() == "bf16" else []
    others = [*bf16, COMPACT, *(f"{density:.0%} kept, sparse (CSR)" for density in DENSITIES)]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        if engines:
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about torchvision
            torch.onnx.export(
                bert(), (), path, kwargs=passage(), input_names=list(passage()), dynamo=True,
                output_names=["start_logits", "end_logits"], verbose=False)
        seconds, peaks = children_in_turns({
            way: (answers, {"way": way, "path": path}) for way in dense + others}, ROUNDS)
    best = min(dense, key=lambda way: np.median(seconds[way]))
    rows = [(way, TORCH, DEFAULT) for way in (*dense[1:], *others)]
    rows += [(way, best, BEST) for way in others]
    times, memory = [], []
    for way, base, against in rows:
        fast, slow = (1000 * np.median(seconds[one]) for one in (way, base))
        times.append(result(f"{TOKENS} tokens, {way}", against, seconds[base] / seconds[way],
                            f"{fast:.0f} ms; {base}: {slow:.0f} ms"))
        memory.append(result(
            f"Peak memory, {TOKENS} tokens, {way}", against, peaks[way][-1:] / peaks[base][-1:],
            f"{peaks[way][-1] / 1e6:.0f} MB; {base}: {peaks[base][-1] / 1e6:.0f} MB, without the "
            "imports", "times the memory"))
    return times + memory
