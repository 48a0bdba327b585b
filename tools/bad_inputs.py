"""Measure bad inputs: arguments of each verb, and the files and folders of the hostile tests.

    python tools/bad_inputs.py            # all of them
    python tools/bad_inputs.py --every 25 # a sample

Each input runs in a process of its own, which begins with the imports done. It must end with one
line, in SECONDS of CPU time and MB above the imports, and its folder must stay as it was.
"""

import argparse
import ctypes
import io
import json
import os
import re
import resource
import sys
import tempfile
import traceback
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "long")]
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import pytest
import test_hostile_input as hostile
from transformers import AutoTokenizer, BertTokenizer

from smp.cli.main import main as smp
from smp.cli.options import VERBS, SettingOptions
from smp.model.load import EMBEDDED_ENCODER, load_pretrained, load_qa_model

SECONDS, MB = 1.0, 100
LIMIT = 5  # seconds of CPU time after which the process is killed
NO_PATHS = ["", "./none", "/dev/null/x", "~nosuchuser/x", "a\nb", "\udcff", "$(touch x)",
            "; touch x", "<b>", "a/b/c", "x" * 5000, "none.json"]
NO_NUMBERS = ["", "x", "nan", "-1e999", "9" * 5000, "1\n2", "0x10", "$(touch x)", "\udcff", "[1]"]
NO_CHOICES = ["", "x", "smp-x", "a\nb", "$(touch x)", "\udcff", "None", "smp-l,smp-s"]
PATHS = {"model", "data", "teacher", "results", "checkpoints", "passage", "masks", "base"}
NEEDED = {"ask": ["--model=./none", "--passage=./none"], "export": ["./none"],
          "repeat": ["./none"], "authors": ["./none"]}
WRITABLE = ["", "/dev/null/x"]  # any other text names a folder that can be made


def bad_values(name, kind):
    """Return values that an option of this type does not accept."""
    if name in ("results", "checkpoints"):
        return WRITABLE
    if name in PATHS:
        return NO_PATHS
    if "int" in kind or "float" in kind:
        return NO_NUMBERS
    return ["x"] if "bool" in kind else NO_CHOICES


def arguments():
    """Yield the arguments of bad command lines: each option of each verb with each bad value."""
    for verb, kind in VERBS.items():
        options = [(one.name, str(one.type)) for one in fields(kind)
                   if one.name not in ("files", "settings", "question")]
        if verb in ("run", "sweep"):
            options += [(one.name, str(one.type)) for one in fields(SettingOptions)]
            options += [(name, "str") for name in ("teacher", "results", "checkpoints")]
        given = NEEDED.get(verb, [])
        for name, type_ in options:
            position = name in ("run", "record") or (verb, name) == ("authors", "masks")
            for value in bad_values("data" if position else name, type_):
                if position:
                    yield [verb, value]
                    continue
                option = "--" + name.replace("_", "-")
                yield [verb, f"{option}={value}",
                       *(word for word in given if not word.startswith(f"{option}="))]
        yield from ([verb, *given, word] for word in ("--none", "--x=1", "-z", "\udcff", "--a\n=1"))
    yield from ([word] for word in ("", "runn", "--", "-x", "a\nb", "\udcff", "$(touch x)", "None"))


class Output:
    """Stand-in for pytest's capsys: the text printed since the last call."""

    def __init__(self):
        self.out, self.err = io.StringIO(), io.StringIO()

    def readouterr(self):
        found = argparse.Namespace(out=self.out.getvalue(), err=self.err.getvalue())
        for stream in (self.out, self.err):
            stream.seek(0)
            stream.truncate()
        return found


def new_world(saved):
    """Return what a row of the hostile tests needs, except its folder."""
    world = hostile.World(None, saved, pytest.MonkeyPatch())
    world.words, world.capsys = BertTokenizer.from_pretrained(saved / "qa"), Output()
    world.tokenizer = load_pretrained(AutoTokenizer, EMBEDDED_ENCODER)
    return world


def lines_of(read, made, world):
    """Return the lines that an input prints or raises."""
    with redirect_stdout(world.capsys.out), redirect_stderr(world.capsys.err):
        try:
            found = read(world, made)
        except (ValueError, FileNotFoundError) as error:
            return [str(error)]
    return [f"no error: {found}"]


def command(world, words):
    """Run `smp`; raise the text on stderr as a ValueError."""
    with suppress(SystemExit):
        smp(words)
    printed = world.capsys.readouterr()
    raise ValueError((printed.out + printed.err).removesuffix("\n"))


def memory(name):
    """Return a number of kB of /proc/self/status."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def listing(folder):
    """Return {path: (time, size)} of all that a folder contains."""
    return {str(path): path.lstat()[6:9:2] for path in [folder, *folder.rglob("*")]}


def try_input(read, make, world):
    """Return (text of the result, CPU seconds, MB) of one input, in the child process."""
    with tempfile.TemporaryDirectory() as name:
        world.folder = folder = Path(name)
        os.chdir(folder)
        made, before = make(world), listing(folder)
        ctypes.CDLL(None).malloc_trim(0)  # freed memory of the parent would be used uncounted
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM becomes VmRSS
        rss, began = memory("VmRSS"), sum(os.times()[:4])
        text = "\n".join(lines_of(read, made, world))
        seconds, most = sum(os.times()[:4]) - began, (memory("VmHWM") - rss) / 1024
        os.chdir("/")
        if listing(folder) != before:
            text = f"the folder changed: {text}"
        return text, seconds, most


def measure(read, make, world):
    """Return the result of `try_input` in a child process."""
    out, into = os.pipe()
    if (child := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
        try:
            answer = try_input(read, make, world)
        except BaseException:
            answer = traceback.format_exc(), 0, 0
        with open(into, "w") as file:
            json.dump(answer, file)
        os._exit(0)
    os.close(into)
    with open(out) as file:
        answer = file.read()
    os.waitpid(child, 0)
    return json.loads(answer) if answer else ("killed", LIMIT, 0)


def inputs():
    """Yield (name, reader, function that makes the input) of each bad input."""
    for name, (read, make, expected) in hostile.CASES.items():
        if isinstance(expected, str):
            yield name, read, make
    for words in arguments():
        yield f"smp {' '.join(words)!a:.60}", command, lambda world, words=words: words


def wrong(text, seconds, most):
    """Return what an input broke, or ""."""
    return "; ".join([
        *(["no line, or more than one"] if not text or "\n" in text or "Traceback" in text else []),
        *(["not refused"] if text.startswith(("no error", "the folder")) else []),
        *([f"{seconds:.2f} s"] if seconds > SECONDS else []),
        *([f"{most:.0f} MB"] if most > MB else [])])


def main(given=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--every", type=int, default=1, help="measure one of so many inputs")
    options = parser.parse_args(given)
    chosen = [*inputs()][:: options.every]
    failed, results = 0, []
    with tempfile.TemporaryDirectory() as folder:
        saved = hostile.save_models(Path(folder))
        world = new_world(saved)
        load_qa_model(str(saved / "qa"))  # imports what transformers imports late
        for name, read, make in chosen:
            results.append(measure(read, make, world))
            if why := wrong(*results[-1]):
                failed += 1
                print(f"{name}: {why}: {results[-1][0][-300:]!r}", flush=True)
    print(f"{len(results)} bad inputs, {failed} failed; at most {max(r[1] for r in results):.2f} s "
          f"of CPU time and {max(r[2] for r in results):.0f} MB above the imports "
          f"({resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB)")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
