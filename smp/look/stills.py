"""Look at the masks.

`explore` puts the views behind a slider over the steps; `still` draws one of them for those who
only read, and `plot_masks` a strip of one matrix at several steps.
"""

import textwrap

import numpy as np
from matplotlib.figure import Figure

from smp.look.drawing import (
    SHARE_TICKS,
    Selection,
    SnapshotView,
    blank_figure,
    colour_bar,
    draw_mask,
    place_axes,
)
from smp.look.mask_figures import FIGURES
from smp.look.mask_stats import window_of
from smp.plotting import INK
from smp.text import as_percent


def with_caption(fig, words: str):
    """The figure with the caption written below it. -> the figure"""
    wide, tall = fig.get_size_inches()
    lines = textwrap.wrap(words, int(15.5 * wide))
    more = 0.19 * len(lines) + 0.1
    boxes = [(ax, ax.get_position()) for ax in fig.axes]
    fig.set_size_inches(wide, tall + more)
    for ax, box in boxes:
        ax.set_position([box.x0, (box.y0 * tall + more) / (tall + more), box.width,
                         box.height * tall / (tall + more)])
    fig.text(0.1 / wide, (more - 0.08) / (tall + more), "\n".join(lines), va="top", fontsize=9,
             color=INK)
    return fig


def still(saved, view: str = "layers", step: int | None = None, name: str | None = None,
          **window) -> Figure:
    """One of the VIEWS with its caption. saved: `Snapshots`; step: the last one by default; name:
    of the matrix, by default the last layer's first; window: side, row and column of a `Spot`.

    Raises ValueError for a view, step or matrix that is not there.
    """
    last = max(layer for _, layer, _, _ in saved.matrices)
    name = next(row[0] for row in saved.matrices if row[1] == last) if name is None else name
    step = saved.steps[-1] if step is None else step
    for what, value, known in (("view", view, list(FIGURES)), ("step", step, saved.steps),
                               ("matrix", name, saved.names)):
        if value not in known:
            raise ValueError(f"no {what} {value!r}; expected one of: {', '.join(map(str, known))}")
    return with_caption(*FIGURES[view](SnapshotView(saved, Selection(step, name, **window))))


def plot_masks(saved, name: str, blocks: int = 64, most: int = 5) -> Figure:
    """The mask of one matrix at up to `most` of the snapshots, first and last among them.

    The colours are on a square-root scale, the same in all panels, so that 3% is still told from
    nothing. Raises ValueError for a matrix that is not there.
    """
    if name not in saved.names:
        raise ValueError(f"no matrix {name!r}; expected one of: {', '.join(saved.names)}")
    picked = np.linspace(0, len(saved.steps) - 1, min(most, len(saved.steps))).round().astype(int)
    steps = [saved.steps[i] for i in picked]
    out, wide = saved.shapes[name]
    down = wide >= 2 * out  # wide matrices stand one under the other
    count = len(steps)
    across, tall = (5.4, 5.4 * out / wide) if down else (min(1.75, 3.5 * wide / out), 0)
    tall = tall or across * out / wide
    fig = blank_figure(7.4 if down else 2.0 + count * (across + 0.15),
                       0.9 + (count * (tall + 0.35) if down else tall + 0.35))
    for i, step in enumerate(steps):
        mask = saved.mask(step, name)
        left, bottom = (0.7, 0.55 + (count - 1 - i) * (tall + 0.35)) if down else (
            0.7 + i * (across + 0.15), 0.55)
        ax = place_axes(fig, left, bottom, across, tall)
        kept = f"step {step:,}{': ' if down else chr(10)}{as_percent(mask.mean())} kept"
        image, size = draw_mask(ax, mask, window_of(mask.shape, None, 0, 0), kept, blocks)
        if not down and i:
            ax.set_yticks([])
        if i < count - 1:
            ax.set_xticks([])
    ax.set_xlabel("input feature", fontsize=9, color=INK)
    fig.axes[0].set_ylabel("output neuron", fontsize=9, color=INK)
    bar = place_axes(fig, left + across + 0.2, 0.55, 0.12, max(tall, 1.2))
    colour_bar(fig, bar, image, f"kept in a block\nof {size} × {size}", ticks=SHARE_TICKS)
    return fig
