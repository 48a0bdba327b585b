"""The weights that the masks of two runs have in common."""

import numpy as np

from smp.look.mask_figures import check_same_matrices
from smp.look.snapshots import Snapshots
from smp.plotting import BLUE, INK, ORANGE, View, new_figure, tidy_axes
from smp.text import as_percent


def compare_masks(a: Snapshots, b: Snapshots) -> View:
    """Draw the share of run A's kept weights that run B keeps too, for each matrix type.

    It compares the masks of the last steps. Raises ValueError for runs of different encoders.
    """
    check_same_matrices(a, b)
    sums = {kind: np.zeros(3, int) for kind in a.types}
    for name, _, kind, _ in a.matrices:
        ours, other = a.mask(a.steps[-1], name), b.mask(b.steps[-1], name)
        sums[kind] += ours.sum(), (ours & other).sum(), round(ours.sum() * other.mean())
    kept, both, chance = np.transpose([*sums.values()])
    shares, by_chance = both / np.maximum(1, kept), chance / np.maximum(1, kept)
    fig, ((ax,),) = new_figure(1, 1, 8.6, 3)
    x = np.arange(len(sums))
    ax.bar(x, 100 * shares, 0.6, color=BLUE, label="kept by A and B")
    ax.hlines(100 * by_chance, x - 0.4, x + 0.4, ORANGE, linewidth=3, label="by chance")
    for place, share in zip(x, shares):
        ax.text(place, 100 * share + 1, f"{share:.2%}", ha="center", fontsize=8.5, color=INK)
    ax.set(ylim=(0, 109))
    ax.set_xticks(x, [*sums], parse_math=False)
    ax.legend(fontsize=8.5, frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1, 1))
    tidy_axes(ax, "Weights kept by run A that run B keeps too", "", "% of weights kept by A")
    first, second = (f"{run.about.get('label')} at {as_percent(run.density(run.steps[-1]))}"
                     for run in (a, b))
    return View(fig, (
        f"Run A ({first}) keeps {int(kept.sum()):,} weights. Run B ({second}) keeps "
        f"{both.sum() / max(1, kept.sum()):.2%} of them too; by chance: "
        f"{as_percent(chance.sum() / max(1, kept.sum()))}."))
