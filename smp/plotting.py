"""Pictures.

Numbers in a table say how good a model is; pictures say what happened to it. The functions below
draw the data, the training and the answers. Each takes plain values and returns a figure or a
piece of HTML, so that the last line of a cell shows it, once.

The colours are those of Okabe and Ito and the cividis map, which readers with any kind of
colour vision can tell apart.
"""

import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb

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


def mix_with_white(colour, share):
    return tuple(1 - (1 - part) * (1 - share) for part in to_rgb(colour))
