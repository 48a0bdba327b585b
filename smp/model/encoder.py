"""Which weights are masked: every linear layer in the encoder's stack of equal layers.

The layers are found by structure, not by name, so BERT, RoBERTa, DistilBERT, ELECTRA and MPNet
work. ALBERT runs one layer many times, and its masks serve every pass. Embeddings, LayerNorms,
biases and the head are never masked. Other models raise ValueError.
"""

import inspect
from collections import Counter
from typing import Any

from torch import nn
from torch.nn.utils import parametrize


def matrix_modules(block: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return [(path, module)] of a block's modules with a matrix, except nn.Embedding."""
    return [
        (path, module) for path, module in block.named_modules()
        if not isinstance(module, nn.Embedding) and (
            inspect.ismethod(getattr(module, "weight", None))  # torch's quantised layers
            or any(own.dim() > 1 for own in module.parameters(recurse=False))
        )
    ]


def encoder_stacks(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Return {name: layers} of the base model's outermost lists of layers that hold matrices."""
    stacks: dict[str, nn.ModuleList] = {}
    for name, module in model.base_model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and not inside and matrix_modules(module):
            stacks[name] = module
    return stacks


def why_unmaskable(model: nn.Module, stacks: dict[str, nn.ModuleList]) -> str:
    """Return why a model with these stacks of layers cannot be masked, "" if it can."""
    if hasattr(model, "acceleration"):  # of smp/fast/sparse.py
        return "is accelerated and only answers (load it anew)"
    if len(stacks) != 1:
        some = f"{len(stacks)} stacks of layers, not one ({', '.join(stacks)})"
        return f"has {some if stacks else 'no stack of encoder layers'}"
    (stack,) = stacks.values()
    uses = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    shapes: list[list[tuple]] = [[] for _ in stack]
    for layer, block in enumerate(stack):
        for path, module in matrix_modules(block):
            weight: Any = getattr(module, "weight", None)
            if isinstance(module, parametrize.ParametrizationList):
                return "has masks already (load it anew for others)"
            if not isinstance(module, nn.Linear) and not inspect.ismethod(weight):
                return f"keeps weights of its layers in {type(module).__name__} ({layer}.{path})"
            if type(weight) is not nn.Parameter or not weight.is_floating_point():
                return f"has quantised layers ({layer}.{path})"
            if uses[id(weight)] > 1:
                return f"uses one matrix in several places ({layer}.{path})"
            shapes[layer].append((path, weight.shape))
        if shapes[layer] != shapes[0]:
            return f"has layers that are not alike (0 and {layer})"
    return ""


def encoder_linears(model: nn.Module) -> list[tuple[str, str, int, nn.Linear]]:
    """Return [(name in the base model, kind, layer, nn.Linear)] of the encoder, for `Masks`.

    Raises ValueError with the reason if the model has not exactly one stack of layers, or if these
    are not alike, not made of plain nn.Linear, or share weights.
    """
    stacks = encoder_stacks(model)
    reason = why_unmaskable(model, stacks)
    if reason:
        raise ValueError(
            f"{type(model).__name__} {reason}: masks need one stack of equal layers made of "
            "nn.Linear; name an encoder such as BERT, RoBERTa, DistilBERT, ELECTRA or MPNet"
        )
    return [
        (f"{stack}.{layer}.{path}", kind, layer, linear)
        for stack, blocks in stacks.items()
        for layer, block in enumerate(blocks)
        for kind, (path, linear) in zip(matrix_names(block), matrix_modules(block))
    ]


def encoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the list of the encoder's layers. Raises ValueError unless there is exactly one."""
    (layers,) = encoder_stacks(model).values()
    return layers


def freeze_encoder(model: nn.Module, train_biases_and_norms: bool = False) -> None:
    """Freeze the base model, except on request the biases and LayerNorms of its layers.

    Raises ValueError, with nothing changed, if `encoder_linears` does.
    """
    encoder_linears(model)
    model.base_model.requires_grad_(False)
    for parameter in biases_and_norms(model).values() if train_biases_and_norms else ():
        parameter.requires_grad_(True)


def biases_and_norms(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return {name in the base model: parameter (n,)} of the layers' biases and LayerNorms.

    SMP leaves them as they are. Training them after pruning repairs much in large language models
    (Zimmer et al. 2023, "PERP"). They are 0.1% of BERT-base.
    """
    return {
        f"{stack}.{name}": parameter
        for stack, blocks in encoder_stacks(model).items()
        for name, parameter in blocks.named_parameters() if parameter.dim() == 1
    }


def matrix_names(block: nn.Module) -> list[str]:
    """Return the names of a block's matrices for tables and figures, in the block's order.

    If the first three start with q, k and v and all six have the shapes of attention and
    feed-forward, they are named as in BERT; otherwise by their paths.
    """
    paths, linears = zip(*matrix_modules(block))
    shapes = [tuple(linear.weight.shape) for linear in linears]
    hidden, inner = shapes[0][0], shapes[-1][1]
    usual = [(hidden, hidden)] * 4 + [(inner, hidden), (hidden, inner)]
    if shapes == usual and [path.split(".")[-1][:1] for path in paths[:3]] == ["q", "k", "v"]:
        return ["query", "key", "value", "attention output", "intermediate", "output"]
    return [path.removeprefix("attention.self.").removesuffix(".dense").replace(".", " ")
            for path in paths]
