"""The mask explorer of a notebook: a view of a run's snapshots that answers to mouse and keys.

explorer.js draws it, with anywidget in a live notebook and alone in a page without a kernel.
"""

import base64
import html
import json
import secrets
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from smp.look.mask_figures import plot_overview
from smp.look.snapshots import HEAD_SIDES, Snapshots
from smp.plotting import png_bytes
from smp.text import file_part, first_line

MOST_VALUES = 64  # rows and columns of a window whose weights are sent
VIEW = "application/vnd.jupyter.widget-view+json"


def check_same_matrices(a: Snapshots, b: Snapshots) -> None:
    """Raise ValueError unless both files are of the same matrices."""
    if a.matrices != b.matrices:
        raise ValueError(f"{b.path} is of another encoder than {a.path}: expected the same "
                         "matrices, in shape and name")


def run_arrays(saved: Snapshots) -> dict[str, np.ndarray]:
    """Return {name: numbers of all steps, and of the last step only for scores, edges, grid}."""
    steps, last = [saved.parts[step] for step in saved.steps], saved.parts[saved.steps[-1]]
    again, largest = np.moveaxis(np.array([step["counts"] for step in steps]), 2, 0)

    def empty(side: str) -> list:
        return [[int((kept == 0).sum()) for kept in step[side].values()] for step in steps]

    arrays = {"kept": [step["kept"] for step in steps], "again": again, "largest": largest,
              "emptyRows": empty("rows"), "emptyColumns": empty("columns"),
              "heads": [saved.head_counts(step) for step in saved.steps],
              "scores": last["scores"]}
    return {name: np.asarray(values, "<u4") for name, values in arrays.items()} | {
        "edges": last["edges"].astype("<f4"), "grid": last["grid"]}


def shared_weights(a: Snapshots, b: Snapshots) -> list[int]:
    """Return the number of weights of each matrix that both last steps keep."""
    return [int((a.mask(a.steps[-1], name) & b.mask(b.steps[-1], name)).sum()) for name in a.names]


def pack(runs: list[Snapshots], key: str, values: bool = False) -> bytes:
    """Return the state of explorer.js, compressed: length, JSON, and the arrays that it lists.

    key: of the page that the widget hides; values: whether weights can be asked for.
    """
    first, arrays = runs[0], [run_arrays(run) for run in runs]
    codes = {"u": "u4", "f": "f4"}
    state = {
        "key": key, "values": values, "layers": first.layers, "kinds": first.types,
        "both": shared_weights(*runs) if len(runs) > 1 else None,
        "matrices": [{"layer": layer, "kind": kind, "rows": rows, "columns": columns,
                      "heads": first.heads_of(kind, (rows, columns)),
                      "side": HEAD_SIDES.get(kind, "rows")}
                     for _, layer, kind, (rows, columns) in first.matrices],
        "runs": [{"label": run.title, "file": file_part(run.path.stem), "steps": run.steps,
                  "arrays": [(name, "u1" if name == "grid" else codes[values.dtype.kind],
                              values.size) for name, values in own.items()]}
                 for run, own in zip(runs, arrays)]}
    text = json.dumps(state).encode()
    text += b" " * (-len(text) % 4)  # the arrays begin at a multiple of their bytes
    numbers = b"".join(values.tobytes() for own in arrays for values in own.values())
    return zlib.compress(len(text).to_bytes(4, "little") + text + numbers, 9)


def weights_and_scores(masks: Any) -> dict[str, tuple]:
    """Return {name: (weight, scores)} of attached masks, tensors that a merge does not change."""
    ranks = masks.rankings()
    try:
        return {name: (linear.parametrizations.weight.original.detach(), ranks[name].detach())
                for name, *_, linear in masks.matrices}
    except AttributeError:
        raise ValueError("the masks are merged, expected masks that are attached to a model: "
                         "leave out masks=") from None


