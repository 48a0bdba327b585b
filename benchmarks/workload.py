"""Models, windows and trainings that the topics share."""

import functools
import os

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering

from benchmarks.measure import ROOT, device
from benchmarks.references import OnlineTeacher, train_plainly
from smp.cli.train import attach_pruning, teacher_loss, train
from smp.data.reading import load_squad
from smp.data.windows import make_loader
from smp.method.distill import distilled_loss
from smp.method.loop import span_loss
from smp.model.load import EMBEDDED_ENCODER, load_pretrained
from smp.runs.settings import choose_settings

SMALL_ENCODER = dict(  # the sizes of all-MiniLM-L6-v2, without dropout as in the profile quick
    hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@functools.cache
def embedded_tokenizer():
    return load_pretrained(AutoTokenizer, EMBEDDED_ENCODER)


@functools.cache
def questions():
    """Return (DatasetDict, its name): DATA, ../shared/data/squad, or synthetic."""
    shared = ROOT.parent / "shared" / "data" / "squad"
    data = os.environ.get("DATA") or (str(shared) if shared.is_dir() else "synthetic")
    counts = {"n_train": 8000, "n_eval": 2000} if data == "synthetic" else {}
    name = os.path.basename(data.rstrip("/"))
    return load_squad(data, **counts), {"squad": "SQuAD"}.get(name, name)


def bert(**changes):
    """Return a BERT-base with random weights, or a BERT of another size, on the device."""
    torch.manual_seed(0)
    return BertForQuestionAnswering(BertConfig(**changes)).to(device())


def random_windows(count, length, seed=0):
    """Return windows of random tokens of one length, in the form of `featurise`."""
    rng = np.random.default_rng(seed)
    ones = np.ones((count, length), dtype=np.int8)
    ends = np.sort(rng.integers(1, length, (2, count)), axis=0)
    return Dataset.from_dict({
        "input_ids": rng.integers(1000, 20_000, (count, length), dtype=np.int32),
        "attention_mask": ones, "token_type_ids": 0 * ones,
        "start_positions": ends[0], "end_positions": ends[1],
    })


def training(turn, way, windows, tokens, steps, precision="fp32", density=0.1, teacher=None,
             config=None):
    """Train a model of random weights; each step is a turn of a `Child`.

    way: "smp" or "fine-tune" with the project's loop, which calls `speed_up`, or "plain" for
    fine-tuning with `train_plainly`. teacher: None, or "cached" or "online" for distillation. The
    scores start at the magnitudes of the weights, so all scores differ from the first step on, as
    in most steps of a run.
    """
    model, data = bert(**config or {}), random_windows(windows * steps, tokens)
    model.register_forward_pre_hook(lambda *_: turn())
    if way == "plain":
        loader = make_loader(data, embedded_tokenizer(), windows, shuffle=False)
        batches = ({k: v.to(device()) for k, v in batch.items()} for batch in loader)
        return train_plainly(model, batches, precision)
    masked = {} if way == "fine-tune" else {
        "density": density, "density_ramp_fraction": 1 / steps}
    settings = choose_settings(
        "squad", way, batch_size=windows, epochs=1, precision=precision, n_validations=0,
        max_length=tokens, stride=0, score_init=1.0, **masked)
    pruning = None if way == "fine-tune" else attach_pruning(model, settings)
    loss = span_loss
    if teacher == "cached":
        logits = torch.randn(len(data), tokens, 2, generator=torch.manual_seed(0)).half()
        loss = teacher_loss(choose_settings("squad", "smp-kd"), None, None, logits)
    elif teacher == "online":
        loss = distilled_loss(span_loss, OnlineTeacher(bert(**config or {})), 0.5, 2.0)
    return train(model, data, embedded_tokenizer(), settings, pruning, loss)
