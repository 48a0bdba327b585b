"""Tests of spans and answers against plain loops, and of scores against the official script."""

import collections
import functools
import os
import re
import string
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from helpers import SQUAD, needs_squad
from smp.data.answers import (
    SquadMetric,
    best_spans,
    choosable,
    decode_answers,
    normalize_answer,
)
from smp.data.reading import SQUAD_FEATURES, load_squad
from smp.data.windows import featurise

REPOSITORY = Path(__file__).parents[2]


# -- the official evaluate-v1.1.py ---------------------------------------------------------------


@functools.cache  # because the same references are scored many times
def official_normalize(s):
    def remove_articles(text):
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def white_space_fix(text):
        return " ".join(text.split())

    def remove_punc(text):
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    return white_space_fix(remove_articles(remove_punc(s.lower())))


def official_f1(prediction, ground_truth):
    prediction_tokens = official_normalize(prediction).split()
    ground_truth_tokens = official_normalize(ground_truth).split()
    common = collections.Counter(prediction_tokens) & collections.Counter(ground_truth_tokens)
    num_same = sum(common.values())
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(prediction_tokens)
    recall = 1.0 * num_same / len(ground_truth_tokens)
    return (2 * precision * recall) / (precision + recall)


def official_score(predictions, references):
    em = f1 = total = 0
    for row in references:
        total += 1
        predicted = predictions[row["id"]]
        em += max(official_normalize(predicted) == official_normalize(t)
                  for t in row["answers"]["text"])
        f1 += max(official_f1(predicted, t) for t in row["answers"]["text"])
    return {"em": em / total, "f1": f1 / total}


def score(predicted, references):
    return SquadMetric().compute(
        predictions=[{"id": id, "prediction_text": text} for id, text in predicted.items()],
        references=references,
    )


# -- spans -----------------------------------------------------------------------------------


def plain_spans(start_logits, end_logits, mask, longest):
    found = []
    for s, e, m in zip(start_logits, end_logits, mask):
        best = (-np.inf, 0, 0)
        for i in range(len(s)):
            for j in range(i, min(i + longest, len(s))):
                with np.errstate(invalid="ignore"):
                    total = s[i] + e[j]
                if m[i] and m[j] and total > best[0]:
                    best = (total, i, j)
        found.append(best)
    return found


shapes = st.tuples(st.integers(0, 4), st.integers(0, 12))
few_values = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 1.0, np.inf])  # few, so that ties are common
any_value = st.floats(width=32)


@settings(max_examples=300, deadline=None)
@given(st.data(), shapes, st.integers(1, 14), st.sampled_from([few_values, any_value]))
def test_best_spans_equal_a_double_loop(data, shape, longest, values):
    start, end = (data.draw(arrays.arrays(np.float32, shape, elements=values)) for _ in range(2))
    mask = data.draw(arrays.arrays(bool, shape))
    with np.errstate(over="ignore"):
        found = best_spans(start, end, mask, longest)
        expected = plain_spans(start, end, mask, longest)
    assert list(zip(*(part.tolist() for part in found))) == expected


def test_best_spans_by_hand():
    start = np.array([[9.0, 1.0, 5.0, 0.0, 2.0]])
    end = np.array([[9.0, 0.0, 3.0, 4.0, 9.0]])
    mask = np.array([[False, True, True, True, True]])
    assert [part.item() for part in best_spans(start, end, mask)] == [14.0, 2, 4]
    assert [part.item() for part in best_spans(start, end, mask, longest=2)] == [11.0, 4, 4]
    assert [part.item() for part in best_spans(start, end, ~mask & False)] == [-np.inf, 0, 0]
    half = start.astype(np.float16) * 6000
    assert best_spans(half, half, mask)[0].item() == 60000, "half precision is added in single"


