"""The mask: exact density, ties by index, frozen weights, straight-through gradients."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import attach_masks
from smp.cli.train import attach_pruning
from smp.method.masks import (
    Masks,
    StaticMask,
    competing_share,
    keep_top,
    kept_count,
    same_share,
    share_out,
)
from smp.model.encoder import biases_and_norms, encoder_linears
from smp.runs.settings import choose_settings
from smp.task.validate import apply_masks


def reference_top(scores, k):
    """Return the mask of a stable full sort, highest first, equal scores by index."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    mask = np.zeros(len(scores), dtype=bool)
    mask[order[:k]] = True
    return mask


few_values = st.sampled_from([-np.inf, -1.0, -0.02, -0.0, 0.0, 0.02, 1.0, np.inf])


@settings(deadline=None)
@given(st.lists(few_values | st.floats(-5, 5, width=32), min_size=1, max_size=60), st.data())
def test_keep_top_equals_a_stable_full_sort(values, data):
    k = data.draw(st.integers(0, len(values)))
    scores = torch.tensor(values, dtype=torch.float32)
    mask = keep_top(scores, k)
    assert mask.sum() == k
    assert np.array_equal(mask.numpy(), reference_top(scores.tolist(), k))


def test_equal_scores_keep_the_lowest_indices():
    mask = keep_top(torch.zeros(4, 5), 7)
    assert mask.flatten().tolist() == [True] * 7 + [False] * 13


@pytest.mark.parametrize("density, total, kept", [
    (0.29, 100, 29), (0.1, 589_824, 58_982), (0.7, 10, 7), (1.0, 13, 13), (0.001, 10, 0),
    (1e-07, 10_000_000, 1),
])
def test_kept_count_is_the_floor_of_the_decimal_product(density, total, kept):
    assert kept_count(density, total) == kept


def reference_shares(total, sizes, rates):
    """Return shares clipped at a level that a bisection finds, so that they sum to the total."""
    low, high = 0.0, total / min(s * r for s, r in zip(sizes, rates, strict=True)) + 1
    for _ in range(200):
        level = (low + high) / 2
        if sum(min(s, level * s * r) for s, r in zip(sizes, rates, strict=True)) < total:
            low = level
        else:
            high = level
    return [min(s, high * s * r) for s, r in zip(sizes, rates, strict=True)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0.01, 1)), min_size=1, max_size=12),
       st.floats(0.01, 1))
def test_share_out_equals_water_filling_with_an_exact_sum(layers, density):
    sizes, rates = [n for n, _ in layers], [r for _, r in layers]
    total = kept_count(density, sum(sizes))
    shares = share_out(total, sizes, rates)
    assert sum(shares) == total
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    for share, exact in zip(shares, reference_shares(total, sizes, rates), strict=True):
        assert abs(share - exact) < 1 + 1e-6 * sum(sizes)


def test_equal_rates_give_equal_shares():
    assert share_out(300, [1000, 1000, 1000], [0.5, 0.5, 0.5]) == [100, 100, 100]
    assert share_out(301, [1000, 1000, 1000], [0.5, 0.5, 0.5]) == [101, 100, 100]


def test_density_1_changes_no_bit(tiny_qa, batch):
    before = tiny_qa(**batch)
    attach_masks(tiny_qa).refresh(1.0)
    after = tiny_qa(**batch)
    assert torch.equal(before.start_logits, after.start_logits)
    assert torch.equal(before.end_logits, after.end_logits)


def test_bert_has_6_masked_matrices_per_layer(tiny_qa):
    masks = attach_masks(tiny_qa)
    assert [row["matrix"] for row in masks.counts()[:6]] == [
        "query", "key", "value", "attention output", "intermediate", "output"]
    assert len(masks.counts()) == 12
    assert [row["layer"] for row in masks.counts()] == [0] * 6 + [1] * 6


def test_a_model_without_an_encoder_raises():
    class Bare(torch.nn.Module):
        base_model = torch.nn.Linear(2, 2)

    with pytest.raises(ValueError, match="Bare has no stack of encoder layers"):
        encoder_linears(Bare())


