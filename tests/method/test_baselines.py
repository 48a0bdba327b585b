"""Baselines of SMP equal transcriptions that share no code with them."""

import copy

import numpy as np
import pytest
import torch

from helpers import attach_masks, linears_of
from smp.cli.train import attach_pruning, train
from smp.data.windows import make_loader
from smp.method.baselines import MagnitudeMasks, MovementMasks, SoftMovementMasks
from smp.method.masks import keep_top
from smp.runs.settings import choose_settings
from smp.runs.training import parameter_groups


def short(method, **changes):
    return choose_settings("quick", "smp", method=method, batch_size=8, n_validations=1,
                           density=0.2, epochs=2, score_init=0.0, precision="fp32", **changes)


def top(values, share):
    """Return the mask of the highest values by a stable full sort."""
    order = np.argsort(-values.detach().flatten().numpy(), kind="stable")
    mask = np.zeros(values.numel(), dtype=bool)
    mask[order[: int(share * values.numel() + 1e-9)]] = True
    return torch.from_numpy(mask).view_as(values)


@pytest.mark.parametrize("method", ["magnitude", "movement", "soft-movement"])
def test_baselines_equal_a_loop_written_out_by_hand(method, tiny_qa, windows, tokenizer):
    """Two epochs with the layers trained, transcribed from the papers: Adam written out, masks
    by sorting, gradients from explicit leaves W' = W * M. The embeddings are frozen."""
    settings = short(method, **({"regulariser": 30.0, "learning_rate": 0.5}
                                if method == "soft-movement" else {}))
    twin = copy.deepcopy(tiny_qa).train()
    pruning = attach_pruning(tiny_qa, settings)
    run = train(tiny_qa, windows, tokenizer, settings, pruning)
    steps, hold, ramp = run["steps"], settings.density_hold_fraction, settings.density_ramp_fraction
    assert steps >= 12 and len(set(run["history"]["density"])) > 5

    matrices = [name for name, p in twin.named_parameters()
                if "encoder.layer" in name and name.endswith("weight") and p.dim() == 2]
    values = {name: p.detach().clone() for name, p in twin.named_parameters()
              if "embeddings" not in name}
    if method != "magnitude":
        values |= {name + ".scores": torch.zeros_like(values[name]) for name in matrices}
    first, second = ({n: torch.zeros_like(v) for n, v in values.items()} for _ in range(2))
    loader = make_loader(windows, tokenizer, 8, shuffle=True, seed=0)
    for t, batch in enumerate([batch for _ in range(2) for batch in loader]):
        risen = 1 - (1 - min(1, max(0, (t / steps - hold) / (ramp - hold)))) ** 3
        masks = {}
        for name in matrices:
            if method == "magnitude":
                masks[name] = top(values[name].abs(), 1 - 0.8 * risen)
            elif method == "movement":
                masks[name] = top(values[name + ".scores"], 1 - 0.8 * risen)
            else:
                scores = values[name + ".scores"]
                masks[name] = 1 / (1 + torch.exp(-scores)) > 0.1 * risen
                least = int(0.005 * scores.numel()) + 1
                if masks[name].sum() < least:
                    masks[name] = top(scores, least / scores.numel())
        leaves = {n: (v * masks[n] if n in masks else v).clone().requires_grad_()
                  for n, v in values.items() if not n.endswith(".scores")}
        inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "token_type_ids")}
        out = torch.func.functional_call(twin, leaves, kwargs=inputs)
        (torch.nn.functional.cross_entropy(out.start_logits, batch["start_positions"]) / 2
         + torch.nn.functional.cross_entropy(out.end_logits, batch["end_positions"]) / 2).backward()
        grads = {}
        for name, leaf in leaves.items():
            grads[name] = leaf.grad * masks[name] if name in masks else leaf.grad
            if name in masks and method != "magnitude":
                s = torch.sigmoid(values[name + ".scores"])
                penalty = settings.regulariser * risen * s * (1 - s) / (len(matrices) * s.numel())
                grads[name + ".scores"] = leaf.grad * values[name] + penalty
        norm = float(torch.stack([g.square().sum() for g in grads.values()]).sum().sqrt())
        rising = int(settings.warmup_fraction * steps)
        pace = t / rising if t < rising else (steps - t) / (steps - rising)
        for name, grad in grads.items():
            grad = grad * min(1.0, 1.0 / (norm + 1e-6))
            rate = settings.learning_rate if name.endswith(".scores") else 3e-4
            first[name] = 0.9 * first[name] + 0.1 * grad
            second[name] = 0.999 * second[name] + 0.001 * grad**2
            mean = first[name] / (1 - 0.9 ** (t + 1))
            spread = (second[name] / (1 - 0.999 ** (t + 1))).sqrt()
            values[name] = values[name] - rate * pace * mean / (spread + 1e-8)

    for name, _, _, linear in pruning.masks.matrices:
        weight = linear.parametrizations.weight.original
        assert torch.allclose(weight, values[f"bert.{name}.weight"], atol=2e-5), name
        if method != "magnitude":
            scores = pruning.masks.masks[name].scores
            assert torch.allclose(scores, values[f"bert.{name}.weight.scores"], atol=1e-4), name
    for name, parameter in tiny_qa.bert.embeddings.named_parameters():
        assert torch.equal(parameter, twin.get_parameter(f"bert.embeddings.{name}")), name
    name = "bert.encoder.layer.0.intermediate.dense.bias"
    bias = tiny_qa.get_parameter(name)
    assert torch.allclose(bias, values[name], atol=5e-6) and bias.abs().max() > 1e-4


