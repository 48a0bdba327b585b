"""Save models as stock checkpoints, and measure and fingerprint them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from smp.files import replace_folder

PROBE = "The Café's co-op, İzmir:\u200b 中文 №½"  # tokenizers differ in letters, accents, signs
NO_EFFECT = (  # in the names of a config's fields that do not change a loaded model's outputs
    "dropout dtype version architectures label name tokenizer problem task output_ return_ cache "
    "checkpointing chunk initializer bos_token eos_token attn_implementation").split()


def check_merged(model: nn.Module) -> None:
    """Raise ValueError if masks are still attached to the model."""
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise ValueError(f"{type(model).__name__} still has its masks attached; merge them into "
                         "the weights first: masks.merge()")


def save_model(model: nn.Module, tokenizer: Any, folder: Path | str) -> Path:
    """Save a stock model and its tokenizer; replace the content of the folder; return the folder.

    Raises ValueError if masks are attached, or if a layer is not of torch or transformers.
    """
    check_merged(model)
    for layer in map(type, model.modules()):
        if layer.__module__.split(".")[0] not in ("torch", "transformers"):
            raise ValueError(
                f"{type(model).__name__} contains {layer.__name__}, which transformers cannot "
                "load; save stock_model(model, base), or use save_compact")

    def write(draft):
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)

    return replace_folder(folder, write)


def model_bytes(folder: Path | str) -> int:
    """Return the size of the weights in a saved model's folder, in bytes."""
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")
               if path.stem.startswith(("model", "compact")))


def count_parameters(model: nn.Module) -> int:
    """Return the number of the model's parameters, without the scores of masks."""
    return sum(p.numel() for n, p in model.named_parameters() if not n.endswith(".scores"))


def model_fingerprint(model: nn.Module, with_head: bool = False) -> str:
    """Return 12 hex digits of the SHA-256 of the weights, names and shapes, without masks.

    with_head: of the whole model; otherwise of the encoder.
    """
    return tensors_fingerprint((model if with_head else model.base_model).state_dict())


def tensors_fingerprint(tensors: dict) -> str:
    """Return 12 hex digits of the SHA-256 of {name: tensor}."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def head_parts(model: nn.Module) -> nn.ModuleDict:
    """Return the modules of a question-answering model that are not in its encoder."""
    return nn.ModuleDict({name: part for name, part in model.named_children()
                          if part is not model.base_model})


def model_setup(model: nn.Module, tokenizer: Any) -> dict:
    """Return what decides the outputs of a model, apart from the weights of its encoder.

    Fields of its config with their values, and 12 hex digits of "tokenizer" (of the vocabulary and
    the tokens of a text) and "head" (of its weights).
    """
    tokens = [sorted(tokenizer.get_vocab().items()), tokenizer(PROBE, PROBE)["input_ids"]]
    config = json.loads(model.config.to_json_string(use_diff=False))
    return {
        **{name: value for name, value in config.items() if not any(w in name for w in NO_EFFECT)},
        "tokenizer": hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:12],
        "head": model_fingerprint(head_parts(model), with_head=True)}
