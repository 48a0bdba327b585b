"""Probabilities over a passage equal the model's, and pictures and captions show them."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_figures import NASTY, hostile, page_of

from smp.look.broken import show_broken
from smp.look.passages import (
    COLUMNS,
    entropy_bits,
    passage_probabilities,
    plot_reading,
    read_passages,
    show_reading,
    wrap_passage,
)
from smp.model.question_answerer import QuestionAnswerer
from smp.plotting import png_bytes


def make_reading(passage, answer, sure=0.9):
    """Return a reading of one token per word; `sure` is the probability of the answer."""
    tokens = [match.span() for match in re.finditer(r"\S+", passage)]
    start = passage.index(answer)
    end = start + len(answer)
    parts = {}
    for name, at, side in (("starts", start, 0), ("ends", end, 1)):
        chosen = [token[side] == at for token in tokens]
        assert sum(chosen) == 1
        parts[name] = [sure if one else (1 - sure) / (len(tokens) - 1) for one in chosen]
    return {"answer": answer, "score": 0.5, "start": start, "end": end,
            "tokens": np.array(tokens), **parts}


# Probabilities


@given(st.integers(1, 4), st.integers(2, 9), st.data())
def test_probabilities_are_one_softmax_over_all_windows(count, length, data):
    """The reference is a direct sum, token by token."""
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


def test_readings_equal_the_answerer_and_the_model(tiny_qa, tokenizer, synthetic):
    """Answers equal those of `QuestionAnswerer`, probabilities those of the model."""
    examples = synthetic["eval"].select(range(6))
    answerer = QuestionAnswerer(tiny_qa, tokenizer, 96, 32)
    answers = answerer(list(examples["question"]), list(examples["context"]))
    for reading, answer, row in zip(read_passages(answerer, examples), answers, examples,
                                    strict=True):
        assert all(reading[part] == answer[part] for part in ("answer", "start", "end"))
        assert reading["score"] == pytest.approx(answer["score"], rel=1e-5)
        found = tokenizer(row["question"], row["context"], return_tensors="pt")
        inside = torch.tensor([part == 1 for part in found.sequence_ids(0)])
        words = [word for word, part in zip(found.word_ids(0), inside) if part]
        with torch.no_grad():
            out = tiny_qa(**found)
        for name, logits in (("starts", out.start_logits), ("ends", out.end_logits)):
            by_hand = np.bincount(words, logits[0][inside].softmax(0).numpy())
            np.testing.assert_allclose(reading[name], by_hand, rtol=1e-4)
        assert [*map(tuple, reading["tokens"].tolist())] == [
            tuple(found.word_to_chars(0, word, 1)) for word in range(max(words) + 1)]


def test_a_passage_of_many_windows_is_one_reading(tiny_qa, tokenizer, synthetic):
    examples = synthetic["eval"].select(range(3))
    narrow, wide = (QuestionAnswerer(tiny_qa, tokenizer, length, 8) for length in (40, 128))
    for reading, whole in zip(read_passages(narrow, examples), read_passages(wide, examples),
                              strict=True):
        np.testing.assert_array_equal(reading["tokens"], whole["tokens"])
        for name in ("starts", "ends"):
            assert reading[name].sum() == pytest.approx(1)


def test_entropy_is_in_bits():
    assert entropy_bits([1, 0, 0]) == 0 and entropy_bits([]) == 0
    assert entropy_bits(np.full(8, 1 / 8)) == pytest.approx(3)
    assert entropy_bits([0.5, 0.25, 0.25]) == pytest.approx(1.5)


# Pictures

PASSAGE = "The bridge was built by Henrik Dahl and opened in 1893 ."
TRUE = {"text": ["Henrik Dahl", "Dahl"], "answer_start": [24, 31]}


def bars_of(view):
    """Return [(x, y of the lower end, width, height)] of every bar that is inside the axes."""
    ax = view.parts[0].axes[0]
    return [(bar.get_x(), bar.get_y(), bar.get_width(), bar.get_height()) for bar in ax.patches
            if bar.get_x() >= 0]


def test_bars_are_above_their_words_with_root_heights():
    reading = make_reading(PASSAGE, "Henrik Dahl", 0.89)
    view = plot_reading("Who?", PASSAGE, {"dense": reading}, TRUE)
    bars = bars_of(view)
    answer, rest = bars[:11], bars[11:]  # the answer's box has one part for each character
    assert [x for x, *_ in answer] == list(range(24, 35))
    heights = {(x, width): height for x, _, width, height in rest if height < 0}
    assert heights[24, 6] == pytest.approx(-np.sqrt(0.89))  # the start, upwards
    assert heights[31, 4] == pytest.approx(-np.sqrt(0.01))
    assert max(rest, key=lambda bar: bar[3])[::3] == pytest.approx((31, np.sqrt(0.89)))  # the end
    texts = [text.get_text() for text in view.parts[0].axes[0].texts]
    assert texts == PASSAGE.split() and png_bytes(view.parts[0])


def test_caption_has_answer_place_score_and_entropy():
    reading = make_reading(PASSAGE, "Henrik Dahl", sure=0.5)
    lines = plot_reading("Who?", PASSAGE, {"dense": reading}, TRUE).caption.split("\n")
    bits = 0.5 + 0.5 * np.log2(22)  # half at one word, half over eleven
    assert lines == [f"dense: “Henrik Dahl” (characters 24 to 35), score 0.500; entropy of start "
                     f"{bits:.1f} and end {bits:.1f} of at most {np.log2(12):.1f} bits.",
                     "True answers: Henrik Dahl · Dahl."]


def test_long_passages_show_only_lines_with_content():
    passage = " ".join(["word"] * 100 + ["Dahl"] + ["word"] * 100 + ["1893"])
    reading = make_reading_of(passage, passage.index("1893"), len(passage))
    view = plot_reading("Who?", passage, {"a": reading},
                        {"text": ["Dahl"], "answer_start": [passage.index("Dahl")]}, most_lines=2)
    texts = [text.get_text() for text in view.parts[0].axes[0].texts]
    assert "Dahl" in texts and "1893" in texts and len(texts) < 60
    assert f"The picture shows 2 of {len(wrap_passage(passage))} lines" in view.caption


def make_reading_of(passage, start, end):
    """Return a reading with probability 1 at the characters start to end."""
    tokens = np.array([match.span() for match in re.finditer(r"\S+", passage)])
    return {"answer": passage[start:end], "score": 1.0, "start": start, "end": end,
            "tokens": tokens, "starts": (tokens[:, 0] == start) * 1.0,
            "ends": (tokens[:, 1] == end) * 1.0}


@given(st.text(st.sampled_from("ab \n"), max_size=400))
def test_lines_contain_every_word_once(passage):
    lines = wrap_passage(passage)
    assert all(0 < end - first <= COLUMNS for first, end in lines)
    assert "".join("".join(passage[first:end].split()) for first, end in lines) == "".join(
        passage.split())
    assert all(b <= c for (_, b), (c, _) in zip(lines, lines[1:]))


@pytest.mark.parametrize("change", [
    {"starts": [0.5]}, {"ends": [np.nan] * 12}, {"starts": [-0.1] * 12}, {"ends": [1.5] * 12},
])
def test_plot_reading_of_invalid_probabilities_raises(change):
    reading = make_reading(PASSAGE, "1893") | change
    with pytest.raises(ValueError):
        plot_reading("Who?", PASSAGE, {"dense": reading})


def test_show_reading_takes_answerers_and_pairs(tiny_qa, tokenizer):
    answerer = QuestionAnswerer(tiny_qa, tokenizer)
    view = show_reading({"one": answerer, "two": (tiny_qa, tokenizer)}, "Who?", PASSAGE)
    answer = answerer("Who?", PASSAGE)
    for name, line in zip(("one", "two"), view.caption.split("\n"), strict=True):
        assert line.startswith(
            f"{name}: “{answer['answer']}” (characters {answer['start']} to {answer['end']}), "
            f"score {answer['score']:.3f}; ")
    with pytest.raises(ValueError, match="the question is ' '"):
        show_reading({"one": answerer}, " ", PASSAGE)


def test_show_broken_counts_all_and_shows_the_first():
    rows = [{"question": f"number {i}", "context": PASSAGE, "answers": TRUE} for i in range(8)]
    examples = Rows(rows)
    right, wrong = (make_reading(PASSAGE, answer) for answer in ("Henrik Dahl", "1893"))
    dense = [right, right, wrong, right, right, wrong, right, right]
    pruned = [right, wrong, right, wrong, wrong, wrong, wrong, right]
    view = show_broken(examples, {"dense": dense, "pruned": pruned}, most=2)
    first = view.caption.split("\n")[0]
    assert first == ("The pruned model is wrong on 4 of 8 questions that the dense model answers; "
                     "the reverse is true of 1. The first 2 follow.")
    assert [part.axes[0].get_title(loc="left") for part in view.parts if not isinstance(part, str)
            ] == ["number 1", "number 3"]
    assert view.caption.count("dense: “Henrik") == view.caption.count("pruned: “1893”") == 2
    alone = show_broken(examples, {"pruned": pruned}, most=9)
    assert alone.caption.startswith("The pruned model is wrong on 5 of 8 questions. The first 5")
    none = show_broken(examples, {"pruned": [right] * 8})
    assert none.caption == ("The pruned model is wrong on 0 of 8 questions. The "
                            "first 0 follow.")


class Rows(list):
    """Rows with columns, as in a data set."""

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


@settings(deadline=None, max_examples=40)
@given(hostile, st.lists(hostile.filter(str.strip), min_size=1, max_size=6), hostile, st.data())
def test_no_text_of_the_data_becomes_html_or_a_formula(question, words, name, data):
    passage = " ".join(words)
    tokens = np.array([match.span() for match in re.finditer(r"\S+", passage)])
    numbers = st.lists(st.floats(0, 1), min_size=len(tokens), max_size=len(tokens))
    first = data.draw(st.integers(0, len(tokens) - 1))
    last = data.draw(st.integers(first, len(tokens) - 1))
    start, end = int(tokens[first][0]), int(tokens[last][1])
    a, b = sorted(data.draw(st.tuples(*[st.integers(0, len(passage) - 1)] * 2)))
    example = {"question": question, "context": passage,
               "answers": {"text": [passage[a:b]], "answer_start": [a]}}
    reading = {"answer": passage[start:end] + NASTY, "start": start, "end": end, "score": 0.1,
               "tokens": tokens, "starts": data.draw(numbers), "ends": data.draw(numbers)}
    view = show_broken(Rows([example]), {name: [reading]})
    assert set(re.findall("<[^>]*>", page_of(view))) <= {"<p>", "</p>", "<span>", "</span>"}
    if len(view.parts) > 1:
        assert png_bytes(view.parts[1])  # text that matplotlib could read as a formula is drawn
        ax = view.parts[1].axes[0]
        assert ax.get_title(loc="left") == question and reading["answer"] in view.caption
