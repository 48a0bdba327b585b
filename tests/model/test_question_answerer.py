"""Readers: the answer is the decoder's, its numbers are what they are said to be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_pruned import learn

from smp.data.answers import decode_answers, normalize_answer
from smp.data.windows import featurise
from smp.model.predict import predict_logits
from smp.model.question_answerer import QuestionAnswerer, answer_spans, rank_spans
from smp.model.save import save_model
from smp.reader import Reader

LONG = "Ada Lovelace, born in London in 1815, wrote the first program. " * 12


def logits_of(shape, numbers):
    return arrays(np.float32, shape, elements=numbers)


@st.composite
def passages(draw):
    """(start, end, offsets) of a passage of one-letter words in windows that overlap."""
    words, longest = draw(st.integers(1, 12)), draw(st.integers(3, 7))
    windows = range(0, max(words - 1, 1), max(1, longest - 3))
    offsets = np.full((len(windows), longest, 2), -1)
    for row, first in enumerate(windows):
        for token in range(1, longest):  # 0 is [CLS]
            if first + token - 1 < words:
                offsets[row, token] = 2 * (first + token - 1), 2 * (first + token - 1) + 1
    few = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0])  # ties, often
    start, end = (draw(logits_of(offsets.shape[:2], few)) for _ in range(2))
    return start, end, offsets


@settings(deadline=None, max_examples=200)
@given(passages(), st.integers(1, 4))
def test_spans_are_ranked_as_by_trying_each(passage, longest):
    start, end, offsets = passage
    found = {}
    for w, row in enumerate(offsets):
        for i in range(len(row)):
            for j in range(i, min(len(row), i + longest)):
                if row[i, 0] >= 0 and row[j, 0] >= 0:
                    span = int(row[i, 0]), int(row[j, 1])
                    found[span] = max(found.get(span, -np.inf), start[w, i] + end[w, j])
    wanted = sorted(((-score, *span) for span, score in found.items()))
    score, first, last = rank_spans(start, end, offsets, longest)
    assert list(zip((-score).tolist(), first.tolist(), last.tolist())) == wanted


@settings(deadline=None, max_examples=100)
@given(passages(), st.integers(1, 50))
def test_scores_are_probabilities_and_answers_no_duplicates(passage, n_best):
    text = "abcdefabcdef".replace("", " ")[1:]
    start, end, offsets = passage
    said = answer_spans(text, start, end, offsets, n_best)
    every = answer_spans(text, start, end, offsets, 10**6)["n_best"]
    texts = [normalize_answer(span["answer"]) for span in said["n_best"]]
    assert said["n_best"] == every[:n_best] and len(set(texts)) == len(texts) <= n_best
    shares = [span["score"] for span in said["n_best"]]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1 + 1e-9
    for span in said["n_best"]:
        assert text[span["start"] : span["end"]] == span["answer"] != ""
    best, *_ = rank_spans(start, end, offsets)
    weights = np.exp(best.astype(float))
    assert said["score"] == pytest.approx(weights[0] / weights.sum())
    null = min(start[:, 0] + end[:, 0])
    assert said["no_answer"] == pytest.approx(np.exp(null) / (np.exp(null) + np.exp(best[0])))


def test_the_answer_is_the_decoders(tiny_qa, tokenizer, almanac):
    """On real windows, of questions one by one or together, whatever else is read beside them."""
    rows = almanac["eval"]
    reader = QuestionAnswerer(tiny_qa, tokenizer, 64, 16, "fp32")
    windows = featurise(rows, tokenizer, 64, 16)
    start, end = predict_logits(tiny_qa, windows, tokenizer, "fp32")
    wanted = decode_answers(rows, windows, start, end)
    said = reader(rows["question"][:], rows["context"][:], n_best=3)
    for answer, expected, context in zip(said, wanted, rows["context"]):
        assert (answer["start"], answer["end"]) == (expected["start"], expected["end"])
        assert answer["answer"] == expected["prediction_text"] == context[
            answer["start"] : answer["end"]]
        assert len(answer["n_best"]) == 3
    alone = reader(rows["question"][0], rows["context"][0], n_best=3)
    assert alone["n_best"][0]["answer"] == said[0]["n_best"][0]["answer"]
    assert alone["score"] == pytest.approx(said[0]["score"], rel=1e-3)


def test_long_passages_and_one_passage_for_many_questions(tiny_qa, tokenizer):
    reader = QuestionAnswerer(tiny_qa, tokenizer, 32, 8, "fp32")
    one = reader("Who wrote it?", LONG)
    assert LONG[one["start"] : one["end"]] == one["answer"] != ""
    many = reader(["Who wrote it?", "Where?"], LONG)
    assert len(many) == 2 and many[0]["answer"] == one["answer"]
    assert reader([], LONG) == []


@pytest.mark.parametrize("question, passage, said", [
    ("", "Ada", "the question is empty: expected some text"),
    ("Who?", " \n", "the passage is empty: expected some text"),
    ("Who?", "Ada \ud800", "the passage holds '\\ud800', which is not a character; mend it"),
    (["Who?", ""], "Ada", "the question is empty: expected some text"),
    (["Who?", "Where?"], ["Ada"], "2 questions for 1 passages: expected one passage, or one for "
                                  "each question"),
])
def test_what_is_no_question_is_refused_in_a_line(tiny_qa, tokenizer, question, passage, said):
    with pytest.raises(ValueError) as error:
        QuestionAnswerer(tiny_qa, tokenizer, 32, 8)(question, passage)
    assert str(error.value) == said


@pytest.mark.parametrize("head", ["label words", "embedding rows", "trained"])
def test_a_reader_of_what_was_saved(base, tmp_path, tokenizer, head):
    student = learn(base, tmp_path / "m", head)
    save_model(student, tokenizer, tmp_path / "plain", base)
    wanted = QuestionAnswerer(student, tokenizer, 64, 16, "fp32")("Who wrote it?", LONG, 5)
    for name in (str(tmp_path / "plain"), (base, str(tmp_path / "m"))):
        reader = Reader.from_pretrained(name, 64, 16, "fp32")
        assert reader("Who wrote it?", LONG, 5) == wanted


def test_a_model_that_was_never_taught_is_no_reader():
    with pytest.raises(ValueError, match="has no masked-LM head") as error:
        Reader.from_pretrained("all-MiniLM-L6-v2")
    assert "\n" not in str(error.value)
