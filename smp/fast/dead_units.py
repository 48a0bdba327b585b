r"""Remove dead neurons, heads and dimensions in place, without a change of the logits.

A unit is dead if its output is the same for every token, or if all weights on its output are zero.
A constant output moves into the next bias. Heads may then differ in size, which stock classes do
not support, so `NarrowSelfAttention` replaces a layer's self-attention. Its scale stays
$1/\sqrt{d}$ for the full head size d.
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
    """Reshape (batch, tokens, sum of sizes) to (batch, heads, tokens, width), padded with 0."""
    if set(sizes) == {width}:
        return flat.unflatten(-1, (len(sizes), width)).transpose(1, 2)
    parts = flat.split(sizes, dim=-1)
    return torch.stack([functional.pad(part, (0, width - part.shape[-1])) for part in parts], 1)


class NarrowSelfAttention(nn.Module):
    """Self-attention with heads of different sizes, made from a stock self-attention.

    keys, values: bool (heads, head size), the dimensions that stay. A head without a value
    dimension is removed. Hidden states (batch, tokens, hidden) -> (batch, tokens, kept values).
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
        # torch's fused attention needs one width; zeros change no attention score and no value
        self.width = max(self.key_sizes + self.value_sizes, default=0)
        self.train(stock.training)  # a new module is in training mode, with dropout

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
    """Keep the marked rows (outputs) and columns (inputs) of an nn.Linear, in place; bool masks."""
    weight, bias = linear.weight.detach()[rows][:, columns], linear.bias.detach()[rows]
    linear.out_features, linear.in_features = weight.shape
    linear.weight = nn.Parameter(weight.contiguous(), linear.weight.requires_grad)
    linear.bias = nn.Parameter(bias.contiguous(), linear.bias.requires_grad)


def is_zero(linear: nn.Linear, dim: int) -> Tensor:
    """Return bool (out,), the rows of zeros, for dim=1, and (in,), the columns, for dim=0."""
    return ~linear.weight.detach().bool().any(dim)


def fold(linear: nn.Linear, constant: Tensor, columns: Tensor) -> None:
    """Add the product of the columns with a constant input (in,) to the bias, in float64."""
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

    # A dead key row adds the same number to the score of every key, so softmax does not change.
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
    """Keep the marked neurons (inner,) and key and value dimensions (heads, head size)."""
    narrow(block.intermediate.dense, rows=neurons)
    narrow(block.output.dense, columns=neurons)
    if not (keys.all() and values.all()):
        block.attention.self = NarrowSelfAttention(block.attention.self, keys, values)
        narrow(block.attention.output.dense, columns=values.flatten())


def prune_dead_units(model: PreTrainedModel) -> dict:
    """Remove the dead units of a model in place; its logits change by rounding only.

    model: a stock model with merged masks, without dropout. Returns {"parameters": [before, after],
    "layers": [{"layer", "neurons", "heads", "value_dimensions", "key_dimensions", "parameters":
    [before, after]}]}, the numbers of removed units. They include the dimensions of removed heads.
    Raises ValueError, without a change, if the layers are not stock layers of PRUNABLE.
    """
    before, removed = count_parameters(model), []
    for layer, block in enumerate(stock_layers(model)):
        size = count_parameters(block)
        units = prune_layer(block)
        removed.append({"layer": layer, **units, "parameters": [size, count_parameters(block)]})
    model.set_attn_implementation("sdpa")  # the attention mask that NarrowSelfAttention takes
    return {"parameters": [before, count_parameters(model)], "layers": removed}


def stock_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the encoder's layers. Raises ValueError if one is not a stock layer of PRUNABLE."""
    check_merged(model)
    kind, config = type(model).__name__, model.config
    if config.model_type not in PRUNABLE:
        raise ValueError(f"dead units of {kind} cannot be removed: its model type is "
                         f"{config.model_type}, expected one of {', '.join(PRUNABLE)}")
    if config.is_decoder or config.add_cross_attention:
        raise ValueError(f"dead units of {kind} cannot be removed: it is a decoder, expected an "
                         "encoder")
    if any(isinstance(module, NarrowSelfAttention) for module in model.modules()):
        raise ValueError(f"the dead units of {kind} are already removed")
    encoder_linears(model)  # raises for quantised or shared matrices
    return encoder_layers(model)
