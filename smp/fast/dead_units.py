r"""Exactly smaller.

Some of what a mask leaves does nothing, or the same for every token. It can be taken out of the
matrices, which are then really smaller, and the logits stay what they were:

- a neuron of the feed-forward network whose up-row is all zero always says $act(b)$, which goes
  into the down bias; one whose down-column is all zero is not heard at all;
- a value dimension whose value row is all zero is always $b$, which goes into the bias of the
  attention output, as the probabilities of attention sum to 1; one whose column there is all
  zero is not heard;
- a key dimension whose key row is all zero adds the same to every key's score, which softmax does
  not see; one whose query row and bias are zero adds 0;
- a head without a value dimension is nothing.

The scale stays that of the full head, $1/\sqrt{d}$. Heads may then differ in size, which stock
classes cannot express; a layer's self-attention is replaced by one that can.
"""

import torch
from torch import nn
from torch.nn import functional

from smp.fast.sparse import check_baked
from smp.model.encoder import encoder_linears, encoder_stacks
from smp.model.save import count_parameters

PRUNABLE = ("bert", "camembert", "electra", "roberta", "xlm-roberta")  # model types


def to_heads(flat, sizes, width):
    """(batch, tokens, sum of sizes) -> (batch, heads, tokens, width), 0 beyond a head's size."""
    if set(sizes) == {width}:
        return flat.unflatten(-1, (len(sizes), width)).transpose(1, 2)
    parts = flat.split(sizes, dim=-1)
    return torch.stack([functional.pad(part, (0, width - part.shape[-1])) for part in parts], 1)


class NarrowSelfAttention(nn.Module):
    """Self-attention like the stock one it is made of, with heads of different sizes.

    keys, values: bool (heads, head size), the dimensions that stay; a head without a value
    dimension is left out. hidden states (batch, tokens, hidden) -> (batch, tokens, kept values).
    """

    def __init__(self, stock, keys, values):
        super().__init__()
        self.query, self.key, self.value = stock.query, stock.key, stock.value
        self.dropout, self.scaling = stock.dropout, stock.scaling
        heads = values.any(dim=1)
        keys = keys & heads[:, None]
        for linear, kept in ((self.query, keys), (self.key, keys), (self.value, values)):
            narrow(linear, rows=kept.flatten())
        self.key_sizes = keys.sum(dim=1)[heads].tolist()
        self.value_sizes = values.sum(dim=1)[heads].tolist()
        # torch's fused attention wants one width; zeros change neither scores nor values
        self.width = max(self.key_sizes + self.value_sizes, default=0)
        self.train(stock.training)  # a new module is in training mode, with dropout

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        value = self.value(hidden_states)
        if not self.width:
            return value, None
        sizes = (self.key_sizes, self.key_sizes, self.value_sizes)
        flat = (self.query(hidden_states), self.key(hidden_states), value)
        context = functional.scaled_dot_product_attention(
            *(to_heads(each, of, self.width) for each, of in zip(flat, sizes)),
            attn_mask=attention_mask, scale=self.scaling,
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        kept = [context[:, head, :, :size] for head, size in enumerate(self.value_sizes)]
        return torch.cat(kept, dim=-1), None


def narrow(linear, rows=None, columns=None):
    """Keeps these rows (outputs) and columns (inputs) of an nn.Linear, in place; bool masks."""
    weight, bias = linear.weight.detach(), linear.bias.detach()
    if rows is not None:
        weight, bias = weight[rows], bias[rows]
    if columns is not None:
        weight = weight[:, columns]
    linear.out_features, linear.in_features = weight.shape
    for name, tensor in (("weight", weight), ("bias", bias)):
        learned = getattr(linear, name).requires_grad
        setattr(linear, name, nn.Parameter(tensor.contiguous(), requires_grad=learned))


# What is dead is read off the zeros of the baked matrices.
def dead_rows(linear):
    return ~linear.weight.detach().bool().any(dim=1)


def dead_columns(linear):
    return ~linear.weight.detach().bool().any(dim=0)


def fold(linear, constant, columns):
    """Adds what these columns make of a constant input (in,) to the bias, summed in float64."""
    made = linear.weight[:, columns].double() @ constant[columns].double()
    linear.bias += made.to(linear.bias.dtype)


@torch.no_grad()
def prune_layer(block):
    """Takes out of a stock layer what is dead; returns how much, by its kind."""
    attention, output = block.attention.self, block.attention.output.dense
    up, down = block.intermediate.dense, block.output.dense

    constant = dead_rows(up)
    fold(down, block.intermediate.intermediate_act_fn(up.bias), constant)
    neurons = ~(constant | dead_columns(down))

    constant = dead_rows(attention.value)
    fold(output, attention.value.bias, constant)
    values = ~(constant | dead_columns(output))
    silent_queries = dead_rows(attention.query) & (attention.query.bias == 0)
    keys = ~(dead_rows(attention.key) | silent_queries)
    heads = (attention.num_attention_heads, attention.attention_head_size)
    keys, values = keys.view(heads), values.view(heads)
    keys = keys & values.any(dim=1, keepdim=True)

    shape_layer(block, neurons, keys, values)
    return {
        "neurons": int((~neurons).sum()), "heads": int((~values.any(dim=1)).sum()),
        "value_dimensions": int((~values).sum()), "key_dimensions": int((~keys).sum()),
    }


def shape_layer(block, neurons, keys, values):
    """Keeps these neurons (inner,), key and value dimensions (heads, head size) of a layer."""
    narrow(block.intermediate.dense, rows=neurons)
    narrow(block.output.dense, columns=neurons)
    if not (keys.all() and values.all()):
        block.attention.self = NarrowSelfAttention(block.attention.self, keys, values)
        narrow(block.attention.output.dense, columns=values.flatten())


def prune_dead_units(model):
    """Takes out of the model, in place, what does nothing; its logits stay the same, but for
    rounding.

    model: a stock one with its masks baked. Returns {"parameters": [before, after], "layers":
    [{"layer", "neurons", "heads", "value_dimensions", "key_dimensions", "parameters": [before,
    after]}]}, the numbers of what was taken out; the dimensions of a head that went count too.
    Exact with dropout off. Raises ValueError with one line, and changes nothing, where the model is
    not of the layers known here.
    """
    before, removed = count_parameters(model), []
    for layer, block in enumerate(stock_layers(model)):
        size = count_parameters(block)
        took = prune_layer(block)
        removed.append(
            {"layer": layer, **took, "parameters": [size, count_parameters(block)]}
        )
    model.set_attn_implementation("sdpa")  # whose form of attention mask the new layers take
    return {"parameters": [before, count_parameters(model)], "layers": removed}


def stock_layers(model):
    """The encoder's layers, all of them stock. Raises ValueError with the reason otherwise."""
    check_baked(model)
    kind, config = type(model).__name__, model.config
    if config.model_type not in PRUNABLE:
        raise ValueError(
            f"{kind} cannot be compacted: its layers are not those of BERT; expected one of "
            f"{', '.join(PRUNABLE)}"
        )
    if config.is_decoder or config.add_cross_attention:
        raise ValueError(f"{kind} cannot be compacted: it is a decoder; expected an encoder")
    if any(isinstance(module, NarrowSelfAttention) for module in model.modules()):
        raise ValueError(f"{kind} is compact already")
    encoder_linears(model)  # refuses quantised or shared matrices
    (layers,) = encoder_stacks(model).values()
    return layers
