"""Load the student, which is the model that SMP masks, with one of three heads.

"label words": the masked-LM logits of *yes* and *no* are the start and end logits. "embedding
rows": the word embeddings of *yes* and *no* are the rows of a linear layer. Both are frozen.
"trained": a linear layer that is trained. Source: SMP, section 3, and the authors' code.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForMaskedLM

from smp.model.load import load_model, load_qa_model
from smp.model.save import check_merged, head_parts, model_fingerprint

STUDENT_HEADS = ("label words", "embedding rows", "trained")
ROBERTA_TRANSFORM = ("lm_head.dense", "gelu", "lm_head.layer_norm")
MASKED_LM_TRANSFORMS = {  # model type: modules in their order; "gelu" is written in the forward
    "albert": ("predictions.dense", "predictions.activation", "predictions.LayerNorm"),
    "bert": ("cls.predictions.transform",),
    "camembert": ROBERTA_TRANSFORM,
    "distilbert": ("vocab_transform", "activation", "vocab_layer_norm"),
    "electra": ("generator_predictions",),
    "mpnet": ROBERTA_TRANSFORM,
    "roberta": ROBERTA_TRANSFORM,
    "xlm-roberta": ROBERTA_TRANSFORM,
}


class HeadNotFoundError(ValueError):
    """The checkpoint does not contain the weights of the head."""


class LabelWordHead(nn.Sequential):
    """Return start and end logits, the masked-LM logits of two label words.

    forward: (batch, length, hidden) -> (batch, length, 2). transform: dense, activation and
    LayerNorm of the masked-LM head; decoder: its rows of the two label words. The logits
    equal a slice of the full masked-LM logits.
    Source: the authors' code (the paper's section 3 describes a plain dot product).
    """


def linear_of_rows(rows: torch.Tensor, bias: torch.Tensor | float) -> nn.Linear:
    """Return a linear layer with a copy of the rows (2, width) and the bias (2,)."""
    linear = nn.Linear(rows.shape[1], 2)
    with torch.no_grad():
        linear.weight[:], linear.bias[:] = rows, bias
    return linear


def label_word_ids(tokenizer: Any) -> list[int]:
    """Return the token ids of *yes* and *no* after a space, as within a sentence.

    Raises HeadNotFoundError if a word is not one token of the vocabulary.
    """
    ids: list[int] = []
    for word in ("yes", "no"):
        tokens = tokenizer.encode(" " + word, add_special_tokens=False)
        if len(tokens) != 1 or tokens[0] == tokenizer.unk_token_id:
            raise HeadNotFoundError(f"the label word {word!r} is not one token of the vocabulary")
        ids += tokens
    return ids


def label_word_head(masked_lm: nn.Module, tokenizer: Any) -> LabelWordHead:
    """Return the frozen head "label words", made of a stock masked language model."""
    ids, decoder = label_word_ids(tokenizer), masked_lm.get_output_embeddings()
    head = LabelWordHead()
    head.transform = nn.Sequential(*(
        nn.GELU() if path == "gelu" else masked_lm.get_submodule(path)
        for path in MASKED_LM_TRANSFORMS[masked_lm.config.model_type]
    ))
    head.decoder = linear_of_rows(decoder.weight[ids], decoder.bias[ids])
    return head.requires_grad_(False)


def embedding_rows_head(model: nn.Module, tokenizer: Any) -> nn.Linear:
    """Return the frozen head "embedding rows", nn.Linear(hidden, 2) with bias 0.

    Raises HeadNotFoundError if a word is not one token, if the model has no linear qa_outputs, or
    if hidden states and word embeddings differ in size.
    """
    ids, rows = label_word_ids(tokenizer), model.get_input_embeddings().weight
    if not isinstance(getattr(model, "qa_outputs", None), nn.Linear):
        raise HeadNotFoundError(f"{type(model).__name__} has no linear layer qa_outputs")
    hidden = model.qa_outputs.in_features
    if rows.shape[1] != hidden:
        raise HeadNotFoundError(f"its word embeddings have size {rows.shape[1]}, its hidden "
                                f"states {hidden}")
    return linear_of_rows(rows[ids], 0.0).requires_grad_(False)


def load_student(name: str, dropout: float | None = None, max_length: int | None = None,
                 head: str = "auto") -> tuple[nn.Module, Any, str]:
    """Return (model, tokenizer, its head of STUDENT_HEADS).

    head: one of STUDENT_HEADS, or "auto": label words if possible, otherwise trained. A trained
    head is the checkpoint's, or new. Raises ValueError if the checkpoint does not contain what the
    head is made of, and raises as `load_qa_model`.
    """
    if head not in ("auto", *STUDENT_HEADS):
        raise ValueError(f"head is {head!r}: expected one of auto, {', '.join(STUDENT_HEADS)}")
    model, tokenizer, _ = load_qa_model(name, dropout, max_length)
    try:
        if head == "embedding rows":
            model.qa_outputs = embedding_rows_head(model, tokenizer)
        elif head != "trained":
            kind = model.config.model_type
            if kind not in MASKED_LM_TRANSFORMS:
                raise HeadNotFoundError(f"the masked-LM head of {kind!r} models is not supported")
            masked_lm, missing = load_model(AutoModelForMaskedLM, name)
            if missing:
                raise HeadNotFoundError("the checkpoint has no masked-LM head")
            model.qa_outputs, head = label_word_head(masked_lm, tokenizer), "label words"
    except HeadNotFoundError as error:
        if head != "auto":
            raise ValueError(f"model {name!r} with head {head!r}: {error}; set head to trained"
                             ) from None
        head = "trained"
    if head != "trained":
        model.setup["head"] = model_fingerprint(head_parts(model), with_head=True)
    return model, tokenizer, head


def stock_model(model: nn.Module, base: str) -> nn.Module:
    """Return the model, masks merged, as an instance of a stock class for `save_model`.

    base: the name that the model was loaded by. A model with the head "label words" becomes the
    masked language model of that name with the pruned encoder; another model is returned as it is.
    Raises ValueError if the masks are not merged.
    """
    check_merged(model)
    if not isinstance(getattr(model, "qa_outputs", None), LabelWordHead):
        return model
    host, _ = load_model(AutoModelForMaskedLM, base)
    host.base_model.load_state_dict(model.base_model.state_dict())
    return host.eval()
