"""`make test-browser`: use the notebooks in JupyterLab and Notebook 7, in headless Chromium.

A copy of each notebook with a small training is opened, measured, run to its end, and used with
mouse and keyboard. JupyterLab's copy is then exported as a page and looked at in two widths; the
explorer works in it without a kernel. Screenshots are written to build/browser/. Only
loopback can be reached. Needs Chromium.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from math import nan
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, sync_playwright

from cut_executed import ROOT
from jupyter_apps import APPS, BrowserError, jupyter, small_copy
from notebook_page import NotebookPage
from pages import write_page

SHOTS = ROOT / "build" / "browser"
LIMITS = {"BERT_FINETUNE_QA.ipynb": 15, "Static_Model_Pruning/BERT_SMP.ipynb": 25,
          "Static_Model_Pruning/BERT_SMP_KD.ipynb": 28}  # screens on opening, at most
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
LOOPBACK = r"(https?|ws)://127\.0\.0\.1[:/]|data:|blob:|file:"
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1440, "height": 900}


class Row(NamedTuple):
    """A row of the printed table; screens on opening and after all cells ran."""

    notebook: str
    app: str
    screens: float
    executed: float
    seconds: float


def find_chromium() -> str:
    """Return the path of $BROWSER, or of an installed Chromium."""
    named = os.environ.get("BROWSER")
    found = next(filter(None, map(shutil.which, [named] if named else CHROMIUMS)), None)
    if not found:
        raise BrowserError(f"no Chromium found{f' at BROWSER={named!r}' if named else ''}: install "
                           "one (Debian, Ubuntu: apt install chromium), or name one with "
                           "BROWSER=/path/to/chromium")
    return found


@contextlib.contextmanager
def errors_kept(notebook: NotebookPage) -> Iterator[None]:
    """Keep an error of the block as a problem, and the page as failed.png."""
    try:
        yield
    except (BrowserError, PlaywrightError) as error:
        with contextlib.suppress(PlaywrightError):
            notebook.page.screenshot(path=notebook.shots / "failed.png")
        notebook.problems.append(f"{str(error).splitlines()[0]} (see failed.png)")


def check_export(notebook: NotebookPage, saved: Path) -> None:
    """Export the saved notebook as a page; check that the page is not wider than the window."""
    path = write_page(saved, notebook.shots)
    explorers = path.read_text("utf-8").count("data-smp-state=\"")
    for size in (PHONE, DESKTOP):
        notebook.page.set_viewport_size(size)
        notebook.page.goto(path.as_uri())
        wide = notebook.page.evaluate("document.documentElement.scrollWidth")
        notebook.expect(wide <= size["width"],
                        f"the exported page is {wide} px wide in a window of {size['width']} px")
        found = notebook.page.locator(".smp canvas").count() / 4
        notebook.expect(found == explorers, f"{found} of {explorers} explorers run in the page")
        notebook.page.screenshot(
            path=notebook.shots / f"page-{size['width']}.png", full_page=True,
            clip={"x": 0, "y": 0, "width": size["width"], "height": 8000})  # tall ones time out


def try_notebook(page: Page, path: Path, app: str, folder: Path) -> tuple[Row, list[str]]:
    """Return the row of one notebook in one app, and its problems."""
    start, outside, screens, executed = time.monotonic(), list[str](), nan, nan
    work, home, shots = folder / "work", folder / path.stem, SHOTS / app / path.stem
    shutil.rmtree(shots, ignore_errors=True)
    for each in (work, home, shots):  # work is shared, so that the last notebook finds its teacher
        each.mkdir(parents=True, exist_ok=True)
    page.on("request", lambda request: re.match(LOOPBACK, request.url)
            or outside.append(request.url))
    notebook = NotebookPage(page, small_copy(path, work), shots)
    with errors_kept(notebook), jupyter(app, work, home) as address, errors_kept(notebook):
        page.goto(address(path.name))
        screens = notebook.open()
        executed = notebook.use(work)
        if app == "lab":
            check_export(notebook, work / path.name)
    limit = next((LIMITS[name] for name in LIMITS if Path(name).name == path.name), screens)
    notebook.expect(not screens > limit, f"{screens:.1f} screens on opening, limit {limit}")
    notebook.expect(not outside, f"the page requested {outside[:1]}")
    problems = [f"{path.stem} in {app}: {problem}" for problem in notebook.problems]
    return Row(path.stem, app, screens, executed, time.monotonic() - start), problems


def try_all(paths: list[Path], apps: list[str]) -> tuple[list[Row], list[str]]:
    """Return the rows of the table, and a line for each problem."""
    rows, problems = list[Row](), list[str]()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary, \
            sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=[OFFLINE])
        for app in apps:
            for path in paths:
                page = browser.new_page(viewport=DESKTOP)
                row, found = try_notebook(page, path, app, Path(temporary) / app)
                rows.append(row)
                problems += found
                page.close()
        browser.close()
    return rows, problems


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--apps", nargs="+", choices=APPS, default=list(APPS),
                        help="lab is JupyterLab, notebook is Notebook 7")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: the three notebooks",
                        default=[ROOT / name for name in LIMITS])
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("test-browser: terminated"))
    try:
        rows, problems = try_all(options.notebooks, options.apps)
    except (BrowserError, OSError, ValueError) as error:
        sys.exit(f"test-browser: {error}")
    print(f"{'notebook':18}{'app':>10}{'screens on opening':>20}{'executed':>10}{'seconds':>9}")
    for row in rows:
        print("{:18}{:>10}{:20.1f}{:10.1f}{:9.0f}".format(*row))
    print(f"screenshots: {os.path.relpath(SHOTS)}", flush=True)
    if problems:
        sys.exit("\n".join(f"test-browser: {problem}" for problem in problems))


if __name__ == "__main__":
    main()