@pytest.mark.parametrize("sharing", ["local", "shared"])
@pytest.mark.parametrize("density", [1.0, 0.9173, 0.5, 0.1, 0.03])
@pytest.mark.parametrize("scores", ["equal", "one step", "spread"])
def test_density_is_exact(tiny_qa, sharing, density, scores):
    masks = attach_masks(tiny_qa, sharing)
    torch.manual_seed(3)
    for number, score in enumerate(masks.scores):
        if scores == "one step":
            score.data = 0.02 * torch.randn_like(score).sign()
        elif scores == "spread":
            score.data = torch.randn_like(score) + number / 4
    masks.refresh(density)
    rows = masks.counts()
    if sharing == "local":
        for row in rows:
            assert row["kept"] == kept_count(density, row["total"])
    for matrix in {row["matrix"] for row in rows}:
        group = [row for row in rows if row["matrix"] == matrix]
        total = sum(row["total"] for row in group)
        if sharing == "shared":
            assert sum(row["kept"] for row in group) == kept_count(density, total)


def test_shared_density_favours_the_layer_with_higher_scores(tiny_qa):
    masks = attach_masks(tiny_qa, "shared")
    for name, mask in masks.masks.items():
        mask.scores.data.fill_(1.0 if ".1." in name else -1.0)
    masks.refresh(0.3)
    query = [row["kept"] for row in masks.counts() if row["matrix"] == "query"]
    high, low = torch.sigmoid(torch.tensor([1.0, -1.0])).tolist()
    assert query[1] == pytest.approx(0.6 * 1024 * high / (high + low), abs=1)


def test_score_gradients_equal_those_of_an_explicit_weight(tiny_qa, batch):
    masks = attach_masks(tiny_qa)
    for score in masks.scores:
        score.data = torch.randn_like(score)
    masks.refresh(0.4)
    linear = tiny_qa.bert.encoder.layer[0].intermediate.dense
    mask, name = masks.masks["encoder.layer.0.intermediate.dense"], "weight"
    leaf = (linear.parametrizations.weight.original * mask.mask).detach().requires_grad_()

    tiny_qa(**batch).start_logits.square().sum().backward()
    got, weight = mask.scores.grad.clone(), linear.parametrizations[name].original.detach()
    torch.nn.utils.parametrize.remove_parametrizations(linear, name)
    del linear.weight
    linear.weight = leaf
    tiny_qa(**batch).start_logits.square().sum().backward()
    assert torch.allclose(got, leaf.grad * weight, atol=1e-6)
    assert (got[~mask.mask] != 0).any()  # removed weights have a gradient too


def test_masks_changed_before_the_backward_raise(tiny_qa, batch):
    masks = attach_masks(tiny_qa)
    loss = tiny_qa(**batch).start_logits.square().sum()
    masks.refresh(0.4)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_gradient_reaches_scores_and_head_only(tiny_qa, batch):
    masks = attach_masks(tiny_qa)
    masks.refresh(0.5)
    tiny_qa(**batch).start_logits.sum().backward()
    for name, parameter in tiny_qa.named_parameters():
        if name.endswith(".scores") or name.startswith("qa_outputs"):
            assert parameter.grad is not None, name
        else:
            assert parameter.grad is None and not parameter.requires_grad, name


def test_biases_and_norms_have_the_gradients_of_a_merged_model(tiny_qa, batch):
    """With vectors=True, the layers' biases and LayerNorms have the gradients of a plain model
    with weights W * M; embeddings and matrices have none."""
    plain, masks = copy.deepcopy(tiny_qa), attach_masks(tiny_qa, vectors=True)
    masks.refresh(0.5)
    apply_masks(plain, masks.numpy())
    for model in (tiny_qa, plain):
        model(**batch).start_logits.square().sum().backward()
    wanted = {name for name, one in plain.bert.encoder.named_parameters() if one.dim() == 1}
    found = biases_and_norms(tiny_qa)
    assert found.keys() == {f"encoder.{name}" for name in wanted} and len(found) == 2 * 10
    for name, vector in found.items():
        theirs = plain.bert.get_parameter(name).grad
        assert theirs.abs().max() > 0 or ".key." in name  # the softmax cancels the keys' biases
        assert torch.allclose(vector.grad, theirs, atol=1e-5), name
    learning = {name for name, one in tiny_qa.bert.named_parameters() if one.requires_grad}
    assert {name for name in learning if not name.endswith(".scores")} == found.keys()


