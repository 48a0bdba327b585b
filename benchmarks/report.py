"""The results as lines, as a table for the README, and as a picture."""

import os

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.measure import BEST, DEFAULT

TOPICS = {  # module in benchmarks/: title
    "training": "Training step of Static Model Pruning (SMP), against fine-tuning",
    "masks": "The choice of the masks, once in each step",
    "teacher": "Distillation from a teacher",
    "data": "Windows, batches and answers",
    "inference": "Inference of a pruned BERT-base on a CPU, one passage",
    "growth": "Growth of a training step",
}
BLUE, ORANGE = "#0072B2", "#D55E00"  # distinguishable with any colour vision
COLUMNS = {"plain": (BLUE, "o"), BEST: (ORANGE, "D")}
LINES = {"fine-tuning": (ORANGE, "D", "--"), "SMP": (BLUE, "o", "-")}


def number(value):
    """Return the number with at least two digits, without an exponent."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


def line(one):
    """Return a result as two lines of text."""
    low, high = map(number, one["quartiles"])
    point = f", {one['axis']} {one['x']}" if "axis" in one else ""
    against = {"times faster": " than ", "times the memory": " of "}.get(one["unit"], "")
    spread = f" (quartiles {low} to {high})" if low != high else ""
    return (f"{one['name']}{point}: {number(one['value'])} {one['unit']}{against}{one['against']}"
            f"{spread}\n    {one['detail']}")


def grouped(document, unit):
    """Return {topic: {label: {column: result}}} of the results with a unit.

    A column is BEST, or "plain" for all other baselines; those except DEFAULT are in the label.
    """
    found = {}
    for one in document["results"]:
        if one["unit"] == unit:
            named = "" if one["against"] in (DEFAULT, BEST) else f", against {one['against']}"
            column = BEST if one["against"] == BEST else "plain"
            rows = found.setdefault(one["topic"], {}).setdefault(one["name"] + named, {})
            rows[column] = one
    return found


def table(document):
    """Return the Markdown tables of a document: times faster, and times the memory."""
    about, lines = document["machine"], []
    lines.append(f"Machine: {about['cpu']} ({', '.join(about['units'])}), {about['cores']} cores, "
                 f"{about['memory_gb']} GB, GPU: {about['gpu'] or 'none'}. Versions: "
                 + ", ".join(f"{name} {one}" for name, one in document["versions"].items()) + ".")
    for unit in ("times faster", "times the memory"):
        lines += ["", f"| {unit}: median (quartiles) | {DEFAULT}, or the plain way | {BEST} |",
                  "|---|---|---|"]
        for topic, rows in grouped(document, unit).items():
            lines.append(f"| **{TOPICS[topic]}** | | |")
            for label, row in rows.items():
                cells = []
                for column in COLUMNS:
                    one = row.get(column)
                    low, high = map(number, one["quartiles"]) if one else ("", "")
                    spread = f" ({low} to {high})" if low != high else ""
                    cells.append(f" {number(one['value'])}{spread} " if one else " ")
                lines.append(f"| {label} |{'|'.join(cells)}|")
    return "\n".join(lines) + "\n"


def draw(document, path):
    """Draw how many times faster each row is, and below how the seconds of a step grow."""
    groups = grouped(document, "times faster")
    height = 0.24 * sum(1 + len(rows) for rows in groups.values())
    figure = Figure(figsize=(10, height + 5), layout="constrained")
    above, below = figure.subfigures(2, height_ratios=[height + 1.8, 3.2])
    about = document["machine"]
    above.suptitle(f"Times faster than other ways to do the same work\n{about['cpu']}, "
                   f"{about['cores']} cores, GPU: {about['gpu'] or 'none'}", fontsize=11)
    draw_ratios(above.subplots(), groups)
    growth = [one for one in document["results"] if "axis" in one]
    if growth:
        draw_growth(below, growth)
    draft = path.with_name(f".{path.name}.part.png")
    figure.savefig(draft, dpi=100)
    os.replace(draft, path)


def draw_ratios(axis, groups):
    """Draw a row for each label, with its median and quartiles against one or two baselines."""
    labels = []
    for topic, rows in groups.items():
        labels.append((TOPICS[topic], {}))
        labels += list(rows.items())
    for y, (_, row) in enumerate(labels):
        for i, (column, (colour, marker)) in enumerate(COLUMNS.items()):
            if one := row.get(column):
                axis.plot(one["quartiles"], [y, y], color=colour, linewidth=3, alpha=0.5)
                axis.plot(one["value"], y, marker, color=colour, markersize=6)
                axis.text(0.9 + 0.09 * i, y, number(one["value"]), color=colour, fontsize=9,
                          transform=axis.get_yaxis_transform(), ha="right", va="center")
    axis.axvline(1, color="black", linewidth=1)
    axis.set_yticks(range(len(labels)), [label for label, _ in labels], fontsize=8.5)
    for tick, (_, row) in zip(axis.get_yticklabels(), labels, strict=True):
        tick.set_fontweight("normal" if row else "bold")
    axis.tick_params(axis="y", length=0)
    axis.set(ylim=(len(labels) - 0.4, -0.8), xscale="log")
    axis.grid(axis="x", color="0.9")
    low, high = axis.get_xlim()
    axis.set_xlim(low, high * (high / low) ** 0.25)  # the numbers are right of all points
    ticks = [tick for tick in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low < tick < high]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("times faster: median and quartiles")
    names = {"plain": f"than {DEFAULT}, or the plain way that the row names", BEST: f"than {BEST}"}
    axis.legend(handles=[
        Line2D([], [], color=colour, marker=marker, linewidth=3, label=names[column])
        for column, (colour, marker) in COLUMNS.items()
    ], loc="lower center", bbox_to_anchor=(0.2, 1.0), fontsize=8.5, frameon=False)


def draw_growth(figure, growth):
    """Draw the seconds of a step against the tokens, and against the share of kept weights."""
    figure.suptitle("Seconds of a training step: four layers of width 256, 8 windows, fp32",
                    fontsize=11)
    axes = figure.subplots(1, 2)
    names = {"tokens": "tokens of a window", "density": "share of the weights that SMP keeps"}
    for axis, (kind, label) in zip(axes, names.items(), strict=True):
        for name, (colour, marker, dashes) in LINES.items():
            points = [one for one in growth if (one["axis"], one["name"]) == (kind, name)]
            if points:
                y = [one["value"] for one in points]
                low, high = np.transpose([one["quartiles"] for one in points])
                axis.errorbar([one["x"] for one in points], y, [y - low, high - y], label=name,
                              color=colour, marker=marker, linestyle=dashes)
        axis.set(xlabel=label, ylabel="seconds of a step", xlim=(0, None), ylim=(0, None))
        axis.grid(color="0.9")
        if axis.has_data():
            axis.legend(frameon=False)
    axes[1].xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
