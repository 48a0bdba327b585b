"""Execution of a notebook and its copy with outputs."""

import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from smp.cli.options import NO_MEMORY, OUT_OF_MEMORY
from smp.cli.screen import INDENT, Screen
from smp.files import replace_text_file

# Else the kernel prints errors of its transport, also after the last cell, when its sockets close.
KERNEL_LOGS = ["--log-level=50", "--IPKernelApp.exec_lines="
               "__import__('logging').getLogger('tornado.general').setLevel(60)"]


@contextmanager
def interrupted_kernels(arrived: list[int]) -> Iterator[None]:
    """Interrupt the kernel on Ctrl-C or SIGTERM in the block; its training writes a checkpoint.

    arrived: a list to which the signals are added. The second one, or one without a kernel, raises
    KeyboardInterrupt at once.
    """
    def stop(number: int, _: Any) -> None:
        arrived.append(number)
        kernels = [child for child in psutil.Process().children()
                   if child.status() != psutil.STATUS_ZOMBIE
                   and "ipykernel" in str(child.cmdline())]
        if len(arrived) > 1 or not kernels:
            raise KeyboardInterrupt
        for kernel in kernels:
            kernel.send_signal(signal.SIGINT)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def without_local_paths(text: str) -> str:
    """Return the text without the current folder, and with short names for Python and the home."""
    text = re.sub(r"\S*ipykernel_\d+[/\\]\d+\.py", "<cell>", text)
    for folder, name in ((Path.cwd(), ""), (sys.prefix, "<python>"), (Path.home(), "~")):
        if len(Path(folder).parts) > 1:
            text = text.replace(f"{folder}{os.sep}", name and name + os.sep)
    return text


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
        stream.text = without_local_paths(terminal_text(stream.text))
    shown = [output for output in kept if output.get("data", {"-": "-"}) != {"text/plain": ""}]
    cell.outputs = [output for output in shown if output.get("text", "-").strip()]


def execute(path: Path, copy: Path, parameters: dict, screen: Screen) -> Any:
    """Execute the notebook in the current folder, write `copy` after each cell, return it."""
    import papermill

    # `error_line` prints the errors; the sockets of the transport log errors when they close.
    for name in ("papermill", "tornado", "tornado.general", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    braces = str.maketrans({"{": "{{", "}": "}}"})  # papermill fills in {names} in paths
    source = str(path).translate(braces)
    listed = papermill.inspect_notebook(source)  # a notebook has only the parameters that it uses
    return papermill.execute_notebook(
        source, str(copy).translate(braces),
        {name: value for name, value in parameters.items() if name in listed},
        cwd=Path.cwd(), kernel_name="python3", progress_bar=False, start_timeout=300,
        stdout_file=screen.stream("stdout"), stderr_file=screen.stream("stderr"),
        on_cell_start=screen.cell_started,
        extra_arguments=KERNEL_LOGS,
    )


def run_notebook(path: Path, folder: Path, parameters: dict) -> Any:
    """Execute the notebook in the current folder, write the executed copy into `folder`, return it.

    During the execution and after a failure, the copy is <name>.failed.ipynb. Ctrl-C, SIGTERM and
    an error while the copy is written (a full disk) remove this file.
    """
    import nbformat

    unfinished = folder / f"{path.stem}.failed.ipynb"
    unfinished.unlink(missing_ok=True)  # of an earlier run
    try:
        with Screen() as screen:
            notebook = execute(path, unfinished, parameters, screen)
        for part in (notebook, *notebook.cells):
            part.metadata.pop("papermill", None)  # times and this machine's paths
        for cell in notebook.cells:
            if cell.cell_type == "code":
                tidy_outputs(cell)
        replace_text_file(folder / path.name, nbformat.writes(notebook) + "\n")
        unfinished.unlink()
    except (KeyboardInterrupt, OSError):
        unfinished.unlink(missing_ok=True)
        raise
    return notebook


def record_name(notebook: Any) -> str | None:
    """Return NAME of the last printed line "record: NAME.json" of an executed notebook, or None."""
    printed = [output.text for cell in notebook.cells if cell.cell_type == "code"
               for output in cell.outputs if output.get("name") == "stdout"]
    names = re.findall(r"^record: (\S+)\.json$", "\n".join(printed), re.MULTILINE)
    return names[-1] if names else None


def error_line(error: BaseException) -> str:
    """Return one line, "ValueError: …", for the error that stopped a notebook."""
    name, text = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    if name == "DeadKernelError":
        return "Kernel died, possibly out of memory. Reduce n_train or use a smaller model."
    if re.search(NO_MEMORY, f"{name}: {text}"):
        return OUT_OF_MEMORY.capitalize()
    return f"{name}: {(text.strip().splitlines() or [''])[-1]}"


def prepare_environment() -> None:
    """Set the environment variables that the notebooks' Python processes inherit."""
    # The kernel of this Python, also if the user's folders have another kernel named python3.
    own, other = os.path.join(sys.prefix, "share", "jupyter"), os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = os.pathsep.join([own, other] if other else [own])
    columns = shutil.get_terminal_size().columns - 1 - len(INDENT)
    os.environ["TQDM_NCOLS"] = str(min(columns, 99) if sys.stderr.isatty() else 99)
    os.environ["TQDM_NROWS"] = "20"  # a terminal without a size would get no bars
