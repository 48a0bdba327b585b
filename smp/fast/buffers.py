"""Masked layers that reuse memory: the same bits, without a second copy of the encoder.

Autograd keeps every W' = W * M from the forward to the backward. Here W' is written into one buffer
per shape, and multiplied again in the backward, which costs less than new memory.
"""

import torch
import torch.nn.functional as F


def masked_weight(weight, mask, out=None):
    """Return W * M for a bool mask. A CPU writes it in place, because torch would first allocate M
    as floats, which costs more than the product."""
    if weight.device.type != "cpu":
        return torch.mul(weight, mask, out=out)
    product = torch.empty_like(weight) if out is None else out
    return product.copy_(mask.view(torch.uint8)).mul_(weight)


class Buffers:
    """buffers(tensor): memory of that shape, dtype and device, the same in every call."""

    def __init__(self):
        self.held = {}

    def __call__(self, like):
        key = like.shape, like.dtype, like.device
        if key not in self.held:
            self.held[key] = torch.empty_like(like, memory_format=torch.contiguous_format)
        return self.held[key]

    def __deepcopy__(self, memo):
        return Buffers()


def straight_through_gradients(grad, weight, mask, to_weight, to_scores, in_place):
    """Return (dL/dW' * M, dL/dW' * W) of grad = dL/dW', None for what is not needed. in_place: the
    second may be written into grad."""
    of_weight = masked_weight(grad, mask) if to_weight else None
    of_scores = torch.mul(grad, weight, out=grad if in_place else None) if to_scores else None
    return of_weight, of_scores


class StraightThroughInto(torch.autograd.Function):
    """`method.masks.StraightThrough` that writes W' into a buffer.

    Only one linear layer multiplies with this W', so dL/dS may be written into dL/dW'.
    """

    @staticmethod
    def forward(ctx, weight, scores, mask, buffer):
        ctx.save_for_backward(weight, mask)
        return masked_weight(weight, mask, buffer).detach()

    @staticmethod
    def backward(ctx, grad):
        gradients = straight_through_gradients(
            grad, *ctx.saved_tensors, *ctx.needs_input_grad[:2], not torch.is_grad_enabled()
        )
        return *gradients, None, None


def buffered_forward(linear, x):
    """The forward of a masked nn.Linear whose W' is in a buffer, and made again in the backward.

    Under autocast the copy that autograd keeps is in half precision, as in fine-tuning. Raises
    RuntimeError in the backward when the mask has changed since the forward.
    """
    weight, (mask,) = linear.parametrizations.weight.original, linear.parametrizations.weight
    buffer = linear.buffers_of_masks(weight)
    place = buffer.untyped_storage().data_ptr()

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() != place:
            return tensor, tensor._version, None
        return mask.mask, mask.mask._version, (
            tensor.size(), tensor.stride(), tensor.storage_offset())

    def unpack(packed):
        source, version, view = packed
        if source._version != version:  # autograd leaves this check to the hooks
            raise RuntimeError("masks or inputs were modified between forward and backward")
        if view is None:
            return source
        with torch.no_grad():
            return masked_weight(weight, source, linear.buffers_of_masks(weight)).as_strided(*view)

    masked = StraightThroughInto.apply(weight, mask.scores, mask.mask, buffer)
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return F.linear(x, masked, linear.bias)


def reuse_buffers(masks) -> None:
    """Let the layers of a model with these `Masks` share buffers; `masks.merge()` undoes it."""
    buffers = Buffers()
    for _, _, _, linear in masks.matrices:
        # parametrize gives each layer a class of its own, and merge() restores nn.Linear
        if type(linear).forward is torch.nn.Linear.forward:
            linear.buffers_of_masks = buffers
            type(linear).forward = buffered_forward
