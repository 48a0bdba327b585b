"""Figures and HTML of the data, the training and the answers, for the last line of a cell."""

import html
from collections.abc import Iterable, Sequence

import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure

from smp.data.answers import normalize_answer
from smp.plotting import BLUE, GREEN, INK, ORANGE, RED, new_figure, tidy_axes
from smp.text import as_percent


def html_box(body: str) -> HTML:
    """Return HTML in the notebook's own font, left-aligned, at most 52 em wide."""
    return HTML(f'<div style="max-width:52em; line-height:1.5; text-align:left">{body}</div>')


def show_example(example: dict) -> HTML:
    """Show question and passage of one SQuAD row, with its first answer marked."""
    context, answers = example["context"], example["answers"]
    parts = [context, "", ""]
    if answers["text"]:
        start = answers["answer_start"][0]
        end = start + len(answers["text"][0])
        parts = [context[:start], context[start:end], context[end:]]
    before, answer, after = (html.escape(part) for part in parts)
    mark = f'<mark style="background:#FFE08A; color:#000; padding:0 .15em">{answer}</mark>'
    question = html.escape(example["question"])
    return html_box(f"<p><b>{question}</b></p><p>{before}{mark if answer else ''}{after}</p>")


def plot_lengths(lengths: Sequence[int], max_length: int) -> Figure:
    """Draw the histogram of token counts (question + passage) with the model's window."""
    longer = int((np.asarray(lengths) > max_length).sum())
    fig, axes = new_figure(1, 1, 6.4, 2.8)
    ax = axes[0, 0]
    ax.hist(lengths, bins=min(50, max(1, np.ptp(lengths))), color=BLUE, edgecolor="white",
            linewidth=0.3)
    ax.axvline(max_length, color=RED, linewidth=1.5)
    ax.set_ylim(top=ax.get_ylim()[1] * 1.12)
    ax.annotate(f"window: {max_length} tokens", (max_length, 0.99), xytext=(-5, 0), va="top",
                ha="right", xycoords=("data", "axes fraction"), textcoords="offset points",
                fontsize=8.5, color=RED)
    share = as_percent(longer / max(1, len(lengths)))
    title = f"{longer:,} of {len(lengths):,} ({share}) are longer than the window"
    tidy_axes(ax, title, "question and passage, tokens", "questions")
    return fig


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Return the centred mean over `window` neighbours, fewer at both ends. (n,) -> (n,)"""
    ones = np.ones(min(max(1, window), len(values)))
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def plot_training(history: dict) -> Figure:
    """Draw the loss, density and λ if there is pruning, and validation EM and F1 if measured.

    The thick loss is a mean over 1/25 of the run. Raises ValueError if the history has no step.
    """
    steps, density, strength = history["step"], history["density"], history["lambda"]
    if not len(steps):
        raise ValueError("history holds no step to draw; expected at least one, train first")
    pruned = any(value != 1 for value in density) or any(value != 0 for value in strength)
    columns = 1 + pruned + bool(len(history["valid_step"]))
    fig, axes = new_figure(1, columns, 3.9 * columns, 2.9)
    panels = iter(axes[0])

    ax = next(panels)
    ax.plot(steps, history["loss"], color=BLUE, alpha=0.25, linewidth=0.8)
    ax.plot(steps, running_mean(history["loss"], len(steps) // 25), color=BLUE, linewidth=1.8)
    ax.set_ylim(bottom=min(0, min(history["loss"])))
    tidy_axes(ax, "Training loss", "step", "loss")

    if pruned:
        ax = next(panels)
        ax.plot(steps, density, color=GREEN, linewidth=1.8,
                label=f"density, down to {as_percent(density[-1])}")
        if max(strength) > 0:
            ax.plot(steps, np.asarray(strength) / max(strength), color=ORANGE, linewidth=1.8,
                    linestyle="--", label=f"λ as a share of {max(strength):.3g}")
        ax.set_ylim(0, 1.04)
        ax.legend(fontsize=8.5, frameon=False, loc="best", labelcolor=INK)
        tidy_axes(ax, "Density and λ", "step", "share")

    if len(history["valid_step"]):
        ax = next(panels)
        for name, colour, marker in (("F1", ORANGE, "s"), ("EM", BLUE, "o")):
            values = history[f"valid_{name.lower()}"]
            ax.plot(history["valid_step"], values, color=colour, marker=marker, markersize=4,
                    linewidth=1.6, label=f"{name}, last {values[-1]:.3f}")
        ax.set_ylim(0, min(1.04, 1.3 * max(max(history["valid_f1"]), 0.05)))
        ax.set_xlim(axes[0, 0].get_xlim())
        ax.legend(fontsize=8.5, frameon=False, loc="lower right", labelcolor=INK)
        tidy_axes(ax, "Validation questions", "step", "fraction")
    return fig


def spread_out(items: list, n: int) -> list:
    """Return at most n of the items, evenly spaced, so that nobody picks them."""
    n = min(n, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * n)] for i in range(n)]


def is_right(text: str, answers: dict) -> bool:
    """Return whether the text equals one of the answers, {"text": [...]}, by Exact Match (EM)."""
    return normalize_answer(text) in map(normalize_answer, answers["text"])


def show_answers(examples: Iterable[dict], predictions: list[dict], n_right: int = 3,
                 n_wrong: int = 5) -> HTML:
    """Show a table of questions, predicted answers and true answers, and the EM of all.

    examples: SQuAD rows; predictions: [{"id", "prediction_text"}]. Raises ValueError for other ids.
    """
    rows_by_id = {row["id"]: row for row in examples}
    groups: dict[bool, list] = {True: [], False: []}
    for prediction in predictions:
        key, text = prediction["id"], prediction["prediction_text"]
        if key not in rows_by_id:
            raise ValueError(f"prediction {key!r} belongs to no example; expected the same ids")
        row = rows_by_id[key]
        groups[is_right(text, row["answers"])].append((row, text))
    cell = '<td style="text-align:left; vertical-align:top; padding:.25em .8em .25em 0">'
    rows = []
    for mark, colour, chosen in (("✓ right", GREEN, spread_out(groups[True], n_right)),
                                 ("✗ wrong", RED, spread_out(groups[False], n_wrong))):
        for row, text in chosen:
            true = " · ".join(map(html.escape, dict.fromkeys(row["answers"]["text"])))
            cells = (html.escape(row["question"]), html.escape(text) or "<i>nothing</i>", true,
                     f'<span style="color:{colour}; white-space:nowrap">{mark}</span>')
            rows.append("<tr>" + "".join(f"{cell}{each}</td>" for each in cells) + "</tr>")
    head = "".join(f'<th style="text-align:left">{text}</th>' for text in
                   ("Question", "Given answer", "True answers", "EM"))
    right, total = len(groups[True]), len(predictions)
    line = f"<p>{right:,} of {total:,} right, EM {right / max(1, total):.3f}.</p>"
    return html_box(f"{line}<table><thead><tr>{head}</tr></thead>"
                    f"<tbody>{''.join(rows)}</tbody></table>")
