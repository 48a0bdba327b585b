"""Progress of a notebook: one line that is rewritten in place, or a few lines without a terminal.

The line is the notebook's progress bar, or its current heading. The executed copy contains the
notebook's prints.
"""

import re
import shutil
import sys
import time
from types import SimpleNamespace
from typing import Any

from tqdm import tqdm

INDENT = " " * 6
BAR = re.compile(r".*?\[\d+:[\d:]+[<,].*?(?:\]|$)")  # a bar of tqdm, to its "[00:10<00:05, ...]"
SECONDS_BETWEEN_LINES = 30


class Screen:
    """Show the progress of one notebook. A context manager, which removes the line at the end.

    Without a terminal it prints a line at 25%, 50% and 75% of a training, at most every 30 seconds.
    It prints at most `most` warnings, one line each.
    """

    def __init__(self, most: int = 1):
        self.live, self.most = sys.stderr.isatty(), most
        self.line = tqdm(  # nrows: a terminal without a size would get no bar
            bar_format="{desc}", disable=not self.live, leave=False, nrows=20)
        self.rest = {"stdout": "", "stderr": ""}  # last lines, which have no end yet
        self.warnings: list[str] = []
        self.quarter, self.printed = 0, time.monotonic()

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, *_: Any) -> None:
        self.read("\n", "stderr")
        self.line.close()
        if (more := len(self.warnings) - self.most) > 0:
            print(f"{INDENT}(the executed notebook contains {more} more warnings)", flush=True)

    def stream(self, name: str) -> Any:
        """Return a file-like object for papermill, which writes "stdout" or "stderr" to it."""
        return SimpleNamespace(write=lambda text: self.read(text, name), flush=lambda: None)

    def show(self, text: str) -> None:
        """Replace the line that is rewritten in place."""
        self.line.set_description_str((INDENT + text)[: shutil.get_terminal_size().columns - 1])

    def keep(self, text: str) -> None:
        """Print a line that remains."""
        self.line.write(INDENT + text, file=sys.stdout)
        sys.stdout.flush()

    def cell_started(self, cell: Any, cell_index: int) -> None:
        """Show the heading: papermill calls this before each cell."""
        if cell.cell_type == "markdown" and (heading := re.match(r"#+ (.+)", cell.source)):
            self.show(heading[1])

    def read(self, text: str, stream: str) -> None:
        """Show a piece of the notebook's output: bars in place, the first warnings as lines."""
        *ended, self.rest[stream] = re.split(r"[\r\n]|\x1b\[A", self.rest[stream] + text)
        for line in ended if stream == "stderr" else ():
            self.warn(BAR.sub("", line, count=1))
        bars = [bar[0].strip() for line in (*ended, self.rest[stream]) if (bar := BAR.match(line))]
        if bars:
            self.show(bars[-1])
            self.keep_quarter(bars[-1])

    def warn(self, line: str) -> None:
        """Print a new line of stderr, except bars and the source lines of warnings."""
        line = re.sub(r"^\S+:\d+: (?=\w*Warning: )", "", line.rstrip())
        if line and line[0] != " " and not line.startswith("Traceback") and (
                line not in self.warnings):
            self.warnings.append(line)
            if len(self.warnings) <= self.most:
                self.keep(line[:200])

    def keep_quarter(self, bar: str) -> None:
        """Print the progress of a training at each quarter, if there is no terminal."""
        percent = re.search(r"(\d+)%\|", bar)
        if self.live or " steps" not in bar or percent is None:
            return
        quarter, now = int(percent[1]) // 25, time.monotonic()
        if quarter in {1, 2, 3} - {self.quarter} and now - self.printed >= SECONDS_BETWEEN_LINES:
            self.keep(re.sub(r"\|.*\| *", " ", bar))
            self.quarter, self.printed = quarter, now
