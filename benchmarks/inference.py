"""Inference of a pruned BERT-base on a CPU: CSR products, other engines and bf16."""

import importlib.util
import logging
import tempfile
from functools import partial

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertForQuestionAnswering

from benchmarks.measure import BEST, DEFAULT, children_in_turns, result
from smp.fast.dead_units import prune_dead_units
from smp.fast.products import compiled_products
from smp.fast.sparse import accelerate
from smp.fast.speed_up import speed_up
from smp.model.encoder import encoder_linears
from smp.model.predict import pick_precision

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


def answer_with_torch(model, batch, kind=None):
    with torch.inference_mode(), torch.autocast("cpu", kind, enabled=kind is not None):
        model(**batch)


class Logits(nn.Module):
    """The model with tensors as inputs and outputs, as exporters need it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        out = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return out.start_logits, out.end_logits


def with_onnx_runtime(path, batch):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # spinning threads would use the cores during the next turn
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return partial(session.run, None, {name: tensor.numpy() for name, tensor in batch.items()})


def with_openvino(path, batch, precision):
    from openvino import Core

    core = Core()
    model = core.compile_model(core.read_model(path), "CPU", {
        "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    })
    return partial(model, {name: tensor.numpy() for name, tensor in batch.items()})


def function_of(way, batch, path):
    """Return the function that answers the batch in one of the ways."""
    if "ONNX" in way:
        return with_onnx_runtime(path, batch)
    if "OpenVINO" in way:
        return with_openvino(path, batch, "bf16" if "bf16" in way else "f32")
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
    return partial(answer_with_torch, model, batch, torch.bfloat16 if "bf16" in way else None)


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
            torch.onnx.export(Logits(bert()).eval(), tuple(passage().values()), path, dynamo=True,
                              input_names=list(passage()), verbose=False)
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
