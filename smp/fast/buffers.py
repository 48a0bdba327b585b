"""Masked layers that reuse memory: the same bits without a second copy of the encoder.

Autograd stores each W' = W * M from the forward to the backward. Here W' is written into one buffer
per shape and computed again in the backward. This takes less time than new memory.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def masked_weight(weight: Tensor, mask: Tensor, out: Tensor | None = None) -> Tensor:
    """Return W * M for a bool mask.

    On a CPU torch.mul would first convert M to floats, which takes longer than the product.
    """
    if weight.device.type != "cpu":
        return torch.mul(weight, mask, out=out)
    product = torch.empty_like(weight) if out is None else out
    return product.copy_(mask.view(torch.uint8)).mul_(weight)


class Buffers:
    """Reused memory: buffers(tensor) returns one tensor per shape, layout, dtype and device."""

    def __init__(self) -> None:
        self.held: dict[tuple, Tensor] = {}

    def __call__(self, like: Tensor) -> Tensor:
        key = like.shape, like.stride(), like.dtype, like.device
        if key not in self.held:
            self.held[key] = torch.empty_like(like)
        return self.held[key]

    def __deepcopy__(self, memo):
        return Buffers()


class StraightThroughInto(torch.autograd.Function):
    """The function `smp.method.masks.StraightThrough`, with W' in a buffer.

    Only one linear layer uses this W', so the backward may write dL/dS into dL/dW'.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Any, mask: Tensor, buffer: Tensor) -> Tensor:
        ctx.save_for_backward(weight, mask)
        return masked_weight(weight, mask, buffer).detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        weight, mask = ctx.saved_tensors
        to_weight, to_scores, *_ = ctx.needs_input_grad
        of_weight = masked_weight(grad, mask) if to_weight else None
        out = None if torch.is_grad_enabled() else grad
        return of_weight, torch.mul(grad, weight, out=out) if to_scores else None, None, None


def buffered_forward(linear: nn.Linear, x: Tensor) -> Tensor:
    """Return x W'^T + b with W' in a buffer; the backward computes W' again.

    Under autocast, autograd stores a half-precision copy of W', as in fine-tuning. The backward
    raises RuntimeError if the mask has changed since the forward.
    """
    weight, (mask,) = linear.parametrizations.weight.original, linear.parametrizations.weight
    buffer = mask.shared_memory(weight)
    address = buffer.untyped_storage().data_ptr()

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() != address:
            return tensor, tensor._version, None
        view = tensor.size(), tensor.stride(), tensor.storage_offset()
        return mask.mask, mask.mask._version, view

    def unpack(packed):
        source, version, view = packed
        if source._version != version:  # autograd does not check it if there are hooks
            raise RuntimeError("masks or inputs were modified between forward and backward")
        if view is None:
            return source
        with torch.no_grad():
            return masked_weight(weight, source, mask.shared_memory(weight)).as_strided(*view)

    masked = StraightThroughInto.apply(weight, mask.scores, mask.mask, buffer)
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return F.linear(x, masked, linear.bias)


def reuse_buffers(masks: Any) -> None:
    """Make the layers of a model with these `Masks` share buffers; `masks.merge()` undoes it."""
    buffers = Buffers()
    for _, _, _, linear in masks.matrices:
        # parametrize creates a class for each layer, and merge() restores nn.Linear
        if type(linear).forward is nn.Linear.forward:
            linear.parametrizations.weight[0].shared_memory = buffers
            type(linear).forward = buffered_forward
