"""Colours, axes and captions that all figures share.

The colours are those of Okabe and Ito, which readers with any colour vision can tell apart.
"""

import base64
import html
import io
import re
import warnings
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, FAINT = "#333333", "#DDDDDD"


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Return (figure, axes (rows, columns)); width and height of the figure in inches."""
    fig = Figure((width, height), dpi=110, layout="constrained")
    return fig, fig.subplots(rows, columns, squeeze=False)


def place_axes(fig: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes to the figure; corner and size in inches."""
    across, down = fig.get_size_inches()
    return fig.add_axes((left / across, bottom / down, width / across, height / down))


def tidy_axes(ax: Axes, title: str, xlabel: str = "", ylabel: str = "", grid: bool = True) -> None:
    """Style a panel: title on the left, small labels, no box; without `grid` no lines at all."""
    ax.set_title(title, loc="left", fontsize=10.5, color=INK, parse_math=False)
    ax.set_xlabel(xlabel, fontsize=9, color=INK)
    ax.set_ylabel(ylabel, fontsize=9, color=INK)
    ax.tick_params(labelsize=8.5, colors=INK, length=3 if grid else 0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[:].set_color("#999999")
    if grid:
        ax.grid(axis="y", color=FAINT, linewidth=0.6)
        ax.set_axisbelow(True)
    else:
        ax.spines[:].set_visible(False)


def png_bytes(fig: Figure) -> bytes:
    """Return the figure as a PNG file, with everything that reaches beyond its edges."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # matplotlib's fonts lack some scripts
        fig.savefig(file, format="png", bbox_inches="tight", pad_inches=0.08)
    return file.getvalue()


def as_html(text: str) -> str:
    """Return HTML that shows the text; no part of it is a tag or, in Jupyter, a formula."""
    return re.sub(r"[$\\]", r"<span>\g<0></span>", html.escape(text))


class View:
    """Pictures, tables and captions, one below the other: the last line of a cell shows them.

    parts: figures, captions (plain text) and tables {"text/html", "text/plain"}.
    """

    def __init__(self, *parts: Any):
        self.parts = parts

    @property
    def caption(self) -> str:
        """All captions, one a line."""
        return "\n".join(part for part in self.parts if isinstance(part, str))

    def bundles(self) -> list[dict]:
        """Return {MIME type: content} of each part; the HTML of captions needs no style."""
        return [
            {"image/png": base64.b64encode(png_bytes(part)).decode(), "text/plain": "picture"}
            if isinstance(part, Figure) else
            {"text/html": f"<p>{as_html(part)}</p>", "text/plain": part}
            if isinstance(part, str) else part for part in self.parts]

    def _ipython_display_(self) -> None:
        from IPython.display import display  # a part of `notebooks`, which the package can lack

        for bundle in self.bundles():
            display(bundle, raw=True)
