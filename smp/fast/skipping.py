r"""Training steps that skip the zeros of W', in fp32 on a CPU.

A masked layer has three products in a step: $y = x W'^\top$, $\partial L / \partial x$ and
$\partial L / \partial W'$. The scores need each entry of the last product. The other two skip the
removed weights. In bf16 the dense product is as fast. Without gradients the product is dense, so
the logits of an evaluation equal those of the merged model bit for bit.
"""

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smp.fast.buffers import buffered_forward, masked_weight
from smp.fast.products import compiled_products, sparse_product
from smp.model.predict import make_accelerator, pick_precision


@functools.cache
def skip_up_to() -> float:
    """Return the share of kept weights up to which skipping is faster on this CPU.

    It depends on the vector units only, not on a measurement, because a resumed run must add the
    same numbers in the same order as an uninterrupted run.
    """
    return 0.4 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 0.25


def csr_of_kept(weight: Tensor, mask: Tensor, kept: int, turned: bool = False) -> tuple:
    """Return W * M (out, in), or its transpose if turned, in CSR for `sparse_product`.

    Raises RuntimeError if the mask does not keep `kept` weights.
    """
    products: Any = compiled_products()
    rows, columns = weight.shape

    def allocate(firsts):
        return (weight.new_empty(firsts, dtype=torch.int32),
                weight.new_empty(kept, dtype=torch.uint16), weight.new_empty(kept))

    csr = allocate(rows + 1)
    pointers = [tensor.data_ptr() for tensor in (mask, weight, *csr)]
    found = products.kept_as_csr(rows, columns, kept, *pointers, torch.get_num_threads())
    if found != kept:
        raise RuntimeError(f"the mask keeps {found:,} weights, expected {kept:,}: do not change "
                           "masks between forward and backward")
    if not turned:
        return csr
    transposed = allocate(columns + 2)
    products.turn_csr(rows, columns, *(tensor.data_ptr() for tensor in (*csr, *transposed)))
    return transposed


class SkippingZeros(torch.autograd.Function):
    """The product x (tokens, in) -> x W'^T + b (tokens, out); W' = W * M has `kept` weights.

    All tensors are fp32 on the CPU. The gradients equal those of a dense product with the W' of
    `smp.method.masks.StraightThrough`, except for rounding.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scores: Any, bias: Tensor | None,
                mask: Tensor, kept: int) -> Tensor:
        ctx.save_for_backward(x, weight, mask)
        ctx.kept = kept
        return sparse_product(x, csr_of_kept(weight, mask, kept), bias, len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, weight, mask = ctx.saved_tensors
        to_x, to_weight, to_scores, to_bias, *_ = ctx.needs_input_grad
        grad, of_x, of_weight, of_scores = grad.contiguous(), None, None, None
        if to_x:
            csr = csr_of_kept(weight, mask, ctx.kept, turned=True)
            of_x = sparse_product(grad, csr, None, weight.shape[1])
        if to_weight or to_scores:
            of_product = grad.T @ x  # dL/dW'
            of_weight = masked_weight(of_product, mask) if to_weight else None
            of_scores = of_product.mul_(weight) if to_scores else None
        return of_x, of_weight, of_scores, grad.sum(0) if to_bias else None, None, None


def skipping_forward(linear: nn.Linear, x: Tensor) -> Tensor:
    """Return the output of a masked nn.Linear; skip the zeros if few enough weights are kept."""
    parametrized = linear.parametrizations.weight
    weight, (mask,), bias = parametrized.original, parametrized, linear.bias
    learns = torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    is_readable = x.is_cpu and x.dtype == torch.float32 and can_be_skipped(weight) and (
        bias is None or can_be_skipped(bias))
    kept = np.count_nonzero(mask.mask.numpy()) if is_readable and learns else weight.numel()
    if kept > skip_up_to() * weight.numel():
        return buffered_forward(linear, x)
    tokens = x.reshape(-1, linear.in_features).contiguous()
    y = SkippingZeros.apply(tokens, weight, mask.scores, bias, mask.mask, kept)
    return y.view(*x.shape[:-1], linear.out_features)


def can_be_skipped(tensor: Tensor) -> bool:
    """Return whether the C functions support a weight (out, in) or a bias; columns are uint16."""
    return (tensor.is_cpu and tensor.dtype == torch.float32 and tensor.is_contiguous()
            and max(tensor.shape) <= 2**16 and tensor.numel() < 2**31)


def skip_zeros(masks: Any, precision: str = "auto") -> str:
    """Make the layers of a model with these `Masks` skip zeros in training steps if it is faster.

    Call `reuse_buffers` first. Returns a sentence that states whether zeros are skipped, and why.
    """
    here, precision = make_accelerator(precision).device.type, pick_precision(precision)
    if here != "cpu" or precision != "fp32":
        return ("zeros are multiplied: skipping is faster only in fp32 on a CPU; here: "
                f"{precision}, {here}")
    if compiled_products() is None:
        return ("zeros are multiplied: skipping is faster here, but needs a C compiler with OpenMP "
                "(cc, or CC)")
    for _, _, _, linear in masks.matrices:
        is_buffered = type(linear).forward in (buffered_forward, skipping_forward)
        if is_buffered and can_be_skipped(linear.parametrizations.weight.original):
            type(linear).forward, masks.zeros = skipping_forward, "skipped"
    if not hasattr(masks, "zeros"):
        return "zeros are multiplied: no layer has buffers, call reuse_buffers(masks) first"
    return f"zeros are skipped where a matrix keeps {skip_up_to():.0%} of its weights or fewer"
