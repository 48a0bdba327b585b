"""Plain implementations of the same work, for comparison. smp/ does not use them."""

import collections

import numpy as np
import torch

from smp.method.loop import INPUTS, span_loss


def train_plainly(model, batches, precision="fp32"):
    """Fine-tune all weights with torch alone, one step per batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    kind = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    for batch in batches:
        model.train()
        with torch.autocast(batch["input_ids"].device.type, kind, enabled=kind is not None):
            out = model(**{name: batch[name] for name in INPUTS})
        span_loss(out.start_logits.float(), out.end_logits.float(), batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


class OnlineTeacher:
    """A teacher that runs in each step, in the form of `CachedTeacher`."""

    def __init__(self, model):
        self.model = model.eval()

    @torch.no_grad()
    def read(self, batch):
        out = self.model(**{name: batch[name] for name in INPUTS})
        return torch.stack([out.start_logits, out.end_logits], dim=-1), 0.0


def sorted_mask(scores, density):
    """Return the mask of the highest scores by a full sort."""
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[scores.flatten().argsort(descending=True)[: int(density * scores.numel())]] = True
    return mask.view_as(scores)


def tokenise_pairs(rows, tokenizer, length, stride):
    for first in range(0, len(rows["question"]), 1000):
        some = slice(first, first + 1000)
        tokenizer(
            rows["question"][some], rows["context"][some], truncation="only_second",
            max_length=length, stride=stride, return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )


def padded_batches(features, tokenizer, batch_size, length, order):
    """Yield batches in the given order of rows, each window padded to the same length."""
    names = ("input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions")
    for first in range(0, len(order), batch_size):
        rows = [features[row] for row in order[first : first + batch_size]]
        yield dict(tokenizer.pad(
            [{name: row[name] for name in names if name in row} for row in rows],
            padding="max_length", max_length=length, padding_side="right", return_tensors="pt",
        ))


def n_best_answers(examples, features, start_logits, end_logits, n_best=20, longest=30):
    """Return {id: text} of the usual loop: the best 20 starts by the best 20 ends per window."""
    windows = collections.defaultdict(list)
    for row, example in enumerate(features["example"]):
        windows[example].append(row)
    answers = {}
    for i, example in enumerate(examples):
        found = []
        for row in windows[i]:
            offsets, starts, ends = features[row]["offsets"], start_logits[row], end_logits[row]
            best_starts = np.argsort(starts, kind="stable")[-1 : -n_best - 1 : -1].tolist()
            best_ends = np.argsort(ends, kind="stable")[-1 : -n_best - 1 : -1].tolist()
            for start in best_starts:
                for end in best_ends:
                    if start >= len(offsets) or end >= len(offsets):
                        continue
                    if offsets[start][0] < 0 or offsets[end][0] < 0:
                        continue
                    if end < start or end - start + 1 > longest:
                        continue
                    found.append({"score": starts[start] + ends[end],
                                  "span": (offsets[start][0], offsets[end][1])})
        found = sorted(found, key=lambda one: one["score"], reverse=True)[:n_best]
        first, last = found[0]["span"] if found else (0, 0)
        answers[example["id"]] = example["context"][first:last]
    return answers
