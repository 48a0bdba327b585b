# %% [markdown]
# ## The label-word head
#
# Fine-tuning puts a new linear layer on the encoder and trains it. SMP can do without: where the
# checkpoint still has its masked-language-model head, that head stays as it is, and the logit of
# the word *yes* at a token is its start logit, that of *no* its end logit. Then a task is its
# masks and nothing else. The decoder's other 30,520 rows are never computed.

# %%
import torch
from torch import nn

# %%
class LabelWordHead(nn.Module):
    """hidden (batch, length, hidden) -> start and end logits (batch, length, 2), all frozen.

    transform: dense + activation + LayerNorm of the masked-LM head; weight (2, hidden) and bias
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


def label_word_head(masked_lm, tokenizer, words=("yes", "no")):
    """The head made of a BertForMaskedLM's own. Raises ValueError for words that are not one
    token of the vocabulary."""
    ids = tokenizer.convert_tokens_to_ids(list(words))
    for word, token in zip(words, ids, strict=True):
        if token is None or token == tokenizer.unk_token_id:
            raise ValueError(f"the label word {word!r} is not in the vocabulary: name another")
    predictions = masked_lm.cls.predictions
    decoder = predictions.decoder
    return LabelWordHead(predictions.transform, decoder.weight[ids], decoder.bias[ids])
