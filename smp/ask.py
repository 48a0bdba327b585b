# %% [markdown]
# ## Ask your own question

# %%
from datasets import Dataset

# %%
from smp.squad import check_characters, featurise

# %%
from smp.train import predict_logits

# %%
from smp.answers import decode_answers

# %%
def ask(model, tokenizer, question, passage, settings):
    """{"prediction_text", "score", "start", "end"} of one question about a passage of any length.

    start and end are characters of the passage; score is start logit plus end logit. Raises
    ValueError where the question or the passage is empty, or holds half a character.
    """
    for name, text in (("question", question), ("passage", passage)):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"the {name} is empty: expected some text")
        check_characters(text, f"the {name}")
    first = passage.split()[0]  # any label will do: nothing is trained on it
    unlabelled = {"text": [first], "answer_start": [passage.index(first)]}
    asked = Dataset.from_list([{
        "id": "asked", "title": "", "context": passage, "question": question, "answers": unlabelled,
    }])
    features = featurise(asked, tokenizer, settings.max_length, settings.stride)
    start, end = predict_logits(model, features, tokenizer, settings.precision, note="reading")
    return decode_answers(asked, features, start, end)[0]
