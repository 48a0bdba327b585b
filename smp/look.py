# %% [markdown]
# ## Pictures
#
# Numbers in a table say how good a pruned model is; pictures say what happened to it. The
# functions below draw the data, the training, the masks and the answers. Each takes plain values
# and returns a figure or a piece of HTML, so that the last line of a cell shows it, once.
#
# The colours are those of Okabe and Ito and the cividis map, which readers with any kind of
# colour vision can tell apart.

# %%
import html
import math
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.colors import PowerNorm

# %%
from smp.answers import normalize_answer

# %%
from smp.results import as_percent

# %%
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # Okabe and Ito
INK, FAINT = "#333333", "#DDDDDD"


def new_figure(rows: int, columns: int, width: float, height: float):
    """(figure, axes (rows, columns)); width and height of the figure in inches."""
    fig, axes = plt.subplots(
        rows, columns, figsize=(width, height), dpi=110, layout="constrained", squeeze=False
    )
    plt.close(fig)  # pyplot forgets it: Jupyter shows what a cell returns, and nothing twice
    return fig, axes


def tidy_axes(ax, title: str, xlabel: str = "", ylabel: str = "", grid: bool = True):
    """One look for every panel: title on the left, small quiet labels, no box."""
    ax.set_title(title, loc="left", fontsize=10.5, color=INK)
    ax.set_xlabel(xlabel, fontsize=9, color=INK)
    ax.set_ylabel(ylabel, fontsize=9, color=INK)
    ax.tick_params(labelsize=8.5, colors=INK, length=0 if not grid else 3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[:].set_color("#999999")
    if grid:
        ax.grid(axis="y", color=FAINT, linewidth=0.6)
        ax.set_axisbelow(True)
    else:
        ax.spines[:].set_visible(False)


# %% [markdown]
# ### The data
#
# One example with its answer marked, and how long the questions with their passages are in
# tokens: what is longer than the model's window is cut into several.


# %%
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


# %%
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


# %% [markdown]
# ### The training
#
# The loss as it was and smoothed over 1/25 of the run; the density v(t) of the masks with the
# weight λ(t) of the regulariser; the score on the validation questions.


# %%
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
        ax.legend(fontsize=8.5, frameon=False, loc="center right", labelcolor=INK)
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


# %% [markdown]
# ### What is left, and where
#
# SMP-L keeps the same share of every matrix. SMP-S lets the scores decide which layers keep
# more.


# %%
def layer_shares(layers: list[dict]) -> tuple[np.ndarray, list[int], list[str]]:
    """(kept shares (n_layers, n_matrices), NaN where there is none; layer numbers; names)."""
    rows = sorted({entry["layer"] for entry in layers})
    columns = list(dict.fromkeys(entry["matrix"] for entry in layers))
    shares = np.full((len(rows), len(columns)), np.nan)
    for entry in layers:
        where = rows.index(entry["layer"]), columns.index(entry["matrix"])
        shares[where] = entry["kept"] / entry["total"]
    return shares, rows, columns


def plot_layers(layers: list[dict]):
    """Heat map of the kept share per layer (rows) and matrix type (columns). -> Figure"""
    if not layers:
        raise ValueError("no layers to draw; expected a list of {layer, matrix, kept, total}")
    shares, rows, columns = layer_shares(layers)
    low, high = np.nanmin(shares), np.nanmax(shares)
    equal = high - low < 5e-4  # k = ⌊v·n⌋ rounds a little differently in each shape
    total = sum(e["kept"] for e in layers) / sum(e["total"] for e in layers)
    top = 1.0 if equal else high
    fig, axes = new_figure(1, 1, 1.4 + 1.0 * len(columns), 1.3 + 0.34 * len(rows))
    ax = axes[0, 0]
    image = ax.imshow(shares, cmap="cividis", vmin=0, vmax=top, aspect="auto")
    for (i, j), share in np.ndenumerate(shares):
        if not np.isnan(share):
            ax.text(j, i, f"{100 * share:.1f}%", ha="center", va="center", fontsize=8.5,
                    color="white" if share < 0.55 * top else "black")
    ax.hlines(np.arange(len(rows) - 1) + 0.5, -0.5, len(columns) - 0.5, color="white", linewidth=1)
    ax.vlines(np.arange(len(columns) - 1) + 0.5, -0.5, len(rows) - 0.5, color="white", linewidth=1)
    ax.set_xticks(range(len(columns)), [name.replace(" ", "\n") for name in columns])
    ax.set_yticks(range(len(rows)), [f"layer {row}" for row in rows])
    if equal:
        title = f"Every matrix keeps the same share: {as_percent(total)}"
    else:
        title = f"{as_percent(total)} kept in all; {as_percent(low)} to {as_percent(high)} a matrix"
    tidy_axes(ax, title, grid=False)
    bar = fig.colorbar(image, ax=ax, pad=0.02, format=lambda value, _: as_percent(value))
    bar.set_label("weights kept", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8.5, colors=INK)
    bar.outline.set_visible(False)
    return fig


# %% [markdown]
# ### The masks
#
# A mask has more weights than a screen has points. So we show blocks: each point is the share of
# the weights kept in one square block, which is what a camera from further away would see. Rows
# and columns that stay dark are neurons and features the task does without.


# %%
def pool_mask(mask: np.ndarray, blocks: int = 64) -> np.ndarray:
    """Share kept in square blocks, `blocks` of them along the mask's shorter side.

    (out, in) bool -> (⌈out/b⌉, ⌈in/b⌉) float with b = ⌈min(out, in)/blocks⌉; blocks at the right
    and lower edge may be smaller and are averaged over what they have.
    """
    mask = np.asarray(mask)
    size = math.ceil(min(mask.shape) / blocks)
    rows, columns = (np.arange(0, side, size) for side in mask.shape)
    kept = np.add.reduceat(np.add.reduceat(mask, rows, 0, dtype=np.int64), columns, 1)
    heights, widths = (np.minimum(size, n - s) for s, n in
                       zip((rows, columns), mask.shape, strict=True))
    return kept / np.outer(heights, widths)


def matrix_title(name: str) -> str:
    """encoder.layer.3.attention.self.query -> layer 3, attention.self.query"""
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return name if at is None else f"layer {parts[at]}, {'.'.join(parts[at + 1:])}"


# %%
def plot_masks(snapshots: dict, matrix: str, blocks: int = 64, most: int = 5):
    """The masks of one matrix at up to `most` steps, first and last among them. -> Figure

    snapshots: {step: {matrix name: bool (out, in)}}. The colours are on a square-root scale, the
    same in all panels, so that 3% is still told from nothing.
    """
    if not snapshots or matrix not in next(iter(snapshots.values())):
        known = ", ".join(next(iter(snapshots.values()), {})) or "no matrix at all"
        raise ValueError(f"no snapshot of the matrix {matrix!r}; expected one of: {known}")
    steps = sorted(snapshots)
    picked = np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int))
    masks = [np.asarray(snapshots[steps[i]][matrix]) for i in picked]
    pooled = [pool_mask(mask, blocks) for mask in masks]
    out, wide = masks[0].shape
    down = wide >= 2 * out  # wide matrices stand one under the other
    rows, columns = (len(masks), 1) if down else (1, len(masks))
    tall = out >= 2 * wide
    height = 5.4 * out / wide if down else 4.2 if tall or len(masks) == 1 else 1.9  # of a panel
    fig, axes = new_figure(rows, columns, max(4.6, columns * (height * wide / out + 0.2) + 1.4),
                           rows * (height + 0.4) + 0.6)
    norm = PowerNorm(0.5, 0, 1)
    for ax, i, mask, shares in zip(axes.flat, picked, masks, pooled, strict=True):
        edges = (-0.5, wide - 0.5, out - 0.5, -0.5)
        image = ax.imshow(shares, cmap="cividis", norm=norm, extent=edges,
                          interpolation="nearest")
        kept = f"step {steps[i]:,}{chr(10) if tall else ': '}{as_percent(mask.mean())} kept"
        tidy_axes(ax, kept, grid=False)
        ax.set_xticks([0, wide - 1] if ax is axes[-1, 0] or not down else [])
        ax.set_yticks([0, out - 1] if ax is axes[0, 0] or down else [])
    axes[-1, 0].set_xlabel("input feature", fontsize=9, color=INK)
    axes[0, 0].set_ylabel("output neuron", fontsize=9, color=INK)
    some = "" if len(picked) == len(steps) else f", {len(picked)} of {len(steps)} snapshots"
    fig.suptitle(f"{matrix_title(matrix)} ({out} × {wide}{some})", fontsize=10.5, color=INK,
                 x=0.01, ha="left", weight="bold")
    size = math.ceil(min(out, wide) / blocks)
    bar = fig.colorbar(image, ax=axes, pad=0.01, shrink=0.5 if rows > 1 or tall else 1, aspect=15,
                       ticks=[0, 0.03, 0.1, 0.25, 0.5, 1],
                       format=lambda value, _: as_percent(value))
    bar.set_label(f"kept in a block of {size} × {size}", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8.5, colors=INK)
    bar.outline.set_visible(False)
    return fig


