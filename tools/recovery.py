"""`make test-recovery`: kill, stop and harm small runs, and start four of one name at once.

A run trains, writes checkpoints, snapshots, a model, masks, a record and tables. Each disturbed
run is started again until it ends. Its files must then be those of an undisturbed run, bit for bit.
"""

import argparse
import functools
import hashlib
import itertools
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import logging

from smp.cli.table import table
from whole_run import prepare_run

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "fsync")


def start(action, log):
    """Fork a child that calls `action`, and add what it prints to the file; return its number.

    Its exit code is 2 for a ValueError.
    """
    if child := os.fork():
        return child
    code = 1
    try:
        with open(log, "a") as file:
            os.dup2(file.fileno(), 1)
        os.dup2(1, 2)
        sys.stdout = sys.stderr = open(1, "w", buffering=1)
        action()
        code = 0
    except ValueError as error:
        print(error)
        code = 2
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finish(child):
    """Wait for a child and return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(run, results, number):
    """Run, and kill this process before file event `number` in the results; return their number.

    An event is an open to write, a new folder, a rename, a removal or an fsync.
    """
    numbers, inside, fsync, last = itertools.count(1), f"{results}{os.sep}", os.fsync, [0]

    def count(event, arguments):
        change = event in CHANGES or (
            event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        # In a folder that is removed, a name is relative to an open folder, the last argument.
        if change and (event == "fsync" or str(arguments[0]).startswith(inside)
                       or event in ("os.remove", "os.rmdir") and arguments[-1] != -1):
            last[0] = next(numbers)
            if last[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    os.fsync = lambda file: (count("fsync", (file,)), fsync(file))[1]
    run(results)
    return last[0]


def with_small_files(run, results, most, action):
    """Run with files of at most `most` bytes: SIGXFSZ kills (SIG_DFL), or a write fails (SIG_IGN).

    A failed write stands for a full disk.
    """
    signal.signal(signal.SIGXFSZ, action)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    run(results)


def undisturbed(run, results):
    """Run."""
    run(results)


def with_interrupts(run, results):
    """Run with KeyboardInterrupt on SIGTERM outside the training, as in the kernel of `smp run`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run(results)


