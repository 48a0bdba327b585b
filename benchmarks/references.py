"""Plain implementations of the same work, for comparison. smp/ does not use them."""

import collections

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from smp.method.distill import distillation_loss
from smp.method.loop import span_loss
from smp.model.encoder import encoder_linears


class SortedTopK(torch.autograd.Function):
    """The mask of the k highest scores by a full sort; its gradient goes straight through."""

    @staticmethod
    def forward(ctx, scores, k):
        mask = torch.zeros_like(scores).flatten()
        mask[scores.flatten().argsort(descending=True)[:k]] = 1
        return mask.view_as(scores)

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class SortedMask(nn.Module):
    """A mask that is computed again in every forward."""

    def __init__(self, weight, density):
        super().__init__()
        self.scores = nn.Parameter(weight.detach().abs() / weight.detach().abs().mean())
        self.kept = int(density * weight.numel())

    def forward(self, weight):
        return weight * SortedTopK.apply(self.scores, self.kept)


def attach_sorted_masks(model, density):
    """Attach masks to the encoder, freeze everything except their scores, return the scores."""
    model.base_model.requires_grad_(False)
    masks = []
    for *_, linear in encoder_linears(model):
        masks.append(SortedMask(linear.weight, density))
        parametrize.register_parametrization(linear, "weight", masks[-1])
    return [mask.scores for mask in masks]


def train_plainly(model, batches, scores=(), regulariser=400.0, teacher=None):
    """Train one step per batch, with the regulariser in the graph and the teacher in every step."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
    for batch in batches:
        inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "token_type_ids")}
        model.train()
        out = model(**inputs)
        loss = span_loss(out.start_logits, out.end_logits, batch)
        if teacher is not None:
            with torch.no_grad():
                target = teacher(**inputs)
            loss = (loss + distillation_loss(
                torch.stack([out.start_logits, out.end_logits], dim=-1),
                torch.stack([target.start_logits, target.end_logits], dim=-1),
                batch["attention_mask"], 2.0,
            )) / 2
        if scores:
            loss = loss + regulariser * torch.stack([s.sigmoid().mean() for s in scores]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()


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
