"""The views of a run's masks behind controls: `explore` shows widgets in a notebook."""

import base64
import os
import textwrap
from pathlib import Path
from typing import Any

from smp.look.mask_figures import Selection, check_same_matrices, overview, plot_overview
from smp.look.matrix_figures import VIEWS
from smp.look.snapshots import Snapshots
from smp.plotting import View, as_html, png_bytes

CONTROLS = ("view", "step", "layer", "matrix", "compare", "zoom", "row", "column")


class Explorer:
    """The widgets of `explore`; the last line of a cell shows them. panel: the outermost one."""

    def __init__(self, path: Path | str, other: Path | str | None = None):
        import ipywidgets as widgets

        self.path, self.stamp = path, 0  # so that the first drawing reads the file again
        self.runs = [Snapshots(each) for each in (path, other) if each]
        check_same_matrices(self.runs[0], self.runs[-1])
        self.make_widgets(widgets)
        for name in CONTROLS:
            getattr(self, name).observe(self.draw, "value")
        self.draw()

    def make_widgets(self, w: Any) -> None:
        """Create controls, picture and caption, each with a class name, and lay them out."""
        wide, narrow = {"width": "26em"}, {"width": "15em"}  # a shared Layout would hide them all
        self.view = w.ToggleButtons(options=list(VIEWS), style={"button_width": "auto"})
        self.step = w.SelectionSlider(options=[("", -1)], description="step", layout=wide)
        self.play = w.Play(min=0, max=0, interval=700, show_repeat=False)  # milliseconds
        self.compare = w.Dropdown(options=[("no comparison", None)], layout=narrow)
        self.layer = w.Dropdown(options=[(f"layer {n}", n) for n in self.runs[0].layers],
                                value=self.runs[0].layers[-1], layout=narrow)
        self.matrix = w.Dropdown(options=self.runs[0].types, layout=narrow)
        zooms = [(f"{side} × {side} weights", side) for side in (256, 128, 64, 32, 16)]
        self.zoom = w.Dropdown(options=[("whole matrix", None), *zooms], layout=narrow)
        self.row, self.column = (w.IntSlider(0, 0, 0, description=side, layout=wide)
                                 for side in ("from row", "from column"))
        self.picture = w.Image(format="png", layout=w.Layout(max_width="100%"))
        self.caption = w.HTML()
        self.offer_steps()
        w.link((self.play, "value"), (self.step, "index"))
        for name in (*CONTROLS, "play", "picture", "caption"):
            getattr(self, name).add_class("smp-" + name)
        run, self.where, self.window = (w.HBox(row, layout={"flex_flow": "row wrap"}) for row in (
            [self.play, self.step, self.compare], [self.layer, self.matrix],
            [self.zoom, self.row, self.column]))
        self.panel = w.VBox([self.view, run, self.where, self.window, self.picture, self.caption])
        self.panel.add_class("smp-explorer")

    def offer_steps(self) -> None:
        """Update the steps of the runs; a chosen step stays, otherwise the last is selected."""
        steps, step, compare = self.runs[0].steps, self.step.value, self.compare.value
        self.step.options = [(f"{step:,}", step) for step in steps]
        self.step.value, self.play.max = (step if step in steps else steps[-1]), len(steps) - 1
        self.play.value = self.step.index
        offered = [(number, step) for number, run in enumerate(self.runs) for step in run.steps]
        self.compare.options = [("no comparison", None), *(
            (f"with step {step:,}{' of the other run' * number}", (number, step))
            for number, step in offered)]
        self.compare.value = compare if compare in offered else None

    def selections(self) -> list[Selection]:
        """Return A, and B if there is a comparison, as the controls are set."""
        name = next((name for name, *place, _ in self.runs[0].matrices
                     if place == [self.layer.value, self.matrix.value]), self.runs[0].names[0])
        window = name, self.zoom.value, self.row.value, self.column.value
        chosen = [(0, self.step.value)] + [self.compare.value] * bool(self.compare.value)
        return [Selection(self.runs[run], step, *window) for run, step in chosen]

    def update_controls(self) -> None:
        """Read new snapshots, and show the controls that the view uses."""
        stamp = os.stat(self.path).st_mtime_ns
        if self.stamp != stamp:
            self.runs[0], self.stamp = Snapshots(self.path), stamp
            self.offer_steps()
        view, shape = self.view.value, self.runs[0].shapes[self.selections()[0].name]
        self.where.layout.display = None if view in ("one matrix", "scores") else "none"
        self.window.layout.display = None if view == "one matrix" else "none"
        for slider, side in zip((self.row, self.column), shape):
            slider.max = max(0, side - (self.zoom.value or side))

    def draw(self, change: Any = None) -> None:
        """Draw what is selected; the caption is the error if the file cannot be read."""
        try:
            self.update_controls()  # a control that this moves draws too
            view = VIEWS[self.view.value](*self.selections())
            self.picture.value, self.words = png_bytes(view.parts[0]), view.caption
        except (OSError, ValueError) as error:
            self.words = str(error)
        self.caption.value = f'<div style="max-width:60em">{as_html(self.words)}</div>'

    def _ipython_display_(self) -> None:
        from IPython.display import display

        view = overview(self.selections()[0])  # a picture with its caption, for other pages
        words = textwrap.fill(view.caption, 125)
        view.parts[0].text(0, -0.02, words, va="top", fontsize=9, parse_math=False)
        display({"text/plain": words,
                 "image/png": base64.b64encode(png_bytes(view.parts[0])).decode(),
                 "application/vnd.jupyter.widget-view+json": {
                     "version_major": 2, "version_minor": 0, "model_id": self.panel.model_id}},
                raw=True)


def explore(path: Path | str, other: Path | str | None = None) -> Explorer | View:
    """Explore the masks of a run in a snapshot file, also compared with those of another file.

    Put it on the last line of a cell. Each move of a control reads what training has written
    since. Without ipywidgets it is a picture. Raises ValueError or FileNotFoundError.
    """
    try:
        return Explorer(path, other)
    except ImportError:
        print("The explorer needs ipywidgets: pip install ipywidgets, then restart the kernel.")
        return plot_overview(Snapshots(path))
