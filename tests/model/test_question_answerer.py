"""Question answerer: its answers equal the decoder's, its scores are probabilities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from smp.data.answers import decode_answers, normalize_answer
from smp.data.windows import featurise
from smp.model.predict import predict_logits
from smp.model.question_answerer import QuestionAnswerer, answer_spans, rank_spans

LONG = "Ada Lovelace, born in London in 1815, wrote the first program. " * 12


def logits_of(shape, numbers):
    return arrays(np.float32, shape, elements=numbers)


@st.composite
def passages(draw):
    """Return (start, end, offsets) of a passage of one-letter words in windows that overlap."""
    words, longest = draw(st.integers(1, 12)), draw(st.integers(3, 7))
    windows = range(0, max(words - 1, 1), max(1, longest - 3))
    offsets = np.full((len(windows), longest, 2), -1)
    for row, first in enumerate(windows):
        for token in range(1, longest):  # 0 is [CLS]
            if first + token - 1 < words:
                offsets[row, token] = 2 * (first + token - 1), 2 * (first + token - 1) + 1
    few = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0])  # ties are frequent
    start, end = (draw(logits_of(offsets.shape[:2], few)) for _ in range(2))
    return start, end, offsets


@settings(deadline=None, max_examples=200)
@given(passages(), st.integers(1, 4))
def test_ranked_spans_equal_a_brute_force_ranking(passage, longest):
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
def test_scores_are_probabilities_and_answers_distinct(passage, n_best):
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


def test_answers_equal_decode_answers(tiny_qa, tokenizer, synthetic):
    """Windows are those of synthetic passages, for one question or many at once."""
    rows = synthetic["eval"]
    answerer = QuestionAnswerer(tiny_qa, tokenizer, 64, 16, "fp32")
    windows = featurise(rows, tokenizer, 64, 16)
    start, end = predict_logits(tiny_qa, windows, tokenizer, "fp32")
    wanted = decode_answers(rows, windows, start, end)
    said = answerer(rows["question"][:], rows["context"][:], n_best=3)
    for answer, expected, context in zip(said, wanted, rows["context"]):
        assert (answer["start"], answer["end"]) == (expected["start"], expected["end"])
        assert answer["answer"] == expected["prediction_text"] == context[
            answer["start"] : answer["end"]]
        assert len(answer["n_best"]) == 3
    alone = answerer(rows["question"][0], rows["context"][0], n_best=3)
    assert alone["n_best"][0]["answer"] == said[0]["n_best"][0]["answer"]
    assert alone["score"] == pytest.approx(said[0]["score"], rel=1e-3)


def test_long_passages_and_one_passage_for_many_questions(tiny_qa, tokenizer):
    answerer = QuestionAnswerer(tiny_qa, tokenizer, 32, 8, "fp32")
    one = answerer("Who wrote it?", LONG)
    assert LONG[one["start"] : one["end"]] == one["answer"] != ""
    many = answerer(["Who wrote it?", "Where?"], LONG)
    assert len(many) == 2 and many[0]["answer"] == one["answer"]
    assert answerer([], LONG) == []


@pytest.mark.parametrize("question, passage, said", [
    ("", "Ada", "the question is empty: expected some text"),
    ("Who?", " \n", "the passage is empty: expected some text"),
    ("Who?", "Ada \ud800", "the passage contains '\\ud800', which is not a character; replace it"),
    (["Who?", ""], "Ada", "the question is empty: expected some text"),
    (["Who?", "Where?"], ["Ada"], "2 questions for 1 passages: expected one passage, or one for "
                                  "each question"),
])
def test_invalid_questions_and_passages_raise(tiny_qa, tokenizer, question, passage, said):
    with pytest.raises(ValueError) as error:
        QuestionAnswerer(tiny_qa, tokenizer, 32, 8)(question, passage)
    assert str(error.value) == said
