"""A notebook that is open in JupyterLab or Notebook 7: what a reader sees and does there."""

import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from playwright.sync_api import Locator, Page

from cut_executed import folded_sections
from jupyter_apps import BrowserError, wait_until
from notebook_rules import is_support
from smp.look.snapshots import Snapshots

MINUTES = 8  # at most, for all cells of a notebook
QUESTION, OTHER_QUESTION = "Who built the bridge?", "How long is the bridge?"

PANEL = "jupyterapp.shell.currentWidget"
READY = f"""count => window.jupyterapp && {PANEL}?.content?.widgets?.length == count
  && {PANEL}.sessionContext?.session?.kernel?.status == 'idle'"""
STATE = f"""() => ({{
  idle: {PANEL}.sessionContext.session?.kernel?.status == 'idle',
  cells: [...{PANEL}.content.model.cells].map(cell => ({{
    count: cell.executionCount, outputs: cell.outputs ? cell.outputs.toJSON() : []}}))
}})"""
VISIBLE = f"{PANEL}.content.widgets.map(cell => cell.node.offsetHeight > 0)"
INSIDE = """node => {
  const [inner, outer] = [node, node.closest('.jp-WindowedPanel-outer')]
    .map(each => each.getBoundingClientRect());
  return inner.height > 0 && inner.top >= outer.top - 1 && inner.bottom <= outer.bottom + 1;
}"""