def test_regulariser_gradient_equals_autograd(tiny_qa):
    masks = attach_masks(tiny_qa)
    torch.manual_seed(4)
    for score in masks.scores:
        score.data = 2 * torch.randn_like(score)
    penalty = 400 * torch.stack([score.sigmoid().mean() for score in masks.scores]).mean()
    expected = torch.autograd.grad(penalty, masks.scores)
    masks.add_regulariser_gradient(400)
    for score, gradient in zip(masks.scores, expected, strict=True):
        assert torch.allclose(score.grad, gradient, rtol=1e-5, atol=1e-9)
    masks.add_regulariser_gradient(400)  # it is added to the gradient
    assert torch.allclose(masks.scores[0].grad, 2 * expected[0], rtol=1e-5, atol=1e-9)


def test_a_merged_model_equals_the_masked_one_and_is_stock(tiny_qa, batch):
    masks = attach_masks(tiny_qa)
    for score in masks.scores:
        score.data = torch.randn_like(score)
    masks.refresh(0.2)
    before, kept = tiny_qa(**batch).start_logits, masks.numpy()
    masks.merge()
    assert torch.equal(before, tiny_qa(**batch).start_logits)
    assert not any("parametrizations" in name for name, _ in tiny_qa.named_modules())
    weight = tiny_qa.bert.encoder.layer[1].output.dense.weight
    assert np.array_equal(weight.detach().numpy() != 0, kept["encoder.layer.1.output.dense"])


def two_layers(first, second):
    """Scores of two matrices (2, 4) of one kind, each with one value in all entries."""
    scores = {"0": torch.full((2, 4), first), "1": torch.full((2, 4), second)}
    return scores, dict.fromkeys(scores, "query")


@pytest.mark.parametrize("density, temperature, kept", [
    (0.5, 1.0, [6, 2]),  # r = 0.75 and 0.25: 8 * 0.75 and 8 * 0.25
    (0.75, 1.0, [8, 4]),  # 9 and 3, but layer 0 has 8 weights: layer 1 gets the surplus
    (0.5, 4.0, [5, 3]),  # sigmoid(ln 3 / 4) = 0.568, sigmoid(-ln 3 / 4) = 0.432: 4.54 and 3.46
])
def test_layers_share_by_the_mean_sigmoid_of_their_scores(density, temperature, kept):
    scores, kinds = two_layers(math.log(3), -math.log(3))
    found = competing_share(density, scores, kinds, temperature=temperature)
    assert list(found.values()) == kept
    assert list(same_share(density, scores, kinds).values()) == [int(8 * density)] * 2


def test_scores_start_at_score_init_times_relative_size():
    weight = torch.tensor([[0.5, -1.0, 0.9, 0.4], [-0.6, 0.3, 1.0, 0.8]])  # mean |W| = 0.6875
    expected = 2 * weight.abs() / 0.6875
    torch.testing.assert_close(StaticMask(weight, 2.0).scores.detach(), expected)
    assert not StaticMask(weight).scores.any() and StaticMask(weight, None).scores is None


