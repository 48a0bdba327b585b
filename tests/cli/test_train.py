"""Assembly of a run: the masks follow the settings, and fast masks equal plain ones."""

import copy

import pytest
import torch

from helpers import attach_masks
from smp.cli.train import attach_pruning
from smp.fast.topk import KeepTop
from smp.runs.methods import METHODS
from smp.runs.settings import choose_settings


@pytest.mark.parametrize("method, sharing, temperature", [
    ("smp-l", "local", 1.0), ("smp-s", "shared", 1.0), ("smp-s", "shared", 4.0)])
def test_masks_equal_plain_masks_of_the_same_settings(method, sharing, temperature, tiny_qa):
    settings = choose_settings("quick", "smp", density=0.3, method=method,
                               temperature=temperature, score_init=2.0, precision="fp32")
    plain = attach_masks(copy.deepcopy(tiny_qa), sharing, temperature, start=2.0)
    pruning = attach_pruning(tiny_qa, settings)
    assert isinstance(pruning.masks.choose, KeepTop) and plain.choose is None
    for layer, (ours, theirs) in enumerate(zip(pruning.masks.scores, plain.scores)):
        assert torch.equal(ours, theirs)
        for scores in (ours, theirs):
            scores.data += layer / 6 - 1  # layers differ
    pruning.finish()
    plain.refresh(0.3)
    assert pruning.masks.counts() == plain.counts()
    for name, mask in plain.masks.items():
        assert torch.equal(pruning.masks.masks[name].mask, mask.mask)


@pytest.mark.parametrize("method", METHODS)
def test_trained_parameters_follow_the_line_of_the_method(method, tiny_qa):
    chosen = METHODS[method]
    pruning = attach_pruning(tiny_qa, choose_settings("quick", "smp", method=method))
    weights = [linear.parametrizations.weight.original for *_, linear in pruning.masks.matrices]
    assert all(weight.requires_grad != chosen.freezes_weights for weight in weights)
    assert bool(pruning.masks.scores) == (method != "magnitude")
    biases = [p for p in tiny_qa.bert.encoder.parameters() if p.dim() == 1]
    assert all(bias.requires_grad != chosen.freezes_weights for bias in biases)
    assert not any(p.requires_grad for p in tiny_qa.bert.embeddings.parameters())
