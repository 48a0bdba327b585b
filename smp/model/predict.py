"""Predict answers and score them; device, numeric precision and processes of a run."""

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from datasets import Dataset
from torch import nn

from smp.data.answers import SquadMetric, decode_answers
from smp.data.windows import make_loader
from smp.text import progress_bar

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def pick_precision(wanted: str = "auto") -> str:
    """Return `wanted`, or for "auto" the fastest precision that this device does not emulate."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    if torch.backends.mps.is_available():
        return "fp32"
    units = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if units.get("amx_bf16") or units.get("avx512_bf16") else "fp32"


def make_accelerator(precision: str = "auto") -> Accelerator:
    """Return an accelerator of this precision, even if the process has one of another precision."""
    alike = DistributedDataParallelKwargs(broadcast_buffers=False)  # each computes the same mask
    mixed = pick_precision(precision).replace("fp32", "no")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed:
        AcceleratorState._reset_state()  # otherwise a kernel could train in one precision only
    return Accelerator(mixed_precision=mixed, kwargs_handlers=[alike])


def is_first_process() -> bool:
    """Return whether this process writes and prints, from the launcher's RANK."""
    return os.environ.get("RANK", "0") == "0"


def shard_batch(batch: dict, accelerator: Accelerator) -> tuple[dict, float]:
    """Return (this process's rows of a batch, on its device; their weight in the mean of all rows).

    The weight is n_own * processes / n_all, because gradients are averaged over the processes. A
    process without a row of a short batch takes one with weight 0. "row" stays on the CPU.
    """
    here, processes = accelerator.process_index, accelerator.num_processes
    total = len(batch["row"])
    own = len(range(here, total, processes))
    rows = slice(here, None, processes) if own else slice(0, 1)
    own_batch = {name: value[rows] if name == "row" else value[rows].to(accelerator.device)
                 for name, value in batch.items()}
    return own_batch, own * processes / total


@torch.no_grad()
def predict_logits(model: nn.Module, features: Dataset, tokenizer: Any, precision: str = "auto",
                   batch_size: int = 32, note: str = "predicting") -> tuple[np.ndarray, np.ndarray]:
    """Return start and end logits, each float32 (n_features, longest), padded with -inf.

    note: the text of the progress bar, "" for none. Several processes divide the windows among
    them, and all return the logits of all windows.
    """
    accelerator = make_accelerator(precision)
    was_training = model.training
    model.to(accelerator.device).eval()
    longest = max(map(len, features["input_ids"]), default=0)
    logits = np.full((2, len(features), longest), -np.inf, dtype=np.float32)
    loader = make_loader(features, tokenizer, batch_size, shuffle=False)
    here, processes = accelerator.process_index, accelerator.num_processes
    with progress_bar(len(features), note, "windows", leave=False,
                      disable=here > 0 or len(loader) == 1 or not note) as bar:
        for number, batch in enumerate(loader):
            if number % processes == here:
                inputs = {k: batch[k].to(accelerator.device) for k in MODEL_INPUTS if k in batch}
                with accelerator.autocast():
                    out = model(**inputs)
                rows, length = batch["row"].numpy(), inputs["input_ids"].shape[1]
                pair = torch.stack([out.start_logits, out.end_logits]).float().cpu().numpy()
                real = batch["attention_mask"].numpy() == 1
                logits[:, rows, :length] = np.where(real, pair, -np.inf)
            bar.update(len(batch["row"]))
    if processes > 1:  # windows of the other processes are -inf here
        every = torch.from_numpy(logits).to(accelerator.device)
        torch.distributed.all_reduce(every, torch.distributed.ReduceOp.MAX)
        logits = every.cpu().numpy()
    model.train(was_training)
    return logits[0], logits[1]


def evaluate_answers(model: nn.Module, examples: Dataset, features: Dataset, tokenizer: Any,
                     precision: str = "auto", note: str = "evaluating") -> tuple[dict, list[dict]]:
    """Return ({"em", "f1", "exact_matches", "ms_per_question"}, predictions).

    Each example has one predicted answer of at most 30 tokens. em and f1 are fractions;
    exact_matches has a bit for each example, as hexadecimal digits; ms_per_question is the time of
    the forward passes, in batches on this device.
    """
    began = time.perf_counter()
    start, end = predict_logits(model, features, tokenizer, precision, note=note)
    seconds = time.perf_counter() - began
    predictions = decode_answers(examples, features, start, end)
    references = examples.with_format(None).select_columns(["id", "answers"]).to_list()
    scores = SquadMetric().compute(predictions=predictions, references=references)
    return scores | {"ms_per_question": round(1000 * seconds / len(examples), 2)}, predictions


def validator(examples: Dataset, features: Dataset, tokenizer: Any,
              precision: str = "auto") -> Callable[[nn.Module], dict] | None:
    """Return a function model -> its scores on held-out examples, or None without examples."""
    if len(examples) == 0:
        return None
    return lambda model: evaluate_answers(
        model, examples, features, tokenizer, precision, note="")[0]