@pytest.mark.parametrize("tokens, end", [(30, 29), (31, 0)])
def test_the_longest_answer_has_30_tokens(tokens, end):
    """A span of 30 tokens wins by its logits; with 31 tokens the answer is its first token."""
    start, last, mask = np.zeros((1, 40)), np.zeros((1, 40)), np.ones((1, 40), bool)
    start[0, 0] = last[0, tokens - 1] = 9
    assert [part.item() for part in best_spans(start, last, mask)] == [18 if end else 9, 0, end]
    words = [f"w{i}" for i in range(10, 50)]
    row = {"id": "a", "context": " ".join(words)}
    spans = [[4 * i, 4 * i + 3] for i in range(40)]
    window = {"example": 0, "offsets": spans}
    (answer,) = decode_answers(
        Dataset.from_list([row]), Dataset.from_list([window], Features(
            example=Value("int32"), offsets=List(List(Value("int32"), length=2)))), start, last)
    assert answer["prediction_text"].split() == words[: end + 1]


@pytest.mark.parametrize("kinds, kind", [
    ("f2 f2", "f4"), ("f4 f2", "f4"), ("f8 f4", "f8"), ("f4 f8", "f8")])
def test_logits_are_added_in_the_wider_type_and_at_least_single(kinds, kind):
    start, end = (np.ones((1, 3), part) for part in kinds.split())
    mask = np.array([[True, False, True]])
    for logits in choosable(start, end, mask):
        assert logits.dtype == kind and logits.tolist() == [[1.0, -np.inf, 1.0]]


def test_infinite_logits_raise_no_floating_point_error():
    start, end, mask = np.array([[-np.inf, 1.0]]), np.array([[np.inf, 2.0]]), np.ones((1, 2), bool)
    with np.errstate(invalid="raise"):
        assert [part.item() for part in best_spans(start, end, mask)] == [3.0, 1, 1]


# -- answers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def windows(bert):
    """Return examples and their windows of 48 tokens, several per example."""
    examples = load_squad("synthetic", n_train=40, n_eval=1)["train"]
    return examples, featurise(examples, bert, 48, 16)


def plain_answers(examples, features, start_logits, end_logits, longest):
    answers = [
        dict(id=row["id"], prediction_text="", score=-np.inf, start=0, end=0) for row in examples
    ]
    for window, starts, ends in zip(features, start_logits, end_logits):
        offsets, answer = window["offsets"], answers[window["example"]]
        for i, (first, _) in enumerate(offsets):
            for j in range(i, min(i + longest, len(offsets))):
                last = offsets[j][1]
                total = starts[i] + ends[j]
                if first >= 0 and last >= 0 and total > answer["score"]:
                    text = examples[window["example"]]["context"][first:last]
                    answer.update(prediction_text=text, score=total, start=first, end=last)
    return answers


@pytest.mark.parametrize("seed, longest, extra", [(0, 30, 0), (1, 1, 3), (2, 7, 1), (3, 100, 0)])
def test_answers_equal_a_plain_loop(windows, seed, longest, extra):
    examples, features = windows
    assert len(features) > 2 * len(examples)
    shape = (len(features), max(map(len, features["input_ids"])) + extra)
    start, end = (
        np.random.default_rng(seed).integers(-3, 3, (2, *shape)).astype(np.float32)
    )  # many ties
    for i, window in enumerate(features):  # logits beyond a window's tokens are ignored
        start[i, len(window["input_ids"]) :] = end[i, len(window["input_ids"]) :] = [
            np.inf,
            np.nan,
        ][seed % 2]
    expected = plain_answers(examples, features, start, end, longest)
    assert decode_answers(examples, features, start, end, longest) == expected
    shuffled = np.random.default_rng(seed).permutation(len(features))
    again = decode_answers(
        examples, features.select(shuffled), start[shuffled], end[shuffled], longest
    )
    assert [a["score"] for a in again] == [a["score"] for a in expected]
    assert [a["id"] for a in again] == examples["id"][:]


