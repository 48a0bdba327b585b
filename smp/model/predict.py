"""Training and evaluation.

One loop serves every method: it has the steps of any training, and two places where pruning
comes in when there is any, before the forward and after the backward. accelerate brings device,
precision and processes: with several, each takes its rows of every batch, so that the batch as a
whole, and with it the mask, is that of one.
"""

import time

import numpy as np
import torch
from tqdm import tqdm

from smp.data.answers import SquadMetric, decode_answers
from smp.data.batches import make_loader
from smp.model.device import make_accelerator

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@torch.no_grad()
def predict_logits(model, features, tokenizer, precision="auto", batch_size=32, note="reading"):
    """Start and end logits, each float32 (n_features, longest), padded with -inf.

    Several processes share the windows out, and all return the logits of all.
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
    if processes > 1:  # what the others read is -inf here
        for kept in (start, end):
            every = torch.from_numpy(kept).to(accelerator.device)
            torch.distributed.all_reduce(every, torch.distributed.ReduceOp.MAX)
            kept[:] = every.cpu().numpy()
    model.train(was_training)
    return start, end


def evaluate_answers(model, examples, features, tokenizer, precision="auto", note="evaluating"):
    """({"em", "f1", "ms_per_question"}, predictions): one answer per example.

    Answers have at most 30 tokens. em and f1 are fractions; the milliseconds are this device's,
    reading in batches.
    """
    began = time.perf_counter()
    start, end = predict_logits(model, features, tokenizer, precision, note=note)
    seconds = time.perf_counter() - began
    predictions = decode_answers(examples, features, start, end)
    scores = SquadMetric().compute(
        predictions=[{k: p[k] for k in ("id", "prediction_text")} for p in predictions],
        references=[{"id": id, "answers": a} for id, a in zip(examples["id"], examples["answers"],
                                                              strict=True)],
    )
    return scores | {"ms_per_question": round(1000 * seconds / len(examples), 2)}, predictions


def validator(examples, features, tokenizer, precision="auto"):
    """model -> {"em", "f1"} on held-out questions; None where none were held out."""
    if len(examples) == 0:
        return None
    return lambda model: evaluate_answers(
        model, examples, features, tokenizer, precision, note="validating"
    )[0]
