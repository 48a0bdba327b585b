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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering, logging, set_seed

from smp.cli.table import table
from smp.cli.train import attach_pruning, train
from smp.data.reading import data_fingerprint, load_squad
from smp.data.windows import featurise
from smp.fast.products import compiled_products
from smp.look.snapshot_writer import run_snapshots
from smp.model.load import load_pretrained
from smp.model.predict import evaluate_answers
from smp.model.save import count_parameters, model_bytes, model_fingerprint, save_model
from smp.model.student import load_student, stock_model
from smp.runs.run import begin_record, finish_record, keep_record, run_checkpoints
from smp.runs.settings import choose_settings
from smp.task.apply import describe_task
from smp.task.mask_file import MASK_FILE, save_masks

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "fsync")


def prepare_run(home):
    """Return a function of a results folder, with the steps of the notebook BERT_SMP.

    Each forked child calls it once, because it trains the model in place. Times are recorded as 0.
    `locked` is called when this process has the lock of the run.
    """
    tokenizer = load_pretrained(AutoTokenizer, "all-MiniLM-L6-v2")
    set_seed(0)
    BertForQuestionAnswering(BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=32, max_position_embeddings=96)).save_pretrained(home / "tiny")
    tokenizer.save_pretrained(home / "tiny")
    settings = choose_settings(
        "quick", "smp", model=str(home / "tiny"), density=0.2, method="smp-s", epochs=2,
        dropout=0.1, precision="fp32", max_length=96, stride=32, n_mask_snapshots=6)
    model, tokenizer, head = load_student(settings.model, settings.dropout, 96, "trained")
    data = load_squad("synthetic", 48, 0, 8)
    windows = {part: featurise(data[part], tokenizer, 96, 32) for part in ("train", "eval")}
    compiled_products()  # once, not in each child
    begun = begin_record(settings, model_fingerprint(model), data_fingerprint(data["eval"]),
                         data_fingerprint(data["train"]))

    def whole_run(results, locked=lambda: None):
        checkpoints = run_checkpoints(begun, results)
        locked()
        checkpoints.minutes = 0
        set_seed(0)
        pruning = attach_pruning(model, settings)
        run = train(model, windows["train"], tokenizer, settings, pruning, checkpoints=checkpoints,
                    snapshots=run_snapshots(begun, results, 4))
        masks, layers = pruning.masks.numpy(), pruning.masks.counts()
        pruning.masks.merge()
        scores, _ = evaluate_answers(model, data["eval"], windows["eval"], tokenizer, "fp32")
        scores["ms_per_question"] = 0.0
        folder = save_model(stock_model(model, settings.model), tokenizer,
                            results / "models" / begun["name"])
        record = finish_record(
            begun, run | {"seconds": 0.0}, scores, count_parameters(model), layers, head=head,
            bytes_model=model_bytes(folder), n_train=48, n_eval=8,
            bytes_mask_file=save_masks(masks, folder / MASK_FILE, **describe_task(
                begun, model, settings.model, None, head, scores, 8)))
        keep_record(record, results, folder, checkpoints)
        table(results)

    return whole_run


def start(action, log):
    """Fork a child that calls `action`; return its number. Its exit code is 2 for a ValueError.

    What it prints is added to the file `log`.
    """
    child = os.fork()
    if child:
        return child
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        try:
            action()
            code = 0
        except ValueError as error:
            print(error)
            code = 2
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 1
        file.flush()
        os._exit(code)


def finish(child):
    """Wait for a child and return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_events(folder, act):
    """Call act(number) before each change of a file in the folder, in this process."""
    numbers, inside, fsync = itertools.count(1), f"{folder}{os.sep}", os.fsync

    def count(event, arguments):
        path = arguments[0] if arguments else ""
        if event == "open":  # of a file to write
            change = arguments[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            change = event in CHANGES
        # In a folder that is removed, a name is relative to an open folder, the last argument.
        if change and (event == "fsync" or str(path).startswith(inside)
                       or event in ("os.remove", "os.rmdir") and arguments[-1] != -1):
            act(next(numbers))

    sys.addaudithook(count)
    os.fsync = lambda file: (count("fsync", (file,)), fsync(file))[1]


def killed_at(run, results, number):
    """Run, and kill this process before its file event `number`."""
    at_events(results, lambda n: n == number and os.kill(os.getpid(), signal.SIGKILL))
    run(results)


def with_small_files(run, results, most, ends):
    """Run with files of at most `most` bytes: a larger one ends the process, or fails to write."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if ends else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    run(results)


def with_interrupts(run, results):
    """Run with KeyboardInterrupt on SIGTERM outside the training, as in the kernel of `smp run`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run(results)


def damage(results, chance):
    """Truncate the newest checkpoint, if there is one, or flip one random bit of it."""
    for path in sorted(results.glob("checkpoints/*/*.safetensors"))[-1:]:
        data = bytearray(path.read_bytes())
        place = chance.randrange(len(data))
        data[place] ^= 1 << chance.randrange(8)
        path.write_bytes(data if chance.random() < 0.5 else data[:place])


def contents(folder):
    """Return {path: digest} of all files in a folder, without drafts of tables."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".summary")}