class Explorer:
    """What `explore` returns; the last line of a cell shows it. Arguments: see `explore`."""

    def __init__(self, path: Path | str, other: Path | str | None = None, masks: Any = None):
        self.runs = [Snapshots(each) for each in (path, other) if each]
        check_same_matrices(self.runs[0], self.runs[-1])
        self.values = weights_and_scores(masks) if masks else {}
        if masks and [*self.values] != self.runs[0].names:
            raise ValueError(f"{path} is of another encoder than `masks`: expected masks of its "
                             "matrices")
        self.key = secrets.token_hex(8)
        self.widget: Any = None  # until it is displayed
        self.stamp = self.runs[0].path.stat().st_mtime_ns

    def state(self) -> bytes:
        """Return the state of the front end."""
        return pack(self.runs, self.key, bool(self.values))

    def page(self, state: bytes) -> dict:
        """Return the MIME bundle that needs no kernel: the picture, which a script replaces."""
        view = plot_overview(self.runs[0])
        picture = base64.b64encode(png_bytes(view.parts[0])).decode()
        script = Path(__file__).with_suffix(".js").read_text("utf-8")
        return {"text/plain": view.caption, "image/png": picture, "text/html": (
            f'<div data-smp-explorer="{self.key}" '
            f'data-smp-state="{base64.b64encode(state).decode()}">'
            f'<img alt="{html.escape(view.caption)}" src="data:image/png;base64,{picture}"></div>'
            f'<script type="module">{script}</script>')}

    def mask_buffers(self, run: int, step: int, matrix: int) -> list[bytes]:
        """Return [packed bits, scores, edges] of a matrix at a step."""
        saved, name = self.runs[run], self.runs[run].names[matrix]
        parts = saved.parts[step]
        return [np.packbits(saved.mask(step, name)).tobytes(),
                parts["scores"][matrix].astype("<u4").tobytes(),
                parts["edges"][matrix].astype("<f4").tobytes()]

    def value_buffers(self, matrix: int, place: list[int]) -> list[bytes]:
        """Return [weights, scores of now] of the window (row, column, height, width)."""
        name, (row, column, high, wide) = self.runs[0].names[matrix], place
        if max(high, wide) > MOST_VALUES:
            raise ValueError(f"the window has {high} x {wide} weights, expected {MOST_VALUES}")
        window = slice(row, row + high), slice(column, column + wide)
        return [tensor[window].float().cpu().numpy().astype("<f4").tobytes()
                for tensor in self.values[name]]

    def follow(self) -> None:
        """Read the file again if a training has added steps."""
        stamp = self.runs[0].path.stat().st_mtime_ns
        if stamp != self.stamp:
            self.runs[0], self.stamp = Snapshots(self.runs[0].path), stamp
            self.widget.state = self.state()

    def answer(self, widget: Any, message: dict, buffers: Any = None) -> None:
        """Answer a message of the front end; an error is sent as one line."""
        reply, sent = {"id": message.get("id")}, []
        try:
            kind = message["kind"]
            if kind == "follow":
                self.follow()
            elif kind == "matrix":
                sent = self.mask_buffers(message["run"], message["step"], message["matrix"])
            elif kind == "values":
                sent = self.value_buffers(message["matrix"], message["window"])
        except (KeyError, IndexError, TypeError) as error:
            reply["error"] = f"no such mask ({first_line(error)}): run the cell again"
        except (OSError, ValueError) as error:
            reply["error"] = first_line(error)
        widget.send(reply, sent)

    def make_widget(self, state: bytes) -> Any:
        """Return the widget of anywidget, None without that package."""
        try:
            import anywidget
            import traitlets
        except ImportError:
            print("Without anywidget the explorer shows no single weights: pip install anywidget, "
                  "then restart the kernel.")
            return None

        class MaskExplorer(anywidget.AnyWidget):
            _esm = Path(__file__).with_suffix(".js").read_text("utf-8")
            state = traitlets.Bytes().tag(sync=True)

        widget = MaskExplorer(state=state)
        widget.on_msg(self.answer)
        return widget

    def _ipython_display_(self) -> None:
        from IPython.display import display

        state = self.state()
        self.widget = self.make_widget(state)
        if self.widget:
            display({"text/plain": "", VIEW: {"version_major": 2, "version_minor": 0,
                                              "model_id": self.widget.model_id}}, raw=True)
        display(self.page(state), raw=True)  # the widget hides it; without a kernel it remains


def explore(path: Path | str, other: Path | str | None = None, masks: Any = None) -> Explorer:
    """Explore the masks of a run in a snapshot file, also compared with another file.

    Put it on the last line of a cell. It follows a training that writes the file. masks: the
    model's `Masks`, before a merge; they add weights and scores to the single weights. Raises
    ValueError or FileNotFoundError.
    """
    return Explorer(path, other, masks)
