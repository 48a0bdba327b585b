"""Execution of a notebook: what the terminal shows meanwhile, and the copy that is kept."""

import logging
import os
import re
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def terminal_text(text: str) -> str:
    """Return the final screen of a text with carriage returns and cursor-up sequences."""
    lines, row, column = [""], 0, 0
    for piece in re.split(r"(\r|\n|\x1b\[A)", text):
        if piece == "\r":
            column = 0
        elif piece == "\x1b[A":
            row = max(row - 1, 0)
        elif piece == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + piece + line[column + len(piece):]
            column += len(piece)
    return "\n".join(line.rstrip(" ") for line in lines)


def tidy_outputs(cell: Any) -> None:
    """Join the outputs of a code cell to one stdout and one stderr, with progress bars at the end.

    Widgets are removed, because they need a kernel; their pictures stay.
    """
    kept, streams = [], dict[str, Any]()
    for output in cell.outputs:
        if output.output_type != "stream":
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            kept.append(output)
        elif output.name in streams:
            streams[output.name].text += output.text
        else:
            streams[output.name] = output
            kept.append(output)
    for stream in streams.values():
        stream.text = terminal_text(stream.text)
    cell.outputs = [output for output in kept if output.get("text", "-").strip()]


class Screen:
    """What the terminal shows of a notebook of `total` cells: its prints, its bars, its position.

    Without a terminal: each cell's text when it is done, and sometimes a line of a long bar.
    """

    def __init__(self, total: int):
        self.live, self.total, self.heading = sys.stdout.isatty(), total, ""
        self.status = False  # whether the line with the position is shown
        self.open = self.stream = ""  # an unfinished line of output, and the stream it belongs to
        self.owes: str | None = None  # the stream whose next line end was already shown
        self.printed = time.monotonic()

    def stream_named(self, name: str) -> Any:
        """Return a file-like object for papermill that shows a stream of the notebook."""
        return SimpleNamespace(write=partial(self.show, stream=name), flush=sys.stdout.flush)

    def show(self, text: str, stream: str) -> None:
        """Show a piece of a stream."""
        if self.live:
            self.clear()
            if self.open and stream != self.stream:  # print() beside a bar: the kernel sends them
                sys.stdout.write("\n" if self.open.strip() else "\r")  # one after the other
                self.owes = self.stream
            elif stream == self.owes:
                text, self.owes = text.removeprefix("\n"), None
            sys.stdout.write(text)
            self.open, self.stream = re.split(r"[\r\n]", text)[-1], stream
        elif time.monotonic() - self.printed > 20 and (line := terminal_text(text).strip()):
            print(line.split("\n")[-1], flush=True)
            self.printed = time.monotonic()

    def clear(self) -> None:
        """Remove the line with the position."""
        if self.status:
            sys.stdout.write("\r\x1b[K")
        self.status = False

    def cell_started(self, cell: Any, cell_index: int) -> None:
        """Show the position: papermill calls this before each cell."""
        heading = re.match(r"#+ (.+)", cell.source) if cell.cell_type == "markdown" else None
        self.heading = heading[1] if heading else self.heading
        if self.live:
            self.clear()
            line = f"      cell {cell_index + 1} of {self.total}  {self.heading}"
            line = line[: shutil.get_terminal_size().columns - 1]
            sys.stdout.write("\n" * bool(self.open) + line)
            sys.stdout.flush()
            self.status, self.open, self.owes = True, "", None

    def cell_executed(self, cell: Any, **_: Any) -> None:
        """Print a cell's text if it was not shown live: papermill calls this after each cell."""
        if not self.live:
            texts = [o.text for o in cell.outputs if o.output_type == "stream"]
            if shown := terminal_text("".join(texts)).strip("\n"):
                print(shown, flush=True)


def run_notebook(path: Path, folder: Path, parameters: dict) -> None:
    """Execute the notebook in its own folder and write the executed copy into `folder`.

    Until it is done, and after a failure, the copy is <name>.failed.ipynb; Ctrl-C removes that.
    """
    import nbformat
    import papermill

    # Errors reach the user in one line; the sockets of the transport complain when they close.
    for name in ("papermill", "tornado", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    unfinished = folder / f"{path.stem}.failed.ipynb"
    braces = str.maketrans({"{": "{{", "}": "}}"})  # papermill fills in {names} in paths
    screen = Screen(total=len(nbformat.read(path, as_version=4).cells) + bool(parameters))
    try:
        notebook = papermill.execute_notebook(
            str(path).translate(braces), str(unfinished).translate(braces), parameters,
            cwd=path.parent, kernel_name="python3", progress_bar=False, start_timeout=300,
            stdout_file=screen.stream_named("stdout"), stderr_file=screen.stream_named("stderr"),
            on_cell_start=screen.cell_started, on_cell_executed=screen.cell_executed,
            extra_arguments=["--log-level=50"],  # else the kernel prints messages of its transport
        )
    except KeyboardInterrupt:
        unfinished.unlink(missing_ok=True)
        raise
    finally:
        screen.clear()
    for part in (notebook, *notebook.cells):
        part.metadata.pop("papermill", None)  # times and this machine's paths
    for cell in notebook.cells:
        if cell.cell_type == "code":
            tidy_outputs(cell)
    nbformat.write(notebook, unfinished)
    os.replace(unfinished, folder / path.name)


def error_line(error: BaseException) -> str:
    """Return "ValueError: …", one line of whatever stopped a notebook."""
    name, text = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    if name == "DeadKernelError":
        return "its Python process died, perhaps for want of memory; try a smaller N_TRAIN or MODEL"
    return f"{name}: {(text.strip().splitlines() or [''])[-1]}"


def prepare_environment() -> None:
    """Set the environment variables that the notebooks' Python processes inherit."""
    # The kernel of this Python, whatever else is called python3 in the user's folders.
    own, other = os.path.join(sys.prefix, "share", "jupyter"), os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = os.pathsep.join([own, other] if other else [own])
    # tqdm.auto shows widgets in a notebook, unseen here, except in Spyder.
    os.environ["SPYDER_TEXT_BARS"] = "1"
    os.environ["TQDM_NCOLS"] = str(min(shutil.get_terminal_size().columns - 1, 99))
    os.environ["TQDM_NROWS"] = "20"  # a terminal without a size would get no bars