@st.composite
def random_windows(draw):
    """Draw (examples, windows, logits), with special tokens anywhere, ties, infinities and NaN."""
    contexts = draw(st.lists(st.text(max_size=9), min_size=1, max_size=4))
    features = []
    for _ in range(draw(st.integers(0, 5))):
        example = draw(st.integers(0, len(contexts) - 1))
        cuts = draw(st.lists(st.integers(0, len(contexts[example])), max_size=8, unique=True))
        spans = [[-1, -1], *map(list, pairwise(sorted(cuts)))]
        inside = draw(st.lists(st.booleans(), min_size=len(spans), max_size=len(spans)))
        offsets = [span if kept else [-1, -1] for span, kept in zip(spans, inside)]
        features.append({"example": example, "offsets": offsets})
    length = max((len(window["offsets"]) for window in features), default=0)
    kind = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    shape = (len(features), length + draw(st.integers(0, 2)))
    logits = [draw(arrays.arrays(kind, shape, elements=few_values | st.just(np.nan)))
              for _ in range(2)]
    columns = Features({"example": Value("int32"), "offsets": List(List(Value("int32"), length=2))})
    examples = Dataset.from_list([{"id": str(i), "context": c} for i, c in enumerate(contexts)])
    rows = {name: [window[name] for window in features] for name in columns}
    return examples, Dataset.from_dict(rows, columns), logits


@settings(max_examples=150, deadline=None)
@given(random_windows(), st.integers(1, 9))
def test_answers_of_random_windows_equal_a_plain_loop(made, longest):
    examples, features, logits = made
    found = decode_answers(examples, features, *logits, longest)
    with np.errstate(invalid="ignore"):
        plain = plain_answers(examples, features, *(part.astype(float) for part in logits), longest)
    assert found == plain
    for answer, row in zip(found, examples):
        assert row["context"][answer["start"] : answer["end"]] == answer["prediction_text"]


def test_labels_as_logits_return_the_answers(windows):
    examples, features = windows
    shape = (len(features), 48)
    start, end = np.zeros(shape), np.zeros(shape)
    rows = np.arange(len(features))
    start[rows, features["start_positions"]] = end[rows, features["end_positions"]] = 9
    answers = decode_answers(examples, features, start, end)
    found = score({a["id"]: a["prediction_text"] for a in answers}, examples.to_list())
    assert found == {"em": 1, "f1": 1, "exact_matches": "ff" * 5}
    for answer, row in zip(answers, examples):
        assert row["context"][answer["start"] : answer["end"]] == answer["prediction_text"]


def test_answers_of_1000_windows_are_those_of_their_logits():
    """The answer of window i, the only one of example i, is its token i % 7."""
    n, rows = 1000, np.arange(1000)
    examples = Dataset.from_dict({"id": [str(i) for i in rows], "context": ["a b c d e f g"] * n})
    kinds = Features({"example": Value("int32"), "offsets": List(List(Value("int32"), length=2))})
    spans = [[2 * i, 2 * i + 1] for i in range(7)]
    features = Dataset.from_dict({"example": rows, "offsets": [spans] * n}, kinds)
    logits = np.zeros((n, 7))
    logits[rows, rows % 7] = 1 + rows
    found = decode_answers(examples, features, logits, logits)
    assert [one["prediction_text"] for one in found] == ["abcdefg"[i % 7] for i in rows]
    assert [one["score"] for one in found] == (2 + 2 * rows).tolist()
    nothing = features.select([]), *np.zeros((2, 0, 0))
    assert {one["score"] for one in decode_answers(examples, *nothing)} == {-np.inf}


