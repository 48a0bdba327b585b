"""The probabilities of an answer's start and end, drawn over the passage.

Several models over one passage show whether a model looks elsewhere or is only less sure.
"""

import re
from typing import Any

import numpy as np
from datasets import Dataset
from matplotlib.figure import Figure

from smp.model.question_answerer import QuestionAnswerer, answer_spans, question_rows
from smp.plotting import BLUE, FAINT, GREEN, INK, RED, View, place_axes, tidy_axes

COLUMNS, PALE = 88, "#FBE6D8"  # characters in a line; behind the stripes of a bar
LANE = 2.4  # height of one model's bars over a line, where a bar of probability 1 has height 1
SCALE = ("solid bars: start probability; striped bars: end probability (square-root scale)\n"
         "grey box: the model's answer, as high as a bar of probability 1")


def passage_probabilities(logits: np.ndarray, offsets: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (words (n, 2), probabilities (n,)) of the passage's words in order; the sum is 1.

    logits: (windows, L) of one passage; offsets: (windows, L, 2), first and last + 1 character of
    each token's word, -1 outside the passage. The tokens of a word are added.
    """
    inside = np.asarray(offsets)[..., 0] >= 0
    odds = np.exp(logits[inside].astype(float) - logits[inside].max(initial=-np.inf))
    tokens, place = np.unique(np.asarray(offsets)[inside], axis=0, return_inverse=True)
    return tokens, np.bincount(place.ravel(), odds, len(tokens)) / odds.sum()


def read_passages(answerer: Any, rows: Dataset) -> list[dict]:
    """Return a reading of each SQuAD row: its best answer with "tokens", "starts" and "ends".

    answerer: a `QuestionAnswerer`; tokens (n, 2): each word's characters; starts, ends (n,): its
    probabilities.
    """
    readings = []
    for passage, (start, end, span) in zip(rows["context"][:], answerer.predict_rows(rows)):
        (tokens, starts), (_, ends) = (passage_probabilities(side, span) for side in (start, end))
        readings.append(answer_spans(passage, start, end, span)[0]
                        | {"tokens": tokens, "starts": starts, "ends": ends})
    return readings


def entropy_bits(probabilities: np.ndarray | list) -> float:
    """Return −Σ p log2 p: 0 for one certain token, log2 n for n equally probable tokens."""
    p = np.asarray(probabilities, dtype=float)
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum()) + 0.0


def wrap_passage(passage: str) -> list[tuple[int, int]]:
    """Return (first, last + 1) character of each line; only words over COLUMNS are cut."""
    line = rf"\S(?:.{{0,{COLUMNS - 2}}}\S)?(?!\S)|\S{{{COLUMNS}}}"
    return [found.span() for found in re.finditer(line, passage, re.DOTALL)]


def plot_reading(question: str, passage: str, readings: dict[str, dict],
                 references: dict | None = None, most_lines: int = 6) -> View:
    """Draw {name of a model: its reading} over the passage, with each answer and its position.

    references: true answers, {"text", "answer_start"} as in SQuAD. It draws at most most_lines
    lines, those with the true answers and the highest probabilities. Raises ValueError unless
    every token has two probabilities between 0 and 1.
    """
    peak, words = np.zeros(len(passage)), []  # the highest probability at each character
    true = [*zip(references["answer_start"], references["text"])] if references else []
    peak[[first for first, _ in true]] = 2
    for name, reading in readings.items():
        tokens, sides = reading["tokens"], np.array([reading["starts"], reading["ends"]])
        if sides.shape != (2, len(tokens)) or not ((sides >= 0) & (sides <= 1 + 1e-6)).all():
            raise ValueError(f"{name}: expected two probabilities for each of the tokens")
        np.maximum.at(peak, tokens[:, 0], sides.max(0))
        words.append(
            f"{name}: “{reading['answer']}” (characters {reading['start']} to {reading['end']}), "
            f"score {reading['score']:.3f}; entropy of start {entropy_bits(sides[0]):.1f} and end "
            f"{entropy_bits(sides[1]):.1f} of at most {np.log2(max(1, len(tokens))):.1f} bits.")
    words += [f"True answers: {' · '.join(dict.fromkeys(text for _, text in true))}."] * bool(true)
    every = wrap_passage(passage)
    lines = sorted(every, key=lambda line: -peak[slice(*line)].max())[:most_lines]
    if len(lines) < len(every):
        words.append(f"The picture shows {len(lines)} of {len(every)} lines of the passage.")
    block = LANE * len(readings) + 1.6
    fig = Figure((8.6, 0.19 * block * len(lines) + 1), dpi=110)
    ax = place_axes(fig, 1.7, 0.6, 6.65, 0.19 * block * len(lines))
    column, top = np.full((2, len(passage)), -100.0)  # of each character; -100 is outside the axes
    for number, (first, end) in enumerate(sorted(lines)):
        column[first:end], top[first:end] = np.arange(end - first), number * block
        for word in re.finditer(r"\S+", passage[first:end]):
            ax.text(word.start(), (number + 1) * block - 1.1, word.group(), family="monospace",
                    fontsize=9, color=INK, va="center", parse_math=False)
    for first, text in true:
        at = np.arange(first, first + len(text))
        ax.hlines(top[at] + block - 0.4, column[at], column[at] + 1, GREEN, linewidth=2)
    for lane, reading in enumerate(readings.values()):
        zero, answer = top + LANE * (lane + 0.5), np.arange(reading["start"], reading["end"])
        ax.bar(column[answer], 2, 1, zero[answer] - 1, align="edge", color=FAINT)
        at, end = reading["tokens"].T
        for height, style in ((-np.sqrt(reading["starts"]), {"color": BLUE}),
                              (np.sqrt(reading["ends"]), {"fc": PALE, "ec": RED, "hatch": "////"})):
            ax.bar(column[at], height, end - at, zero[at], align="edge", lw=0, snap=False, **style)
    tidy_axes(ax, question, SCALE + "; green: the true answer" * bool(true), grid=False)
    zeros = np.add.outer(np.arange(len(lines)) * block, LANE * (np.arange(len(readings)) + 0.5))
    ax.set(xlim=(0, COLUMNS), ylim=(block * len(lines), 0), xticks=[])
    ax.hlines(zeros, 0, COLUMNS, INK, linewidth=0.6)
    ax.set_yticks(zeros.ravel(), [*readings] * len(lines), parse_math=False)
    return View(fig, *words)


def show_reading(models: dict[str, Any], question: str, passage: str) -> View:
    """Draw the answers of {name: `QuestionAnswerer` or (model, tokenizer)} over the passage.

    Raises ValueError for an empty question or passage.
    """
    readings = {}
    for name, model in models.items():
        answerer = QuestionAnswerer(*model) if isinstance(model, tuple) else model
        (readings[name],) = read_passages(answerer, question_rows([question], [passage]))
    return plot_reading(question, passage, readings)
