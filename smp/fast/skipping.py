r"""Steps that skip the zeros.

A masked layer multiplies three times in a step: $y = x W'^\top$ forward, the gradient of $y$ with
$W'$ and with $x$ backward. The last of these is $\partial L / \partial W'$, of which the scores
need every entry, removed or not. In the other two the removed weights are zeros, and a CPU can
skip them. That pays in fp32; units that multiply bf16 are as fast with the zeros. An evaluation
multiplies them too, so that its logits are those of the baked model to the last bit.
"""

import numpy as np
import torch

from smp.fast.buffers import buffered_forward, straight_through_gradients
from smp.fast.products import compiled_products, sparse_product
from smp.model.device import make_accelerator, pick_precision

# Up to this share of kept weights it is faster. Fixed, not measured on the spot: a run that was
# stopped and goes on has to add up the same numbers in the same order.
SKIP_UP_TO = 0.4


def csr_of_kept(weight, mask, kept, turned=False):
    """W * M of a W (out, in) of which `kept` weights stay, or its transpose, as CSR: what
    `sparse_product` takes. RuntimeError where the mask keeps another number."""
    products, (rows, columns) = compiled_products(), weight.shape

    def room(firsts):
        return (weight.new_empty(firsts, dtype=torch.int32),
                weight.new_empty(kept, dtype=torch.uint16), weight.new_empty(kept))

    def places(tensors):
        return [tensor.data_ptr() for tensor in tensors]

    csr = room(rows + 1)
    found = products.kept_as_csr(
        rows, columns, kept, *places((mask, weight, *csr)), torch.get_num_threads()
    )
    if found != kept:
        raise RuntimeError(f"a mask of {kept:,} weights holds {found:,}: it was changed unseen")
    if not turned:
        return csr
    transposed = room(columns + 2)
    products.turn_csr(rows, columns, *places((*csr, *transposed)))
    return transposed


class SkippingZeros(torch.autograd.Function):
    """x (tokens, in) -> x W'^T + b (tokens, out), where W' = W * M has `kept` weights left.

    All fp32 on the CPU. The gradients are those of a dense product with the W' of
    `StraightThrough`, but for rounding.
    """

    @staticmethod
    def forward(ctx, x, weight, scores, bias, mask, kept):
        ctx.save_for_backward(x, weight, mask)
        ctx.kept = kept
        return sparse_product(x, csr_of_kept(weight, mask, kept), bias, len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight, mask = ctx.saved_tensors
        of_x, of_weight, of_scores, of_bias, *_ = ctx.needs_input_grad
        grad, for_x, for_weight, for_scores = grad.contiguous(), None, None, None
        if of_x:
            csr = csr_of_kept(weight, mask, ctx.kept, turned=True)
            for_x = sparse_product(grad, csr, None, weight.shape[1])
        if of_weight or of_scores:
            for_weight, for_scores = straight_through_gradients(
                grad.T @ x, weight, mask, of_weight, of_scores, in_place=True
            )
        return for_x, for_weight, for_scores, grad.sum(0) if of_bias else None, None, None


def skipping_forward(linear, x):
    """The forward of a masked nn.Linear, skipping zeros where few enough weights are kept."""
    parametrized = linear.parametrizations.weight
    weight, (mask,), bias = parametrized.original, parametrized, linear.bias
    can_be_read = x.is_cpu and x.dtype == torch.float32 and all(
        one is None or can_be_skipped(one) for one in (weight, bias)
    )
    learns = torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    kept = np.count_nonzero(mask.mask.numpy()) if can_be_read and learns else weight.numel()
    if kept > SKIP_UP_TO * weight.numel():
        return buffered_forward(linear, x)
    tokens = x.reshape(-1, linear.in_features).contiguous()
    y = SkippingZeros.apply(tokens, weight, mask.scores, bias, mask.mask, kept)
    return y.view(*x.shape[:-1], linear.out_features)


def can_be_skipped(weight):
    """Whether a weight (out, in), or a bias, lies in memory as the products read it: columns are
    numbers of 16 bits."""
    return (weight.is_cpu and weight.dtype == torch.float32 and weight.is_contiguous()
            and max(weight.shape) <= 2**16 and weight.numel() < 2**31)


def skip_zeros(masks, precision="auto"):
    """Lets the layers of a model with these `Masks` skip their zeros where that is faster in
    training of this precision: a sentence that says whether they do."""
    here, precision = make_accelerator(precision).device.type, pick_precision(precision)
    if here != "cpu" or precision != "fp32":
        return f"zeros are multiplied: skipping pays in fp32 on a CPU; here: {precision}, {here}"
    if compiled_products() is None:
        return ("zeros are multiplied: to skip them is faster here, but takes a C compiler with "
                "OpenMP (cc, or CC)")
    for _, _, _, linear in masks.matrices:
        is_buffered = type(linear).forward in (buffered_forward, skipping_forward)
        if is_buffered and can_be_skipped(linear.parametrizations.weight.original):
            type(linear).forward, masks.zeros = skipping_forward, "skipped"
    return f"zeros are skipped where a matrix keeps {SKIP_UP_TO:.0%} of its weights or fewer"

