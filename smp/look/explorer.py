"""The figures of a run's masks behind controls: `explore` shows widgets in a notebook."""

import base64
import gc
import html
import os
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from smp.look.drawing import Selection
from smp.look.mask_figures import FIGURES
from smp.look.snapshots import Snapshots
from smp.look.stills import png_bytes, still, with_caption

COMPARISONS = ("no comparison", "another step", "the other run")
CONTROLS = ("view", "step", "layer", "matrix", "compare", "other_step", "zoom", "row", "column")


class Explorer:
    """The widgets of `explore`; the last line of a cell shows them. panel: the outermost one."""

    def __init__(self, path: Path | str, other: Path | str | None = None):
        import ipywidgets as widgets

        self.path, self.saved = path, Snapshots(path)
        self.busy, self.words, self.stamp = False, "", os.stat(path).st_mtime_ns
        self.other = Snapshots(other) if other else None
        if self.other and self.other.matrices != self.saved.matrices:
            raise ValueError(f"{other} is of another encoder than {path}: expected the same "
                             "matrices, in shape and name")
        self.make_widgets(widgets)
        for name in CONTROLS:
            getattr(self, name).observe(self.draw, "value")
        self.draw()

    def make_widgets(self, w: Any) -> None:
        """Create controls, picture and caption, each with a class name, and lay them out."""
        saved = self.saved
        wide, narrow = {"width": "26em"}, {"width": "15em"}  # a shared Layout would hide them all
        last = len(saved.steps) - 1
        self.view = w.ToggleButtons(options=list(FIGURES), style={"button_width": "auto"})
        self.step = w.SelectionSlider(options=self.step_options(saved), description="step",
                                      index=last, layout=wide)
        self.play = w.Play(min=0, max=last, value=last, interval=700, show_repeat=False)  # ms
        self.layer = w.Dropdown(options=[(f"layer {n}", n) for n in saved.layers],
                                value=saved.layers[-1], layout=narrow)
        self.matrix = w.Dropdown(options=saved.types, layout=narrow)
        ways = COMPARISONS if self.other else COMPARISONS[:2]
        self.compare = w.Dropdown(options=ways, layout=narrow)
        self.other_step = w.SelectionSlider(options=self.step_options(self.other or saved),
                                            description="B is step", layout=wide)
        zooms = [(f"{side} × {side} weights", side) for side in (256, 128, 64, 32, 16)]
        self.zoom = w.Dropdown(options=[("whole matrix", None), *zooms], layout=narrow)
        self.row, self.column = (w.IntSlider(0, 0, 0, description=side, layout=wide)
                                 for side in ("from row", "from column"))
        self.picture = w.Image(format="png", layout=w.Layout(max_width="100%"))
        self.caption = w.HTML()
        w.link((self.play, "value"), (self.step, "index"))
        for name in (*CONTROLS, "play", "picture", "caption"):
            getattr(self, name).add_class("smp-" + name.replace("_", "-"))
        self.where = w.HBox([self.layer, self.matrix, self.zoom])
        self.window = w.HBox([self.row, self.column])
        self.comparing = w.HBox([self.compare, self.other_step])
        for box in (self.where, self.window, self.comparing):
            box.layout.flex_flow = "row wrap"
        self.panel = w.VBox([self.view, w.HBox([self.play, self.step]), self.where, self.window,
                             self.comparing, self.picture, self.caption])
        self.panel.add_class("smp-explorer")

    @staticmethod
    def step_options(saved: Snapshots) -> tuple:
        """Return the options of a slider over the steps."""
        return tuple((f"{step:,}", step) for step in saved.steps)

    @property
    def name(self) -> str:
        """The name of the matrix that is picked."""
        names = {(layer, matrix): name for name, layer, matrix, _ in self.saved.matrices}
        return names.get((self.layer.value, self.matrix.value), self.saved.names[0])

    def run_of_b(self) -> Snapshots:
        """Return the run whose steps B may be."""
        return self.other if self.other and self.compare.value == COMPARISONS[2] else self.saved

    def selections(self) -> list[Selection]:
        """Return A, and B if there is a comparison, as the controls are set."""
        chosen = [(self.saved, self.step.value)]
        if self.compare.value != COMPARISONS[0]:
            run, step = self.run_of_b(), self.other_step.value
            chosen.append((run, step if step in run.steps else run.steps[-1]))
        return [Selection(*each, self.name, self.zoom.value, self.row.value, self.column.value)
                for each in chosen]

    def read_again(self) -> None:
        """Read the file again if training has written to it since."""
        stamp = os.stat(self.path).st_mtime_ns
        if self.stamp != stamp:
            self.saved, self.stamp, step = Snapshots(self.path), stamp, self.step.value
            steps = self.saved.steps
            self.step.options = self.step_options(self.saved)
            self.step.value, self.play.max = (step if step in steps else steps[-1]), len(steps) - 1

    def update_controls(self) -> None:
        """Offer B's steps, hide what the view does not use, keep the window inside the matrix."""
        run, step = self.run_of_b(), self.other_step.value
        if self.step_options(run) != tuple(self.other_step.options):
            self.other_step.options = self.step_options(run)
            self.other_step.value = step if step in run.steps else run.steps[-1]
        at_matrix = self.view.value == "one matrix"
        for control, useful in (
            (self.where, at_matrix or self.view.value == "scores"), (self.zoom, at_matrix),
            (self.window, at_matrix and self.zoom.value is not None),
            (self.other_step, self.compare.value != COMPARISONS[0]),
        ):
            control.layout.display = None if useful else "none"
        for slider, side in zip((self.row, self.column), self.saved.shapes[self.name]):
            slider.max = max(0, side - (self.zoom.value or side))

    def draw(self, change: Any = None) -> None:
        """Draw what is selected; the caption is the error if the file cannot be read."""
        if self.busy:
            return  # a control was moved by the lines below
        self.busy, collects = True, gc.isenabled()
        gc.disable()  # a figure is full of cycles, which are cheap to collect while it is young
        try:
            self.read_again()
            self.update_controls()
            figure, self.words = FIGURES[self.view.value](*self.selections())
            self.picture.value = png_bytes(figure)
        except (OSError, ValueError) as error:
            self.words = str(error)
        finally:
            self.busy = False
            gc.collect(0)
            if collects:
                gc.enable()
        self.caption.value = f'<div style="max-width:60em">{html.escape(self.words)}</div>'

    def _repr_mimebundle_(self, **_):
        """Return the widgets, and the current picture for pages that are only read."""
        figure = with_caption(*FIGURES[self.view.value](*self.selections()))
        view = {"version_major": 2, "version_minor": 0, "model_id": self.panel.model_id}
        return {  # ipywidgets 7 (Colab) has no method that returns the first entry
            "application/vnd.jupyter.widget-view+json": view,
            "image/png": base64.b64encode(png_bytes(figure)).decode(), "text/plain": self.words}


def explore(path: Path | str, other: Path | str | None = None) -> Explorer | Figure:
    """Explore the masks of a run in a snapshot file, also compared with those of another file.

    Put it on the last line of a cell. Each move of a control reads what training has written
    since. Without ipywidgets it is a figure. Raises ValueError or FileNotFoundError.
    """
    try:
        return Explorer(path, other)
    except ImportError:
        print("The explorer needs ipywidgets: pip install ipywidgets, then restart the kernel.")
        return still(Snapshots(path))
