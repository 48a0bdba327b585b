"""The label-word head.

Fine-tuning puts a new linear layer on the encoder and trains it. SMP can do without: where the
checkpoint still has its masked-language-model head, that head stays as it is, and the logit of
the word *yes* at a token is its start logit, that of *no* its end logit. Then a task is its
masks and nothing else. The decoder's other 30,520 rows are never computed.
"""

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
    """The checkpoint has not what the head is made of."""


class LabelWordHead(nn.Module):
    """hidden (batch, length, hidden) -> start and end logits (batch, length, 2), all frozen.

    transform: dense + activation + LayerNorm of the masked-LM head; weight (2, width) and bias
    (2,): the decoder's rows of the two label words. Equal to slicing the full masked-LM logits.
    Source: the authors' code (the paper's section 3 describes a plain dot product).
    """

    def __init__(self, transform, weight, bias):
        super().__init__()
        self.transform = transform
        self.decoder = nn.Linear(weight.shape[1], 2)
        with torch.no_grad():
            self.decoder.weight.copy_(weight)
            self.decoder.bias.copy_(bias)
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def forward(self, hidden):
        return self.decoder(self.transform(hidden))


def label_word_ids(tokenizer, words=("yes", "no")):
    """The words' token ids, each as within a sentence, after a space: byte-level vocabularies tell
    the two apart. Raises HeadNotThere for a word that is not one token of the vocabulary."""
    ids = []
    for word in words:
        tokens = tokenizer.encode(" " + word, add_special_tokens=False)
        if len(tokens) != 1 or tokens[0] == tokenizer.unk_token_id:
            raise HeadNotFoundError(f"the label word {word!r} is not one token of its vocabulary")
        ids += tokens
    return ids


def label_word_head(masked_lm, tokenizer):
    """The head made of a stock masked language model's own. Raises HeadNotThere for a word that is
    not one token."""
    ids, decoder = label_word_ids(tokenizer), masked_lm.get_output_embeddings()
    transform = nn.Sequential(*(
        nn.GELU() if path == "gelu" else masked_lm.get_submodule(path)
        for path in MASKED_LM_TRANSFORMS[masked_lm.config.model_type]
    ))
    return LabelWordHead(transform, decoder.weight[ids], decoder.bias[ids])


# The paper's own form is plainer, and works without such a head: the start logit is the hidden
# state times the word embedding of *yes*, the end logit that of *no*. That is an ordinary linear
# layer with two frozen rows, which stock code saves and loads.
def embedding_rows_head(model, tokenizer):
    """nn.Linear(hidden, 2), frozen: the label words' embeddings as its rows, its bias zero.

    Raises HeadNotThere for a word that is not one token, for a model whose head is not the usual
    qa_outputs, and where hidden states and word embeddings differ in size. Source: SMP, section 3.
    """
    ids, rows = label_word_ids(tokenizer), model.get_input_embeddings().weight.detach()
    if not isinstance(getattr(model, "qa_outputs", None), nn.Linear):
        raise HeadNotFoundError(f"{type(model).__name__} has no layer qa_outputs to put the rows in")
    hidden = model.qa_outputs.in_features
    if rows.shape[1] != hidden:
        raise HeadNotFoundError(
            f"its word embeddings have {rows.shape[1]} numbers, its hidden states {hidden}"
        )
    head = nn.Linear(hidden, 2)
    with torch.no_grad():
        head.weight.copy_(rows[ids])
        head.bias.zero_()
    return head.requires_grad_(False)
