"""Heads made of the label words *yes* and *no*, which need no training.

The masked-LM logits of *yes* and *no* are the start and end logits. If the checkpoint has no
masked-LM head, the word embeddings of the two words are the rows of a linear layer.
Source: SMP, section 3, and the authors' code.
"""

from typing import Any

import torch
from torch import nn

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
    """The checkpoint lacks what the head is made of."""


class LabelWordHead(nn.Module):
    """hidden (batch, length, hidden) -> start and end logits (batch, length, 2), all frozen.

    transform: dense, activation and LayerNorm of the masked-LM head; weight (2, width) and bias
    (2,): the decoder's rows of the two label words. Equal to a slice of the full masked-LM logits.
    Source: the authors' code (the paper's section 3 describes a plain dot product).
    """

    def __init__(self, transform: nn.Module, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__()
        self.transform = transform.requires_grad_(False)
        self.decoder = frozen_linear(weight, bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits (batch, length, 2)."""
        return self.decoder(self.transform(hidden))


def frozen_linear(weight: torch.Tensor, bias: torch.Tensor | float) -> nn.Linear:
    """Return a frozen linear layer with a copy of weight (2, width) and bias (2,)."""
    linear = nn.Linear(weight.shape[1], 2)
    with torch.no_grad():
        linear.weight[:], linear.bias[:] = weight, bias
    return linear.requires_grad_(False)


def label_word_ids(tokenizer: Any) -> list[int]:
    """Return the token ids of *yes* and *no* after a space, as within a sentence.

    Raises HeadNotFoundError if a word is not one token of the vocabulary.
    """
    ids: list[int] = []
    for word in ("yes", "no"):
        tokens = tokenizer.encode(" " + word, add_special_tokens=False)
        if len(tokens) != 1 or tokens[0] == tokenizer.unk_token_id:
            raise HeadNotFoundError(f"the label word {word!r} is not one token of its vocabulary")
        ids += tokens
    return ids


def label_word_head(masked_lm: nn.Module, tokenizer: Any) -> LabelWordHead:
    """Return the head made of a stock masked language model's own. See `label_word_ids`."""
    ids, decoder = label_word_ids(tokenizer), masked_lm.get_output_embeddings()
    transform = nn.Sequential(*(
        nn.GELU() if path == "gelu" else masked_lm.get_submodule(path)
        for path in MASKED_LM_TRANSFORMS[masked_lm.config.model_type]
    ))
    return LabelWordHead(transform, decoder.weight[ids], decoder.bias[ids])


def embedding_rows_head(model: nn.Module, tokenizer: Any) -> nn.Linear:
    """Return nn.Linear(hidden, 2), frozen: its rows are the label words' embeddings, its bias is 0.

    Raises HeadNotFoundError if a word is not one token, if the model has no linear qa_outputs, or
    if hidden states and word embeddings differ in size. Source: SMP, section 3.
    """
    ids, rows = label_word_ids(tokenizer), model.get_input_embeddings().weight.detach()
    if not isinstance(getattr(model, "qa_outputs", None), nn.Linear):
        name = type(model).__name__
        raise HeadNotFoundError(f"{name} has no layer qa_outputs to put the rows in")
    hidden = model.qa_outputs.in_features
    if rows.shape[1] != hidden:
        raise HeadNotFoundError(
            f"its word embeddings have {rows.shape[1]} numbers, its hidden states {hidden}"
        )
    return frozen_linear(rows[ids], 0.0)
