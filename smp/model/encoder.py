"""Which weights are masked: every linear layer in the encoder's stack of equal layers.

They are found by structure, not by name, so BERT, RoBERTa, DistilBERT, ELECTRA and MPNet work. ALBERT
runs one layer many times, and its masks serve every pass. Embeddings, LayerNorms, biases and the head
are never masked. A model whose weights are elsewhere is refused.
"""

import inspect
from collections import Counter

from torch import nn
from torch.nn.utils import parametrize


def matrix_modules(block):
    """[(path, module)] of the modules in a block that hold a matrix; tables (nn.Embedding) do not
    count. A weight that is a method is that of torch's quantised layers."""
    return [
        (path, module) for path, module in block.named_modules()
        if not isinstance(module, nn.Embedding) and (
            inspect.ismethod(getattr(module, "weight", None))
            or any(own.dim() > 1 for own in module.parameters(recurse=False))
        )
    ]


def encoder_stacks(model):
    """{name: nn.ModuleList} of the base model's lists of layers that hold matrices, outermost."""
    stacks = {}
    for name, module in model.base_model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and not inside and matrix_modules(module):
            stacks[name] = module
    return stacks


def why_unmaskable(model, stacks):
    """What keeps a model with these stacks of layers from being masked; "" where nothing does."""
    if len(stacks) != 1:
        some = f"{len(stacks)} stacks of layers, not one ({', '.join(stacks)})"
        return f"has {some if stacks else 'no stack of encoder layers'}"
    (stack,) = stacks.values()
    uses = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    shapes = [[] for _ in stack]
    for layer, block in enumerate(stack):
        for path, module in matrix_modules(block):
            weight = getattr(module, "weight", None)
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


def encoder_linears(model):
    """Return [(name in the base model, kind, layer, nn.Linear)] of the encoder, as `Masks` takes it.

    Raises ValueError with the reason where the model has not exactly one stack of layers, or where
    these are not alike, not made of plain nn.Linear, or share weights.
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
        for kind, (path, linear) in zip(matrix_names(block), matrix_modules(block), strict=True)
    ]


def encoder_layers(model):
    """Return the nn.ModuleList of the encoder's layers. ValueError unless there is exactly one."""
    (layers,) = encoder_stacks(model).values()
    return layers


def freeze_encoder(model, train_biases_and_norms=False):
    """Freeze the base model, except the biases and LayerNorms of its layers where they are trained."""
    for parameter in model.base_model.parameters():
        parameter.requires_grad_(False)
    for parameter in biases_and_norms(model).values() if train_biases_and_norms else ():
        parameter.requires_grad_(True)


def biases_and_norms(model):
    """{name in the base model: parameter (n,)} of the same layers: their biases and LayerNorms.

    SMP leaves them as they are. Of large language models, to train them after pruning is known to
    repair much (Zimmer et al. 2023, "PERP"). They are few, 0.1% of BERT-base, and shipped beside
    the masks.
    """
    return {
        f"{stack}.{name}": parameter
        for stack, blocks in encoder_stacks(model).items()
        for name, parameter in blocks.named_parameters() if parameter.dim() == 1
    }


def matrix_names(block):
    """Readers' names of a block's matrices, in its order.

    Six that start with q, k and v and have the shapes of attention and feed-forward are called as
    in BERT, whatever the family calls them; others by their paths.
    """
    paths, linears = zip(*matrix_modules(block), strict=True)
    shapes = [tuple(linear.weight.shape) for linear in linears]
    hidden, inner = shapes[0][0], shapes[-1][1]
    usual = [(hidden, hidden)] * 4 + [(inner, hidden), (hidden, inner)]
    if shapes == usual and [path.split(".")[-1][:1] for path in paths[:3]] == ["q", "k", "v"]:
        return ["query", "key", "value", "attention output", "intermediate", "output"]
    return [matrix_name(path) for path in paths]


def matrix_name(path):
    """Reader's name of a path in a layer: 'attention.self.query' is 'query'."""
    return path.removeprefix("attention.self.").removesuffix(".dense").replace(".", " ")
