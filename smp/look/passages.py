"""The probabilities of an answer's start and end, drawn over the passage.

Side by side they show whether a pruned model looks elsewhere or is only less sure.
"""

import html
from bisect import bisect_right
from itertools import pairwise
from typing import Any

import numpy as np
from IPython.display import HTML

from smp.data.answers import decode_answers
from smp.look.figures import html_box, is_right
from smp.model.predict import predict_logits
from smp.plotting import BLUE, RED
from smp.text import as_percent

BAR, SEEN = 0.6, 0.005  # height in em of a bar of probability 1; lowest probability that is drawn


def passage_probabilities(logits: np.ndarray, offsets: list) -> tuple[np.ndarray, np.ndarray]:
    """Return (tokens (n, 2), probabilities (n,)) of the passage's tokens in order; the sum is 1.

    logits: (windows, L) of one passage; offsets: each window's (first, last + 1) characters of its
    tokens, -1 outside the passage. Tokens with the same characters are one token.
    """
    spans = np.concatenate([np.asarray(each).reshape(-1, 2) for each in offsets])
    values = np.concatenate([row[: len(each)] for row, each in zip(logits, offsets, strict=True)])
    inside = spans[:, 0] >= 0
    odds = np.exp(values[inside].astype(float) - values[inside].max(initial=-np.inf))
    tokens, place = np.unique(spans[inside], axis=0, return_inverse=True)
    return tokens, np.bincount(place.ravel(), odds, len(tokens)) / odds.sum()


def read_passages(model: Any, examples: Any, features: Any, tokenizer: Any,
                  precision: str = "auto") -> list[dict]:
    """Return one reading per example: as `decode_answers`, with "tokens", "starts" and "ends".

    tokens (n, 2): each token's characters; starts, ends (n,): its probabilities.
    """
    logits = predict_logits(model, features, tokenizer, precision, note="reading")
    readings = decode_answers(examples, features, *logits)
    owner = np.asarray(features.with_format(None)["example"][:])
    for i, reading in enumerate(readings):
        windows = np.flatnonzero(owner == i)
        offsets = features.select(windows)["offsets"][:]
        for name, values in zip(("starts", "ends"), logits, strict=True):
            reading["tokens"], reading[name] = passage_probabilities(values[windows], offsets)
    return readings


def rounded_percent(p: float) -> str:
    """Format a probability: 0.00194 -> 0.2%, 0.912 -> 91.2%."""
    return as_percent(round(float(p), 3))


def with_bars(text: str, start: float, end: float) -> str:
    """Return HTML of a token: a solid bar above it for `start`, a striped one below for `end`."""
    up, down = (round(BAR * float(np.sqrt(p)), 3) for p in (start, end))
    solid = f"linear-gradient({BLUE},{BLUE}) left 0 top {BAR - up:.3f}em/100% {up}em no-repeat"
    striped = (f"repeating-linear-gradient(90deg,{RED} 0 3px,transparent 3px 5px) "
               f"left 0 bottom {BAR - down:.3f}em/100% {down}em no-repeat")
    note = f"start {rounded_percent(start)}, end {rounded_percent(end)}"
    style = f"padding:{BAR}em 0; background:{solid},{striped}"
    return f'<span title="{note}" style="{style}">{html.escape(text)}</span>'


def draw_passage(passage: str, reading: dict, references: dict) -> str:
    """Return HTML of the passage: bars over its tokens, the answer bold, true answers underlined.

    reading: one of `read_passages`; references: {"text", "answer_start"} as in SQuAD. Raises
    ValueError unless every token has two probabilities between 0 and 1.
    """
    tokens = np.asarray(reading["tokens"]).reshape(-1, 2).tolist()
    for name in ("starts", "ends"):
        values = np.asarray(reading[name])
        if values.shape != (len(tokens),) or not ((values >= 0) & (values <= 1 + 1e-6)).all():
            raise ValueError(f"{name}: expected a probability for each of {len(tokens)} tokens")
    answer = (reading["start"], reading["end"])
    true = [(at, at + len(text)) for at, text in
            zip(references["answer_start"], references["text"], strict=True)]
    cuts = {0, len(passage), *answer, *(at for span in (*tokens, *true) for at in span)}
    firsts, pieces = [first for first, _ in tokens], []
    for a, b in pairwise(sorted(at for at in cuts if 0 <= at <= len(passage))):
        token = bisect_right(firsts, a) - 1
        piece = html.escape(passage[a:b])
        if token >= 0 and b <= tokens[token][1]:
            start, end = reading["starts"][token], reading["ends"][token]
            if max(start, end) >= SEEN:
                piece = with_bars(passage[a:b], start, end)
        if any(first <= a and b <= last for first, last in true):
            piece = f"<u>{piece}</u>"
        if answer[0] <= a and b <= answer[1]:  # marks show it where a page has no styles
            piece = f"<b>{'▸' * (a == answer[0])}{piece}{'◂' * (b == answer[1])}</b>"
        pieces.append(piece)
    return "".join(pieces)


