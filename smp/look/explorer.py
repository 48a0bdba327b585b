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
    """Raise ValueError unless both files are of the same matrices and heads."""
    if a.matrices != b.matrices or a.about.get("heads") != b.about.get("heads"):
        raise ValueError(f"{b.path} is of another encoder than {a.path}: expected the same "
                         "matrices, in shape and name, and the same number of heads")


def file_stamp(path: Path) -> int:
    """Return the time of a file's last change in nanoseconds, 0 without a file."""
    return path.stat().st_mtime_ns if path.exists() else 0


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
        "edges": last["edges"].astype("<f4"), "grid": last["grid"].astype("u1")}


def shared_weights(a: Snapshots, b: Snapshots) -> tuple[int, float]:
    """Return the weights that both last steps keep, and their number by chance."""
    parts = a.parts[a.steps[-1]], b.parts[b.steps[-1]]
    both = (a.mask(a.steps[-1], name) & b.mask(b.steps[-1], name) for name in a.names)
    chance = np.float64(parts[0]["kept"]) * parts[1]["kept"] / a.sizes
    return sum(int(mask.sum()) for mask in both), float(chance.sum())


def pack(about: dict, runs: list[dict], level: int = 9) -> bytes:
    """Return what explorer.js unpacks, compressed: length, JSON, and the arrays that it lists.

    runs: plain values, and "arrays": {name: array of u4 or f4, or of u1 as the last} in each.
    """
    listed = [run | {"arrays": [(name, part.dtype.str[1:], part.size)
                                for name, part in run["arrays"].items()]} for run in runs]
    text = json.dumps(about | {"runs": listed}).encode()
    text += b" " * (-len(text) % 4)  # the arrays begin at a multiple of their bytes
    numbers = b"".join(part.tobytes() for run in runs for part in run["arrays"].values())
    return zlib.compress(len(text).to_bytes(4, "little") + text + numbers, level)


def pack_state(runs: list[Snapshots], key: str, values: bool = False) -> bytes:
    """Return the state of explorer.js.

    key: of the page that the widget hides; values: whether weights can be asked for.
    """
    first = runs[0]
    about = {"key": key, "values": values, "layers": first.layers, "kinds": first.types,
             "both": shared_weights(*runs) if len(runs) > 1 else None,
             "matrices": [{"layer": layer, "kind": kind, "rows": rows, "columns": columns,
                           "heads": first.heads_of(kind, (rows, columns)),
                           "side": HEAD_SIDES.get(kind, "rows")}
                          for _, layer, kind, (rows, columns) in first.matrices]}
    return pack(about, [{"label": run.title, "file": file_part(run.path.stem), "steps": run.steps,
                         "arrays": run_arrays(run)} for run in runs])


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
        self.stamp = file_stamp(Path(path))  # before the file is read
        self.runs = [Snapshots(each) for each in (path, other) if each]
        check_same_matrices(self.runs[0], self.runs[-1])
        self.values = weights_and_scores(masks) if masks else {}
        if masks and [*self.values] != self.runs[0].names:
            raise ValueError(f"{path} is of another encoder than `masks`: expected masks of its "
                             "matrices")
        self.key = secrets.token_hex(8)
        self.widget: Any = None  # until it is displayed

    def state(self) -> bytes:
        """Return the state of the front end."""
        return pack_state(self.runs, self.key, bool(self.values))

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

    def mask_arrays(self, run: int, step: int, matrix: int) -> dict[str, np.ndarray]:
        """Return the counts of rows and columns, the histogram and the mask of a matrix."""
        saved, name = self.runs[run], self.runs[run].names[matrix]
        parts = saved.parts[step]
        counts = {"rows": parts["rows"][name], "columns": parts["columns"][name],
                  "scores": parts["scores"][matrix]}
        return {part: values.astype("<u4") for part, values in counts.items()} | {
            "edges": parts["edges"][matrix].astype("<f4"),
            "mask": saved.mask(step, name).view("u1")}

    def value_arrays(self, matrix: int, place: list[int]) -> dict[str, np.ndarray]:
        """Return weights and scores of now in the window (row, column, height, width)."""
        name, (row, column, high, wide) = self.runs[0].names[matrix], place
        if max(high, wide) > MOST_VALUES:
            raise ValueError(f"the window has {high} x {wide} weights, expected {MOST_VALUES}")
        window = slice(row, row + high), slice(column, column + wide)
        return {part: tensor[window].float().cpu().numpy().astype("<f4")
                for part, tensor in zip(("weights", "scores"), self.values[name])}

    def follow(self) -> None:
        """Read the file again if a training has added steps."""
        old, stamp = self.runs[0], file_stamp(self.runs[0].path)
        if stamp != self.stamp:
            new = Snapshots(old.path)
            check_same_matrices(old, new)
            self.runs[0], self.stamp = new, stamp
            self.widget.state = self.state()

    def answer(self, widget: Any, message: dict, buffers: Any = None) -> None:
        """Answer a message of the front end; an error is sent as one line."""
        reply, sent, arrays = {"id": message.get("id")}, [], None
        try:
            if message["kind"] == "follow":
                self.follow()
            elif message["kind"] == "matrix":
                arrays = self.mask_arrays(message["run"], message["step"], message["matrix"])
            else:
                arrays = self.value_arrays(message["matrix"], message["window"])
            sent = [pack({}, [{"arrays": arrays}], 1)] if arrays else []
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
