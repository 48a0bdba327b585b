"""Sparse inference of a pruned model on a CPU.

`accelerate` measures a CSR product and the dense product of each matrix and uses the faster one.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from smp.fast.products import compiled_products, sparse_product
from smp.model.encoder import encoder_stacks, matrix_modules
from smp.model.save import check_merged

TILE = 64  # tokens
MARGIN = 1.1  # a CSR product replaces a dense one if its speed-up is higher


class TorchSparseLinear(nn.Module):
    """A linear layer for inference with a CSR weight and torch's product.

    x (..., in) -> (..., out), both fp32 on the CPU. Its state_dict raises ValueError.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls CSR a beta feature
            weight = linear.weight.detach().to_sparse_csr()
        self.register_buffer("weight", weight, persistent=False)
        bias = torch.zeros(self.out_features) if linear.bias is None else linear.bias.detach()
        self.register_buffer("bias", bias, persistent=False)

    def tokens_of(self, x: Tensor) -> Tensor:
        """Return x (..., in) as (tokens, in). Raises ValueError for a wrong shape or device."""
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (..., {self.in_features})")
        for name, tensor in (("x", x), ("a sparse layer", self.bias)):
            if tensor.device.type != "cpu" or self.bias.dtype != torch.float32:
                raise ValueError(f"{name} is {tensor.dtype} on {tensor.device}: an accelerated "
                                 "model must stay torch.float32 on cpu; load the model again")
        return x.reshape(-1, self.in_features).float().contiguous()

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        raise ValueError(f"{prefix}weight is sparse: an accelerated model cannot be saved; save it "
                         "before accelerate(), or load it again")

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens_of(x)
        y = tokens.new_empty(len(tokens), self.out_features)
        for some, result in zip(tokens.split(TILE), y.split(TILE)):
            torch.add((self.weight @ some.T.contiguous()).T, self.bias, out=result)
        return y.view(*x.shape[:-1], self.out_features)


class SparseLinear(TorchSparseLinear):
    """A linear layer with the sparse product of smp/fast/products.py; at most 65,536 columns."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear)
        weight = self.weight
        del self.weight
        self.register_buffer("rows", weight.crow_indices().int(), persistent=False)
        self.register_buffer("columns", weight.col_indices().to(torch.uint16), persistent=False)
        self.register_buffer("values", weight.values().clone(), persistent=False)  # not a view

    def forward(self, x: Tensor) -> Tensor:
        csr = self.rows, self.columns, self.values
        y = sparse_product(self.tokens_of(x), csr, self.bias, self.out_features)
        return y.view(*x.shape[:-1], self.out_features)


def measure_speed_up(before: Callable, after: Callable, rounds: int = 3) -> float:
    """Return the median of the ratios time of before() / time of after().

    The functions run in turns, so other load on the machine slows both.
    """
    def seconds(function):
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    ratios = [seconds(before) / seconds(after) for _ in range(rounds + 1)]
    return statistics.median(ratios[1:])  # the first round is the warm-up


def linears_to_accelerate(model: PreTrainedModel) -> list[tuple[str, nn.Linear]]:
    """Return [(name in the base model, nn.Linear)] of the encoder's layers, of any shapes.

    Raises ValueError without such layers, with attached masks, or for a weight that is not fp32 on
    a CPU.
    """
    check_merged(model)
    kind = type(model).__name__
    linears = [(f"{stack}.{layer}.{path}", module)
               for stack, blocks in encoder_stacks(model).items()
               for layer, block in enumerate(blocks)
               for path, module in matrix_modules(block)
               if type(module) is nn.Linear and module.weight.numel()]
    if not linears:
        raise ValueError(f"{kind} has no stack of encoder layers made of nn.Linear to accelerate")
    for name, linear in linears:
        weight = linear.weight
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            raise ValueError(f"{kind}: {name} is {weight.dtype} on {weight.device}; expected "
                             "torch.float32 on cpu: model.float().cpu()")
    return linears


@torch.no_grad()
def accelerate(model: PreTrainedModel, example: dict) -> PreTrainedModel:
    """Replace the encoder's linear layers in place if their CSR product is faster.

    The result is for inference only. The masks must be merged. example: a typical batch for
    model(**example); its number of tokens decides which product is faster. Sets model.acceleration:
    [{"matrix", "density", "speed_up", "product": "dense", "torch CSR" or "compiled CSR"}]. The
    logits change by rounding only. Save the model first, because saving raises ValueError
    afterwards. Raises ValueError if the model cannot be accelerated.
    """
    linears = linears_to_accelerate(model)
    model.eval().requires_grad_(False)
    shapes: dict[nn.Module, torch.Size] = {}
    hooks = [linear.register_forward_pre_hook(
        lambda module, inputs: shapes.update({module: inputs[0].shape})) for _, linear in linears]
    model(**example)
    for hook in hooks:
        hook.remove()
    model.acceleration = []
    for name, linear in linears:
        compiled = compiled_products() is not None and linear.in_features <= 65536
        sparse: nn.Module = (SparseLinear if compiled else TorchSparseLinear)(linear)
        x = torch.randn(shapes[linear])
        gain = measure_speed_up(partial(linear, x), partial(sparse, x))
        if gain > MARGIN:
            model.base_model.set_submodule(name, sparse)
        product = "dense" if gain <= MARGIN else "compiled CSR" if compiled else "torch CSR"
        model.acceleration.append({
            "matrix": name, "density": linear.weight.count_nonzero().item() / linear.weight.numel(),
            "speed_up": gain, "product": product})
    return model
