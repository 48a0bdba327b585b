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
    """Return {name: layers} of the base model's outermost lists of layers with matrices."""
    stacks: dict[str, nn.ModuleList] = {}
    for name, module in model.base_model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and not inside and matrix_modules(module):
            stacks[name] = module
    return stacks


def why_unmaskable(model: nn.Module, stacks: dict[str, nn.ModuleList]) -> str:
    """Return why a model with these stacks of layers cannot be masked, or "" if it can."""
    if hasattr(model, "acceleration"):  # of smp/fast/sparse.py
        return "is accelerated, for inference only (load it again)"
    if len(stacks) != 1:
        named = f"{len(stacks)} stacks of encoder layers ({', '.join(stacks)})"
        return f"has {named if stacks else 'no stack of encoder layers'}"
    (stack,) = stacks.values()
    uses = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    shapes: list[list[tuple]] = [[] for _ in stack]
    for layer, block in enumerate(stack):
        for path, module in matrix_modules(block):
            weight: Any = getattr(module, "weight", None)
            if isinstance(module, parametrize.ParametrizationList):
                return "has masks already (load it again)"
            if not isinstance(module, nn.Linear) and not inspect.ismethod(weight):
                return f"has layers with weights in {type(module).__name__} ({layer}.{path})"
            if type(weight) is not nn.Parameter or not weight.is_floating_point():
                return f"has quantised layers ({layer}.{path})"
            if uses[id(weight)] > 1:
                return f"uses one matrix in several places ({layer}.{path})"
            shapes[layer].append((path, weight.shape))
        if shapes[layer] != shapes[0]:
            return f"has layers of different shapes (0 and {layer})"
    return ""


def encoder_linears(model: nn.Module) -> list[tuple[str, str, int, nn.Linear]]:
    """Return [(name in the base model, type, layer, nn.Linear)] of the encoder, for `Masks`.

    Raises ValueError with the reason if the model does not have exactly one stack of layers, or if
    the layers differ in shape, share weights, or are not made of plain nn.Linear.
    """
    stacks = encoder_stacks(model)
    reason = why_unmaskable(model, stacks)
    if reason:
        raise ValueError(
            f"{type(model).__name__} {reason}: masks need one stack of equal layers made of "
            "nn.Linear; use an encoder such as BERT, RoBERTa, DistilBERT, ELECTRA or MPNet")
    ((stack, blocks),) = stacks.items()
    return [
        (f"{stack}.{layer}.{path}", kind, layer, linear)
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
    for parameter in biases_and_norms(model).values():
        parameter.requires_grad_(train_biases_and_norms)


def biases_and_norms(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return {name in the base model: parameter (n,)} of the layers' biases and LayerNorms.

    They are 0.1% of BERT-base and are not trained in SMP. Training them after pruning recovers much
    of the quality of large language models (Zimmer et al. 2023, "PERP").
    """
    return {
        f"{stack}.{name}": parameter
        for stack, blocks in encoder_stacks(model).items()
        for name, parameter in blocks.named_parameters() if parameter.dim() == 1
    }


def matrix_names(block: nn.Module) -> list[str]:
    """Return the types of a block's matrices for tables and figures, in the block's order.

    They are BERT's names if the first three begin with q, k and v and all six have the shapes of
    attention and feed-forward. Otherwise they are paths.
    """
    paths, linears = zip(*matrix_modules(block))
    shapes = [tuple(linear.weight.shape) for linear in linears]
    hidden, inner = shapes[0][0], shapes[-1][1]
    usual = [(hidden, hidden)] * 4 + [(inner, hidden), (hidden, inner)]
    if shapes == usual and [path.split(".")[-1][:1] for path in paths[:3]] == ["q", "k", "v"]:
        return ["query", "key", "value", "attention output", "intermediate", "output"]
    return [path.removeprefix("attention.self.").removesuffix(".dense").replace(".", " ")
            for path in paths]
