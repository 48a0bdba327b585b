"""JupyterLab and Notebook 7 on loopback, with a small copy of a notebook, for `browser`."""

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat

from cut_executed import read_notebook

SMALL = {"N_TRAIN": 24, "N_VALID": 8, "N_EVAL": 12, "EPOCHS": 1, "DENSITY": 0.3,
         "RESULTS": "results"}
APPS = {"lab": ("jupyterlab", "LabApp", "lab/tree"),
        "notebook": ("notebook", "JupyterNotebookApp", "notebooks")}


class BrowserError(Exception):
    """What failed in the browser, in one line."""


def check(holds: Any, message: str) -> None:
    """Raise BrowserError unless the condition holds."""
    if not holds:
        raise BrowserError(message)


def wait_until(holds: Callable[[], Any], seconds: float, message: str, pause: float = 0.5) -> Any:
    """Return the first true value of holds(). The pauses are counted, so a slow machine waits."""
    for _ in range(round(seconds / pause)):
        if value := holds():
            return value
        time.sleep(pause)
    raise BrowserError(f"not within {seconds:.0f} s: {message}")


def small_copy(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Write a copy with SMALL in its parameters cell into the folder, return it."""
    notebook = read_notebook(path)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    check(len(cells) == 1, f"{len(cells)} cells have the tag `parameters`, expected 1")
    for name, value in SMALL.items():
        cells[0].source = re.sub(rf"(?m)^{name} = .*", f"{name} = {value!r}", cells[0].source)
    check("N_TRAIN = 24" in cells[0].source, "the parameters cell has no N_TRAIN")
    nbformat.write(notebook, folder / path.name)
    return notebook


def server_environment(home: Path) -> dict[str, str]:
    """Return the variables of a server whose settings are in `home`, and that reaches loopback."""
    for name, values in (
        ("apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False}),
        ("notebook-extension/tracker", {"windowingMode": "none", "scrollPastEnd": False}),
    ):  # windowing leaves cells out of the page, so the page would be too short
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("JUPYTER", "IPYTHON", "XDG_", "PYTHONPATH", "SPYDER"))}
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    return kept | nowhere | {
        "no_proxy": "127.0.0.1,localhost", "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1",
        "HOME": str(home), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}


@contextlib.contextmanager
def jupyter(app: str, work: Path, home: Path) -> Iterator[Callable[[str], str]]:
    """Serve the folder `work` on loopback; yield a function from a notebook to its address."""
    module, config, path = APPS[app]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, log = secrets.token_hex(16), home / "jupyter.log"
    with open(log, "w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", module, "--no-browser", "--ServerApp.ip=127.0.0.1",
             f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--allow-root",
             f"--ServerApp.root_dir={work}", f"--{config}.expose_app_in_browser=True"],
            env=server_environment(home) | {"JUPYTER_TOKEN": token}, cwd=work,
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    base = f"http://127.0.0.1:{port}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answers() -> bool:
        with contextlib.suppress(OSError), opener.open(f"{base}/api?token={token}", timeout=5):
            return True
        last = log.read_text().strip().splitlines()[-1:] or ["no output"]
        check(server.poll() is None, f"Jupyter did not start: {last[0]}")
        return False

    try:
        wait_until(answers, 90, "Jupyter answers")
        yield lambda name: f"{base}/{path}/{name}?token={token}"
    finally:
        end_group(server, 20)  # the server ends its kernels, which are groups of their own


def end_group(process: subprocess.Popen, seconds: float = 5) -> None:
    """End a process that leads a group, and the group; kill it after the seconds."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