def test_an_example_without_a_span_has_the_empty_answer(windows, bert):
    examples, features = windows
    shape = (len(features), 48)
    for nothing in (-np.inf, np.nan):
        answers = decode_answers(
            examples, features, np.full(shape, nothing), np.full(shape, nothing)
        )
        assert {(a["prediction_text"], a["score"], a["start"], a["end"]) for a in answers} == {
            ("", -np.inf, 0, 0)
        }
    rows = [
        dict(
            id="a",
            title="",
            context=c,
            question="Who?",
            answers={"text": ["x"], "answer_start": [0]},
        )
        for c in ("", "Ada.")
    ]
    rows[1]["id"] = "b"
    bare = Dataset.from_list(rows, SQUAD_FEATURES)
    found = featurise(bare, bert, 16, 4)
    answers = decode_answers(bare, found, *np.zeros((2, len(found), 16)))
    assert [a["prediction_text"] for a in answers] == ["", "Ada"] and answers[0]["score"] == -np.inf
    empty = bare.select([])
    assert decode_answers(empty, featurise(empty, bert, 16, 4), *np.zeros((2, 0, 1))) == []


@pytest.mark.parametrize(
    "cut",
    [
        lambda s, e: (s[1:], e[1:]),
        lambda s, e: (s[:, 1:], e[:, 1:]),
        lambda s, e: (s, e[1:]),
        lambda s, e: (s[0], e[0]),
    ],
)
def test_logits_of_another_shape_raise(windows, cut):
    examples, features = windows
    logits = np.zeros((2, len(features), 48))
    with pytest.raises(
        ValueError, match="start and end logits have the shapes .* a row for each window"
    ) as error:
        decode_answers(examples, features, *cut(*logits))
    assert "\n" not in str(error.value)


# -- scores ----------------------------------------------------------------------------------


words = st.lists(
    st.sampled_from(
        ["the", "The", "a", "an", "AN", "cat", "cats", "c.a.t", "-", "İ", "東京", "1,000", ""]
    )
)
texts = st.text() | st.text(alphabet="aAnthe .,'“”\t\n\x1c\u2003-") | words.map(" ".join)


@given(texts)
def test_normalize_answer_equals_the_official_script(text):
    assert normalize_answer(text) == official_normalize(text)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=4)), min_size=1, max_size=6))
def test_scores_equal_the_official_script(rows):
    references = [
        {"id": str(i), "answers": {"text": known, "answer_start": [0] * len(known)}}
        for i, (_, known) in enumerate(rows)
    ]
    predicted = {str(i): text for i, (text, _) in enumerate(rows)}
    found = score(predicted, references)
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(found.pop("exact_matches")), np.uint8))
    assert found == pytest.approx(official_score(predicted, references), abs=1e-12)
    alone = [official_score(predicted, [reference])["em"] for reference in references]
    assert bits.tolist() == alone + [0] * (-len(alone) % 8)


def test_scores_by_hand():
    known = {"text": ["Ada Brenn", "Dr. Ada Brenn"], "answer_start": [0, 0]}
    for predicted, em, f1 in (
        ("the ADA brenn!", 1, 1),
        ("Ada", 0, 2 / 3),
        ("Brenn, Ada", 0, 1),
        ("", 0, 0),
        ("Bo", 0, 0),
    ):
        found = score({"x": predicted}, [{"id": "x", "answers": known}])
        assert found == {"em": em, "f1": pytest.approx(f1), "exact_matches": "80" if em else "00"}
    article = {"text": ["The"], "answer_start": [0]}  # in v1.1, F1 of two empty texts is 0
    assert score({"x": "a"}, [{"id": "x", "answers": article}]) == {
        "em": 1.0, "f1": 0.0, "exact_matches": "80"}


def test_f1_depends_on_precision_and_recall():
    known = {"text": ["Ada Brenn"], "answer_start": [0]}
    for predicted, f1 in (("Ada Brenn, the doctor", 4 / 5), ("Dr. Ada", 1 / 2), ("Ada Ada", 1 / 2)):
        assert score({"x": predicted}, [{"id": "x", "answers": known}])["f1"] == pytest.approx(f1)
    nothing = {"text": [], "answer_start": []}
    assert score({"x": "Ada"}, [{"id": "x", "answers": nothing}]) == {
        "em": 0.0, "f1": 0.0, "exact_matches": "00"}


