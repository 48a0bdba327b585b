"""Look at the masks.

`explore` puts the views behind a slider over the steps; `still` draws one of them for those who
only read, and `plot_masks` a strip of one matrix at several steps.
"""

import base64
import gc
import html
import os

from smp.look.drawing import Selection, SnapshotView, png_bytes
from smp.look.mask_figures import FIGURES
from smp.look.snapshots import Snapshots
from smp.look.stills import still, with_caption

ALL, EACH_STEP = "whole matrix", 700  # milliseconds a step when played
COMPARISONS = ("no comparison", "another step", "the other run")


class Explorer:
    """The widgets of `explore`; the last line of a cell shows them. panel: the outermost one."""

    def __init__(self, path, other=None):
        import ipywidgets as widgets

        self.widgets, self.path = widgets, path
        self.saved, self.other = Snapshots(path), Snapshots(other) if other else None
        if self.other and self.other.matrices != self.saved.matrices:
            raise ValueError(f"{other} is of another encoder than {path}: expected the same "
                             "matrices, in shape and name")
        self.busy, self.words, self.stamp = False, "", self.file_stamp()
        self.make_widgets()
        self.lay_out()
        for control in self.controls:
            control.observe(self.draw, "value")
        self.draw()

    def file_stamp(self):
        return os.stat(self.path).st_mtime_ns

    def make_widgets(self):
        w, saved = self.widgets, self.saved
        wide, narrow = {"width": "26em"}, {"width": "15em"}  # a shared Layout would hide them all
        layers = sorted({layer for _, layer, _, _ in saved.matrices})
        types = list(dict.fromkeys(matrix for _, _, matrix, _ in saved.matrices))
        self.view = w.ToggleButtons(options=list(FIGURES), style={"button_width": "auto"})
        self.step = w.SelectionSlider(options=self.step_options(saved), description="step",
                                      index=len(saved.steps) - 1, layout=wide)
        self.play = w.Play(min=0, max=len(saved.steps) - 1, value=len(saved.steps) - 1,
                           interval=EACH_STEP, show_repeat=False)
        self.layer = w.Dropdown(options=[(f"layer {n}", n) for n in layers], value=layers[-1],
                                layout=narrow)
        self.matrix = w.Dropdown(options=types, layout=narrow)
        ways = COMPARISONS if self.other else COMPARISONS[:2]
        self.compare = w.Dropdown(options=ways, layout=narrow)
        self.other_step = w.SelectionSlider(options=self.step_options(self.other or saved),
                                            description="B is step", layout=wide)
        self.zoom = w.Dropdown(options=[(ALL, None)] + [(f"{n} × {n} weights", n) for n in
                                                        (256, 128, 64, 32, 16)], layout=narrow)
        self.row, self.column = (w.IntSlider(0, 0, 0, description=side, layout=wide)
                                 for side in ("from row", "from column"))
        self.picture = w.Image(format="png", layout=w.Layout(max_width="100%"))
        self.caption = w.HTML()
        w.link((self.play, "value"), (self.step, "index"))
        self.controls = (self.view, self.step, self.layer, self.matrix, self.compare,
                         self.other_step, self.zoom, self.row, self.column)
        for name in ("view", "step", "play", "layer", "matrix", "compare", "other_step", "zoom",
                     "row", "column", "picture", "caption"):
            getattr(self, name).add_class("smp-" + name.replace("_", "-"))

    def lay_out(self):
        w = self.widgets
        self.where = w.HBox([self.layer, self.matrix, self.zoom])
        self.window = w.HBox([self.row, self.column])
        self.comparing = w.HBox([self.compare, self.other_step])
        for box in (self.where, self.window, self.comparing):
            box.layout.flex_flow = "row wrap"
        self.panel = w.VBox([self.view, w.HBox([self.play, self.step]), self.where, self.window,
                             self.comparing, self.picture, self.caption])
        self.panel.add_class("smp-explorer")

    @staticmethod
    def step_options(saved):
        return [(f"{step:,}", step) for step in saved.steps]

    @property
    def name(self):
        """Of the matrix that is picked."""
        picked = [row[0] for row in self.saved.matrices
                  if row[1:3] == [self.layer.value, self.matrix.value]]
        return picked[0] if picked else self.saved.names[0]

    def sight(self):
        """What the controls say."""
        spot = Selection(self.step.value, self.name, self.zoom.value, self.row.value, self.column.value)
        compared = self.compare.value
        if compared == COMPARISONS[0]:
            return SnapshotView(self.saved, spot)
        other = self.other if compared == COMPARISONS[2] else self.saved
        step = self.other_step.value
        return SnapshotView(self.saved, spot, other, step if step in other.steps else other.steps[-1])

    def read_again(self):
        """New snapshots, where training has written some since."""
        if self.stamp != self.file_stamp():
            self.saved, self.stamp, step = Snapshots(self.path), self.file_stamp(), self.step.value
            steps = self.saved.steps
            self.step.options = self.step_options(self.saved)
            self.step.value, self.play.max = (step if step in steps else steps[-1]), len(steps) - 1
            self.offer_steps()

    def offer_steps(self):
        """The steps of the run that is compared with, for B."""
        other = self.other if self.compare.value == COMPARISONS[2] else self.saved
        options, step = self.step_options(other), self.other_step.value
        if tuple(options) != tuple(self.other_step.options):
            self.other_step.options = options
            self.other_step.value = step if step in other.steps else other.steps[-1]

    def show_controls(self):
        """Hides what the view has no use for, and keeps the window inside the matrix."""
        view, shape = self.view.value, self.saved.shapes[self.name]
        at_matrix, zoomed = view == "one matrix", self.zoom.value is not None
        for control, useful in (
            (self.where, view in ("one matrix", "scores")), (self.zoom, at_matrix),
            (self.window, at_matrix and zoomed),
            (self.other_step, self.compare.value != COMPARISONS[0]),
        ):
            control.layout.display = None if useful else "none"
        for slider, side in zip((self.row, self.column), shape):
            slider.max = max(0, side - (self.zoom.value or side))

    def draw(self, change=None):
        """Draws what the controls say; what cannot be read is told in the caption."""
        if self.busy:
            return  # a control that was moved by what follows
        self.busy, collects = True, gc.isenabled()
        gc.disable()  # a figure is full of cycles: swept while it is young, it costs nothing
        try:
            self.read_again()
            self.offer_steps()
            self.show_controls()
            self.paint()
        except (OSError, ValueError) as error:
            self.words = str(error)
        finally:
            self.busy = False
            gc.collect(0)
            if collects:
                gc.enable()
        self.caption.value = f'<div style="max-width:60em">{html.escape(self.words)}</div>'

    def paint(self):
        figure, self.words = FIGURES[self.view.value](self.sight())
        self.picture.value = png_bytes(figure)

    def _repr_mimebundle_(self, **_):
        """Widgets where they live, and the picture of the moment where a page is only read."""
        figure = with_caption(*FIGURES[self.view.value](self.sight()))
        return self.panel._repr_mimebundle_() | {
            "image/png": base64.b64encode(png_bytes(figure)).decode(), "text/plain": self.words}


def explore(path, other=None):
    """The masks of a run, to look through: its snapshot file, and another one to compare it with.

    Put it on the last line of a cell. Training may still be writing the file, or have been stopped:
    what is there is shown, and what comes when a control is moved. Without ipywidgets it is a
    picture. Raises ValueError or FileNotFoundError, one line, where a file is not of snapshots.
    """
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        print("The explorer needs ipywidgets: pip install ipywidgets, then restart the kernel.")
        return still(Snapshots(path))
    return Explorer(path, other)