def test_magnitude_masks_use_the_current_weights(tiny_qa):
    masks = attach_masks(tiny_qa, kind=MagnitudeMasks)
    assert masks.scores == [] and not any("scores" in n for n, _ in tiny_qa.named_parameters())
    for _ in range(2):
        masks.refresh(0.3)
        for name, linear in linears_of(masks).items():
            weight = linear.parametrizations.weight.original
            assert torch.equal(masks.masks[name].mask, top(weight.abs(), 0.3))
            weight.data = torch.randn_like(weight)


def test_gradients_equal_those_of_an_explicit_masked_weight(tiny_qa, batch):
    masks = attach_masks(tiny_qa, kind=MovementMasks)
    for score in masks.scores:
        score.data = torch.randn_like(score)
    masks.refresh(0.4)
    name = "encoder.layer.1.attention.self.value"
    linear, mask = linears_of(masks)[name], masks.masks[name]
    parameter = linear.parametrizations.weight.original
    original = parameter.detach().clone()
    tiny_qa(**batch).start_logits.square().sum().backward()
    of_weight, of_scores = parameter.grad.clone(), mask.scores.grad.clone()
    leaf = (original * mask.mask).requires_grad_()
    tiny_qa.zero_grad()
    torch.nn.utils.parametrize.remove_parametrizations(linear, "weight")
    del linear.weight
    linear.weight = leaf
    tiny_qa(**batch).start_logits.square().sum().backward()
    assert torch.allclose(of_weight, leaf.grad * mask.mask, atol=1e-6)
    assert torch.allclose(of_scores, leaf.grad * original, atol=1e-6)
    assert not of_weight[~mask.mask].any() and of_scores[~mask.mask].any()


@pytest.mark.parametrize("method, changes, rates", [
    ("smp-l", {}, {"scores": 2e-2, "head": 3e-3}), ("magnitude", {}, {"weights": 3e-4}),
    ("smp-l", {"bias_norm_learning_rate": 7e-4}, {"scores": 2e-2, "vectors": 7e-4, "head": 3e-3}),
    ("movement", {}, {"scores": 1e-2, "weights": 3e-4}),
    ("movement", {"bias_norm_learning_rate": 7e-4}, {"scores": 1e-2, "weights": 3e-4}),
    ("soft-movement", {}, {"scores": 1e-2, "weights": 3e-4}),
])
def test_each_part_has_the_learning_rate_of_its_method(method, changes, rates, tiny_qa):
    settings = short(method, **changes)
    attach_pruning(tiny_qa, settings)
    groups = parameter_groups(tiny_qa, settings)
    assert [group["lr"] for group in groups] == list(rates.values())
    head = [id(p) for p in tiny_qa.qa_outputs.parameters()]
    assert all(h in {id(p) for p in groups[-1]["params"]} for h in head)
    trained = sum(p.numel() for group in groups for p in group["params"])
    assert trained == sum(p.numel() for p in tiny_qa.parameters() if p.requires_grad)


