"""`make test-browser`: the built BERT_SMP.ipynb, used in a real browser as its readers use it.

JupyterLab, then Notebook 7, are started on loopback with everything they write in a temporary
folder. A headless Chromium, with no network but loopback, opens the notebook, runs all of its
cells with a small training, goes through the mask explorer, and asks the model a question. The
notebook it saves is then exported as a page and looked at in two widths. Screenshots of it all are
left in build/browser/.
"""

import argparse
import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import nbformat

from chromium import CONTROL, SHIFT, BrowserError, Chromium, end_group, find_chromium, wait_until
from pages import write_page

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "Static_Model_Pruning" / "BERT_SMP.ipynb"
SMALL = {"PROFILE": "quick", "N_TRAIN": 24, "N_VALID": 8, "N_EVAL": 12, "EPOCHS": 1,
         "DENSITY": 0.3, "RESULTS": "results"}
APPS = {"lab": ("jupyterlab", "LabApp", "lab/tree"),
        "notebook": ("notebook", "JupyterNotebookApp", "notebooks")}
MINUTES = 8  # at most, for all cells; one or two do where nothing else runs


def check(holds, what):
    if not holds:
        raise BrowserError(what)


# The server


def small_copy(folder):
    """The built notebook with a small training in its parameter cell, in the folder."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in SMALL.items())
    nbformat.write(notebook, folder / NOTEBOOK.name)


@contextlib.contextmanager
def jupyter(app, folder):
    """Starts JupyterLab or Notebook 7; gives the notebook's address, the token in it.

    Its home, settings and data are in the folder; it serves the folder's `work`.
    """
    module, config, path = APPS[app]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    work, home, token = folder / "work", folder / "home", secrets.token_hex(16)
    work.mkdir()
    home.mkdir()
    small_copy(work)
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("JUPYTER", "IPYTHON", "XDG_", "PYTHONPATH", "SPYDER"))}
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    with open(folder / "jupyter.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", module, "--no-browser", "--ServerApp.ip=127.0.0.1",
             f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--allow-root",
             f"--ServerApp.root_dir={work}", f"--{config}.expose_app_in_browser=True"],
            env=kept | {"HOME": str(home), "JUPYTER_TOKEN": token, "HF_HUB_OFFLINE": "1",
                        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
                        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")},
            cwd=work, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for_server(server, f"{address}/api?token={token}", folder / "jupyter.log")
        yield f"{address}/{path}/{NOTEBOOK.name}?token={token}"
    finally:
        end_group(server, 20)  # it ends its kernels, which are groups of their own


def wait_for_server(server, address, log):
    def answers():
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return True
        told = log.read_text().strip().splitlines()[-1:] or ["nothing"]
        check(server.poll() is None, f"Jupyter did not start; it said: {told[0]}")

    wait_until(answers, 90, "Jupyter answers")


# The notebook in the page

PANEL = "jupyterapp.shell.currentWidget"
STATE = f"""(() => {{
  const panel = {PANEL};
  return {{
    kernel: panel.sessionContext.session?.kernel?.status,
    cells: [...panel.content.model.cells].map(cell => ({{
      type: cell.type, source: cell.sharedModel.source, count: cell.executionCount,
      outputs: cell.outputs ? cell.outputs.toJSON() : []}}))
  }};
}})()"""


class NotebookPage:
    """The open notebook: what its cells hold, by the app's model, and what the page shows."""

    def __init__(self, browser, shots):
        self.browser, self.shots = browser, shots

    def open(self, address):
        self.browser.go(address)
        self.browser.wait_for(
            f"window.jupyterapp && {PANEL}?.content?.model?.cells?.length > 9 && "
            f"{PANEL}.sessionContext?.session?.kernel?.status == 'idle'",
            90, "the notebook is open and its kernel idle",
        )

    def cells(self):
        return self.browser.evaluate(STATE)["cells"]

    def find(self, text):
        """Number of the only code cell that calls or says `text`, not one that defines it."""
        found = [i for i, cell in enumerate(self.cells()) if cell["type"] == "code"
                 and text in cell["source"] and "def " not in cell["source"]]
        check(len(found) == 1, f"{len(found)} cells say {text!r}, expected one")
        return found[0]

    def show(self, number):
        """Scrolls to a cell; the expression of its element."""
        widget = f"{PANEL}.content.widgets[{number}]"
        self.browser.evaluate(f"{PANEL}.content.activeCellIndex = {number}; "
                              f"{PANEL}.content.scrollToItem({number}, 'start')")
        self.browser.wait_for(f"{widget}.node.isConnected && {widget}.node.offsetHeight > 0", 20,
                              f"cell {number} is seen")
        return f"{widget}.node"

    def shot(self, name):
        time.sleep(0.5)  # until scrolling and drawing have come to rest
        self.browser.screenshot(self.shots / (re.sub(r"\W+", "-", name) + ".png"))

    def fail_on_error(self):
        """The cells; BrowserError where one of them stopped."""
        cells = self.cells()
        for number, cell in enumerate(cells):
            for output in cell["outputs"]:
                if output["output_type"] == "error":
                    self.show(number)
                    raise BrowserError(f"cell {number} stopped: {output['ename']}: "
                                       f"{output['evalue'].splitlines()[-1]}")
        return cells

    def run_all(self):
        """Runs all cells by the Run menu's command, and waits for the last of them."""
        self.browser.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")
        def done():
            left = [number for number, cell in enumerate(self.fail_on_error())
                    if cell["type"] == "code" and cell["source"].strip() and not cell["count"]]
            return not left and self.browser.evaluate(STATE)["kernel"] == "idle"

        wait_until(done, 60 * MINUTES, "all cells were run", pause=1)

    def check_figures(self, least):
        """Every picture that a cell returned is drawn in the page."""
        pictures = [i for i, cell in enumerate(self.cells())
                    if any("image/png" in output.get("data", {}) for output in cell["outputs"])]
        check(len(pictures) >= least, f"{len(pictures)} cells show a picture, expected {least}")
        for number in pictures:
            node = self.show(number)
            self.browser.wait_for(f"{node}.querySelector('.jp-OutputArea img')?.naturalWidth > 99",
                                  20, f"the picture of cell {number} is drawn")
        return pictures

    def edit_and_run(self, number, source):
        """Types another source into a cell, and runs it with Shift+Enter."""
        node, count = self.show(number), self.cells()[number]["count"]
        self.browser.click(f"{node}.querySelector('.cm-content')")
        self.browser.press("a", CONTROL)
        self.browser.type(source)
        self.browser.wait_for(f"{PANEL}.content.widgets[{number}].model.sharedModel.source == "
                              f"{json.dumps(source)}", 10, f"cell {number} holds what was typed")
        self.browser.press("Enter", SHIFT)
        self.browser.wait_for(
            f"[null, {json.dumps(count)}].indexOf("
            f"{PANEL}.content.widgets[{number}].model.executionCount) < 0 && "
            f"{PANEL}.sessionContext.session.kernel.status == 'idle'",
            60, f"cell {number} is run again",
        )
        return self.fail_on_error()[number]

    def save(self):
        self.browser.evaluate("jupyterapp.commands.execute('docmanager:save')")


