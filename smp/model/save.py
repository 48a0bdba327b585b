"""Save models as stock checkpoints, and measure and fingerprint them."""

import hashlib
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.utils import parametrize
from transformers import AutoModelForMaskedLM

from smp.files import replace_folder
from smp.model.head import LabelWordHead
from smp.model.load import load_model


def check_merged(model: nn.Module) -> None:
    """Raise ValueError if masks are still attached to the model."""
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise ValueError(f"{type(model).__name__} still has its masks attached; merge them into "
                         "the weights first: masks.merge()")


def stock_model(model: nn.Module, base: str = "") -> nn.Module:
    """Return the model, masks merged, as an instance of a stock class that holds all its weights.

    A model with a label-word head becomes the masked language model `base` with its encoder. Raises
    ValueError if the masks are not merged.
    """
    check_merged(model)
    if not isinstance(getattr(model, "qa_outputs", None), LabelWordHead):
        return model
    host, _ = load_model(AutoModelForMaskedLM, base)
    host.base_model.load_state_dict(model.base_model.state_dict())
    return host.eval()


def save_model(model: nn.Module, tokenizer: Any, folder: Path | str,
               base: str = "") -> Path:
    """Save the model, masks merged, and its tokenizer; replace what `folder` contains.

    base: the name the model was loaded by, needed with a label-word head.
    """
    host = stock_model(model, base)

    def write(draft):
        host.save_pretrained(draft)
        tokenizer.save_pretrained(draft)

    return replace_folder(folder, write)


def model_bytes(folder: Path | str) -> int:
    """Return the size of the weights in a saved model's folder, in bytes."""
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")
               if path.stem.startswith(("model", "compact")))


def head_parts(model: nn.Module) -> dict[str, nn.Module]:
    """Return {name: module} of a question-answering model's parts outside its encoder."""
    return {name: part for name, part in model.named_children() if part is not model.base_model}


def count_parameters(model: nn.Module) -> int:
    """Return the number of the model's parameters without the scores of masks."""
    return sum(p.numel() for n, p in model.named_parameters() if not n.endswith(".scores"))


def model_fingerprint(model: nn.Module, with_head: bool = False) -> str:
    """Return 12 hex digits of sha256 over the encoder's weights, names and shapes, without masks.

    with_head: of the whole model.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted((model if with_head else model.base_model).state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
