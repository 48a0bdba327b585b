"""What is seen of the masks.

Six views of a run's snapshots, each a picture and a caption that says in words what is seen. Two
moments can be compared, A and B: two steps of a run, or two runs.
"""

import io
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure

from smp.look.mask_stats import pool_mask
from smp.look.snapshots import Snapshots
from smp.plotting import INK, tidy_axes
from smp.text import as_percent


@dataclass(frozen=True)
class Selection:
    """Where one looks: a step, a matrix, and a square window of it (side None: all of it)."""

    step: int
    name: str
    side: int | None = None
    row: int = 0
    column: int = 0


@dataclass(frozen=True)
class SnapshotView:
    """What is drawn: a run's snapshots at a spot, and, to compare, others at another step."""

    saved: Snapshots
    spot: Selection
    other: Snapshots | None = None
    other_step: int = 0

    @property
    def matrix(self):
        """layer 3, query"""
        _, layer, matrix, _ = self.saved.matrices[self.saved.names.index(self.spot.name)]
        return f"layer {layer}, {matrix}"

    @property
    def b(self):
        """The other one, as a Sight of its own."""
        return SnapshotView(self.other, replace(self.spot, step=self.other_step))

    @property
    def both(self):
        """"A is step 10 (95% kept), B step 250 (10% kept)", with the runs where they differ."""
        names = [""] * 2
        if self.other.path != self.saved.path:
            names = [f" of the {word} run" for word in ("first", "other")]
        a, b = (f"step {sight.spot.step:,}{name} ({as_percent(sight.density)} kept)"
                for sight, name in zip((self, self.b), names))
        return f"A is {a}, B is {b}"

    @property
    def density(self):
        return self.saved.density(self.spot.step)

    def numbers(self, part):
        """Of this step and matrix: an array or row of what `Snapshots.parts` has."""
        found = self.saved.parts[self.spot.step][part]
        return found[self.spot.name if part in ("rows", "columns") else
                     self.saved.names.index(self.spot.name)]

    def mask(self):
        return self.saved.mask(self.spot.step, self.spot.name)

# Figures are drawn without pyplot and without automatic layout: both take longer than the drawing.
GREY = "#8C8C8C"
SHARE_SCALE = PowerNorm(0.5, 0, 1)  # square root, so that 3% is still told from nothing
SHARE_TICKS = (0, 0.03, 0.1, 0.25, 0.5, 1)


def blank_figure(width: float, height: float) -> Figure:
    """A figure of that many inches, unknown to pyplot, so that nothing is shown twice."""
    fig = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(fig)
    return fig


def place_axes(fig, left, bottom, width, height):
    """Axes with their corner and size in inches."""
    across, down = fig.get_size_inches()
    return fig.add_axes((left / across, bottom / down, width / across, height / down))


def colour_bar(fig, ax, image, label, form=as_percent, ticks=None):
    bar = fig.colorbar(image, cax=ax, ticks=ticks, format=lambda value, _: form(value))
    bar.set_label(label, fontsize=9, color=INK)
    ax.tick_params(labelsize=8.5, colors=INK)
    bar.outline.set_visible(False)


def as_points(difference: float) -> str:
    """-0.123 -> −12.3, in percentage points."""
    return f"{100 * difference:+.1f}".replace("-", "−")


# ### Tables of colours: layers, heads, empty rows and columns
def draw_table(ax, table, rows, columns, form, norm, colours="cividis"):
    """A heat map with names beside and below, and `form` of each value in its cell. -> the image

    rows, columns: names, "" for none. Plain texts: matplotlib's ticks take four times as long.
    """
    image = ax.imshow(table, cmap=colours, norm=norm, aspect="auto")
    for (i, j), value in np.ndenumerate(table) if form else ():
        if not np.isnan(value) and form(value):
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            ax.text(j, i, form(value), ha="center", va="center", fontsize=8.5,
                    color="white" if dark else "black")
    tall, wide = table.shape
    ax.hlines(np.arange(tall - 1) + 0.5, -0.5, wide - 0.5, "white", linewidth=1)
    ax.vlines(np.arange(wide - 1) + 0.5, -0.5, tall - 0.5, "white", linewidth=1)
    ax.set(xticks=[], yticks=[])
    across, down = ax.get_position().size * ax.figure.get_size_inches()  # in inches
    for i, name in enumerate(rows):
        ax.text(-0.06 / across, i, name, ha="right", va="center", fontsize=8.5, color=INK,
                transform=ax.get_yaxis_transform())
    for j, name in enumerate(columns):
        ax.text(j, -0.06 / down, name, ha="center", va="top", color=INK,
                fontsize=8.5 if across > 0.8 * wide else 7, transform=ax.get_xaxis_transform())
    return image


def change_scale(change, least):
    """Symmetric around 0, so that white is no change."""
    far = max(least, float(np.nanmax(np.abs(change))))
    return Normalize(-far, far)

# ### One matrix, down to single weights
LARGEST_SINGLE = 128  # points along a picture's shorter side; a window no larger shows single weights


def draw_weights(ax, values, window, colours, norm=None):
    """An array over a window of a matrix, with the window's numbers as ticks. -> the image"""
    rows, columns = window
    edges = (columns.start - 0.5, columns.stop - 0.5, rows.stop - 0.5, rows.start - 0.5)
    image = ax.imshow(values, cmap=colours, norm=norm, extent=edges, interpolation="nearest")
    ax.set(xticks=[columns.start, columns.stop - 1], yticks=[rows.start, rows.stop - 1])
    if max(values.shape) <= 32:  # lines between single weights
        ax.hlines(np.arange(rows.start, rows.stop - 1) + 0.5, *edges[:2], "white", linewidth=0.6)
        ax.vlines(np.arange(columns.start, columns.stop - 1) + 0.5, *edges[2:], "white",
                  linewidth=0.6)
    return image


def draw_mask(ax, mask, window, title, blocks=LARGEST_SINGLE):
    """A mask, bool (out, in), or a window of it, pooled to blocks. -> (image, block's side)"""
    shares, size = pool_mask(mask[window], blocks)
    image = draw_weights(ax, shares, window, "cividis", SHARE_SCALE)
    tidy_axes(ax, title, grid=False)
    return image, size


def panel_boxes(shapes, left, bottom, width, height, gap=0.55):
    """[(left, bottom, width, height)] in inches of panels side by side, each of its (out, in)."""
    tall = min(height, (width - gap * (len(shapes) - 1)) / sum(wide / out for out, wide in shapes))
    boxes = []
    for out, wide in shapes:
        boxes.append((left, bottom + (height - tall) / 2, tall * wide / out, tall))
        left += tall * wide / out + gap
    return boxes


def png_bytes(fig) -> bytes:
    file = io.BytesIO()
    fig.savefig(file, format="png", pil_kwargs={"compress_level": 1})
    return file.getvalue()