# What is done and seen

EXPLORER = "document.querySelector('.smp-explorer')"
SEEN = f"""fetch({EXPLORER}.querySelector('img').src).then(file => file.arrayBuffer())
  .then(bytes => crypto.subtle.digest('SHA-1', bytes))
  .then(hash => ({{picture: [...new Uint8Array(hash)].join(),
                  caption: {EXPLORER}.querySelector('.smp-caption').innerText}}))
  .catch(() => null)"""


class Explorer:
    """The mask explorer in the page: what it shows, and its controls moved by mouse and keys."""

    def __init__(self, page):
        self.page, self.browser = page, page.browser
        page.show(page.find("explore("))
        self.browser.wait_for(f"{EXPLORER}?.querySelector('img')?.naturalWidth > 99", 30,
                              "the explorer shows a picture")
        self.seen = self.browser.evaluate(SEEN)

    def changed(self, what):
        """Waits until picture and caption are others than before."""
        def differ():
            now = self.browser.evaluate(SEEN) or self.seen  # null: replaced while it was read
            return all(now[part] != self.seen[part] for part in now) and now

        self.seen = wait_until(differ, 20, f"{what} changes the explorer's picture and caption")

    def control(self, name):
        """The expression of a control that is to be seen."""
        element = f"{EXPLORER}.querySelector('{name}')"
        check(self.browser.evaluate(f"{element}?.checkVisibility()"), f"no {name} is to be seen")
        return element

    def click(self, name, what):
        """Clicks in the middle of a control; keys would be taken by the notebook's shortcuts."""
        self.browser.click(self.control(name))
        self.changed(what)

    def choose(self, name, further, what):
        """Another entry of a menu: as by mouse, for the same reason."""
        self.browser.evaluate(f"(menu => {{menu.selectedIndex += {further};"
                              "menu.dispatchEvent(new Event('change', {bubbles: true}))})"
                              f"({self.control(name)})")
        self.changed(what)

    def views(self):
        return self.browser.evaluate(f"[...{EXPLORER}.querySelectorAll('.smp-view button')]"
                                     ".map(button => button.innerText.trim())")

    def view(self, name):
        """Presses the button of a view."""
        self.browser.click(f"[...{EXPLORER}.querySelectorAll('.smp-view button')]"
                           f".find(button => button.innerText.trim() == {json.dumps(name)})")
        self.changed(f"view {name!r}")


