"""Save and load models without dead units: weights, and compact.json with the layers' sizes."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights
from transformers import PreTrainedModel

from smp.fast.dead_units import NarrowSelfAttention, shape_layer, stock_layers
from smp.files import replace_folder
from smp.model.encoder import encoder_layers
from smp.model.load import check_weights, load_pretrained
from smp.model.save import check_merged
from smp.model.student import LabelWordHead
from smp.text import first_line

COMPACT_FORMAT = "smp-compact-1"


def layer_sizes(block: torch.nn.Module) -> dict:
    """Return {"neurons": n, "heads": [[key dimensions, value dimensions]]} of a layer."""
    attention = block.attention.self
    if isinstance(attention, NarrowSelfAttention):
        heads = [list(head) for head in zip(attention.key_sizes, attention.value_sizes)]
    else:
        heads = [[attention.attention_head_size] * 2] * attention.num_attention_heads
    return {"neurons": block.intermediate.dense.out_features, "heads": heads}


def save_compact(model: PreTrainedModel, tokenizer: Any, folder: Path | str) -> Path:
    """Save a compact model and its tokenizer for `load_compact`; replace the folder's content.

    Stock `from_pretrained` cannot load it. Raises ValueError for a head that is not stock, for
    masks that are not merged, and for an accelerated model.
    """
    check_merged(model)
    if isinstance(getattr(model, "qa_outputs", None), LabelWordHead):
        raise ValueError(f"{type(model).__name__} has a label-word head: save it with save_model, "
                         "load that as AutoModelForMaskedLM, compact it and save it again")

    def write(draft):
        draft.mkdir(parents=True)
        save_weights(model, str(draft / "compact.safetensors"))
        model.config.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        (draft / "compact.json").write_text(json.dumps({
            "format": COMPACT_FORMAT, "class": type(model).__name__,
            "layers": [layer_sizes(block) for block in encoder_layers(model)]}))

    return replace_folder(folder, write)


def compact_as_csr(folder: Path, names: Sequence[str]) -> None:
    """Move these matrices of a saved compact model into csr.safetensors, as compressed rows.

    Each becomes rows (first entry of each, int32), columns (uint16) and values.
    """
    tensors = load_file(folder / "compact.safetensors")
    csr: dict[str, torch.Tensor] = {}
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls CSR a beta feature
            weight = tensors.pop(name).to_sparse_csr()
        csr |= {f"rows:{name}": weight.crow_indices().int(), f"values:{name}": weight.values(),
                f"columns:{name}": weight.col_indices().to(torch.uint16)}
    save_file(csr, folder / "csr.safetensors")
    save_file(tensors, folder / "compact.safetensors")


@torch.no_grad()
def load_csr(model: torch.nn.Module, path: Path) -> set[str]:
    """Copy the matrices of csr.safetensors into a model; return their names, none without it."""
    csr = load_file(path) if path.exists() else {}
    names = {name.removeprefix("rows:") for name in csr if name.startswith("rows:")}
    for name in names:
        rows, columns, values = (csr[f"{part}:{name}"] for part in ("rows", "columns", "values"))
        weight = model.get_parameter(name)
        if len(rows) != len(weight) + 1:
            raise ValueError(f"{name} has {len(rows) - 1} rows, expected {len(weight)}")
        counts = rows.long().diff()  # checked, because repeat_interleave would fill the memory
        if (counts < 0).any() or counts.sum() != len(values):
            raise ValueError(f"the rows of {name} do not have {len(values)} values")
        weight.zero_()
        number = torch.arange(len(rows) - 1).repeat_interleave(counts)
        weight[number, columns.long()] = values
    return names


def load_compact(folder: Path | str) -> PreTrainedModel:
    """Return the model that `save_compact` wrote, in evaluation mode.

    Its tokenizer is stock: `AutoTokenizer.from_pretrained(folder)`. Raises FileNotFoundError or
    ValueError with one line if a file is missing or damaged.
    """
    folder = Path(folder)
    if not (folder / "compact.json").is_file():
        raise FileNotFoundError(f"{folder} has no compact.json; name a folder of save_compact")
    config = load_pretrained(transformers.AutoConfig, str(folder))
    try:
        config._attn_implementation = None  # it might name code from the Hub
        about = json.loads((folder / "compact.json").read_text())
        if about["format"] != COMPACT_FORMAT:
            raise ValueError(f"format is {about['format']!r}, expected {COMPACT_FORMAT!r}")
        model_class = getattr(transformers, about["class"])
        if not issubclass(model_class, PreTrainedModel):
            raise ValueError(f"class is {about['class']!r}, expected a model of transformers")
        if len(about["layers"]) != config.num_hidden_layers:
            raise ValueError(f"it has {len(about['layers'])} layers, and config.json "
                             f"{config.num_hidden_layers}")
        check_weights(config, [*folder.glob("*.safetensors")], model_class)
        model = model_class(config).eval()
        for block, sizes in zip(stock_layers(model), about["layers"], strict=True):
            attention, inner = block.attention.self, block.intermediate.dense.out_features
            removed = [[0, 0]] * (attention.num_attention_heads - len(sizes["heads"]))
            keys, values = torch.tensor([*sizes["heads"], *removed]).T
            size = attention.attention_head_size
            neurons = first_of(torch.tensor(sizes["neurons"]), inner)
            shape_layer(block, neurons, first_of(keys, size), first_of(values, size))
        model.set_attn_implementation("sdpa")
        missing, more = load_weights(model, str(folder / "compact.safetensors"), strict=False)
        if more or {*missing} != load_csr(model, folder / "csr.safetensors"):
            raise ValueError(f"{len(missing)} weights are missing and {len(more)} do not fit")
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no compact.safetensors") from None
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError,
            SafetensorError) as error:
        raise ValueError(f"{folder} cannot be loaded as a compact model ({first_line(error)}): "
                         "save it again") from None
    return model


def first_of(counts: torch.Tensor, total: int) -> torch.Tensor:
    """Return bool (..., total) whose first counts (...) entries are True."""
    return torch.arange(total) < counts[..., None]
