"""Figures of masks with their captions, for a page that is only read: `still`, `plot_masks`."""

import io
import textwrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from smp.look.drawing import Selection, blank_figure, colour_bar, draw_mask, place_axes
from smp.look.mask_figures import FIGURES
from smp.look.mask_stats import window_of
from smp.look.snapshots import Snapshots
from smp.plotting import INK
from smp.text import as_percent


def with_caption(fig: Figure, words: str) -> Figure:
    """Enlarge the figure, write the caption below it, and return it."""
    wide, tall = fig.get_size_inches()
    lines = textwrap.wrap(words, int(15.5 * wide))
    more = 0.19 * len(lines) + 0.1
    boxes = [(ax, ax.get_position()) for ax in fig.axes]
    fig.set_size_inches(wide, tall + more)
    for ax, box in boxes:
        ax.set_position((box.x0, (box.y0 * tall + more) / (tall + more), box.width,
                         box.height * tall / (tall + more)))
    fig.text(0.1 / wide, (more - 0.08) / (tall + more), "\n".join(lines), va="top", fontsize=9,
             color=INK)
    return fig


def png_bytes(fig: Figure) -> bytes:
    """Return the figure as a PNG file."""
    file = io.BytesIO()
    fig.savefig(file, format="png", pil_kwargs={"compress_level": 1})
    return file.getvalue()


def still(saved: Snapshots, view: str = "layers", step: int | None = None, name: str | None = None,
          **window: Any) -> Figure:
    """Draw one of the FIGURES with its caption.

    step: by default the last; name: of the matrix, by default the first of the last layer; window:
    side, row and column of a `Selection`. Raises ValueError for an unknown view, step or matrix.
    """
    if name is None:
        name = next(row[0] for row in saved.matrices if row[1] == saved.layers[-1])
    step = saved.steps[-1] if step is None else step
    for what, value, known in (("view", view, list(FIGURES)), ("step", step, saved.steps),
                               ("matrix", name, saved.names)):
        if value not in known:
            raise ValueError(f"no {what} {value!r}; expected one of: {', '.join(map(str, known))}")
    return with_caption(*FIGURES[view](Selection(saved, step, name, **window)))


def plot_masks(saved: Snapshots, name: str, blocks: int = 64, most: int = 5) -> Figure:
    """Draw one matrix at up to `most` steps, first and last included. Raises ValueError."""
    if name not in saved.names:
        raise ValueError(f"no matrix {name!r}; expected one of: {', '.join(saved.names)}")
    count = min(most, len(saved.steps))
    picked = np.linspace(0, len(saved.steps) - 1, count).round().astype(int)
    out, wide = saved.shapes[name]
    down = wide >= 2 * out  # wide matrices stand one under the other
    across = 5.4 if down else min(1.75, 3.5 * wide / out)
    tall = across * out / wide
    fig = blank_figure(7.4 if down else 2.0 + count * (across + 0.15),
                       0.9 + (count if down else 1) * (tall + 0.35))
    for i, step in enumerate(saved.steps[place] for place in picked):
        mask = saved.mask(step, name)
        left = 0.7 if down else 0.7 + i * (across + 0.15)
        bottom = 0.55 + (count - 1 - i) * (tall + 0.35) if down else 0.55
        ax = place_axes(fig, left, bottom, across, tall)
        kept = f"step {step:,}{': ' if down else chr(10)}{as_percent(mask.mean())} kept"
        image, size = draw_mask(ax, mask, window_of(mask.shape, None, 0, 0), kept, blocks)
        if not down and i:
            ax.set_yticks([])
        if i < count - 1:
            ax.set_xticks([])
    ax.set_xlabel("input feature", fontsize=9, color=INK)
    fig.axes[0].set_ylabel("output neuron", fontsize=9, color=INK)
    colour_bar(image, (left + across + 0.2, 0.55, 0.12, max(tall, 1.2)),
               f"kept in a block\nof {size} × {size}")
    return fig
