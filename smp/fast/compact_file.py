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

import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights

from smp.fast.dead_units import NarrowSelfAttention, shape_layer, stock_layers
from smp.model.encoder import encoder_stacks
from smp.model.head import LabelWordHead
from smp.model.load import load_pretrained
from smp.text import first_line

COMPACT_FORMAT = "smp-compact-1"


def layer_sizes(block):
    """{"neurons": n, "heads": [[key dimensions, value dimensions]]} of a layer, as it is."""
    attention, sizes = block.attention.self, {"neurons": block.intermediate.dense.out_features}
    if isinstance(attention, NarrowSelfAttention):
        heads = zip(attention.key_sizes, attention.value_sizes)
    else:
        heads = [[attention.attention_head_size] * 2] * attention.num_attention_heads
    return sizes | {"heads": [list(head) for head in heads]}


def save_compact(model, tokenizer, folder):
    """Saves a compacted model and its tokenizer for `load_compact`; replaces what `folder` held.

    Stock `from_pretrained` cannot load it. Raises ValueError for a head that is not the stock one.
    """
    if isinstance(getattr(model, "qa_outputs", None), LabelWordHead):
        raise ValueError(
            f"{type(model).__name__} has a label-word head: save it with save_model, load that as "
            "AutoModelForMaskedLM, compact it and save it again"
        )
    (layers,) = encoder_stacks(model).values()
    about = {"format": COMPACT_FORMAT, "class": type(model).__name__,
             "layers": [layer_sizes(block) for block in layers]}
    folder = Path(folder)
    draft, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    for leftover in (draft, old):
        shutil.rmtree(leftover, ignore_errors=True)
    draft.mkdir(parents=True)
    model.config.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    (draft / "compact.json").write_text(json.dumps(about))
    save_weights(model, str(draft / "compact.safetensors"))
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def load_compact(folder):
    """The model that `save_compact` wrote, in evaluation mode; its tokenizer is stock
    `AutoTokenizer.from_pretrained(folder)`.

    Raises FileNotFoundError or ValueError with one line where it is not there, or not whole.
    """
    folder = Path(folder)
    if not (folder / "compact.json").is_file():
        raise FileNotFoundError(f"{folder} has no compact.json; name a folder of save_compact")
    config = load_pretrained(transformers.AutoConfig, str(folder))
    try:
        about = json.loads((folder / "compact.json").read_text())
        if about["format"] != COMPACT_FORMAT:
            raise ValueError(f"its compact.json does not say {COMPACT_FORMAT}")
        model_class = getattr(transformers, about["class"])
        if not issubclass(model_class, transformers.PreTrainedModel):
            raise ValueError(f"{about['class']!r} is no model of transformers")
        model = model_class(config).eval()
        layers = stock_layers(model)
        for block, sizes in zip(layers, about["layers"], strict=True):
            attention, inner = block.attention.self, block.intermediate.dense.out_features
            missing = [[0, 0]] * (attention.num_attention_heads - len(sizes["heads"]))
            keys, values = torch.tensor([*sizes["heads"], *missing]).T
            size = attention.attention_head_size
            neurons = first_of(torch.tensor(sizes["neurons"]), inner)
            shape_layer(block, neurons, first_of(keys, size), first_of(values, size))
        model.set_attn_implementation("sdpa")
        load_weights(model, str(folder / "compact.safetensors"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no compact.safetensors") from None
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError, OSError,
            RecursionError, SafetensorError) as error:
        raise ValueError(f"{folder} is no whole compact model: {first_line(error)}") from None
    return model


def first_of(counts, total):
    """bool (..., total): the first `count` of each."""
    return torch.arange(total) < counts[..., None]