def entropy_bits(probabilities: np.ndarray | list) -> float:
    """Return −Σ p log2 p: 0 if one token has all of it, log2 n if n tokens share it equally."""
    p = np.asarray(probabilities, dtype=float)
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum()) + 0.0


def caption(name: str, reading: dict, references: dict) -> str:
    """Return HTML of a model's answer, whether it is right, its probability and its entropy."""
    tokens = np.asarray(reading["tokens"]).reshape(-1, 2)
    start = np.asarray(reading["starts"])[tokens[:, 0] == reading["start"]].sum()
    end = np.asarray(reading["ends"])[tokens[:, 1] == reading["end"]].sum()
    verdict = "✓ right" if is_right(reading["prediction_text"], references) else "✗ wrong"
    said = html.escape(reading["prediction_text"]) or "<i>nothing</i>"
    return (
        f"<b>{html.escape(name)}</b>, {verdict}: {said}<br>start {rounded_percent(start)}, end "
        f"{rounded_percent(end)}, both {rounded_percent(start * end)}<br>entropy "
        f"{entropy_bits(reading['starts']):.1f}, {entropy_bits(reading['ends']):.1f} bits"
    )


def legend() -> str:
    """Return HTML that explains the bars, with some of them."""
    scale = "&ensp;".join(with_bars(as_percent(p), p, p) for p in (0.01, 0.1, 0.5, 1))
    return (
        '<p style="line-height:2">Solid bar above a word: how likely the answer starts there. '
        f"Striped bar below: how likely it ends there. For scale:&ensp;"
        f'<span style="white-space:nowrap">{scale}</span>&ensp;(heights are square '
        f"roots, so that small ones are seen; below {as_percent(SEEN)} none). <b>▸ … ◂</b> is the "
        "model's answer, <u>underlined</u> are the true ones. Entropy, of start and of end: 0 bits "
        "is sure of one word, 3 bits as unsure as among 8.</p>"
    )


def show_reading(example: dict, readings: dict[str, dict]) -> str:
    """Return HTML of one SQuAD row: the passage once for each {name of a model: its reading}."""
    true = " · ".join(html.escape(text) for text in dict.fromkeys(example["answers"]["text"]))
    panels = "".join(
        f'<div><p style="margin:.6em 0 0">{caption(name, reading, example["answers"])}</p>'
        f'<p style="line-height:2.6; margin:.3em 0">'
        f'{draw_passage(example["context"], reading, example["answers"])}</p></div>'
        for name, reading in readings.items()
    )
    grid = "display:grid; grid-template-columns:repeat(auto-fit,minmax(17em,1fr)); gap:0 2em"
    return (f"<p><b>{html.escape(example['question'])}</b><br>True answers: {true}</p>"
            f'<div style="{grid}">{panels}</div>')


def show_broken(examples: Any, readings: dict[str, list[dict]], most: int = 3) -> HTML:
    """Count the questions that only the last model gets wrong, and show the first of them.

    examples: rows of SQuAD; readings: {name of a model: one reading per example}, pruned last.
    """
    *others, last = readings
    right = {name: [is_right(reading["prediction_text"], answers) for reading, answers in
                    zip(each, examples["answers"], strict=True)]
             for name, each in readings.items()}
    broken = [i for i in range(len(examples))
              if not right[last][i] and all(right[name][i] for name in others)]
    found = f"{len(broken):,} of {len(examples):,} questions are answered "
    if others:
        mended = sum(now and not before for now, before in zip(right[last], right[others[0]]))
        found += (f"rightly by {html.escape(' and '.join(others))} and wrongly by "
                  f"{html.escape(last)}; the other way round it is {mended:,}")
    else:
        found += f"wrongly by {html.escape(last)}"
    shown = "".join(show_reading(examples[i], {name: each[i] for name, each in readings.items()})
                    for i in broken[:most])
    first = f" The first {len(broken[:most])}:" if len(broken) > 1 else ""
    return html_box(f"<p>{found}.{first}</p>{legend() if broken else ''}{shown}")