def test_a_toy_matrix_has_the_mask_and_gradient_worked_by_hand():
    """y = (0.5 - 1.0 + 2 * 0.4, 1.0); loss 1/2 |y - t|^2; entry (1, 3): -1 * 2 * 0.8."""
    linear = torch.nn.Linear(4, 2, bias=False)
    linear.weight.data = torch.tensor([[0.5, -1.0, 0.9, 0.4], [-0.6, 0.3, 1.0, 0.8]])
    masks = Masks([("toy", "toy", 0, linear)])
    masks.scores[0].data = torch.tensor([[0.35, 0.9, -0.2, 0.3], [0.3, -0.5, 0.6, 0.27]])
    masks.refresh(0.5)
    assert masks.numpy()["toy"].astype(int).tolist() == [[1, 1, 0, 1], [0, 0, 1, 0]]
    y = linear(torch.tensor([1.0, 1.0, 1.0, 2.0]))
    loss = (y - torch.tensor([-0.7, 2.0])).square().sum() / 2
    loss.backward()
    assert loss.item() == pytest.approx(1.0)
    expected = torch.tensor([[0.5, -1.0, 0.9, 0.8], [0.6, -0.3, -1.0, -1.6]])
    torch.testing.assert_close(masks.scores[0].grad, expected)
    assert linear.parametrizations.weight.original.grad is None


@pytest.mark.parametrize("temperature, kept", [
    (1.0, [768, 256]),  # r = 0.75 and 0.25 of 1,024
    (4.0, [582, 442]),  # r = 0.568236 and 0.431764: 581.87 and 442.13
])
def test_the_setting_temperature_changes_the_shares_of_smp_s(temperature, kept, tiny_qa):
    settings = choose_settings("quick", "smp", method="smp-s", density=0.5, precision="fp32",
                               temperature=temperature)
    pruning = attach_pruning(tiny_qa, settings)
    for name, mask in pruning.masks.masks.items():
        mask.scores.data.fill_(math.log(3) if ".layer.0." in name else -math.log(3))
    pruning.finish()
    query = [row["kept"] for row in pruning.masks.counts() if row["matrix"] == "query"]
    assert query == kept


@pytest.mark.parametrize("method", ["smp-l", "smp-s", "movement"])
def test_the_setting_score_init_scales_the_first_scores(method, tiny_qa):
    settings = choose_settings("quick", "smp", method=method, score_init=3.0, precision="fp32")
    masks = attach_pruning(tiny_qa, settings).masks
    assert len(masks.scores) == 12
    for name, _, _, linear in masks.matrices:
        size = linear.parametrizations.weight.original.detach().abs()
        start = masks.masks[name].scores.detach()
        torch.testing.assert_close(start, 3 * size / size.mean())
        assert start.mean().item() == pytest.approx(3.0, rel=1e-5)


def test_the_temperature_of_smp_s_is_1_by_default():
    scores, kinds = two_layers(math.log(3), -math.log(3))
    assert list(competing_share(0.5, scores, kinds).values()) == [6, 2]  # [5, 3] at 2 and at 4


class OnAnotherDevice(torch.Tensor):
    """A tensor on the CPU that states another device, so `keep_top` takes the way of a GPU."""

    is_cpu = False


@pytest.mark.parametrize("kind", [torch.Tensor, OnAnotherDevice])
def test_keep_top_by_hand_for_every_k(kind):
    scores = torch.tensor([[0.5, -1.0, 0.5], [2.0, 0.5, -3.0]])
    order = [3, 0, 2, 4, 1, 5]  # equal scores by index
    for k in range(7):
        mask = keep_top(scores.as_subclass(kind), k)
        assert mask.dtype == torch.bool and mask.shape == (2, 3)
        assert sorted(mask.flatten().nonzero().flatten().tolist()) == sorted(order[:k])
    assert keep_top(torch.tensor([7.0]), 1).tolist() == [True]


def test_remainders_go_to_the_lower_of_many_equal_layers():
    assert share_out(3 * 40 + 20, [100] * 40, [0.5] * 40) == [4] * 20 + [3] * 20
    # 130 * (1, 2) / 60 = (2.17, 4.33), so 10 of the 20 layers with 4.33 get one more
    assert share_out(130, [100] * 40, [0.25, 0.5] * 20) == [2, 5] * 10 + [2, 4] * 10


def test_scores_start_at_0_by_default(tiny_qa):
    masks = Masks(encoder_linears(tiny_qa))
    assert len(masks.scores) == 12 and not any(score.any() for score in masks.scores)
