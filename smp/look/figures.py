"""Pictures.

Numbers in a table say how good a model is; pictures say what happened to it. The functions below
draw the data, the training and the answers. Each takes plain values and returns a figure or a
piece of HTML, so that the last line of a cell shows it, once.

The colours are those of Okabe and Ito and the cividis map, which readers with any kind of
colour vision can tell apart.
"""

import html

import numpy as np
from IPython.display import HTML

from smp.data.answers import normalize_answer
from smp.plotting import BLUE, GREEN, INK, ORANGE, RED, new_figure, tidy_axes
from smp.text import as_percent


def html_box(body: str) -> HTML:
    """HTML in the notebook's own font, left-aligned and no wider than reads well."""
    style = "max-width:52em; line-height:1.5; text-align:left"
    return HTML(f'<div style="{style}">{body}</div>')


def show_example(example: dict) -> HTML:
    """Question and passage of one SQuAD row; the first of its answers is marked."""
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


def plot_lengths(lengths, max_length: int):
    """Histogram of token counts (question + passage) with the model's window. -> Figure"""
    lengths = np.asarray(lengths)
    longer = int((lengths > max_length).sum())
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


# ### The training
#
# The loss as it was and smoothed over 1/25 of the run; the density v(t) of the masks with the
# weight λ(t) of the regulariser; the score on the validation questions.
def running_mean(values, window: int) -> np.ndarray:
    """Centred mean over `window` neighbours, over fewer at both ends. (n,) -> (n,)"""
    values = np.asarray(values, dtype=float)
    window = min(max(1, window), len(values))
    ones = np.ones(window)
    return np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same")


def plot_training(history: dict):
    """Loss; density and λ if there is pruning; validation EM and F1 if measured. -> Figure

    Raises ValueError when the history holds no step.
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
        scores = (("F1", "valid_f1", ORANGE, "s", 6), ("EM", "valid_em", BLUE, "o", -6))
        for name, key, colour, marker, _ in scores:
            ax.plot(history["valid_step"], history[key], color=colour, marker=marker,
                    markersize=4, linewidth=1.6, label=f"{name}, last {history[key][-1]:.3f}")
        ax.set_ylim(0, min(1.04, 1.3 * max(max(history["valid_f1"]), 0.05)))
        ax.set_xlim(axes[0, 0].get_xlim())
        ax.legend(fontsize=8.5, frameon=False, loc="lower right", labelcolor=INK)
        tidy_axes(ax, "Validation questions", "step", "fraction")
    return fig


# ### The answers
#
# A handful of right and of wrong answers tells more about a model than its EM does. They are
# taken evenly across the questions, so nobody picked them.
def spread_out(items: list, n: int) -> list:
    """At most n of the items, evenly across."""
    n = min(n, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * n)] for i in range(n)]


def show_answers(examples, predictions, references=None, n_right=3, n_wrong=5) -> HTML:
    """Table of questions, given answers and true answers; right means an exact match (EM).

    examples: rows with id, question, answers; predictions: [{"id", "prediction_text"}];
    references: [{"id", "answers"}], by default the answers of the examples.
    Raises ValueError when a prediction belongs to no example.
    """
    questions = {row["id"]: row for row in examples}
    truths = {row["id"]: row["answers"]["text"] for row in references or examples}
    right, wrong = [], []
    for prediction in predictions:
        key, text = prediction["id"], prediction["prediction_text"]
        if key not in questions or key not in truths:
            raise ValueError(f"prediction {key!r} belongs to no example; expected the same ids")
        match = any(normalize_answer(text) == normalize_answer(truth) for truth in truths[key])
        (right if match else wrong).append((questions[key]["question"], text, truths[key]))

    cell = '<td style="text-align:left; vertical-align:top; padding:.25em .8em .25em 0">'
    rows = []
    for mark, colour, chosen in (
        ("✓ right", GREEN, spread_out(right, n_right)),
        ("✗ wrong", RED, spread_out(wrong, n_wrong)),
    ):
        for question, text, true in chosen:
            given = html.escape(text) or "<i>nothing</i>"
            true = " · ".join(html.escape(answer) for answer in dict.fromkeys(true))
            mark_cell = f'<span style="color:{colour}; white-space:nowrap">{mark}</span>'
            cells = (html.escape(question), given, true, mark_cell)
            rows.append("<tr>" + "".join(f"{cell}{text}</td>" for text in cells) + "</tr>")
    head = "".join(f'<th style="text-align:left">{text}</th>' for text in
                   ("Question", "Given answer", "True answers", "EM"))
    total = len(right) + len(wrong)
    line = f"<p>{len(right):,} of {total:,} right, EM {len(right) / max(1, total):.3f}.</p>"
    return html_box(f"{line}<table><thead><tr>{head}</tr></thead>"
                    f"<tbody>{''.join(rows)}</tbody></table>")