def test_matrices_compete_in_soft_movement_and_are_counted(tiny_qa):
    masks = attach_masks(tiny_qa, kind=SoftMovementMasks)
    for number, score in enumerate(masks.scores):
        score.data = torch.full_like(score, -3.0 if number % 2 else 3.0)
    assert masks.refresh_above(0.0) == 1.0
    share = masks.refresh_above(0.1)  # sigma(-3) = 0.047, sigma(3) = 0.953
    rows = masks.counts()
    assert [row["kept"] for row in rows] == [
        int(0.005 * row["total"]) + 1 if number % 2 else row["total"]
        for number, row in enumerate(rows)]
    assert share == sum(row["kept"] for row in rows) / sum(row["total"] for row in rows)


def test_soft_movement_keeps_the_highest_of_a_matrix_below_tau(tiny_qa):
    masks = attach_masks(tiny_qa, kind=SoftMovementMasks)
    for score in masks.scores:
        score.data = torch.randn_like(score) - 100
    masks.refresh_above(0.1)
    for mask, score in zip(masks.masks.values(), masks.scores):
        assert torch.equal(mask.mask, score >= score.flatten().topk(
            int(0.005 * score.numel()) + 1).values.min())


def test_baselines_start_as_published():
    """Sanh et al.: scores start at 0, the head is trained, penalty 400 in soft movement only."""
    for method in ("magnitude", "movement", "movement-s", "soft-movement"):
        settings = choose_settings("paper", "smp", method=method, density=0.1)
        assert settings.head == "trained"
        assert settings.regulariser == (400 if method == "soft-movement" else 0)
        assert settings.density_hold_fraction == settings.warmup_fraction == 5400 / 55330
        if method != "magnitude":
            assert settings.score_init == 0 and settings.learning_rate == 1e-2


def test_threshold_and_penalty_of_soft_movement_rise_together(tiny_qa):
    settings = short("soft-movement")
    pruning = attach_pruning(tiny_qa, settings)
    for score in pruning.masks.scores:
        score.data = torch.randn_like(score) * 3
    steps, seen = 1000, []
    for step in (0, 97, 400, 805, 999):
        pruning.before_forward(step, steps)
        pruning.after_backward(step, steps)
        seen.append((pruning.density, pruning.weight))
    assert seen[0] == seen[1] == (1.0, 0.0)  # constant while the learning rates rise
    assert seen[1][0] > seen[2][0] > seen[3][0] == seen[4][0] and seen[4][1] == 400
    before = pruning.masks.numpy()
    pruning.finish()
    assert all(np.array_equal(before[name], mask) for name, mask in pruning.masks.numpy().items())


def test_soft_movement_keeps_scores_above_the_threshold_only(tiny_qa):
    pruning = attach_pruning(tiny_qa, short("soft-movement", threshold=0.5))
    masks = pruning.masks
    assert not any(score.any() for score in masks.scores)
    least = [6, 6, 6, 6, 11, 11]  # 0.5% of 1,024 and 2,048 weights, rounded down, and one more
    share = masks.refresh_above(0.5)  # sigma(0) is the threshold, not above it
    assert share == 2 * sum(least) / 16_384
    for number, score in enumerate(masks.scores):
        score.data.fill_(1.0 if number in (0, 6) else -1.0)  # the query matrices
    pruning.finish()
    assert pruning.density == 2 * (1024 + sum(least[1:])) / 16_384
    assert [row["kept"] for row in masks.counts()] == [1024, *least[1:]] * 2


def test_magnitude_masks_follow_share_and_choose(tiny_qa):
    """The layers compete by mean sigmoid(|W|) if `share` is that of SMP-S."""
    chosen = []

    def choose(scores, kept):
        chosen.append(kept)
        return {name: keep_top(score, kept[name]) for name, score in scores.items()}

    tiny_qa.bert.encoder.layer[0].output.dense.weight.data.mul_(1000)
    masks = attach_masks(tiny_qa, "shared", kind=MagnitudeMasks, choose=choose)
    masks.refresh(0.5)
    kept = {row["layer"]: row["kept"] for row in masks.counts() if row["matrix"] == "output"}
    assert kept[0] + kept[1] == 2048 and kept[0] > kept[1] + 300
    assert chosen[0]["encoder.layer.0.output.dense"] == kept[0]
