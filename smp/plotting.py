"""Colours and axes that all figures share.

The colours are those of Okabe and Ito, which readers with any colour vision can tell apart.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, FAINT = "#333333", "#DDDDDD"


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Return (figure, axes (rows, columns)); width and height of the figure in inches."""
    fig, axes = plt.subplots(
        rows, columns, figsize=(width, height), dpi=110, layout="constrained", squeeze=False
    )
    plt.close(fig)  # otherwise Jupyter shows it twice: from pyplot and as the cell's value
    return fig, axes


def tidy_axes(ax: Axes, title: str, xlabel: str = "", ylabel: str = "", grid: bool = True) -> None:
    """Style a panel: title on the left, small labels, no box; without `grid` no lines at all."""
    ax.set_title(title, loc="left", fontsize=10.5, color=INK)
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


def mix_with_white(colour: str, share: float) -> tuple[float, ...]:
    """Return the RGB values (0 to 1) of a colour mixed with white; share: that of the white."""
    return tuple(1 - (1 - part) * (1 - share) for part in to_rgb(colour))