def contents(folder):
    """Return {path: digest} of a folder's files, without drafts of tables and of safetensors."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith((".summary", ".tmp"))}


class Recovery:
    """Disturbed runs and the files that each must have in the end."""

    def __init__(self, home, seed):
        self.home, self.chance, self.log = home, random.Random(seed), home / "log"
        self.run, self.same, self.kills = prepare_run(home), True, 0
        results, number = home / "undisturbed", home / "number"
        finish(start(lambda: number.write_text(str(killed_at(self.run, results, 0))), self.log))
        self.events, self.wanted = int(number.read_text()), contents(results)
        self.largest = max(path.stat().st_size for path in results.rglob("*"))
        table(results)  # prepares the drawing for all children
        began = time.monotonic()
        self.disturb("undisturbed")
        self.lasts = time.monotonic() - began

    def compare(self, what, results, but="-"):
        """Compare the files of an ended run, except those in a folder; remove them."""
        got = contents(results)
        other = [name for name in {*got, *self.wanted}
                 if got.get(name) != self.wanted.get(name) and not name.startswith(but)]
        if other:
            self.same = False
            print(f"{what}: other files: {other}\n{self.log.read_text()[-2000:]}", file=sys.stderr)
        shutil.rmtree(results)
        self.log.unlink()

    def disturb(self, what, *disturbances, after=lambda: None, seconds=None, **compared):
        """Start a run with one disturbance after the other, then without one; compare its files.

        disturbances: functions of (run, results); seconds: the time of a SIGTERM to the first;
        after: called after each run that did not end.
        """
        results = self.home / "run"
        for action in (*disturbances, undisturbed):
            child = start(functools.partial(action, self.run, results), self.log)
            if seconds is not None:
                time.sleep(seconds)
                os.kill(child, signal.SIGTERM)
                seconds = None
            if finish(child) == 0:
                break
            self.kills += 1
            after()
        self.compare(what, results, **compared)

    def killed(self, number=None):
        """Return a disturbance: a kill before a file event, a random one without a number."""
        return functools.partial(killed_at, number=number or self.chance.randint(1, self.events))

    def damage(self):
        """Truncate the newest checkpoint, if there is one, or flip one random bit of it."""
        for path in sorted(self.home.glob("run/checkpoints/*/*.safetensors"))[-1:]:
            data = bytearray(path.read_bytes())
            place = self.chance.randrange(len(data))
            data[place] ^= 1 << self.chance.randrange(8)
            path.write_bytes(data if self.chance.random() < 0.5 else data[:place])

    def kill(self, count):
        """Kill runs before file events, which are spread over a whole run; half of them twice."""
        for i in range(count):
            first = 1 + i * self.events // count
            self.disturb(f"killed before event {first}", self.killed(first),
                         *[self.killed()] * (i % 2))
        return f"{count} runs, killed {self.kills} times before one of {self.events} file events"

    def stop(self, count):
        """Send SIGTERM to runs at random times."""
        for i in range(count):
            seconds = self.chance.uniform(0, self.lasts)
            self.disturb(f"SIGTERM after {seconds:.3f} s", (undisturbed, with_interrupts)[i % 2],
                         seconds=seconds)
        return f"{count} runs with SIGTERM at a random time"

    def harm(self, count):
        """Kill runs within a write, let their writes fail, damage their checkpoints."""
        for i in range(count):
            if i % 3 == 2:
                self.disturb("damaged checkpoint", self.killed(), self.killed(), after=self.damage)
                continue
            small = functools.partial(
                with_small_files, most=int(self.largest ** self.chance.uniform(0.6, 1)),
                action=signal.SIG_IGN if i % 3 else signal.SIG_DFL)
            # A full disk can lose a snapshot, with a message.
            self.disturb("full disk" if i % 3 else "killed in a write", small, self.killed(),
                         but="snapshots" if i % 3 else "-")
        return f"{count} runs killed in a write, on a full disk or with a damaged checkpoint"

    def together(self, count):
        """Start four runs of one name at once. One must go on, three print one line."""
        results = self.home / "run"
        for _ in range(count):
            reader, writer = os.pipe()

            def locked(reader=reader, writer=writer):  # wait until the other processes ended
                os.close(writer)
                os.read(reader, 1)

            action = functools.partial(self.run, results, locked)
            children = [start(action, self.log) for _ in range(4)]
            os.close(writer)
            codes = sorted(map(finish, children))
            os.close(reader)
            lines = self.log.read_text().count("is being trained by another process (")
            if codes != [0, 2, 2, 2] or lines != 3:
                self.same = False
                print(f"four runs ended with {codes}: {self.log.read_text()}", file=sys.stderr)
            self.compare("four runs at once", results)
        return f"{count} times four runs of one name at once"


def check_recovery(seed, **counts):
    """Disturb runs; return the exit code, 0 if all ended with the bits of the undisturbed run."""
    logging.set_verbosity_error()
    torch.set_num_threads(1)  # a forked child cannot use the parent's threads
    with tempfile.TemporaryDirectory(prefix="recovery-") as home:
        recovery = Recovery(Path(home), seed)
        for kind, count in counts.items():
            began = time.monotonic()
            text = getattr(recovery, kind)(count)
            print(f"{text}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
        print("all ended with the same files" if recovery.same else "some ended with other files")
        return int(not recovery.same)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for kind, usual in (("kill", 500), ("stop", 200), ("harm", 60), ("together", 100), ("seed", 0)):
        parser.add_argument(f"--{kind}", type=int, default=usual)
    sys.exit(check_recovery(**vars(parser.parse_args())))
