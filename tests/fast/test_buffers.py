"""Shared buffers for W': equal gradients, one storage per shape, an error for stale masks."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import attach_masks, linears_of
from smp.fast import buffers
from smp.fast.buffers import buffered_forward, masked_weight, reuse_buffers
from smp.method.baselines import MagnitudeMasks, MovementMasks
from smp.method.masks import Masks

PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "bf16"])


@pytest.fixture
def products(monkeypatch):
    """Return the list of each W' that F.linear received, in order."""
    made, linear = [], buffers.F.linear

    def note(x, weight, bias=None):
        if type(weight.grad_fn).__name__.startswith("StraightThrough"):
            made.append(weight)
        return linear(x, weight, bias)

    monkeypatch.setattr(buffers.F, "linear", note)
    return made


def addresses(products):
    return {weight.untyped_storage().data_ptr() for weight in products}


def with_random_masks(model, density=0.4, **options):
    masks = attach_masks(model, **options)
    torch.manual_seed(2)
    for mask in masks.masks.values():
        if mask.scores is not None:
            mask.scores.data = torch.randn_like(mask.scores)
    masks.refresh(density)
    return masks


def loss_and_gradients(model, batch, precision="fp32", **options):
    """Return [loss, gradient of each trained parameter]."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = model(**batch).start_logits.float().square().sum()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss, trained, allow_unused=True, **options)
    assert sum(gradient is not None for gradient in found) >= 12
    return [loss.detach(), *(gradient for gradient in found if gradient is not None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_masked_weight_is_the_product_bit_for_bit(dtype, transposed):
    torch.manual_seed(5)
    weight, mask = torch.randn(6, 10).to(dtype), torch.rand(6, 10) < 0.5
    weight[0, :4] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf])
    if transposed:
        weight, mask = weight.T, mask.T
    for out in (None, torch.empty(weight.shape, dtype=dtype)):
        bits = masked_weight(weight, mask, out).contiguous().view(torch.uint8)
        assert torch.equal(bits, (weight * mask).contiguous().view(torch.uint8))


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 40), columns=st.integers(1, 40), tokens=st.integers(0, 50),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]), bias=st.booleans(), seed=st.integers(0, 99),
    kind=st.sampled_from([Masks, MagnitudeMasks, MovementMasks]), bf16=st.booleans(),
    transposed=st.booleans(),
)
def test_gradients_of_a_layer_equal_plain_ones_bit_for_bit(
    rows, columns, tokens, density, bias, seed, kind, bf16, transposed
):
    torch.manual_seed(seed)
    linear = nn.Linear(columns, rows, bias=bias)
    if transposed:
        linear.weight = nn.Parameter(linear.weight.detach().T.contiguous().T)
    masks = kind([("linear", "kind", 0, linear)], None, 1.0)
    masks.refresh(density)
    x, pull = torch.randn(tokens, columns, requires_grad=True), torch.randn(tokens, rows)
    outcomes = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = linear(x)
        trained = [x, *(one for one in linear.parameters() if one.requires_grad)]
        outcomes.append([y, *torch.autograd.grad((y * pull).sum(), trained)])
        reuse_buffers(masks)
    assert type(linear).forward is buffered_forward
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


@PRECISIONS
@pytest.mark.parametrize("kind", [Masks, MagnitudeMasks, MovementMasks])
@pytest.mark.parametrize("vectors", [False, True])
def test_gradients_of_a_model_equal_plain_ones(tiny_qa, batch, precision, kind, vectors):
    masks = with_random_masks(tiny_qa, kind=kind, vectors=vectors)
    plain = loss_and_gradients(tiny_qa, batch, precision)
    reuse_buffers(masks)
    for _ in range(2):
        buffered = loss_and_gradients(tiny_qa, batch, precision)
        assert all(torch.equal(a, b) for a, b in zip(plain, buffered, strict=True))


def test_gradients_with_a_graph_equal_plain_ones(tiny_qa, batch):
    masks = with_random_masks(tiny_qa)
    plain = loss_and_gradients(tiny_qa, batch, create_graph=True)
    reuse_buffers(masks)
    buffered = loss_and_gradients(tiny_qa, batch, create_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, buffered, strict=True))


@PRECISIONS
def test_matrices_of_one_shape_share_a_storage(tiny_qa, batch, products, precision):
    masks = with_random_masks(tiny_qa)
    loss_and_gradients(tiny_qa, batch, precision)
    assert len(products) == len(addresses(products)) == 12
    products.clear()
    reuse_buffers(masks)
    for _ in range(2):
        loss_and_gradients(tiny_qa, batch, precision)
    shapes = {weight.shape for weight in products}
    assert len(products) == 24 and len(addresses(products)) == len(shapes) == 3


def test_a_returned_weight_keeps_its_values(tiny_qa, batch):
    reuse_buffers(with_random_masks(tiny_qa))
    linear = tiny_qa.bert.encoder.layer[0].attention.self.query
    read = linear.weight
    before = read.clone()
    tiny_qa(**batch).start_logits.sum().backward()
    assert torch.equal(read, before)


def test_changed_masks_raise_in_the_backward(tiny_qa, batch):
    masks = with_random_masks(tiny_qa)
    reuse_buffers(masks)
    loss = tiny_qa(**batch).start_logits.square().sum()
    masks.refresh(0.4)
    with pytest.raises(RuntimeError, match="modified between forward and backward"):
        loss.backward()
    loss_and_gradients(tiny_qa, batch)  # the next step is not affected


def test_changed_inputs_raise_in_the_backward():
    linear = nn.Linear(6, 4)
    reuse_buffers(Masks([("linear", "kind", 0, linear)]))
    x = torch.randn(3, 6)
    y = linear(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified between forward and backward"):
        y.sum().backward()


def test_merge_restores_plain_linear_layers(tiny_qa, batch):
    names = set(vars(tiny_qa.bert.encoder.layer[0].output.dense))
    masks = with_random_masks(tiny_qa)
    reuse_buffers(masks)
    before, kept = tiny_qa(**batch).start_logits, masks.numpy()
    masks.merge()
    for name, linear in linears_of(masks).items():
        assert type(linear) is nn.Linear and set(vars(linear)) == names
        assert torch.equal(linear.weight != 0, torch.from_numpy(kept[name]))
    assert torch.equal(tiny_qa(**batch).start_logits, before)


def test_a_copied_model_has_its_own_buffers(tiny_qa, batch, products):
    masks = with_random_masks(tiny_qa)
    reuse_buffers(masks)
    expected = loss_and_gradients(tiny_qa, batch)
    own = addresses(products)
    products.clear()
    copied = copy.deepcopy(tiny_qa)
    found = loss_and_gradients(copied, batch)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert len(products) == 12 and len(addresses(products)) == 3
    assert not own & addresses(products)

    loss = copied(**batch).start_logits.square().sum()
    masks.refresh(0.1)  # masks of the original, not of the copy
    loss_and_gradients(tiny_qa, batch)
    loss.backward()
    masks.merge()
    assert torch.equal(loss_and_gradients(copied, batch)[0], expected[0])


def test_a_layer_with_its_own_forward_keeps_it(tiny_qa, batch):
    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    tiny_qa.bert.encoder.layer[0].output.dense.__class__ = Twice
    masks = with_random_masks(tiny_qa)
    plain = loss_and_gradients(tiny_qa, batch)
    reuse_buffers(masks)
    forwards = [type(linear).forward for linear in linears_of(masks).values()]
    assert forwards.count(buffered_forward) == 11
    assert all(map(torch.equal, plain, loss_and_gradients(tiny_qa, batch)))
