"""The answer, drawn over the passage.

A model does not say an answer; it says of every token how likely the answer starts there, and
how likely it ends there. Drawn over the passage, a dense model's word beside a pruned one's,
they show what pruning broke: whether the pruned model looks elsewhere, or no longer knows where
the answer stops, or is merely less sure.
"""

import html
from bisect import bisect_right
from itertools import pairwise

import numpy as np
from IPython.display import HTML

from smp.data.answers import decode_answers, normalize_answer
from smp.look.figures import html_box
from smp.model.predict import predict_logits
from smp.plotting import BLUE, RED
from smp.text import as_percent


def passage_probabilities(logits, offsets):
    """(tokens (n, 2), probabilities (n,)): over the passage's tokens, in its order; they sum to 1.

    logits: (windows, L) of one passage; offsets: its windows' lists of (first, last + 1)
    characters, -1 for what is not passage. Tokens that share a window's overlap, or their
    characters, are one.
    """
    spans = np.concatenate([np.asarray(each).reshape(-1, 2) for each in offsets])
    values = np.concatenate([row[: len(each)] for row, each in zip(logits, offsets, strict=True)])
    inside = spans[:, 0] >= 0
    odds = np.exp(values[inside].astype(float) - values[inside].max(initial=-np.inf))
    tokens, place = np.unique(spans[inside], axis=0, return_inverse=True)
    return tokens, np.bincount(place.ravel(), odds, len(tokens)) / odds.sum()


def read_passages(model, examples, features, tokenizer, precision="auto"):
    """One reading per example: {"prediction_text", "start", "end", …} as `decode_answers` has it,
    with "tokens" (n, 2), "starts" (n,), "ends" (n,): each token's characters and probabilities."""
    logits = predict_logits(model, features, tokenizer, precision, note="reading")
    readings = decode_answers(examples, features, *logits)
    owner = np.asarray(features.with_format(None)["example"][:])
    for i, reading in enumerate(readings):
        windows = np.flatnonzero(owner == i)
        offsets = features.select(windows)["offsets"][:]
        for name, values in zip(("starts", "ends"), logits, strict=True):
            reading["tokens"], reading[name] = passage_probabilities(values[windows], offsets)
    return readings


# A token's two bars are told apart by place and pattern as well as by colour: a solid one above
# the word for the start, a striped one below it for the end. The answer itself is in the text, in
# bold between ▸ and ◂, so that it is also seen where a page shows no styles.
def rounded_percent(p: float) -> str:
    """0.00194 -> 0.2%, 0.912 -> 91.2%."""
    return as_percent(round(float(p), 3))

BAR = 0.6  # em, the height of a bar of probability 1
SEEN = 0.005  # a lower probability is not drawn


def with_bars(text: str, start: float, end: float) -> str:
    """HTML of one token's text: a bar above it for `start`, one below it for `end`."""
    up, down = (round(BAR * float(np.sqrt(p)), 3) for p in (start, end))
    solid = f"linear-gradient({BLUE},{BLUE}) left 0 top {BAR - up:.3f}em/100% {up}em no-repeat"
    striped = (f"repeating-linear-gradient(90deg,{RED} 0 3px,transparent 3px 5px) "
               f"left 0 bottom {BAR - down:.3f}em/100% {down}em no-repeat")
    note = f"start {rounded_percent(start)}, end {rounded_percent(end)}"
    style = f"padding:{BAR}em 0; background:{solid},{striped}"
    return f'<span title="{note}" style="{style}">{html.escape(text)}</span>'


def draw_passage(passage: str, reading: dict, references: dict) -> str:
    """HTML of the passage: bars over its tokens, the answer bold, true answers underlined.

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
        if answer[0] <= a and b <= answer[1]:
            opening, closing = "▸" * (a == answer[0]), "◂" * (b == answer[1])
            piece = f"<b>{opening}{piece}{closing}</b>"
        pieces.append(piece)
    return "".join(pieces)


def entropy_bits(probabilities) -> float:
    """−Σ p log2 p: 0 where one token has it all, log2 n where n tokens share it equally."""
    p = np.asarray(probabilities, dtype=float)
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum()) + 0.0


def is_right(reading: dict, references: dict) -> bool:
    """Whether the answer is one of the references, as Exact Match compares."""
    given = normalize_answer(reading["prediction_text"])
    return any(given == normalize_answer(text) for text in references["text"])


def caption(name: str, reading: dict, references: dict) -> str:
    """HTML: who answered what, whether it is right, how probable, and how unsure of it."""
    tokens = np.asarray(reading["tokens"]).reshape(-1, 2)
    start = np.asarray(reading["starts"])[tokens[:, 0] == reading["start"]].sum()
    end = np.asarray(reading["ends"])[tokens[:, 1] == reading["end"]].sum()
    verdict = "✓ right" if is_right(reading, references) else "✗ wrong"
    said = html.escape(reading["prediction_text"]) or "<i>nothing</i>"
    unsure = (entropy_bits(reading[part]) for part in ("starts", "ends"))
    return (
        f"<b>{html.escape(name)}</b>, {verdict}: {said}<br>start {rounded_percent(start)}, end "
        f"{rounded_percent(end)}, both {rounded_percent(start * end)}<br>entropy "
        + ", ".join(f"{bits:.1f}" for bits in unsure) + " bits"
    )


def legend() -> str:
    """HTML that says how to read the bars, with some of them."""
    scale = "&ensp;".join(with_bars(as_percent(p), p, p) for p in (0.01, 0.1, 0.5, 1))
    return (
        '<p style="line-height:2">Solid bar above a word: how likely the answer starts there. '
        f"Striped bar below: how likely it ends there. For scale:&ensp;"
        f'<span style="white-space:nowrap">{scale}</span>&ensp;(heights are square '
        f"roots, so that small ones are seen; below {as_percent(SEEN)} none). <b>▸ … ◂</b> is the "
        "model's answer, <u>underlined</u> are the true ones. Entropy, of start and of end: 0 bits "
        "is sure of one word, 3 bits as unsure as among 8.</p>"
    )


def show_reading(example: dict, readings: dict) -> str:
    """HTML of one question: the passage once for each model, side by side where there is room.

    example: a SQuAD row; readings: {name of the model: its reading}.
    """
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


# Which questions? Nobody picks them: the first ones that the last model gets wrong and the others
# get right.
def show_broken(examples, readings: dict, most: int = 3) -> HTML:
    """The first questions that the last model gets wrong and the models before it right.

    examples: rows of SQuAD; readings: {name of the model: its readings, one an example}, the
    pruned model last. Says how many such questions there are.
    """
    *others, last = readings
    right = {name: [is_right(*pair) for pair in zip(said, examples["answers"], strict=True)]
             for name, said in readings.items()}
    broken = [i for i in range(len(examples))
              if not right[last][i] and all(right[name][i] for name in others)]
    found = f"{len(broken):,} of {len(examples):,} questions are answered "
    if others:
        mended = sum(right[last][i] and not right[others[0]][i] for i in range(len(examples)))
        found += (f"rightly by {html.escape(' and '.join(others))} and wrongly by "
                  f"{html.escape(last)}; the other way round it is {mended:,}")
    else:
        found += f"wrongly by {html.escape(last)}"
    shown = "".join(show_reading(examples[i], {name: said[i] for name, said in readings.items()})
                    for i in broken[:most])
    first = f" The first {len(broken[:most])}:" if len(broken) > 1 else ""
    return html_box(f"<p>{found}.{first}</p>{legend() if broken else ''}{shown}")
