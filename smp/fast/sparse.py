"""Faster on a CPU.

A pruned model can skip its zeros when it answers, with the products of `smp/products.py`; without
a C compiler torch's own CSR product takes their place, slower. `accelerate` measures it against
the dense product, matrix by matrix, and takes the faster one.
"""

import functools
import statistics
import time
import warnings

import torch
from torch import nn
from torch.nn.utils import parametrize

from smp.fast.products import compiled_products, sparse_product
from smp.model.encoder import encoder_stacks, matrix_modules

TILE = 64  # tokens


class TorchSparseLinear(nn.Module):
    """An nn.Linear for inference whose weight is CSR, with torch's product.

    x (..., in) -> (..., out), both fp32 on the CPU. Its state_dict is empty.
    """

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls CSR a beta feature
            weight = linear.weight.detach().to_sparse_csr()
        self.register_buffer("weight", weight, persistent=False)
        bias = torch.zeros(self.out_features) if linear.bias is None else linear.bias.detach()
        self.register_buffer("bias", bias, persistent=False)

    def tokens_of(self, x):
        """x (..., in) as (tokens, in); ValueError where it is not what the product reads."""
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (..., {self.in_features})")
        for name, tensor in (("x", x), ("a sparse layer", self.bias)):
            if tensor.device.type != "cpu" or self.bias.dtype != torch.float32:
                raise ValueError(
                    f"{name} is {tensor.dtype} on {tensor.device}: an accelerated model stays "
                    "torch.float32 on cpu; load it anew to move it"
                )
        return x.reshape(-1, self.in_features).float().contiguous()

    def forward(self, x):
        tokens = self.tokens_of(x)
        y = tokens.new_empty(len(tokens), self.out_features)
        for some, result in zip(tokens.split(TILE), y.split(TILE)):
            torch.add((self.weight @ some.T.contiguous()).T, self.bias, out=result)
        return y.view(*x.shape[:-1], self.out_features)


class SparseLinear(TorchSparseLinear):
    """The same with the product of smp/products.py; at most 65,536 columns."""

    def __init__(self, linear):
        super().__init__(linear)
        weight = self.weight
        del self.weight
        parts = {
            "rows": weight.crow_indices().int(), "columns": weight.col_indices().to(torch.uint16),
            "values": weight.values().clone(),  # a view would keep the whole of it
        }
        for name, tensor in parts.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x):
        csr = self.rows, self.columns, self.values
        y = sparse_product(self.tokens_of(x), csr, self.bias, self.out_features)
        return y.view(*x.shape[:-1], self.out_features)

# A product is worth replacing when it was faster in most of some rounds taken in turns, by a clear
# margin: what else the machine does falls on both.
MARGIN = 1.1  # how many times faster than dense, to be worth it


def speed_up(before, after, rounds=3):
    """Quartiles (low, median, high) of how many times faster after() is than before(): the ratios
    of rounds in which they are called in turns."""
    ratios = []
    for each in range(rounds + 1):
        moments = [time.perf_counter()]
        for function in (before, after):
            function()
            moments.append(time.perf_counter())
        if each:  # the first warms up
            ratios.append((moments[1] - moments[0]) / (moments[2] - moments[1]))
    return tuple(statistics.quantiles(ratios, n=4, method="inclusive"))


def check_baked(model):
    """ValueError where masks are still attached to the model."""
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise ValueError(
            f"{type(model).__name__} still has its masks attached; bake them into the weights "
            "first: masks.bake()"
        )


def linears_to_accelerate(model):
    """[(name in the base model, nn.Linear)] of the encoder's layers, whatever their shapes.

    Raises ValueError with one line where there are none, masks are still attached, or the weights
    are not fp32 numbers of a CPU.
    """
    check_baked(model)
    kind = type(model).__name__
    linears = [
        (f"{stack}.{layer}.{path}", module)
        for stack, blocks in encoder_stacks(model).items()
        for layer, block in enumerate(blocks)
        for path, module in matrix_modules(block)
        if type(module) is nn.Linear and module.weight.numel()
    ]
    if not linears:
        raise ValueError(f"{kind} has no stack of encoder layers made of nn.Linear to accelerate")
    for name, linear in linears:
        weight = linear.weight
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            raise ValueError(
                f"{kind}: {name} is {weight.dtype} on {weight.device}; expected torch.float32 on "
                "cpu: model.float().cpu()"
            )
    return linears


@torch.no_grad()
def accelerate(model, example):
    """The stock model, masks baked, with those linear layers of its encoder replaced by CSR
    products that are faster so; the same logits but for rounding. For inference only.

    example: a batch of inputs such as will come, as model(**example) takes it: the number of its
    tokens decides what is faster. What was measured is in model.acceleration: [{"matrix",
    "density", "speed_up", "product": "dense", "torch CSR" or "compiled CSR"}].
    The replaced layers leave the state_dict, so save the model before. Raises ValueError with one
    line where the model cannot be accelerated.
    """
    linears = linears_to_accelerate(model)
    model.eval().requires_grad_(False)
    shapes = {}

    def note(name, _, inputs):
        shapes[name] = inputs[0].shape

    hooks = [
        linear.register_forward_pre_hook(functools.partial(note, name)) for name, linear in linears
    ]
    model(**example)
    for hook in hooks:
        hook.remove()
    model.acceleration = []
    for name, linear in linears:
        compiled = compiled_products() is not None and linear.in_features <= 65536
        sparse = (SparseLinear if compiled else TorchSparseLinear)(linear)
        x = torch.randn(shapes[name])
        _, gain, _ = speed_up(functools.partial(linear, x), functools.partial(sparse, x))
        if gain > MARGIN:
            model.base_model.set_submodule(name, sparse)
        product = "dense" if gain <= MARGIN else "compiled CSR" if compiled else "torch CSR"
        model.acceleration.append({
            "matrix": name, "density": linear.weight.count_nonzero().item() / linear.weight.numel(),
            "speed_up": gain, "product": product,
        })
    return model
