"""`make bench`: run the topics, print a table, write results/bench.json and its picture."""

import argparse
import contextlib
import importlib
import io
import json
import os
import pkgutil
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import matplotlib.pyplot as plt
import numpy as np

import benchmarks
from benchmarks import run_on_gpus
from benchmarks.measure import ROOT, give_memory_back, machine, versions
from smp.files import replace_text_file

RESULTS = ROOT / "results"


def topics():
    """Return {name: module} of the modules in benchmarks/ that have a function measure().

    They are sorted by their docstrings, which begin with the letter of the goal.
    """
    found = [importlib.import_module(f"benchmarks.{module.name}")
             for module in pkgutil.iter_modules(benchmarks.__path__) if module.name != "__main__"]
    measuring = [module for module in found if hasattr(module, "measure")]
    measuring.sort(key=lambda module: module.__doc__ or module.__name__)
    return {module.__name__.split(".")[-1]: module for module in measuring}


def choose(wanted, known):
    """Return the wanted topics, given by name or letter, or all. Raises ValueError if unknown."""
    letters = {letter: name for name, module in known.items()
               for letter in (module.__doc__ or name).split(":")[0].split(", ")}
    names = [letters.get(one, one) for one in wanted or known]
    for name in names:
        if name not in known:
            raise ValueError(f"topic is {name!r}, expected some of {', '.join(known)}, or their "
                             "letters")
    return names


def earlier(path, described):
    """Return (earlier rows of the file, "" or its first difference from the described machine).

    Rows of another machine or other versions are left out, because they are not comparable.
    """
    empty = {"ratios": [], "growth": [], "seconds": {}}
    if not path.exists():
        return empty, ""
    before = json.loads(path.read_text(encoding="utf-8"))
    for part, now in described.items():
        for key, value in now.items():
            if before[part].get(key) != value:
                return empty, f"{key} {before[part].get(key)}, not {value}"
    return {key: before.get(key, none) for key, none in empty.items()}, ""


def with_topic(document, name, found, seconds, order):
    """Return the document with the rows of one topic replaced, topics in order."""
    place = {topic: row for row, topic in enumerate(order)}
    found = [one | {"topic": name} for one in found]
    rows = {
        key: sorted(
            [one for one in document[key] if one["topic"] != name]
            + [one for one in found if ("axis" in one) == (key == "growth")],
            key=lambda one: place.get(one["topic"], len(place)),
        ) for key in ("ratios", "growth")
    }
    seconds = document["seconds"] | {name: seconds}
    return rows | {"seconds": {topic: seconds[topic] for topic in order if topic in seconds}}


def line(one):
    """Return the two lines of a result."""
    goal = "" if one["goal"] is None else f"{one['goal']:>8} {'met' if one['met'] else 'MISSED'}"
    spread = "..".join(f"{number:.4g}" for number in one["spread"])
    return f"{one['name']:<68} {one['value']:>9.4g}  {spread:<18} {goal}\n    {one['detail']}"


def draw(document, path):
    """Draw the ratios against their goals, and one panel for each kind of growth."""
    compared = [one for one in document["ratios"] if one["goal"]]
    axes_names = list(dict.fromkeys(one["axis"] for one in document["growth"]))
    figure = plt.figure(figsize=(12, 1.5 + 0.3 * len(compared) + 3), layout="constrained")
    above, below = figure.subfigures(2, height_ratios=[1 + 0.3 * len(compared), 3])
    axis = above.subplots()
    for row, one in enumerate(compared):
        kind, bound = one["goal"].split()
        power = 1 if kind == ">=" else -1
        middle, low, high = ((n / float(bound)) ** power for n in (one["value"], *one["spread"]))
        axis.plot([low, high], [row, row], color="grey")
        axis.plot(middle, row, "o", color="tab:green" if one["met"] else "tab:red")
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_yticks(range(len(compared)), [f"{o['name']} ({o['goal']})" for o in compared])
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("ratio to the goal (above 1: met): median and quartiles")
    panels = below.subplots(1, len(axes_names), squeeze=False)[0] if axes_names else []
    for panel, name in zip(panels, axes_names):
        points = [one for one in document["growth"] if one["axis"] == name]
        x, y = ([one[key] for one in points] for key in ("x", "value"))
        low, high = np.transpose([one["spread"] for one in points])
        panel.errorbar(x, y, [np.subtract(y, low), np.subtract(high, y)], fmt="o-")
        panel.set(title=name, xlim=(0, None), ylim=(0, None))
    if axes_names:
        panels[0].set_ylabel("seconds of an SMP step")
    draft = path.with_name(f".{path.name}.part.png")
    figure.savefig(draft, dpi=100)
    plt.close(figure)
    os.replace(draft, path)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="TOPIC", help="names or letters of topics")
    parser.add_argument("--results", type=type(RESULTS), default=RESULTS)
    wanted = parser.parse_args(arguments)
    datasets.disable_progress_bars()
    plt.switch_backend("agg")
    known, path = topics(), wanted.results / "bench.json"
    described = {"machine": machine(), "versions": versions()}
    names = choose(wanted.only, known)
    before, difference = earlier(path, described)
    document = described | before
    keep = not (wanted.only and difference)  # some topics do not replace a file of another machine
    print(json.dumps(described))
    for name in names:
        give_memory_back()
        began = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            found = known[name].measure()
        seconds = round(time.perf_counter() - began)
        print("\n".join(map(line, found)), flush=True)
        document |= with_topic(document, name, found, seconds, known)
        print(f"    ({name}: {seconds} s)", flush=True)
        if keep:
            # Written after each topic, so that a topic that runs out of memory loses no other.
            replace_text_file(path, json.dumps(document, indent=1) + "\n")
    if keep:
        draw(document, path.with_suffix(".png"))
        written = f"written: {path.name}, {path.with_suffix('.png').name}"
    else:
        written = (f"not written, because {path.name} was measured with {difference}: run all "
                   "topics to replace it, or move it away")
    print(run_on_gpus.table())
    print(f"{sum(document['seconds'][name] for name in names)} s; {written}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"benchmarks: {error}")