@pytest.mark.parametrize("predicted, wanted", [("x", "xx"), ("xx", "xx"), ("xxy", "xyy")])
def test_ids_that_occur_twice_raise(predicted, wanted):
    answers = {"text": ["x"], "answer_start": [0]}
    with pytest.raises(ValueError, match="expected one prediction for each reference"):
        SquadMetric().compute(predictions=[{"id": n, "prediction_text": n} for n in predicted],
                              references=[{"id": n, "answers": answers} for n in wanted])


def test_the_folder_of_a_metric_is_temporary():
    folder = Path(SquadMetric().data_dir)
    assert "/squad-metric-" in folder.as_posix() and not folder.exists()


def test_predictions_are_paired_by_id_in_a_reusable_metric():
    references = [{"id": n, "answers": {"text": [n], "answer_start": [0]}} for n in "xyz"]
    predictions = [{"id": n, "prediction_text": n.strip("y"), "score": 1.0} for n in "zyx"]
    one, two = SquadMetric(), SquadMetric()
    for metric in (one, two, one):
        assert metric.compute(predictions=predictions, references=references) == {
            "em": 2 / 3, "f1": 2 / 3, "exact_matches": "a0"}


@pytest.mark.parametrize(
    "predicted, wanted",
    [("x", "xy"), ("xy", "x"), ("xx", "x"), ("xz", "xy"), ("xx", "xy"), ("", "")],
)
def test_missing_or_duplicate_predictions_raise(predicted, wanted):
    references = [{"id": n, "answers": {"text": [n], "answer_start": [0]}} for n in wanted]
    with pytest.raises(
        ValueError, match="one prediction for each reference|at least one question"
    ) as error:
        SquadMetric().compute(
            predictions=[{"id": n, "prediction_text": n} for n in predicted], references=references
        )
    assert "\n" not in str(error.value)


def test_a_metric_needs_no_network_and_leaves_no_file(tmp_path):
    code = (
        "import socket\ndef refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = refuse\n"
        "from smp.data.answers import SquadMetric\n"
        "print(SquadMetric().compute(predictions=[{'id': 'x', 'prediction_text': 'y'}],\n"
        "    references=[{'id': 'x', 'answers': {'text': ['y'], 'answer_start': [0]}}]))"
    )
    (tmp_path / "tmp").mkdir()
    env = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "TMPDIR": str(tmp_path / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    predicted = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert predicted.stdout.strip() == "{'em': 1.0, 'f1': 1.0, 'exact_matches': '80'}"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not [path for path in tmp_path.rglob("*") if "metric" in path.name]


@needs_squad
def test_scores_of_squad_dev_equal_the_official_script():
    data = load_squad(SQUAD / "squad-dev-v1.1.json.xz")
    rows = data["train"].to_list() + data["eval"].to_list()
    assert len(rows) == 10570
    rng = np.random.default_rng(0)

    def substring(row):
        a, b = sorted(rng.integers(0, len(row["context"]) + 1, 2))
        return row["context"][a:b]

    guesses = {
        "true": lambda row: rng.choice(row["answers"]["text"]).item(),
        "of another question": lambda row: rows[rng.integers(len(rows))]["answers"]["text"][0],
        "a word more": lambda row: row["answers"]["text"][0] + " indeed",
        "random substring": substring,
        "empty": lambda row: "",
    }
    for name, guess in guesses.items():
        predicted = {row["id"]: guess(row) for row in rows}
        found = score(predicted, rows)
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(found.pop("exact_matches")), np.uint8))
        assert bits.sum() / len(rows) == found["em"]
        assert found == pytest.approx(official_score(predicted, rows), abs=1e-12), name
        if name == "true":
            assert found["em"] == 1 and found["f1"] > 0.999
        elif name == "empty":  # three references are only punctuation or an article
            assert found == {"em": 3 / 10570, "f1": 0}
        else:
            assert found["em"] < 0.2