class Recovery:
    """Disturbed runs and the files that each must have in the end."""

    def __init__(self, home, seed):
        self.home, self.chance = home, random.Random(seed)
        self.run, self.same, self.kills = prepare_run(home), True, 0
        results, events = home / "undisturbed", []
        finish(start(lambda: (at_events(results, events.append), self.run(results),
                              (home / "events").write_text(str(len(events)))), home / "log"))
        self.events, self.wanted = int((home / "events").read_text()), contents(results)
        self.largest = max(path.stat().st_size for path in results.rglob("*"))
        table(results)  # prepares the drawing for all children
        began = time.monotonic()
        finish(start(lambda: self.run(home / "timed"), home / "log"))
        self.lasts = time.monotonic() - began
        self.compare("undisturbed", home / "timed")

    def compare(self, what, results, snapshots=True):
        """Compare the files of an ended run with those of the undisturbed run; remove them."""
        got = contents(results)
        other = [name for name in sorted({*got, *self.wanted})
                 if got.get(name) != self.wanted.get(name)
                 and (snapshots or not name.startswith("snapshots"))]
        if other:
            self.same = False
            print(f"{what}: other files: {other}\n{(self.home / 'log').read_text()[-2000:]}",
                  file=sys.stderr)
        shutil.rmtree(results)
        (self.home / "log").unlink()

    def disturb(self, what, *disturbances, after=lambda results: None, seconds=None, **compared):
        """Start a run with one disturbance after the other, then without one; compare its files.

        disturbances: functions of (run, results); seconds: the time of a SIGTERM to each.
        """
        results = self.home / "run"
        for action in (*disturbances, lambda run, results: run(results)):
            child = start(functools.partial(action, self.run, results), self.home / "log")
            if seconds is not None and action in disturbances:
                time.sleep(seconds)
                os.kill(child, signal.SIGTERM)
            if finish(child) == 0:
                break
            self.kills += 1
            after(results)
        self.compare(what, results, **compared)

    def kill(self, count):
        """Kill runs before file events, which are spread over a whole run, some also resumed."""
        for i in range(count):
            first = 1 + i * self.events // count
            then = self.chance.randint(1, self.events)
            self.disturb(f"killed before event {first}", *(
                functools.partial(killed_at, number=number) for number in (first, then)[:1 + i % 2]))
        return f"{count} runs killed before one of {self.events} file events, {self.kills} kills"

    def stop(self, count):
        """Send SIGTERM to runs at random times."""
        for i in range(count):
            seconds = self.chance.uniform(0, 1.05 * self.lasts)
            self.disturb(f"SIGTERM after {seconds:.3f} s", (lambda run, results: run(results),
                         with_interrupts)[i % 2], seconds=seconds)
        return f"{count} runs with SIGTERM at a random time"

    def harm(self, count):
        """Kill runs within a write, fill their disk, damage their checkpoints."""
        for i in range(count):
            kind = ("killed in a write", "full disk", "damaged checkpoint")[i % 3]
            small = functools.partial(with_small_files, ends=kind == "killed in a write",
                                      most=int(self.largest ** self.chance.uniform(0.4, 1)))
            then = functools.partial(killed_at, number=self.chance.randint(1, self.events))
            self.disturb(kind, *((then, then) if kind == "damaged checkpoint" else (small, then)),
                         after=lambda results, kind=kind: kind == "damaged checkpoint" and damage(
                             results, self.chance),
                         snapshots=kind != "full disk")
        return f"{count} runs killed in a write, on a full disk or with a damaged checkpoint"

    def together(self, count):
        """Start four runs of one name at once. One must go on, three print one line."""
        for _ in range(count):
            reader, writer = os.pipe()

            def locked(reader=reader, writer=writer):  # wait until the other processes ended
                os.close(writer)
                os.read(reader, 1)

            logs = [self.home / f"log{i}" for i in range(4)]
            children = [start(lambda: self.run(self.home / "run", locked), log) for log in logs]
            os.close(writer)
            codes = [finish(child) for child in children]
            os.close(reader)
            lines = [log.read_text() for code, log in zip(codes, logs, strict=True) if code == 2]
            if sorted(codes) != [0, 2, 2, 2] or not all(
                    line.count("\n") == 1 and "is being trained by another process (" in line
                    and "unknown" not in line for line in lines):
                self.same = False
                print(f"four runs ended with {codes}: {lines}", file=sys.stderr)
            for log in logs:
                log.unlink()
            (self.home / "log").touch()
            self.compare("four runs at once", self.home / "run")
        return f"{4 * count} runs, four of one name at once"


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
    parser.add_argument("--kill", type=int, default=500, help="runs killed at file events")
    parser.add_argument("--stop", type=int, default=200, help="runs stopped by SIGTERM")
    parser.add_argument("--harm", type=int, default=60, help="runs with a harmed disk or file")
    parser.add_argument("--together", type=int, default=100, help="times four runs of one name")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the disturbances")
    sys.exit(check_recovery(**vars(parser.parse_args())))
