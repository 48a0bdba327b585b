"""Views of the data, the training and the answers, for the last line of a cell."""

import math
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from smp.data.answers import normalize_answer
from smp.plotting import BLUE, GREEN, INK, ORANGE, RED, View, as_html, new_figure, tidy_axes
from smp.text import as_percent


def html_part(body: str) -> dict:
    """Return a part of a `View`: HTML in the notebook's own font."""
    return {"text/html": f'<div style="max-width:52em; text-align:left">{body}</div>'}


def show_examples(rows: Iterable[dict], n: int = 3) -> View:
    """Show question and passage of the first n SQuAD rows, the first answer between ▸ and ◂."""
    body = ""
    for row in islice(rows, n):
        answer, start = row["answers"]["text"][0], row["answers"]["answer_start"][0]
        before, after = row["context"][:start], row["context"][start + len(answer):]
        body += (f"<p><b>{as_html(row['question'])}</b></p><p>{as_html(before)}"
                 f"<mark>▸{as_html(answer)}◂</mark>{as_html(after)}</p>")
    return View(html_part(body))


def plot_lengths(lengths: Sequence[int], max_length: int) -> View:
    """Draw the histogram of token counts (question + passage) and the limit of a window."""
    longer, total = int((np.asarray(lengths) > max_length).sum()), len(lengths)
    fig, axes = new_figure(1, 1, 6.4, 2.8)
    axes[0, 0].hist(lengths, bins=min(50, max(1, np.ptp(lengths))), color=BLUE, edgecolor="white")
    axes[0, 0].axvline(max_length, color=RED, linewidth=1.5)
    tidy_axes(axes[0, 0], "Length of question and passage",
              f"tokens (line: window of {max_length:,} tokens)", "questions")
    return View(fig, (
        f"Question and passage have {min(lengths):,} to {max(lengths):,} tokens, on average "
        f"{np.mean(lengths):,.0f}. {longer:,} of {total:,} ({as_percent(longer / total)}) exceed "
        f"the {max_length:,} tokens of a window and are split into several windows."))


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Return the centred mean (n,) over `window` neighbours of (n,), fewer at both ends."""
    ones = np.ones(min(max(1, window), len(values)))
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def plot_training(history: dict, tokens: float | None = None) -> View:
    """Draw the loss, density and λ if there is pruning, and EM and F1 on held-out questions.

    tokens: mean length of a window, which gives the loss of a uniform guess. The thick loss is a
    mean over 1/25 of the run. Raises ValueError if the history has no step.
    """
    steps, loss, density, valid = (history[k] for k in ("step", "loss", "density", "valid_step"))
    if not len(steps):
        raise ValueError("history contains no step, expected at least one: train first")
    strength, smooth = np.asarray(history["lambda"]), running_mean(loss, len(steps) // 25)
    columns = 1 + (pruned := max(strength) > 0 or min(density) < 1) + bool(len(valid))
    fig, axes = new_figure(1, columns, 3.1 * columns, 2.8)
    ax = axes[0, 0]
    ax.plot(steps, loss, color=BLUE, alpha=0.25, linewidth=0.8)
    ax.plot(steps, smooth, color=BLUE, linewidth=1.8)
    ax.set_ylim(bottom=0)
    tidy_axes(ax, "Training loss", "step", "loss (nats)")
    words = f"The loss is {loss[0]:.2f} at the first step and about {smooth[-1]:.2f} at the last."
    if tokens:
        ax.axhline(math.log(tokens), color=INK, linewidth=0.8, linestyle=":")
        words += (f" The dotted line is a uniform guess over {tokens:.0f} tokens: "
                  f"ln {tokens:.0f} = {math.log(tokens):.2f}.")
    if pruned:
        ax = axes[0, 1]
        ax.plot(steps, density, color=GREEN, linewidth=1.8, label="density")
        if max(strength) > 0:
            ax.plot(steps, strength / max(strength), "--", color=ORANGE, linewidth=1.8,
                    label=f"λ / {max(strength):.3g}")
        ax.set_ylim(0, 1.04)
        tidy_axes(ax, "Density and λ", "step", "share")
        words += (f" The density reaches {as_percent(density[-1])} at step "
                  f"{steps[list(density).index(density[-1])]:,}.")
    if len(valid):
        ax, em = axes[0, -1], history["valid_em"]
        ax.plot(valid, history["valid_f1"], "s-", color=ORANGE, markersize=4, label="F1")
        ax.plot(valid, em, "o-", color=BLUE, markersize=4, label="EM")
        ax.set(xlim=axes[0, 0].get_xlim(), ylim=(0, 1.04))
        tidy_axes(ax, "Held-out questions", "step", "fraction")
        words += (f" EM on held-out questions is {em[0]:.3f} at step {valid[0]:,} and {em[-1]:.3f} "
                  f"at step {valid[-1]:,}.")
    for ax in axes[0, 1:]:
        ax.legend(fontsize=8.5, frameon=False, labelcolor=INK)
    return View(fig, words)


def spread_out(items: list, n: int) -> list:
    """Return at most n of the items, evenly spaced."""
    n = min(n, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * n)] for i in range(n)]


def is_right(text: str, answers: dict) -> bool:
    """Return whether the text equals one of the answers, {"text": [...]}, by Exact Match (EM)."""
    return normalize_answer(text) in map(normalize_answer, answers["text"])


def show_answers(examples: Iterable[dict], predictions: list[dict], n_right: int = 3,
                 n_wrong: int = 5) -> View:
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
        em = is_right(text, row["answers"])
        groups[em].append(("✓ right" if em else "✗ wrong", row["question"], text or "(nothing)",
                           " · ".join(dict.fromkeys(row["answers"]["text"]))))
    table = "".join(
        f"<tr>{''.join(f'<td>{as_html(cell)}</td>' for cell in cells)}</tr>"
        for cells in (*spread_out(groups[True], n_right), *spread_out(groups[False], n_wrong)))
    head = "<tr><th>Verdict</th><th>Question</th><th>Given answer</th><th>True answers</th></tr>"
    right, total = len(groups[True]), len(predictions)
    return View(html_part(f"<table>{head}{table}</table>"), (
        f"{right:,} of {total:,} answers are right: EM {right / max(1, total):.3f}. The rows are "
        "evenly spaced over all right and all wrong answers."))
