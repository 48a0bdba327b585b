"""Predict answers with a model, and score them with Exact Match and F1."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from tqdm import tqdm

from smp.data.answers import SquadMetric, decode_answers
from smp.data.windows import make_loader
from smp.model.device import make_accelerator

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@torch.no_grad()
def predict_logits(model: nn.Module, features: Dataset, tokenizer: Any, precision: str = "auto",
                   batch_size: int = 32, note: str = "reading") -> tuple[np.ndarray, np.ndarray]:
    """Return start and end logits, each float32 (n_features, longest), padded with -inf.

    Several processes divide the windows among them, and all return the logits of all windows.
    """
    accelerator = make_accelerator(precision)
    was_training = model.training
    model.to(accelerator.device).eval()
    longest = max(map(len, features["input_ids"]), default=0)
    start, end = (np.full((len(features), longest), -np.inf, dtype=np.float32) for _ in range(2))
    loader = make_loader(features, tokenizer, batch_size, shuffle=False)
    here, processes = accelerator.process_index, accelerator.num_processes
    with tqdm(total=len(features), desc=note, unit=" windows", leave=False,
              disable=here > 0 or len(loader) == 1) as bar:
        for number, batch in enumerate(loader):
            if number % processes == here:
                inputs = {k: batch[k].to(accelerator.device) for k in MODEL_INPUTS if k in batch}
                with accelerator.autocast():
                    out = model(**inputs)
                rows, length = batch["row"].numpy(), inputs["input_ids"].shape[1]
                real = batch["attention_mask"].numpy() == 1
                for kept, logits in ((start, out.start_logits), (end, out.end_logits)):
                    kept[rows, :length] = np.where(real, logits.float().cpu().numpy(), -np.inf)
            bar.update(len(batch["row"]))
    if processes > 1:  # windows of the other processes are -inf here
        for kept in (start, end):
            every = torch.from_numpy(kept).to(accelerator.device)
            torch.distributed.all_reduce(every, torch.distributed.ReduceOp.MAX)
            kept[:] = every.cpu().numpy()
    model.train(was_training)
    return start, end


def evaluate_answers(model: nn.Module, examples: Dataset, features: Dataset, tokenizer: Any,
                     precision: str = "auto", note: str = "evaluating") -> tuple[dict, list[dict]]:
    """Return ({"em", "f1", "exact_matches", "ms_per_question"}, predictions).

    Each example has one answer of at most 30 tokens. em and f1 are fractions; exact_matches has a
    bit for each example, as hexadecimal digits; ms_per_question is the time of the forward passes,
    in batches on this device.
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
    """Return a function model -> its scores on held-out examples; None if there are none."""
    if len(examples) == 0:
        return None
    return lambda model: evaluate_answers(
        model, examples, features, tokenizer, precision, note="validating"
    )[0]
