"""cli.notebooks."""

import logging
import os
import re
import shutil
import sys
import time
from functools import partial
from types import SimpleNamespace


# What the user sees, and what is kept
def terminal_text(text):
    """What a terminal shows in the end of text with carriage returns and cursor-up sequences."""
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


def tidy_outputs(cell):
    """One stream each for stdout and stderr, progress bars as they looked in the end."""
    kept, streams = [], {}
    for output in cell.outputs:
        if output.output_type != "stream":
            kept.append(output)
        elif output.name in streams:
            streams[output.name].text += output.text
        else:
            streams[output.name] = output
            kept.append(output)
    for stream in streams.values():
        stream.text = terminal_text(stream.text)
    for output in kept:  # a widget lives only as long as its kernel; its picture stays
        output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    cell.outputs = [output for output in kept if output.get("text", "-").strip()]


class Screen:
    """Forwards what a notebook prints, bars included; in between says where the notebook is.

    Without a terminal: each cell's text when it is done, and now and then a line of a long bar.
    """

    def __init__(self, total):
        self.live, self.total, self.heading = sys.stdout.isatty(), total, ""
        self.status = False  # the line that says where the notebook is stands there
        self.open = ""  # an unfinished line of output, and the stream it belongs to
        self.stream = self.owes = None
        self.told = time.monotonic()

    def stream_named(self, name):
        return SimpleNamespace(write=partial(self.show, stream=name), flush=sys.stdout.flush)

    def show(self, text, stream):
        if self.live:
            self.clear()
            if self.open and stream != self.stream:  # print() beside a bar: the kernel sends them
                sys.stdout.write("\n" if self.open.strip() else "\r")  # one after the other
                self.owes = self.stream
            elif stream == self.owes:
                text, self.owes = text.removeprefix("\n"), None
            sys.stdout.write(text)
            self.open, self.stream = re.split(r"[\r\n]", text)[-1], stream
        elif time.monotonic() - self.told > 20 and (line := terminal_text(text).strip()):
            print(line.split("\n")[-1], flush=True)
            self.told = time.monotonic()

    def clear(self):
        if self.status:
            sys.stdout.write("\r\x1b[K")
        self.status = False

    def cell_started(self, cell, cell_index):
        heading = re.match(r"#+ (.+)", cell.source) if cell.cell_type == "markdown" else None
        self.heading = heading[1] if heading else self.heading
        if self.live:
            self.clear()
            line = f"      cell {cell_index + 1} of {self.total}  {self.heading}"
            line = line[: shutil.get_terminal_size().columns - 1]
            sys.stdout.write("\n" * bool(self.open) + line)
            sys.stdout.flush()
            self.status, self.open, self.owes = True, "", None

    def cell_executed(self, cell, **_):
        if not self.live:
            texts = [o.text for o in cell.outputs if o.output_type == "stream"]
            if shown := terminal_text("".join(texts)).strip("\n"):
                print(shown, flush=True)


def run_notebook(path, folder, parameters):
    """Executes the notebook in its own folder; the executed copy appears in `folder` when done.

    Until then, and after a failure, it is <name>.failed.ipynb; an interruption removes that.
    """
    import nbformat
    import papermill

    # What matters is told below; the other two are the transport, whose closing sockets complain.
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
            extra_arguments=["--log-level=50"],  # else the kernel talks about its own transport
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


def error_line(error):
    """"ValueError: …" of whatever stopped a notebook."""
    name, text = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    if name == "DeadKernelError":
        return "its Python process died, perhaps for want of memory; try a smaller N_TRAIN or MODEL"
    return f"{name}: {(text.strip().splitlines() or [''])[-1]}"


def prepare_environment():
    """What the notebooks' Python processes inherit."""
    # The kernel of this Python, whatever else is called python3 in the user's folders.
    own, other = os.path.join(sys.prefix, "share", "jupyter"), os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = os.pathsep.join([own, other] if other else [own])
    # tqdm.auto shows widgets in a notebook, unseen here, unless it believes to be in Spyder.
    os.environ["SPYDER_TEXT_BARS"] = "1"
    os.environ["TQDM_NCOLS"] = str(min(shutil.get_terminal_size().columns - 1, 99))
    os.environ["TQDM_NROWS"] = "20"  # a terminal that tells no size would get no bars