# %%
def mask_churn(snapshots: dict) -> tuple[list[int], list[float], list[float]]:
    """(steps, removed, brought back) from each snapshot to the next, over all matrices.

    removed: share of the weights kept before that are gone; brought back: share of the weights
    kept now that were gone before. The steps are those of the later snapshots.
    """
    steps, removed, returned = sorted(snapshots), [], []
    for before, now in pairwise(snapshots[step] for step in steps):
        kept_before = sum(int(np.count_nonzero(before[name])) for name in now)
        kept_now = sum(int(np.count_nonzero(now[name])) for name in now)
        both = sum(int(np.count_nonzero(before[name] & now[name])) for name in now)
        removed.append((kept_before - both) / max(1, kept_before))
        returned.append((kept_now - both) / max(1, kept_now))
    return steps[1:], removed, returned


def plot_churn(snapshots: dict):
    """How much the masks change between snapshots: removed and brought back. -> Figure"""
    if len(snapshots) < 2:
        raise ValueError(f"{len(snapshots)} snapshot(s) of the masks, expected at least 2")
    steps, removed, returned = mask_churn(snapshots)
    fig, axes = new_figure(1, 1, 6.4, 2.9)
    ax = axes[0, 0]
    ax.plot(steps, removed, color=RED, marker="o", markersize=4, linewidth=1.6,
            label="removed, of the weights kept before")
    ax.plot(steps, returned, color=BLUE, marker="s", markersize=4, linewidth=1.6,
            label="brought back, of the weights kept now")
    ax.set_ylim(0, max(0.01, 1.25 * max(removed + returned)))
    ax.yaxis.set_major_formatter(lambda value, _: as_percent(value))
    ax.legend(fontsize=8.5, frameon=False, labelcolor=INK)
    tidy_axes(ax, "Weights that changed since the last snapshot", "step", "share of weights")
    return fig


# %% [markdown]
# With ipywidgets, a slider and a menu go through all snapshots and matrices.


# %%
def browse_masks(snapshots: dict):
    """A slider over the steps and a menu of the matrices; without ipywidgets a still picture."""
    matrices = list(next(iter(snapshots.values()), {}))
    try:
        from ipywidgets import interactive
    except ImportError:
        print("To browse the masks: pip install ipywidgets. Until then, the first matrix:")
        return plot_masks(snapshots, matrices[0] if matrices else "any")
    from ipywidgets import Dropdown, SelectionSlider

    def draw(step, matrix):
        return plot_masks({step: snapshots[step]}, matrix, blocks=128)

    return interactive(
        draw,
        {"auto_display": True},
        step=SelectionSlider(options=sorted(snapshots), continuous_update=False),
        matrix=Dropdown(options=[(matrix_title(name), name) for name in matrices]),
    )


# %% [markdown]
# ### The answers
#
# A handful of right and of wrong answers tells more about a model than its EM does. They are
# taken evenly across the questions, so nobody picked them.


# %%
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