def look_at_masks(page):
    """Moves the step, goes through every view, and picks another matrix and layer."""
    explorer = Explorer(page)
    page.shot("explorer")
    explorer.click(".smp-step .noUi-target", "another step")
    page.shot("explorer another step")
    first, *views = explorer.views()
    check({"overview", "one matrix"} <= {first, *views},
          f"the explorer's views are {[first, *views]}")
    for name in views:
        explorer.view(name)
        page.shot(f"explorer {name}")
    explorer.view("one matrix")
    explorer.choose(".smp-matrix select", 1, "another matrix")
    explorer.choose(".smp-layer select", -1, "another layer")  # the last one is picked at first
    page.shot("explorer another matrix")


def ask_a_question(page):
    """Changes the question of the last part, runs the cell; the answer must be of the passage."""
    number = page.find('question = "Who built the bridge?"')
    before = page.cells()[number]
    source = before["source"].replace("Who built the bridge?", "How long is the bridge?")
    after = page.edit_and_run(number, source)
    said = json.dumps([output.get("data", {}) for output in after["outputs"]])
    _, *passage = re.findall(r'"(.*?)"', source)  # the question, then the lines of the passage
    words = re.findall(r"\w{3,}", " ".join(passage))
    check(any(word in said for word in words), "the edited question is not answered by the passage")
    page.show(number)
    page.shot("question")


def look_at_page(browser, notebook, shots):
    """Exports the notebook that was saved in the browser, and looks at it in two widths."""
    page = write_page(notebook, shots)
    for name, width, height, phone in (("desktop", 1280, 900, False), ("phone", 390, 844, True)):
        browser.resize(width, height, phone)
        browser.go(page.as_uri())
        wide = browser.evaluate("document.documentElement.scrollWidth")
        check(wide <= width, f"the page is {wide} points wide on a {name} of {width}")
        check(browser.evaluate("document.querySelectorAll('math').length") > 9,
              f"the page shows no formulas on a {name}")
        browser.screenshot(shots / f"page_{name}.png", whole=True)


def try_app(app, folder, shots):
    """The whole pass in JupyterLab; in Notebook 7 without the export."""
    folder.mkdir()
    profile = folder / "chromium"
    profile.mkdir()
    with jupyter(app, folder) as address, Chromium(profile) as browser:
        page = NotebookPage(browser, shots)
        try:
            page.open(address)
            page.shot("opened")
            page.run_all()
            page.check_figures(least=5)
            look_at_masks(page)
            ask_a_question(page)
            page.save()
            if app == "lab":
                look_at_page(browser, folder / "work" / NOTEBOOK.name, shots)
        except BrowserError:
            with contextlib.suppress(BrowserError):
                browser.screenshot(shots / "failed.png")
            raise


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--apps", nargs="+", choices=APPS, default=list(APPS))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("test-browser: ended"))  # and tidies up
    for app in parser.parse_args(arguments).apps:
        shots, began = ROOT / "build" / "browser" / app, time.monotonic()
        shots.mkdir(parents=True, exist_ok=True)
        for old in shots.iterdir():
            old.unlink()
        try:
            find_chromium()
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                try_app(app, Path(folder) / app, shots)
        except BrowserError as error:
            seen = shots / "failed.png"
            sys.exit(f"test-browser, {app}: {error}"
                     + (f" (seen: {os.path.relpath(seen)})" if seen.is_file() else ""))
        print(f"{app}: {time.monotonic() - began:.0f} s, screenshots in {os.path.relpath(shots)}")


if __name__ == "__main__":
    main()
