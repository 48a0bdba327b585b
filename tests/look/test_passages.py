"""Probabilities over a passage equal the model's, and its HTML shows them and nothing else."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_figures import NASTY, OURS, Page, hostile

from smp.data.windows import featurise
from smp.look.passages import (
    caption,
    draw_passage,
    entropy_bits,
    passage_probabilities,
    read_passages,
    show_broken,
)
from smp.model.predict import evaluate_answers

OURS = OURS | {("span", "title", "style"), ("u",), ("p", "style"), ("br",), ("div",)}


def make_reading(passage, answer, sure=0.9):
    """A reading whose tokens are the passage's words; `sure` of the answer, the rest shared out."""
    tokens = [match.span() for match in re.finditer(r"\S+", passage)]
    start = passage.index(answer)
    end = start + len(answer)
    parts = {}
    for name, at, side in (("starts", start, 0), ("ends", end, 1)):
        chosen = [token[side] == at for token in tokens]
        assert sum(chosen) == 1
        parts[name] = [sure if one else (1 - sure) / (len(tokens) - 1) for one in chosen]
    return {"prediction_text": answer, "start": start, "end": end, "tokens": tokens, **parts}


# Probabilities


@given(st.integers(1, 4), st.integers(2, 9), st.data())
def test_probabilities_are_one_softmax_over_all_windows(count, length, data):
    """Held against a direct sum, token by token."""
    numbers = st.floats(-30, 30, width=32)
    logits = np.array(data.draw(st.lists(st.lists(numbers, min_size=length, max_size=length),
                                         min_size=count, max_size=count)), dtype=np.float32)
    offsets = []
    for i in range(count):  # a token of the question, then words that windows share
        words = [(3 * (i + j), 3 * (i + j) + 2) for j in range(length - 1)]
        offsets.append([(-1, -1), *words])
    tokens, probabilities = passage_probabilities(logits, offsets)
    direct = {}
    for row, spans in zip(logits.astype(float), offsets, strict=True):
        for logit, span in list(zip(row, spans, strict=True))[1:]:
            direct[span] = direct.get(span, 0) + np.exp(logit)
    assert [tuple(token) for token in tokens] == sorted(direct)
    expected = np.array([direct[span] for span in sorted(direct)]) / sum(direct.values())
    np.testing.assert_allclose(probabilities, expected, rtol=1e-9)


def test_readings_equal_evaluation_and_model(tiny_qa, tokenizer, synthetic):
    """The answers are those of the evaluation, the probabilities those of the model by hand."""
    examples = synthetic["eval"].select(range(6))
    windows = featurise(examples, tokenizer, max_length=96, stride=32)
    assert len(windows) == len(examples)
    readings = read_passages(tiny_qa, examples, windows, tokenizer, "fp32")
    _, predictions = evaluate_answers(tiny_qa, examples, windows, tokenizer, "fp32")
    for reading, prediction, window in zip(readings, predictions, windows, strict=True):
        assert reading["prediction_text"] == prediction["prediction_text"]
        inside = np.array(window["offsets"])[:, 0] >= 0
        with torch.no_grad():
            out = tiny_qa(**{name: torch.tensor([window[name]]) for name in
                             ("input_ids", "attention_mask", "token_type_ids")})
        for name, logits in (("starts", out.start_logits), ("ends", out.end_logits)):
            by_hand = logits[0][torch.tensor(inside)].softmax(0).numpy()
            np.testing.assert_allclose(reading[name], by_hand, rtol=1e-4)
        np.testing.assert_array_equal(reading["tokens"], np.array(window["offsets"])[inside])


def test_a_passage_of_many_windows_is_one_reading(tiny_qa, tokenizer, synthetic):
    examples = synthetic["eval"].select(range(3))
    windows = featurise(examples, tokenizer, max_length=40, stride=8)
    assert len(windows) > len(examples)
    whole = featurise(examples, tokenizer, max_length=128, stride=32)
    for reading, window in zip(read_passages(tiny_qa, examples, windows, tokenizer, "fp32"), whole,
                               strict=True):
        known = [tuple(span) for span in window["offsets"] if span[0] >= 0]
        assert [tuple(token) for token in reading["tokens"]] == known
        for name in ("starts", "ends"):
            assert reading[name].sum() == pytest.approx(1)


def test_entropy_is_in_bits():
    assert entropy_bits([1, 0, 0]) == 0 and entropy_bits([]) == 0
    assert entropy_bits(np.full(8, 1 / 8)) == pytest.approx(3)
    assert entropy_bits([0.5, 0.25, 0.25]) == pytest.approx(1.5)


# HTML

