r"""Remove neurons, heads and dimensions that the merged zeros make useless; the logits stay.

A unit is dead if its output is the same for every token, or if nothing reads it. A constant output
moves into the next bias. Heads may then differ in size, which stock classes cannot express, so
`NarrowSelfAttention` replaces a layer's self-attention. Its scale stays $1/\sqrt{d}$ of the full
head size d.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from smp.model.encoder import encoder_layers, encoder_linears
from smp.model.save import check_merged, count_parameters

PRUNABLE = ("bert", "camembert", "electra", "roberta", "xlm-roberta")  # model types


def to_heads(flat: Tensor, sizes: Sequence[int], width: int) -> Tensor:
    """(batch, tokens, sum of sizes) -> (batch, heads, tokens, width), 0 beyond a head's size."""
    if set(sizes) == {width}:
        return flat.unflatten(-1, (len(sizes), width)).transpose(1, 2)
    parts = flat.split(sizes, dim=-1)
    return torch.stack([functional.pad(part, (0, width - part.shape[-1])) for part in parts], 1)


class NarrowSelfAttention(nn.Module):
    """Self-attention made of a stock one, with heads of different sizes.

    keys, values: bool (heads, head size), the dimensions that stay; a head without a value
    dimension is left out. Hidden states (batch, tokens, hidden) -> (batch, tokens, kept values).
    """

    def __init__(self, stock: nn.Module, keys: Tensor, values: Tensor):
        super().__init__()
        self.query, self.key, self.value = stock.query, stock.key, stock.value
        self.dropout, self.scaling = stock.dropout, stock.scaling
        heads = values.any(dim=1)
        keys = keys & heads[:, None]
        for linear, kept in ((self.query, keys), (self.key, keys), (self.value, values)):
            narrow(linear, rows=kept.flatten())
        self.key_sizes = keys.sum(dim=1)[heads].tolist()
        self.value_sizes = values.sum(dim=1)[heads].tolist()
        # torch's fused attention needs one width; zeros change neither attention scores nor values
        self.width = max(self.key_sizes + self.value_sizes, default=0)
        self.train(stock.training)  # a new module would drop out

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None,
                **kwargs) -> tuple[Tensor, None]:
        value = self.value(hidden_states)
        if not self.width:
            return value, None
        context = functional.scaled_dot_product_attention(
            to_heads(self.query(hidden_states), self.key_sizes, self.width),
            to_heads(self.key(hidden_states), self.key_sizes, self.width),
            to_heads(value, self.value_sizes, self.width),
            attn_mask=attention_mask, scale=self.scaling,
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        kept = [context[:, head, :, :size] for head, size in enumerate(self.value_sizes)]
        return torch.cat(kept, dim=-1), None


def narrow(linear: nn.Linear, rows: Any = slice(None), columns: Any = slice(None)) -> None:
    """Keep these rows (outputs) and columns (inputs) of an nn.Linear, in place; bool masks."""
    weight, bias = linear.weight.detach()[rows][:, columns], linear.bias.detach()[rows]
    linear.out_features, linear.in_features = weight.shape
    linear.weight = nn.Parameter(weight.contiguous(), linear.weight.requires_grad)
    linear.bias = nn.Parameter(bias.contiguous(), linear.bias.requires_grad)


def is_zero(linear: nn.Linear, dim: int) -> Tensor:
    """Return bool (out,) of the rows of zeros for dim=1, (in,) of the columns for dim=0."""
    return ~linear.weight.detach().bool().any(dim)


def fold(linear: nn.Linear, constant: Tensor, columns: Tensor) -> None:
    """Add the product of these columns with a constant input (in,) to the bias, in float64."""
    product = linear.weight[:, columns].double() @ constant[columns].double()
    linear.bias += product.to(linear.bias.dtype)


@torch.no_grad()
def prune_layer(block: nn.Module) -> dict[str, int]:
    """Remove the dead units of a stock layer; return their numbers by kind."""
    attention, output = block.attention.self, block.attention.output.dense
    up, down = block.intermediate.dense, block.output.dense
    constant = is_zero(up, dim=1)  # the neuron's output is act(b)
    fold(down, block.intermediate.intermediate_act_fn(up.bias), constant)
    neurons = ~(constant | is_zero(down, dim=0))

    constant = is_zero(attention.value, dim=1)  # b, because attention probabilities sum to 1
    fold(output, attention.value.bias, constant)
    values = ~(constant | is_zero(output, dim=0))

    # A dead key row adds the same to every key's score, which softmax ignores.
    no_query = is_zero(attention.query, dim=1) & (attention.query.bias == 0)
    keys = ~(is_zero(attention.key, dim=1) | no_query)
    heads = (attention.num_attention_heads, attention.attention_head_size)
    keys, values = keys.view(heads), values.view(heads)
    keys = keys & values.any(dim=1, keepdim=True)
    shape_layer(block, neurons, keys, values)
    return {
        "neurons": int((~neurons).sum()), "heads": int((~values.any(dim=1)).sum()),
        "value_dimensions": int((~values).sum()), "key_dimensions": int((~keys).sum()),
    }


def shape_layer(block: nn.Module, neurons: Tensor, keys: Tensor, values: Tensor) -> None:
    """Keep these neurons (inner,), key and value dimensions (heads, head size) of a layer."""
    narrow(block.intermediate.dense, rows=neurons)
    narrow(block.output.dense, columns=neurons)
    if not (keys.all() and values.all()):
        block.attention.self = NarrowSelfAttention(block.attention.self, keys, values)
        narrow(block.attention.output.dense, columns=values.flatten())


def prune_dead_units(model: PreTrainedModel) -> dict:
    """Remove the dead units of a model in place; its logits change by rounding only.

    model: a stock one with merged masks, without dropout. Returns {"parameters": [before, after],
    "layers": [{"layer", "neurons", "heads", "value_dimensions", "key_dimensions", "parameters":
    [before, after]}]}, the numbers of removed units; the dimensions of removed heads count too.
    Raises ValueError, and changes nothing, if the layers are not stock layers of PRUNABLE.
    """
    before, removed = count_parameters(model), []
    for layer, block in enumerate(stock_layers(model)):
        size = count_parameters(block)
        units = prune_layer(block)
        removed.append({"layer": layer, **units, "parameters": [size, count_parameters(block)]})
    model.set_attn_implementation("sdpa")  # the attention mask that NarrowSelfAttention takes
    return {"parameters": [before, count_parameters(model)], "layers": removed}


def stock_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the encoder's layers. Raises ValueError unless all are stock layers of PRUNABLE."""
    check_merged(model)
    kind, config = type(model).__name__, model.config
    if config.model_type not in PRUNABLE:
        raise ValueError(f"{kind} cannot be compacted: its layers are not those of BERT; expected "
                         f"one of {', '.join(PRUNABLE)}")
    if config.is_decoder or config.add_cross_attention:
        raise ValueError(f"{kind} cannot be compacted: it is a decoder; expected an encoder")
    if any(isinstance(module, NarrowSelfAttention) for module in model.modules()):
        raise ValueError(f"{kind} is compact already")
    encoder_linears(model)  # raises for quantised or shared matrices
    return encoder_layers(model)
