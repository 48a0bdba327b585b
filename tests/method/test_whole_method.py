"""The whole of SMP against a transcription that shares no masks, schedule, loss or loop with it.

Written from the paper's equations and the description of the authors' code, with numpy sorts,
water-filling by bisection, explicit leaves W' = W * M, torch's kl_div and Adam written out.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers import attach_masks
from smp.cli.train import teacher_loss, train
from smp.data.windows import make_loader
from smp.method.schedule import Pruning
from smp.runs.settings import choose_settings

LR, LAMBDA, N, TAU = 0.02, 400, 22_670 / 27_670, 2


def top(scores, k):
    mask = np.zeros(scores.size, dtype=np.float32)
    mask[np.argsort(-scores.ravel(), kind="stable")[:k]] = 1
    return mask.reshape(scores.shape)


def shares(v, scores, p):
    """Whole numbers kept in the layers of one type: v_l = v L r_l / sum r, clipped at 1."""
    sizes = [s.size for s in scores]
    rates = [float((1 / (1 + np.exp(-s.astype(np.float64) / p))).mean()) for s in scores]
    total, low, high = int(v * sum(sizes) + 1e-9), 0.0, 1e9
    for _ in range(300):
        level = (low + high) / 2
        water = [min(n, level * n * r) for n, r in zip(sizes, rates)]
        low, high = (level, high) if sum(water) < total else (low, level)
    whole = [int(w + 1e-6) for w in water]
    for layer in sorted(range(len(sizes)), key=lambda i: whole[i] - water[i])[:total - sum(whole)]:
        whole[layer] += 1
    return whole


@pytest.mark.parametrize("kd", [False, True], ids=["CE", "CE and KD"])
@pytest.mark.parametrize("method, p", [("smp-l", 1), ("smp-s", 1), ("smp-s", 4)])
def test_scores_equal_those_of_a_loop_written_out_by_hand(
    method, p, kd, tiny_qa, windows, tokenizer
):
    epochs = 4
    settings = choose_settings(
        "quick", "smp-kd" if kd else "smp", density=0.2, method=method, epochs=epochs,
        temperature=float(p), score_init=0.0, head_learning_rate=0.0, max_length=96, stride=32,
        n_validations=1, precision="fp32",
    )
    twin = copy.deepcopy(tiny_qa).train()
    torch.manual_seed(5)
    said = (3 * torch.randn(len(windows), 96, 2)).half()  # any teacher will do
    sharing = "shared" if method == "smp-s" else "local"
    masks = attach_masks(tiny_qa, sharing, temperature=float(p))
    loss_function = {"loss": teacher_loss(settings, None, None, said)} if kd else {}
    run = train(tiny_qa, windows, tokenizer, settings, Pruning(masks, settings), **loss_function)
    steps = run["steps"]
    assert steps > 20

    weights = {name: w.detach().clone() for name, w in twin.bert.named_parameters()
               if "encoder.layer" in name and name.endswith("weight") and w.dim() == 2}
    types = {}
    for name in weights:
        types.setdefault(name.split(".", 3)[3], []).append(name)
    assert sorted(map(len, types.values())) == [2] * 6
    scores, first, second = ({n: np.zeros(w.shape, np.float32) for n, w in weights.items()}
                             for _ in range(3))
    loader = make_loader(windows, tokenizer, 8, shuffle=True, seed=0)
    for t, batch in enumerate([batch for _ in range(epochs) for batch in loader]):
        v = 0.2 + 0.8 * max(0.0, 1 - t / steps / N) ** 3
        leaves = {}
        for names in types.values():
            kept = [int(v * scores[n].size + 1e-9) for n in names] if method == "smp-l" else (
                shares(v, [scores[n] for n in names], p))
            for name, k in zip(names, kept):
                masked = weights[name] * torch.from_numpy(top(scores[name], k))
                leaves["bert." + name] = masked.requires_grad_()
        out = torch.func.functional_call(twin, leaves, kwargs={
            k: batch[k] for k in ("input_ids", "attention_mask", "token_type_ids")})
        loss = (F.cross_entropy(out.start_logits, batch["start_positions"])
                + F.cross_entropy(out.end_logits, batch["end_positions"])) / 2
        if kd:
            far = 0.0
            for i, row in enumerate(batch["row"].tolist()):
                length = int(batch["attention_mask"][i].sum())
                for side, logits in enumerate((out.start_logits, out.end_logits)):
                    far += F.kl_div((logits[i, :length] / TAU).log_softmax(0),
                                    (said[row, :length, side].float() / TAU).softmax(0),
                                    reduction="sum") * TAU**2 / (2 * len(batch["row"]))
            loss = 0.5 * loss + 0.5 * far
        twin.zero_grad()
        loss.backward()
        grads = {}
        for name, weight in weights.items():
            sigma = 1 / (1 + np.exp(-scores[name]))
            push = LAMBDA * (1 - (1 - t / steps) ** 3) * sigma * (1 - sigma)
            grads[name] = ((leaves["bert." + name].grad * weight).numpy()
                           + push / (len(weights) * sigma.size))
        head = [p.grad.numpy() for p in twin.qa_outputs.parameters()]
        norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum())
                           for g in [*grads.values(), *head]))
        for name, grad in grads.items():
            grad = grad * min(1.0, 1.0 / (norm + 1e-6))
            first[name] = 0.9 * first[name] + 0.1 * grad
            second[name] = 0.999 * second[name] + 0.001 * grad**2
            mean = first[name] / (1 - 0.9 ** (t + 1))
            spread = np.sqrt(second[name] / (1 - 0.999 ** (t + 1)))
            scores[name] -= (LR * (1 - t / steps) * mean / (spread + 1e-8)).astype(np.float32)

    for name, mask in masks.masks.items():
        far = np.abs(mask.scores.detach().numpy() - scores[name + ".weight"]).max()
        assert far < 1e-5, (name, far)