PASSAGE = "The bridge was built by Henrik Dahl and opened in 1893 ."
TRUE = {"text": ["Henrik Dahl", "Dahl"], "answer_start": [24, 31]}


def test_bars_have_the_height_of_the_probabilities():
    page = draw_passage(PASSAGE, make_reading(PASSAGE, "Henrik Dahl", sure=0.89), TRUE)
    (henrik,) = re.findall(r'<span title="([^"]*)" style="([^"]*)">Henrik</span>', page)
    assert henrik[0].startswith("start 89%, end 1%")
    heights = [float(x) for x in re.findall(r"/100% ([\d.]+)em", henrik[1])]
    assert heights == pytest.approx([0.6 * np.sqrt(0.89), 0.06], abs=1e-3)
    assert Page(page).text == PASSAGE.replace("Henrik Dahl", "▸Henrik Dahl◂")
    sure = draw_passage(PASSAGE, make_reading(PASSAGE, "1893", sure=1.0), TRUE)
    assert sure.count("<span") == 1 and "<b>▸<span" in sure and "◂</b>" in sure
    assert "<u>Henrik</u>" in sure and "<u>Dahl</u>" in sure


def test_caption_has_answer_probabilities_and_entropy():
    reading = make_reading(PASSAGE, "Henrik Dahl", sure=0.5)
    text = Page(caption("dense", reading, TRUE)).text
    assert text.startswith("dense, ✓ right: Henrik Dahlstart 50%, end 50%, both 25%entropy 2.7, ")
    assert "✗ wrong" in caption("dense", reading, {"text": ["nobody"], "answer_start": [0]})


@pytest.mark.parametrize("change", [
    {"starts": [0.5]}, {"ends": [np.nan] * 12}, {"starts": [-0.1] * 12}, {"ends": [1.5] * 12},
])
def test_draw_passage_refuses_invalid_probabilities(change):
    reading = make_reading(PASSAGE, "1893")
    with pytest.raises(ValueError, match=f"{next(iter(change))}: expected a probability for each"):
        draw_passage(PASSAGE, reading | change, TRUE)


def test_show_broken_counts_all_and_shows_the_first():
    rows = [{"question": f"number {i}", "context": PASSAGE, "answers": TRUE} for i in range(8)]
    examples = Rows(rows)
    right, wrong = (make_reading(PASSAGE, answer) for answer in ("Henrik Dahl", "1893"))
    dense = [right, right, wrong, right, right, wrong, right, right]
    pruned = [right, wrong, right, wrong, wrong, wrong, wrong, right]
    text = Page(show_broken(examples, {"dense": dense, "pruned": pruned}, most=2).data).text
    assert "4 of 8 questions are answered rightly by dense and wrongly by pruned" in text
    assert "the other way round it is 1. The first 2:" in text
    assert re.findall(r"number \d", text) == ["number 1", "number 3"]
    assert text.count("dense, ✓ right") == text.count("pruned, ✗ wrong") == 2
    alone = Page(show_broken(examples, {"pruned": pruned}, most=9).data).text
    assert "5 of 8 questions are answered wrongly by pruned. The first 5:" in alone
    none = Page(show_broken(examples, {"pruned": [right] * 8}).data).text
    assert none == "0 of 8 questions are answered wrongly by pruned."


class Rows(list):
    """Rows with columns, as a data set has them."""

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


@settings(deadline=None, max_examples=100)
@given(hostile, st.lists(hostile.filter(str.strip), min_size=1, max_size=6), hostile, st.data())
def test_no_text_of_the_data_becomes_html(question, words, name, data):
    passage = " ".join(words)
    tokens = [match.span() for match in re.finditer(r"\S+", passage)]
    numbers = st.lists(st.floats(0, 1), min_size=len(tokens), max_size=len(tokens))
    first = data.draw(st.integers(0, len(tokens) - 1))
    last = data.draw(st.integers(first, len(tokens) - 1))
    start, end = tokens[first][0], tokens[last][1]
    a, b = sorted(data.draw(st.tuples(*[st.integers(0, len(passage))] * 2)))
    example = {"question": question, "context": passage,
               "answers": {"text": [passage[a:b] + NASTY, passage[a:b]], "answer_start": [a, a]}}
    reading = {"prediction_text": passage[start:end] + "x", "start": start, "end": end,
               "tokens": tokens, "starts": data.draw(numbers), "ends": data.draw(numbers)}
    page = Page(show_broken(Rows([example]), {name: [reading]}).data)
    assert page.tags <= OURS
    assert question in page.text and reading["prediction_text"] in page.text
    assert passage[:start] + "▸" + passage[start:end] + "◂" + passage[end:] in page.text
