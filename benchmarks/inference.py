"""inference: a pruned BERT-base on a CPU: what CSR products, compaction, bf16 and other engines make
of it, against dense fp32."""

import importlib.util
import tempfile
from pathlib import Path

import torch
from torch import nn
from transformers import BertConfig, BertForQuestionAnswering

from benchmarks.measure import peak_memory, ratio, result, time_in_turns
from smp.compact import compact
from smp.masks import encoder_linears
from smp.sparse import TorchSparseLinear, accelerate, compiled_product

SHAPES = ((1, 384), (8, 128))  # batch, tokens
GOALS = {0.5: ">= 1.0", 0.1: ">= 2.0", 0.03: ">= 3.5"}  # times faster than dense
DEAD = 1 / 3  # of the neurons and of the heads, planted for compaction
ROUNDS = 7


def bert(density=1.0):
    """A BERT-base of random weights, each kept with this probability; on the CPU."""
    torch.manual_seed(0)
    model = BertForQuestionAnswering(BertConfig()).eval()
    with torch.no_grad():
        for *_, linear in encoder_linears(model):
            linear.weight *= torch.rand_like(linear.weight) < density
    return model


def compacted():
    """A dense BERT-base with a planted dead part taken out, and what compaction says of it."""
    model = bert()
    with torch.no_grad():
        for block in model.bert.encoder.layer:
            for linear in (block.attention.self.value, block.intermediate.dense):
                linear.weight[: int(DEAD * len(linear.weight))] = 0
    return model, compact(model)


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
    """The model with tensors in and out, as exporters want it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        out = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return out.start_logits, out.end_logits


def installed(package):
    return importlib.util.find_spec(package) is not None


def others(batch, wanted=("onnxruntime", "openvino"), density=0.1):
    """{name: function that answers the batch} of the other engines that are installed, which read
    the zeros as numbers like others."""
    wanted = [name for name in wanted if installed(name)]
    if not wanted or not installed("onnx"):
        return {}
    functions = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            Logits(bert(density)), tuple(batch.values()), path, input_names=list(batch),
            dynamo=True, verbose=False,
        )
        inputs = {name: tensor.numpy() for name, tensor in batch.items()}
        if "onnxruntime" in wanted:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            # its threads would take the cores from whoever has the next turn
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
            functions["ONNX Runtime fp32"] = lambda: session.run(None, inputs)
        if "openvino" in wanted:
            import openvino

            model = openvino.Core().read_model(path)
            for precision in ("f32", "bf16"):
                compiled = openvino.compile_model(model, "CPU", {
                    "INFERENCE_PRECISION_HINT": precision,
                    "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                })
                name = f"OpenVINO {precision.replace('f32', 'fp32')}"
                functions[name] = lambda compiled=compiled: compiled(inputs)
    return functions


def speeds(size, tokens):
    """Results of all ways to answer one batch, timed in turns."""
    batch, dense = batch_of(size, tokens), bert(0.1)
    small, report = compacted()
    ways = {"dense fp32": run(dense, batch), "dense bf16": run_in_bf16(dense, batch),
            "compact fp32": run(small, batch)}
    before, after = report["parameters"]
    details = {
        "dense bf16": "autocast",
        "compact fp32": f"a third of heads and neurons planted dead: {before / 1e6:.1f}M -> "
        f"{after / 1e6:.1f}M parameters",
    }
    for density in GOALS:
        model = accelerate(bert(density), batch)
        name = f"CSR fp32, {density:.0%}"
        ways[name] = run(model, batch)
        products = [row["product"] for row in model.acceleration]
        details[name] = ", ".join(f"{products.count(p)} {p}" for p in sorted(set(products)))
    ways |= others(batch)
    seconds = time_in_turns(ways, ROUNDS)
    goals = {f"CSR fp32, {density:.0%}": goal for density, goal in GOALS.items()}
    milliseconds = {name: 1000 * float(sorted(each)[ROUNDS // 2]) for name, each in seconds.items()}
    return [
        result(
            f"{size} x {tokens}: {name}, times faster than dense fp32",
            *ratio(seconds["dense fp32"], seconds[name]), goals.get(name),
            f"{milliseconds[name]:.0f} ms, dense {milliseconds['dense fp32']:.0f} ms; "
            + details.get(name, "dense"),
        )
        for name in ways if name != "dense fp32"
    ]

# %% Memory


def weight_bytes(model):
    """Bytes of what the layers of the encoder hold for their matrices and biases."""
    return sum(
        tensor.numel() * tensor.element_size()
        for module in model.bert.encoder.modules()
        if isinstance(module, (nn.Linear, TorchSparseLinear))
        for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if tensor.layout == torch.strided
    )


def answer_once(kind, size, tokens):
    """For `peak_memory`: what a way to answer takes once it is set up; Linux forgets the peak of
    the setting-up."""
    batch = batch_of(size, tokens)
    if kind in ("onnxruntime", "openvino"):
        function = list(others(batch, [kind]).values())[0]
    elif kind == "dense":
        function = run(bert(), batch)
    elif kind == "compact":
        function = run(compacted()[0], batch)
    else:
        function = run(accelerate(bert(float(kind)), batch), batch)
    function()
    Path("/proc/self/clear_refs").write_text("5")
    function()


def memory(size, tokens):
    """Results of the memory that each way takes while it answers, against dense."""
    kinds = {"CSR fp32, 10%": "0.1", "CSR fp32, 3%": "0.03", "compact fp32": "compact"}
    kinds |= {name: name for name in ("onnxruntime", "openvino") if installed(name)}
    dense = peak_memory(answer_once, kind="dense", size=size, tokens=tokens)
    results = []
    for name, kind in kinds.items():
        peak = peak_memory(answer_once, kind=kind, size=size, tokens=tokens)
        results.append(result(
            f"{size} x {tokens}: memory while answering, {name} / dense fp32", peak / dense,
            detail=f"{peak / 1e6:.0f} MB, dense {dense / 1e6:.0f} MB, beyond the imports",
        ))
    return results


def measure():
    missing = [name for name in ("onnx", "onnxruntime", "openvino") if not installed(name)]
    if missing:
        print(f"inference: not compared with others: {', '.join(missing)} not installed")
    if compiled_product() is None:
        print("inference: no C compiler with OpenMP, so CSR is torch's own product")
    return [
        *(one for shape in SHAPES for one in speeds(*shape)),
        *(memory(*SHAPES[0]) if Path("/proc/self/clear_refs").exists() else []),
    ]