class NotebookPage:
    """An open notebook. problems: what failed and does not prevent further checks."""

    def __init__(self, page: Page, notebook: nbformat.NotebookNode, shots: Path):
        self.page, self.cells, self.shots = page, notebook.cells, shots
        self.sections, self.problems = folded_sections(self.cells), list[str]()
        self.panel = page.locator(".jp-NotebookPanel .jp-WindowedPanel-outer")

    def expect(self, holds: Any, problem: str) -> None:
        """Keep the problem unless the condition holds."""
        if not holds:
            self.problems.append(problem)

    def code_cells(self, pattern: str = "") -> list[int]:
        """Return the positions of the open code cells whose source has a match."""
        hidden = {i for section in self.sections for i in section}
        return [i for i, cell in enumerate(self.cells) if cell.cell_type == "code" and cell.source
                and re.search(pattern, cell.source) and i not in hidden and not is_support(cell)]

    def element(self, number: int) -> Locator:
        """Return the element of a cell."""
        return self.panel.locator(".jp-Notebook-cell").nth(number)

    def shot(self, name: str, number: int | None = None) -> None:
        """Write a screenshot; scroll a cell to the top before, if one is given."""
        if number is not None:
            self.element(number).evaluate("node => node.scrollIntoView({block: 'start'})")
        self.page.wait_for_timeout(500)  # scrolling and drawing end
        self.page.screenshot(path=self.shots / f"{name}.png")

    def screens(self) -> float:
        """Return the notebook's height in screens, once the height is steady."""
        heights = [0.0]

        def steady() -> float:
            heights.append(self.panel.evaluate("node => node.scrollHeight / node.clientHeight"))
            return heights[-1] if len(heights) > 4 and len(set(heights[-4:])) == 1 else 0

        return wait_until(steady, 60, "the notebook's height is steady")

    def check_folding(self) -> None:
        """Check that folded sections are closed and that the heading after each is visible."""
        self.expect(self.sections, "no heading is folded (jp-MarkdownHeadingCollapsed)")
        visible = self.page.evaluate(VISIBLE)
        for start, stop in ((section.start, section.stop) for section in self.sections):
            seen = [i for i in range(start + 1, stop) if visible[i]]
            self.expect(visible[start], f"the folded heading, cell {start}, is hidden")
            self.expect(not seen, f"cells {seen} of the folded section of cell {start} are visible")
            self.expect(stop < len(self.cells) and visible[stop],
                        f"no visible heading follows the folded section of cell {start}")

    def state(self) -> dict:
        """Return {"idle", "cells"}. Raises BrowserError if a cell raised an error."""
        state = self.page.evaluate(STATE)
        for number, cell in enumerate(state["cells"]):
            for output in cell["outputs"]:
                if output["output_type"] == "error":
                    last = (output["evalue"].strip().splitlines() or [""])[-1]
                    raise BrowserError(f"cell {number} raised {output['ename']}: {last}")
        return state

    def run_all(self) -> None:
        """Choose Run > Run All Cells in the menu, wait until all code cells ran, also hidden."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        code = [i for i, cell in enumerate(self.cells) if cell.cell_type == "code" and cell.source]

        def done() -> bool:
            state = self.state()
            return state["idle"] and all(state["cells"][i]["count"] for i in code)

        wait_until(done, 60 * MINUTES, "all cells ran", pause=1)

    def check_outputs(self) -> None:
        """Check that no output has the pink background of stderr and that pictures are drawn."""
        for number, cell in enumerate(self.state()["cells"]):
            text = "".join("".join(output["text"]) for output in cell["outputs"]
                           if output.get("name") == "stderr")
            self.expect(not text, f"cell {number} wrote to stderr: {text.strip()[:60]!r}")
        widths = self.panel.locator(".jp-OutputArea img").evaluate_all(
            "pictures => pictures.map(picture => picture.naturalWidth)")
        self.expect(all(width > 99 for width in widths), f"a picture is not drawn: {widths} px")

    def check_result(self) -> None:
        """Check that the last code cell's output is on the last screen and contains an EM."""
        self.panel.evaluate("node => node.scrollTo(0, node.scrollHeight)")
        self.shot("last")
        outputs = self.element(self.code_cells()[-1]).locator(".jp-OutputArea-output")
        text = " ".join(outputs.all_inner_texts())
        self.expect(re.search(r"\bEM\b", text), f"the last code cell shows no EM: {text[:60]!r}")
        self.expect(all(output.evaluate(INSIDE) for output in outputs.all()),
                    "the last code cell's output does not fit into the last screen")

    def use_explorer(self, number: int, saved: Snapshots) -> None:
        """Use the explorer with mouse and keyboard; compare what it shows with the file."""
        explorer = self.element(number).locator(".smp:visible").first
        explorer.wait_for(timeout=30_000)
        self.shot("explorer", number)
        overview, matrix, time, scores = explorer.locator("canvas").all()
        words, tip, (step, last) = explorer.locator("output"), explorer.locator(".tip"), (
            saved.steps[0], saved.steps[-1])

        def says(place: Locator, text: str, what: str) -> None:
            wait_until(lambda: text in place.inner_text(), 20, f"{what}: {text!r}")

        overview.hover(position={"x": 85, "y": 30})  # the first matrix
        kept = saved.parts[last]["kept"][0]
        says(tip, f"layer {saved.layers[0]} · {saved.types[0]}", "hover names the matrix")
        says(tip, f"matrix {100 * kept / saved.sizes[0]:.3g}%", "hover has the matrix's share")
        overview.click(position={"x": 85, "y": 30})
        says(words, f"Layer {saved.layers[0]} · {saved.types[0]}", "a click chooses the matrix")
        overview.press("ArrowDown")
        says(words, f"Layer {saved.layers[1]} · {saved.types[0]}", "an arrow key moves")
        overview.press("ArrowUp")
        matrix.hover(position={"x": 200, "y": 150})
        for _ in range(14):
            self.page.mouse.wheel(0, -100)
        matrix.hover(position={"x": 201, "y": 150})
        says(tip, "row ", "the wheel zooms to single weights")
        self.page.wait_for_timeout(1000)  # the kernel sends weights and scores
        matrix.hover(position={"x": 203, "y": 150})
        found = re.match(r"row (\d+), column (\d+).*?: (A )?(kept|removed)", tip.inner_text())
        row, column, _, state = found.groups()
        right = saved.mask(last, saved.names[0])[int(row), int(column)]
        self.expect((state == "kept") == right, f"row {row}, column {column} is {state}")
        self.expect("weight " in tip.inner_text(), "a single weight shows no value")
        self.shot("explorer-weights", number)
        explorer.get_by_title("Show the whole matrix").click()
        scores.hover(position={"x": 200, "y": 90})
        says(tip, "lowest kept", "hover reads a bar of the scores")
        time.click(position={"x": 42, "y": 90})
        says(words, f"Step {step:,}: the encoder keeps", "a click on the timeline chooses the step")
        overview.press(".")
        says(words, f"Step {saved.steps[1]:,}: the encoder keeps", "a key moves the step")
        overview.press(" ")
        says(words, f"Step {last:,}: the encoder keeps", "space plays the steps")
        explorer.get_by_label("Compare with").select_option(index=1)  # the first step
        first, now = (saved.mask(at, saved.names[0]) for at in (step, last))
        says(words, f"kept by both {np.count_nonzero(first & now):,} ", "two steps are compared")
        self.shot("explorer-compared", number)
        with self.page.expect_download() as download:
            explorer.get_by_title("Save what is shown as a PNG file").click()
        download.value.save_as(self.shots / "explorer-saved.png")
        png = (self.shots / "explorer-saved.png").read_bytes()
        self.expect(png.startswith(b"\x89PNG") and len(png) > 20_000, "the saved picture is empty")

    def ask(self, number: int) -> None:
        """Replace the question of a cell by keyboard, run the cell again, expect an answer."""
        before = self.state()["cells"][number]["count"]
        self.element(number).locator(".cm-content").click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(self.cells[number].source.replace(QUESTION, OTHER_QUESTION))
        self.page.keyboard.press("Shift+Enter")

        def answered() -> bool:
            state = self.state()
            return state["idle"] and state["cells"][number]["count"] not in (None, before)

        wait_until(answered, 60, f"cell {number} ran again")
        self.expect(self.state()["cells"][number]["outputs"], f"cell {number} shows no answer")
        self.shot("question", number)

    def open(self) -> float:
        """Wait for the kernel and all cells, check what is folded; return the screens."""
        self.page.wait_for_function(READY, arg=len(self.cells), timeout=90_000)
        screens = self.screens()
        self.shot("opened")
        self.check_folding()
        for section in self.sections[:1]:
            self.shot("folded", section.start)
        return screens

    def use(self, work: Path) -> float:
        """Run the open notebook, check it, use its controls, save it; return the screens.

        work: the folder with its results.
        """
        self.run_all()
        self.check_folding()
        self.check_outputs()
        screens = self.screens()
        self.check_result()
        for number in self.code_cells(r"(?<!def )\bexplore\("):
            self.use_explorer(number, Snapshots(max(work.glob("results/snapshots/*"),
                                                    key=lambda path: path.stat().st_mtime)))
        for number in self.code_cells(re.escape(QUESTION))[-1:]:
            self.ask(number)
        self.page.evaluate("jupyterapp.commands.execute('docmanager:save')")
        return screens
