"""Measure speed and memory, print the results, write bench.json and its picture (`make bench`)."""

import argparse
import contextlib
import importlib
import io
import json
import os
import re
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets

from benchmarks.measure import ROOT, load_of_others, machine, versions
from benchmarks.report import TOPICS, draw, line, table
from smp.files import replace_text_file

BUSY = 0.2  # other processes must not use more of the CPU
REFERENCE, README = ROOT / "results/reference/bench.json", ROOT / "benchmarks/README.md"


def modules():
    """Return {topic: its module, which has measure() -> results}."""
    return {topic: importlib.import_module(f"benchmarks.{topic}") for topic in TOPICS}


def earlier(path, described):
    """Return (earlier results of the file, "" or its first difference from the described machine).

    Results of another machine or other versions are left out, because they are not comparable.
    """
    if not path.exists():
        return [], ""
    before = json.loads(path.read_text(encoding="utf-8"))
    for part, values in described.items():
        for key, value in values.items():
            if before[part].get(key) != value:
                return [], f"{key} {before[part].get(key)}, not {value}"
    return before["results"], ""


def with_topic(results, topic, found):
    """Return the results with those of one topic replaced, in the order of the topics."""
    rows = [one for one in results if one["topic"] != topic]
    return sorted(rows + [{"topic": topic} | one for one in found],
                  key=lambda one: list(TOPICS).index(one["topic"]))


def load_problem():
    """Return "", or one line if other processes use the CPU now."""
    load = load_of_others()
    return "" if load <= BUSY else (f"other processes use {load:.0%} of the CPU, expected at most "
                                    f"{BUSY:.0%}: stop them and measure again")


def write_table():
    """Write the table of the reference into benchmarks/README.md."""
    text = table(json.loads(REFERENCE.read_text(encoding="utf-8")))
    page = README.read_text(encoding="utf-8")
    replace_text_file(README, re.sub(
        "(<!-- results -->\n).*(?=<!-- /results -->)", lambda found: found[1] + text, page,
        flags=re.DOTALL))


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="TOPIC", choices=list(TOPICS),
                        default=list(TOPICS), help=f"some of {', '.join(TOPICS)}")
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="FOLDER",
                        help="folder of bench.json and bench.png")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the table of "
                        "results/reference/bench.json into benchmarks/README.md")
    wanted = parser.parse_args(arguments)
    if wanted.table:
        return write_table()
    if problem := load_problem():
        raise ValueError(f"nothing measured: {problem}")
    datasets.disable_progress_bars()
    known, path, began = modules(), wanted.results / "bench.json", time.monotonic()
    described = {"machine": machine(), "versions": versions()}
    results, difference = earlier(path, described)
    print(json.dumps(described))
    dropped = []
    for topic in sorted(set(wanted.only), key=list(TOPICS).index):
        print(f"\n{TOPICS[topic]} ({topic})", flush=True)
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            found = known[topic].measure()
        print("\n".join(map(line, found)), flush=True)
        if problem := load_problem():
            dropped.append(topic)
            print(f"not written: {problem}", flush=True)
        elif set(wanted.only) == set(TOPICS) or not difference:
            # Written after each topic, so that a topic that fails loses no other.
            results = with_topic(results, topic, found)
            document = described | {"results": results}
            replace_text_file(path, json.dumps(document, indent=1) + "\n")
            draw(document, path.with_suffix(".png"))
    print(f"\n{time.monotonic() - began:.0f} s")
    if dropped:
        raise ValueError(f"the CPU was busy after {', '.join(dropped)}: measure again with --only "
                         f"{' '.join(dropped)}")
    if difference and set(wanted.only) != set(TOPICS):
        print(f"not written, because {path.name} was measured with {difference}: run all topics to "
              "replace it, or move it away")
    else:
        print(f"written: {path.name}, {path.stem}.png in {path.parent}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"benchmarks: {error}")
