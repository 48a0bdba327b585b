"""Test one reader of files with inputs that atheris chooses by the code that they reach.

    python tools/fuzz_guided.py masks --minutes 120 --corpus folder

The corpus starts with undamaged and damaged files of tools/fuzz_readers.py. An input that reaches
new code of smp/ joins it. The first failure ends the run; its input is in the corpus's folder.
"""

import argparse
import atexit
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["smp"]):
    import fuzz
from fuzz_readers import CHECKSUM, READERS, damaged, with_checksum

SEEDS = 300  # files of the first corpus
MOST_MB = 200  # memory of one input, above the imports


def names_of(reader):
    """Return the names of the files that a reader makes, in order."""
    return sorted({reader.make(random.Random(number))[0] for number in range(SEEDS)})


def changed(names, data, most, seed):
    """Return the bytes of an input, the number of its name and a file, after a change."""
    chance, file = random.Random(seed), data[1:]
    file = damaged(chance, file) if chance.random() < 0.5 else atheris.Mutate(file, most - 1)
    if names[data[0] % len(names)] == "m" and CHECKSUM.search(file):
        file = with_checksum(file)  # else a mask file with a change is refused unread
    return (data[:1] + file)[:most]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--minutes", type=float, default=120, help="CPU time in minutes")
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "smp-corpus",
                        help="folder of the inputs")
    options = parser.parse_args()
    kind, reader = options.reader, READERS[options.reader]()
    names, corpus = names_of(reader), options.corpus / options.reader
    corpus.mkdir(parents=True, exist_ok=True)
    for number in range(SEEDS):
        name, data = reader.make(random.Random(f"seed {number}"))
        (corpus / f"seed-{number}").write_bytes(bytes([names.index(name)]) + data)
    tried, began = [0, 0], time.process_time()

    def report():
        print(f"{kind:9} {tried[0]:>10,} guided inputs, {tried[1]:,} read, "
              f"{(time.process_time() - began) / 60:.1f} CPU minutes, "
              f"{len(list(corpus.iterdir())):,} in the corpus", flush=True)

    def one_input(data):
        if time.process_time() - began > 60 * options.minutes:
            report()
            shutil.rmtree(folder)
            os._exit(0)  # libFuzzer takes an exception for a failure
        if data:
            tried[0] += 1
            tried[1] += fuzz.try_bytes(reader, folder, names[data[0] % len(names)], data[1:])

    signal.signal(signal.SIGALRM, fuzz.too_slow)
    atexit.register(report)
    folder = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 + MOST_MB
    atheris.Setup(
        [sys.argv[0], str(corpus), f"-rss_limit_mb={memory}", "-max_len=20000", "-verbosity=0",
         f"-artifact_prefix={corpus.parent}/{kind}-"], one_input,
        custom_mutator=lambda data, most, seed: changed(names, bytes(data) or b"\0", most, seed))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
