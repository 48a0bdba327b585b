"""Test the readers of files with damaged input.

A reader must return the content of the file, or raise ValueError or FileNotFoundError with one
line, within SECONDS.

    python tools/fuzz.py                       # ten seconds of CPU for each reader
    python tools/fuzz.py --inputs 1000000 masks squad
    python tools/fuzz.py --first 1234 --inputs 1 masks     # repeat one input

An input depends on the name of its reader, the seed and its number, so a failure can be repeated.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from fuzz_readers import READERS

SECONDS = 20  # limit for one input


class TooSlow(BaseException):  # not an Exception, because readers may catch those
    """Raised if a reader takes longer than SECONDS."""


def too_slow(*_):
    """Raise TooSlow; the handler of SIGALRM."""
    raise TooSlow(f"no result after {SECONDS} seconds")


def try_bytes(reader, folder, name, data):
    """Return whether the reader accepts the file; raise if it neither reads nor rejects it."""
    path = Path(folder) / name
    with open(path, "wb", buffering=0) as file:
        file.write(data)
    signal.alarm(SECONDS)
    try:
        found = reader.read(path)
    except (ValueError, FileNotFoundError) as error:
        line = str(error)
        short = repr(line[:300])
        assert line and "\n" not in line and len(line) < 10_000, f"not one line: {short}"
        assert name in line, f"the line does not contain the file's name: {short}"
        return False
    finally:
        signal.alarm(0)
    reader.check(found, name, data)
    return True


def try_number(kind, reader, folder, seed, number):
    """Return whether the reader accepts the input with this number."""
    chance = random.Random(f"{kind} {seed} {number}")
    name, data = reader.make(chance)
    if chance.random() < 0.02:
        data = chance.randbytes(chance.randrange(200))
    return try_bytes(reader, folder, name, data)


def fuzz(kind, folder, seed=0, first=0, inputs=None, seconds=None):
    """Test a reader with many inputs, print the counts, return the number of failed inputs."""
    reader, folder = READERS[kind](), Path(folder) / kind
    folder.mkdir(exist_ok=True)
    began = time.process_time()
    tried = accepted = failed = 0
    while (inputs is None or tried < inputs) and (
        seconds is None or time.process_time() - began < seconds
    ):
        try:
            accepted += try_number(kind, reader, folder, seed, first + tried)
        except KeyboardInterrupt:
            break
        except BaseException as error:
            failed += 1
            if failed <= 10:
                print(f"{kind}: --seed {seed} --first {first + tried} --inputs 1: "
                      f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
        tried += 1
    rate = tried / max(time.process_time() - began, 1e-9)
    rejected = tried - accepted - failed
    print(f"{kind:8} {tried:>10,} inputs, {accepted:,} read, {rejected:,} rejected, "
          f"{failed:,} failed; {rate:,.0f} per second", flush=True)
    return failed


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=" ".join(READERS))
    parser.add_argument("--list", action="store_true", help="print the readers")
    parser.add_argument("--inputs", type=int, help="number of inputs for each reader")
    parser.add_argument("--minutes", type=float, help="total CPU time in minutes")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    options = parser.parse_args(arguments)
    if options.list:
        print(*READERS)
        return 0
    kinds = options.readers or list(READERS)
    if unknown := [kind for kind in kinds if kind not in READERS]:
        parser.error(f"reader is {unknown[0]!r}, expected some of {', '.join(READERS)}")
    seconds = options.minutes and 60 * options.minutes / len(kinds)
    if seconds is None and options.inputs is None:
        seconds = 10
    signal.signal(signal.SIGALRM, too_slow)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        failed = [fuzz(kind, folder, options.seed, options.first, options.inputs, seconds)
                  for kind in kinds]
    return 1 if any(failed) else 0


if __name__ == "__main__":
    sys.exit(main())
