"""`make test-recovery`: kill a small training, fill its disk, damage its checkpoints, at random.

Each disturbed run must continue and end with the same bits as an undisturbed run.
"""

import argparse
import contextlib
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    logging,
    set_seed,
)

from smp.cli.train import attach_pruning, train
from smp.data.reading import load_squad
from smp.data.windows import featurise
from smp.look.snapshot_writer import SnapshotWriter
from smp.model.load import load_pretrained
from smp.runs.checkpoint import Checkpoints
from smp.runs.settings import choose_settings


def make_training():
    """Return a function of (folder of checkpoints or None, path of snapshots).

    It runs a small SMP training and returns the digest of history and model.
    """
    tokenizer = load_pretrained(AutoTokenizer, "all-MiniLM-L6-v2")
    windows = featurise(load_squad("synthetic", 64, 0, 1)["train"], tokenizer, 96, 32)
    settings = choose_settings(
        "quick", "smp", density=0.2, method="smp-s", epochs=3, dropout=0.1, precision="fp32",
        n_mask_snapshots=6,
    )
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=96, hidden_dropout_prob=settings.dropout,
    )

    def train_once(folder, snapshots):
        set_seed(0)
        model = BertForQuestionAnswering(config)
        pruning = attach_pruning(model, settings)
        run = train(model, windows, tokenizer, settings, pruning,
                    checkpoints=folder and Checkpoints(folder, minutes=0),
                    snapshots=SnapshotWriter(snapshots))
        digest = hashlib.sha256(repr(sorted(run["history"].items())).encode())
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        return digest.hexdigest()

    return train_once


def start(train_once, folder, result, most_bytes=None):
    """Start a child process that trains and writes its digest into `result`.

    Its snapshots are in the same folder. most_bytes: the largest file that it may write. Returns
    the number of the process.
    """
    child = os.fork()
    if child:
        return child
    try:
        with open(result.with_suffix(".log"), "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            if most_bytes is not None:  # a larger file fails, as on a full disk
                hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
            digest = train_once(folder, result.with_suffix(".masks"))
            if most_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            result.write_text(digest)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def finish(child):
    """Wait for a child and return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_after(child, seconds):
    """Kill the child with SIGKILL after `seconds`; return whether it was still running."""
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return finish(child) == -signal.SIGKILL


def damage(folder, chance):
    """Truncate the newest checkpoint, if there is one, or flip one random bit of it."""
    paths = Checkpoints(folder).paths()
    if not paths:
        return
    data = bytearray(paths[0].read_bytes())
    place = chance.randrange(len(data))
    if chance.random() < 0.5:
        data = data[:place]
    else:
        data[place] ^= 1 << chance.randrange(8)
    paths[0].write_bytes(data)


@contextlib.contextmanager
def small_disk(folder, kilobytes):
    """Mount a tmpfs of this size on the folder if permitted; yield whether it is mounted."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def disturb(kind, train_once, place, chance, lasts, size):
    """Kill and restart a training until it ends; return (digest or None, kills, its output).

    lasts: seconds of an undisturbed run; size: bytes of its largest checkpoint.
    """
    result, kills = place.with_suffix(".txt"), 0
    full = kind == "full disk"
    with small_disk(place, size // 1024 + 40) if full else contextlib.nullcontext() as mounted:
        limit = chance.randrange(1000, size) if full and not mounted else None
        child = start(train_once, place / "checkpoints", result, limit)
        while kill_after(child, chance.uniform(0.05, 1.1) * lasts) and kills < 30:
            kills += 1
            if kind == "damaged checkpoint":
                damage(place / "checkpoints", chance)
            child = start(train_once, place / "checkpoints", result)
    shutil.rmtree(place, ignore_errors=True)
    digest = result.read_text() if result.is_file() else None
    return digest, kills, result.with_suffix(".log").read_text()


def check_recovery(rounds, minutes, seed):
    """Disturb runs; return the exit code, 0 if all ended with the bits of the undisturbed run."""
    logging.set_verbosity_error()
    torch.set_num_threads(1)  # a forked child cannot use the parent's threads
    chance, train_once = random.Random(seed), make_training()
    home, began = Path(tempfile.mkdtemp(prefix="recovery-")), time.monotonic()
    try:
        finish(start(train_once, None, home / "undisturbed.txt"))
        wanted = (home / "undisturbed.txt").read_text()
        snapshots = (home / "undisturbed.masks").read_bytes()
        timed = time.monotonic()
        finish(start(train_once, home / "timed", home / "timed.txt"))
        lasts = time.monotonic() - timed
        size = max(path.stat().st_size for path in (home / "timed").iterdir())
        survived, tried, kills = Counter(), Counter(), Counter()
        kinds = ("killed", "damaged checkpoint", "full disk")
        for number in range(rounds):
            if time.monotonic() - began > 60 * minutes:
                print(f"the limit of {minutes:g} minutes is reached")
                break
            kind = kinds[max(0, number % 5 - 2)]  # three of five runs are only killed
            digest, times, printed = disturb(
                kind, train_once, home / f"run{number}", chance, lasts, size
            )
            tried[kind] += 1
            kills[kind] += times
            same = digest == wanted and (  # on a full disk, snapshots may be lost, with a message
                kind == "full disk" or snapshots == (home / f"run{number}.masks").read_bytes())
            survived[kind] += same
            if not same:
                print(f"run {number} ({kind}) ended with other bits:\n{printed[-2000:]}",
                      file=sys.stderr)
        for kind in kinds:
            print(f"{kind}: {survived[kind]} of {tried[kind]} runs ended with the same bits, "
                  f"after {kills[kind]} kills")
        print(f"{sum(tried.values())} runs, {sum(kills.values())} kills, "
              f"{(time.monotonic() - began) / 60:.1f} minutes")
        return int(not tried or survived != tried)
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="number of disturbed runs")
    parser.add_argument("--minutes", type=float, default=15, help="no new run after this time")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the disturbances")
    options = parser.parse_args()
    sys.exit(check_recovery(options.rounds, options.minutes, options.seed))
