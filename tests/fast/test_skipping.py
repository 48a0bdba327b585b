"""Training steps that skip zeros equal dense ones, except for rounding."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import nn

from helpers import attach_masks, compiler_named, linears_of
from smp.cli.train import attach_pruning, train
from smp.fast import skipping
from smp.fast.buffers import reuse_buffers
from smp.fast.products import compiled_products
from smp.fast.skipping import csr_of_kept, skip_up_to, skip_zeros, skipping_forward
from smp.method.baselines import MagnitudeMasks, MovementMasks, SoftMovementMasks
from smp.method.masks import Masks, StaticMask, keep_top
from smp.runs.settings import choose_settings

pytestmark = pytest.mark.skipif(compiled_products() is None, reason="no C compiler with OpenMP")


@pytest.fixture
def products(monkeypatch):
    """[(kept, whether it is transposed)] of the products that skipped zeros."""
    made = []

    def note(weight, mask, kept, turned=False):
        made.append((kept, turned))
        return csr_of_kept(weight, mask, kept, turned)

    monkeypatch.setattr(skipping, "csr_of_kept", note)
    return made


def masked_linear(rows, columns, kept, bias=True, start=0.0):
    linear = nn.Linear(columns, rows, bias=bias)
    masks = Masks([("linear", "kind", 0, linear)], score_init=start)
    linear.parametrizations.weight.original.requires_grad_()
    reuse_buffers(masks)
    masks.masks["linear"].mask.copy_(keep_top(torch.rand(rows, columns), kept))
    return linear, masks.masks["linear"]


def all_gradients(loss, *tensors):
    return [g for g in torch.autograd.grad(loss, tensors, allow_unused=True) if g is not None]


def at_random(masks, density):
    for scores in masks.scores:
        scores.data = torch.randn_like(scores)
    masks.refresh(density)


def buffered_masks(model, **options):
    masks = attach_masks(model, **options)
    reuse_buffers(masks)
    return masks


@examples(deadline=None, max_examples=80)
@given(
    rows=st.integers(1, 70), columns=st.integers(1, 70), tokens=st.integers(0, 150),
    density=st.sampled_from([0, 0.03, 0.1, 0.25]), bias=st.booleans(), scores=st.booleans(),
    threads=st.integers(1, 4), seed=st.integers(0, 99),
)
def test_value_and_gradients_equal_the_dense_product(
    rows, columns, tokens, density, bias, scores, threads, seed
):
    torch.manual_seed(seed)
    linear, mask = masked_linear(
        rows, columns, int(density * rows * columns), bias, 0.0 if scores else None
    )
    x = torch.randn(tokens, columns, requires_grad=True)
    pull = torch.randn(rows, tokens).T  # a gradient that is not contiguous
    learned = [x, *linear.parameters()]
    y = nn.Linear.forward(linear, x)
    dense = all_gradients((y * pull).sum(), *learned)
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = skipping_forward(linear, x)
        assert type(ours.grad_fn.next_functions[0][0]).__name__ == "SkippingZerosBackward"
        skipped = all_gradients((ours * pull).sum(), *learned)
    finally:
        torch.set_num_threads(usual)
    assert torch.allclose(ours, y, atol=1e-5) and len(skipped) == len(dense)
    for one, other in zip(skipped, dense, strict=True):
        assert one.shape == other.shape and torch.allclose(one, other, atol=1e-4)


def test_leading_sizes_and_layouts_do_not_change_the_product():
    linear, mask = masked_linear(24, 40, 200)
    for x in (torch.randn(40), torch.randn(2, 3, 5, 40), torch.randn(40, 70).T):
        y, dense = skipping_forward(linear, x), linear(x)
        assert y.shape == dense.shape and torch.allclose(y, dense, atol=1e-5)


@pytest.mark.parametrize("kind", [Masks, MagnitudeMasks, MovementMasks, SoftMovementMasks])
def test_a_step_of_each_method_equals_the_dense_step(tiny_qa, batch, products, kind):
    masks = buffered_masks(tiny_qa, kind=kind)
    at_random(masks, 0.1)
    trained = [p for p in tiny_qa.parameters() if p.requires_grad]
    dense = all_gradients(tiny_qa(**batch).start_logits.square().sum(), *trained)
    assert not products
    skip_zeros(masks, "fp32")
    skipped = all_gradients(tiny_qa(**batch).start_logits.square().sum(), *trained)
    assert [turned for _, turned in products].count(True) == len(masks.masks) - 3 * (
        not masks.trains_weights  # with frozen embeddings, layer 0 computes no dL/dx for its input
    )
    assert len(skipped) == len(dense) > 0
    for one, other in zip(skipped, dense, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5 * other.abs().max())


def test_masks_after_a_run_equal_those_of_a_dense_run(tiny_qa, windows, tokenizer, products):
    settings = choose_settings(
        "quick", "smp", precision="fp32", max_length=96, stride=32, epochs=3, batch_size=8,
        n_validations=1, density=0.2,
    )
    masks, losses = [], []
    for skips in (False, True):
        model = copy.deepcopy(tiny_qa)
        pruning = attach_pruning(model, settings)
        for linear in () if skips else linears_of(pruning.masks).values():
            type(linear).forward = nn.Linear.forward
        pruning.masks.zeros = "skipped" if skips else "multiplied"
        run = train(model, windows, tokenizer, settings, pruning)
        assert run["zeros"] == pruning.masks.zeros
        losses.append(run["history"]["loss"])
        masks.append(pruning.masks.numpy())
        assert bool(products) == skips
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    same = [(masks[0][name] == masks[1][name]).mean() for name in masks[0]]
    assert min(same) > 0.99  # rounding may exchange weights at the threshold


def test_zeros_are_skipped_in_fp32_up_to_the_limit(products):
    linear, mask = masked_linear(50, 20, int(skip_up_to() * 1000) + 1)
    x = torch.randn(3, 20)
    skipping_forward(linear, x)
    assert not products
    mask.mask.copy_(keep_top(torch.rand(50, 20), int(skip_up_to() * 1000)))
    skipping_forward(linear, x)
    assert products == [(skip_up_to() * 1000, False)]
    with torch.autocast("cpu", torch.bfloat16):
        assert skipping_forward(linear, x).dtype == torch.bfloat16
    assert len(products) == 1


def who_skips(model):
    """Return the names of the layers that skip zeros."""
    return [name for name, module in model.named_modules()
            if getattr(type(module), "forward", None) is skipping_forward]


def test_skip_zeros_returns_whether_zeros_are_skipped(tiny_qa):
    masks = buffered_masks(tiny_qa)
    assert "here: bf16, cpu" in skip_zeros(masks, "bf16") and not who_skips(tiny_qa)
    assert not hasattr(masks, "zeros")  # the record then contains "multiplied"
    with compiler_named("no-such-compiler"), pytest.warns(UserWarning, match="no-such-compiler"):
        assert "needs a C compiler" in skip_zeros(masks, "fp32") and not who_skips(tiny_qa)
        assert not hasattr(masks, "zeros")
    assert f"are skipped where a matrix keeps {skip_up_to():.0%}" in skip_zeros(masks, "fp32")
    assert len(who_skips(tiny_qa)) == len(masks.masks) and masks.zeros == "skipped"


def test_a_transposed_weight_stays_dense(tiny_qa):
    query = tiny_qa.bert.encoder.layer[0].attention.self.query
    query.weight = nn.Parameter(query.weight.detach().T.contiguous().T)
    skip_zeros(buffered_masks(tiny_qa), "fp32")
    names = who_skips(tiny_qa)
    assert "bert.encoder.layer.0.attention.self.query" not in names and len(names) == 11


def test_a_layer_with_its_own_forward_keeps_it(tiny_qa, batch):
    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    output = tiny_qa.bert.encoder.layer[0].output
    output.dense.__class__ = Twice
    masks = buffered_masks(tiny_qa)
    at_random(masks, 0.1)
    dense = tiny_qa(**batch).start_logits
    skip_zeros(masks, "fp32")
    assert len(who_skips(tiny_qa)) == 11
    assert torch.allclose(tiny_qa(**batch).start_logits, dense, atol=1e-5)


@pytest.mark.parametrize("change", [
    lambda linear: linear.double(),
    lambda linear: setattr(linear, "bias", nn.Parameter(torch.ones(24).bfloat16())),
    lambda linear: setattr(linear, "bias", nn.Parameter(torch.arange(48.0)[::2])),
    lambda linear: linear.parametrizations.weight.original.set_(torch.randn(40, 24).T),
], ids=["double", "bf16 bias", "bias of every other number", "column after column"])
def test_unsupported_weights_use_the_dense_product(change, products):
    """Each step checks the weights again, because the C code uses raw memory."""
    linear, _ = masked_linear(24, 40, 90)
    with torch.no_grad():
        change(linear)
    x = torch.randn(3, 40)
    outcomes = []
    for forward in (nn.Linear.forward, skipping_forward):
        try:
            outcomes.append(forward(linear, x))
        except RuntimeError as error:
            outcomes.append(str(error))
    dense, ours = outcomes
    assert not products
    assert ours == dense if isinstance(dense, str) else torch.equal(ours, dense)


def test_csr_is_fp32_on_cpu_for_any_torch_defaults():
    linear, mask = masked_linear(24, 40, 90)
    weight = linear.parametrizations.weight.original
    usual = csr_of_kept(weight, mask.mask, 90, turned=True)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            made = csr_of_kept(weight, mask.mask, 90, turned=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, usual, made))


def test_changed_masks_raise_in_the_backward(tiny_qa, batch):
    masks = buffered_masks(tiny_qa)
    skip_zeros(masks, "fp32")
    at_random(masks, 0.1)
    loss = tiny_qa(**batch).start_logits.square().sum()
    masks.refresh(0.2)
    with pytest.raises(RuntimeError, match="modified"):
        loss.backward()
    tiny_qa(**batch)
    linear, mask = masked_linear(6, 4, 9)
    with pytest.raises(RuntimeError, match="the mask keeps 9 weights, expected 10: do not change"):
        csr_of_kept(linear.parametrizations.weight.original, mask.mask, 10)


def test_merged_layers_are_dense_and_copies_still_skip(tiny_qa, batch, products):
    masks = buffered_masks(tiny_qa)
    skip_zeros(masks, "fp32")
    at_random(masks, 0.1)
    copied, y = copy.deepcopy(tiny_qa), tiny_qa(**batch).start_logits
    count = len(products)
    with torch.no_grad():
        evaluated = tiny_qa(**batch).start_logits
    assert len(products) == count  # an evaluation multiplies the zeros
    masks.merge()
    assert torch.equal(tiny_qa(**batch).start_logits, evaluated)
    assert not who_skips(tiny_qa) and len(who_skips(copied)) == len(masks.masks)
    assert torch.allclose(tiny_qa(**batch).start_logits, y, atol=1e-5)
    assert len(products) == count
    at_random(masks, 0.4)  # masks of the original: the copy has its own
    assert torch.equal(copied(**batch).start_logits, y) and len(products) == 2 * count
    for module in copied.modules():
        if isinstance(module, StaticMask):
            module.mask.copy_(keep_top(module.scores, 3))
    copied(**batch)
    assert products[-1] == (3, False)
