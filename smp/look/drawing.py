"""What the figures of masks share: the selection that is drawn, axes, colour bars, one mask."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from smp.look.mask_stats import pool_mask
from smp.look.snapshots import Snapshots
from smp.plotting import INK, tidy_axes
from smp.text import as_percent

SHARE_SCALE = PowerNorm(0.5, 0, 1)  # square root, so that 3% differs visibly from nothing
LARGEST_SINGLE = 128  # points along the shorter side; a smaller window shows single weights


@dataclass(frozen=True)
class Selection:
    """A step and a matrix of a run, and a square window of the matrix (side None: all of it)."""

    saved: Snapshots
    step: int
    name: str
    side: int | None = None
    row: int = 0
    column: int = 0

    @property
    def matrix(self) -> str:
        """The layer and type of the matrix: "layer 3, query"."""
        _, layer, matrix, _ = self.saved.matrices[self.saved.names.index(self.name)]
        return f"layer {layer}, {matrix}"

    def numbers(self, part: str) -> np.ndarray:
        """Return the step's and matrix's array, or row of an array, of `Snapshots.parts`."""
        found = self.saved.parts[self.step][part]
        return found[self.name if isinstance(found, dict) else self.saved.names.index(self.name)]


def compared(a: Selection, b: Selection) -> str:
    """Return "A is step 10 (95% kept), B is step 250 (10% kept)", with the runs if they differ."""
    runs = ("", "") if a.saved.path == b.saved.path else (" of the first run", " of the other run")
    kept = (f"step {one.step:,}{run} ({as_percent(one.saved.density(one.step))} kept)"
            for one, run in zip((a, b), runs))
    return "A is {}, B is {}".format(*kept)


def blank_figure(width: float, height: float) -> Figure:
    """Return a figure in inches. Pyplot and automatic layout take longer than the drawing."""
    return Figure(figsize=(width, height), dpi=110)


def place_axes(fig: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes to the figure; corner and size in inches."""
    across, down = fig.get_size_inches()
    return fig.add_axes((left / across, bottom / down, width / across, height / down))


def colour_bar(image: AxesImage, box: tuple, label: str, form: Callable = as_percent) -> None:
    """Add the colour bar of an image; box: left, bottom, width, height in inches."""
    fig: Any = image.axes.figure
    ticks = (0, 0.03, 0.1, 0.25, 0.5, 1) if image.norm is SHARE_SCALE else None
    ax = place_axes(fig, *box)
    bar = fig.colorbar(image, cax=ax, ticks=ticks, format=lambda value, _: form(value))
    bar.set_label(label, fontsize=9, color=INK)
    ax.tick_params(labelsize=8.5, colors=INK)
    bar.outline.set_visible(False)


def draw_weights(ax: Axes, values: np.ndarray, window: tuple[slice, slice],
                 colours: Colormap | str, norm: Normalize | None = None) -> AxesImage:
    """Draw an array over a window of a matrix, with the window's numbers as ticks."""
    rows, columns = window
    edges = (columns.start - 0.5, columns.stop - 0.5, rows.stop - 0.5, rows.start - 0.5)
    image = ax.imshow(values, cmap=colours, norm=norm, extent=edges, interpolation="nearest")
    ax.set(xticks=[columns.start, columns.stop - 1], yticks=[rows.start, rows.stop - 1])
    if max(values.shape) <= 32:  # lines between single weights
        ax.hlines(np.arange(rows.start, rows.stop - 1) + 0.5, *edges[:2], "white", linewidth=0.6)
        ax.vlines(np.arange(columns.start, columns.stop - 1) + 0.5, *edges[2:], "white",
                  linewidth=0.6)
    return image


def draw_mask(ax: Axes, mask: np.ndarray, window: tuple[slice, slice], title: str,
              blocks: int = LARGEST_SINGLE) -> tuple[AxesImage, int]:
    """Draw a window of a mask, bool (out, in), in blocks. -> (image, side of a block)"""
    shares, size = pool_mask(mask[window], blocks)
    image = draw_weights(ax, shares, window, "cividis", SHARE_SCALE)
    tidy_axes(ax, title, grid=False)
    return image, size
