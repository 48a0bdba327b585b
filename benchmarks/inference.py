"""inference: a pruned BERT-base on a CPU, compared with dense fp32.

The formats are CSR products, the compact model, bf16 and other engines.
"""

import copy
import functools
import importlib.util
import logging
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn
from transformers import BertConfig, BertForQuestionAnswering

from benchmarks.measure import peak_memories, ratio, result, time_in_turns
from smp.fast.dead_units import prune_dead_units
from smp.fast.products import compiled_products
from smp.fast.sparse import accelerate
from smp.model.encoder import encoder_linears

SHAPES = ((1, 384), (8, 128))  # batch, tokens
GOALS = {0.5: ">= 1.0", 0.1: ">= 2.0", 0.03: ">= 3.5"}  # speed-up over dense
DEAD = 1 / 3  # share of the neurons and heads that are set to zero
ROUNDS = 3


@functools.cache
def random_bert():
    torch.manual_seed(0)
    return BertForQuestionAnswering(BertConfig()).eval()


def bert(density=1.0):
    """Return a BERT-base with random weights on the CPU; each is kept with this probability."""
    model = copy.deepcopy(random_bert())
    with torch.no_grad():
        for *_, linear in encoder_linears(model):
            linear.weight.mul_(torch.rand_like(linear.weight) < density)
    return model


def compacted():
    """Return (dense BERT-base without its dead units, report of `prune_dead_units`)."""
    model = bert()
    with torch.no_grad():
        for block in model.bert.encoder.layer:
            for linear in (block.attention.self.value, block.intermediate.dense):
                linear.weight[: int(DEAD * len(linear.weight))] = 0
    return model, prune_dead_units(model)


def batch_of(size, tokens):
    ids = torch.randint(1000, 20_000, (size, tokens), generator=torch.manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def run(model, batch):
    def answer():
        with torch.inference_mode():
            return model(**batch)

    return answer


def run_in_bf16(model, batch):
    def answer():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return model(**batch)

    return answer


class Logits(nn.Module):
    """The model with tensors as inputs and outputs, as exporters need it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        out = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return out.start_logits, out.end_logits


def installed(*packages):
    return all(importlib.util.find_spec(package) for package in packages)


@functools.cache
def scratch():
    return tempfile.TemporaryDirectory()  # removed when the process ends


@functools.cache
def exported(size, tokens):
    """Return the path of a pruned BERT-base as ONNX, for batches of this size."""
    path = Path(scratch().name) / f"{size}x{tokens}.onnx"
    export(bert(0.1), batch_of(size, tokens), path)
    return path


def export(model, batch, path):
    """Write the model as ONNX, for batches of this size."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about torchvision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits(model).eval(), tuple(batch.values()), path, input_names=list(batch),
            dynamo=True, verbose=False,
        )


def onnxruntime_fp32(path, batch):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # spinning threads would use the cores during the next turn
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    inputs = {name: tensor.numpy() for name, tensor in batch.items()}
    return lambda: session.run(None, inputs)


def openvino(path, batch, precision="f32"):
    from openvino import Core

    core = Core()
    model = core.compile_model(core.read_model(path), "CPU", {
        "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    })
    inputs = {name: tensor.numpy() for name, tensor in batch.items()}
    return lambda: model(inputs)


ENGINES = {  # name: (package, function that returns a function for the batch)
    "ONNX Runtime fp32": ("onnxruntime", onnxruntime_fp32),
    "OpenVINO fp32": ("openvino", openvino),
    "OpenVINO bf16": ("openvino", functools.partial(openvino, precision="bf16")),
}
EXPORTER = ("onnx", "onnxscript")  # needed by torch.onnx.export


def engines():
    """Return {name: function} of the installed other engines."""
    return {name: make for name, (package, make) in ENGINES.items()
            if installed(package, *EXPORTER)}


def speeds(size, tokens):
    """Return the results of all formats for one batch, timed in turns."""
    batch, dense = batch_of(size, tokens), bert(0.1)
    small, report = compacted()
    ways = {"dense fp32": run(dense, batch), "dense bf16": run_in_bf16(dense, batch),
            "compact fp32": run(small, batch)}
    before, after = report["parameters"]
    details = {
        "dense bf16": "autocast",
        "compact fp32": f"a third of heads and neurons set to zero: {before / 1e6:.1f}M -> "
        f"{after / 1e6:.1f}M parameters",
    }
    for density in GOALS:
        model = accelerate(bert(density), batch)
        name = f"CSR fp32, {density:.0%}"
        ways[name] = run(model, batch)
        products = [row["product"] for row in model.acceleration]
        details[name] = ", ".join(f"{products.count(p)} {p}" for p in sorted(set(products)))
    for name, make in engines().items():
        ways[name] = make(exported(size, tokens), batch)
    seconds = time_in_turns(ways, ROUNDS)
    goals = {f"CSR fp32, {density:.0%}": goal for density, goal in GOALS.items()}
    milliseconds = {name: 1000 * float(sorted(each)[ROUNDS // 2]) for name, each in seconds.items()}
    return [
        result(
            f"{size} x {tokens}: {name}, speed-up over dense fp32",
            *ratio(seconds["dense fp32"], seconds[name]), goals.get(name),
            f"{milliseconds[name]:.0f} ms, dense {milliseconds['dense fp32']:.0f} ms; "
            + details.get(name, "dense"),
        )
        for name in ways if name != "dense fp32"
    ]


def answer(kind, size, tokens, path):
    """Run one format for `peak_memories`. The peak of its set-up is cleared before the last run."""
    batch = batch_of(size, tokens)
    if kind in ENGINES:
        function = ENGINES[kind][1](path, batch)
    elif kind == "dense fp32":
        function = run(random_bert(), batch)
    elif kind == "compact fp32":
        function = run(compacted()[0], batch)
    else:
        function = run(accelerate(bert(float(kind)), batch), batch)
    random_bert.cache_clear()
    function()
    Path("/proc/self/clear_refs").write_text("5")
    function()


def memory(size, tokens):
    """Return the results for the memory of each format during inference, compared with dense."""
    kinds = {"CSR fp32, 10%": "0.1", "CSR fp32, 3%": "0.03", "compact fp32": "compact fp32"}
    kinds |= {name: name for name in engines()}
    dense, *peaks = peak_memories(
        answer, [{"kind": kind} for kind in ("dense fp32", *kinds.values())], size=size,
        tokens=tokens, path=str(exported(size, tokens)) if engines() else None,
    )
    return [
        result(
            f"{size} x {tokens}: memory in inference, {name} / dense fp32", peak / dense,
            detail=f"{peak / 1e6:.0f} MB, dense {dense / 1e6:.0f} MB, without the imports",
        )
        for name, peak in zip(kinds, peaks, strict=True)
    ]


def measure():
    missing = [name for name in (*EXPORTER, "onnxruntime", "openvino") if not installed(name)]
    if missing:
        print(f"inference: some engines are skipped; not installed: {', '.join(missing)}")
    if compiled_products() is None:
        print("inference: no C compiler with OpenMP, so CSR uses torch's own product")
    return [
        *(one for shape in SHAPES for one in speeds(*shape)),
        *(memory(*SHAPES[0]) if Path("/proc/self/clear_refs").exists() else []),
    ]
