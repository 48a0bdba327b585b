"""The explorer's state, messages and pages equal the masks; explorer.js shows them."""

import base64
import json
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from smp.look import explorer as explorer_module
from smp.look.explorer import VIEW, Explorer, explore, pack, pack_state
from smp.look.mask_figures import plot_overview
from smp.look.snapshot_writer import SnapshotWriter, coarse_mask
from smp.look.snapshots import Snapshots
from smp.text import as_percent

SCRIPT = Path(explorer_module.__file__).with_suffix(".js")
QUERY = "encoder.layer.1.attention.self.query"


class Front:
    """The end of a widget to which the explorer sends."""

    def __init__(self):
        self.sent = []

    def send(self, content, buffers):
        self.sent.append((content, buffers))


def ask(explorer, **message):
    """Return (content, buffers) of the answer to a message."""
    front = Front()
    explorer.answer(front, {"id": "1"} | message)
    ((content, buffers),) = front.sent
    assert content.pop("id") == "1"
    return content, buffers


def unpack(state):
    """Return (JSON, one {name: array} a run) of a packed state."""
    raw = zlib.decompress(state)
    length = int.from_bytes(raw[:4], "little")
    about, at, runs = json.loads(raw[4 : 4 + length]), 4 + length, []
    for run in about["runs"]:
        runs.append({})
        for name, kind, size in run["arrays"]:
            runs[-1][name] = np.frombuffer(raw, f"<{kind}", size, at)
            at += runs[-1][name].nbytes
    assert at == len(raw)
    return about, runs


@pytest.fixture
def other(kept_masks, tmp_path):
    """Return the path of a second run's file of the same encoder."""
    return shutil.copy(kept_masks[0], tmp_path / "other.safetensors")


@pytest.fixture
def live(tmp_path):
    """Return (masks, path of their snapshot file)."""
    from test_snapshots import small_masks

    masks, path = small_masks(), tmp_path / "live.safetensors"
    SnapshotWriter(path, heads=4).keep(0, masks)
    return masks, path


# The still picture


def test_overview_shows_heads_relative_to_the_density(kept_masks):
    saved = Snapshots(kept_masks[0])
    view, masks, density = plot_overview(saved, 20), kept_masks[1][20], saved.density(20)
    drawn = [mesh.get_array() for mesh in view.parts[0].axes[0].collections]
    for name, layer, kind, _ in saved.matrices:
        mask = masks[name][0]
        heads = kind not in ("intermediate", "output")
        parts = np.split(mask, 4, int(kind == "attention output")) if heads else [mask]
        np.testing.assert_allclose(drawn[saved.types.index(kind)][layer],
                                   [max(part.mean() / density, 1e-9) for part in parts])


def test_overview_caption_has_counts_and_extremes(kept_masks):
    saved, masks = Snapshots(kept_masks[0]), kept_masks[1][20]
    words = plot_overview(saved, 20).caption
    kept = sum(mask.sum() for mask, _, _ in masks.values())
    assert f"Step 20: the encoder keeps {kept:,} of {saved.weights:,} weights" in words
    heads = {}
    for name, layer, kind, shape in saved.matrices:
        if saved.heads_of(kind, shape):
            parts = np.split(masks[name][0], 4, int(kind == "attention output"))
            for head, part in enumerate(parts):
                heads.setdefault(f"head {head} of layer {layer}", []).append(part.mean())
    most = max(heads, key=lambda head: np.mean(heads[head]))
    assert f"{most.capitalize()} keeps most ({as_percent(np.mean(heads[most]))})" in words
    saved.about = {}
    assert "head" not in plot_overview(saved).caption and "Step 30" in plot_overview(saved).caption


# The state


def test_state_has_the_numbers_of_all_steps(kept_masks, other):
    runs = [Snapshots(kept_masks[0]), Snapshots(other)]
    about, (first, second) = unpack(pack_state(runs, "abc"))
    assert about["key"] == "abc" and about["runs"][0]["steps"] == [0, 10, 20, 30]
    assert about["kinds"][0] == "query" and about["layers"] == [0, 1]
    n = len(about["matrices"])
    before = None
    for place, masks in enumerate(kept_masks[1].values()):
        masks = [mask for mask, _, _ in masks.values()]
        part = slice(place * n, (place + 1) * n)
        assert first["kept"][part].tolist() == [mask.sum() for mask in masks]
        again = [(a & b).sum() for a, b in zip(masks, before)] if before else [0] * n
        assert first["again"][part].tolist() == again
        assert first["emptyRows"][part].tolist() == [(~mask.any(1)).sum() for mask in masks]
        assert first["emptyColumns"][part].tolist() == [(~mask.any(0)).sum() for mask in masks]
        before = masks
    kept, sizes = (np.array([count(mask) for mask in masks]) for count in (np.sum, np.size))
    assert about["both"][0] == kept.sum()  # B has the same masks
    assert about["both"][1] == pytest.approx((kept * kept / sizes).sum())
    grids = first["grid"].reshape(n, 32, 32)
    np.testing.assert_array_equal(grids[3], coarse_mask(masks[3]))
    assert first["heads"].size == 4 * 8 * 4  # steps, matrices with heads, heads
    assert all((first[name] == second[name]).all() for name in first)


def test_a_page_of_bert_base_has_at_most_300_kilobytes(tmp_path):
    """Numbers of BERT-base's shape, 24 snapshots, without the masks."""
    from types import SimpleNamespace

    rng, names = np.random.default_rng(0), ("query", "key", "value", "attention output",
                                            "intermediate", "output")
    shapes = {name: (768, 768) for name in names} | {"intermediate": (3072, 768),
                                                     "output": (768, 3072)}
    steps = list(range(24))
    matrices = [[f"{layer}.{kind}", layer, kind, list(shapes[kind])]
                for layer in range(12) for kind in names]
    kept = np.array([int(0.1 * shape[0] * shape[1]) for *_, shape in matrices])
    part = {"kept": kept, "counts": np.stack([kept, kept], 1) - rng.integers(0, 9000, (72, 2)),
            "rows": {str(i): rng.integers(0, 99, 768) for i in range(72)},
            "columns": {str(i): rng.integers(0, 99, 768) for i in range(72)},
            "scores": rng.integers(0, 200_000, (72, 64, 2)), "edges": rng.random((72, 3)),
            "grid": rng.integers(60, 100, (72, 32, 32)).astype(np.uint8)}
    saved = SimpleNamespace(
        steps=steps, parts=dict.fromkeys(steps, part), matrices=matrices, path=Path("run"),
        title="BERT", layers=list(range(12)), types=list(names),
        heads_of=lambda kind, shape: 12 if kind in names[:4] else 0,
        head_counts=lambda step: rng.integers(3000, 9000, 576))
    page = 4 / 3 * len(pack_state([saved], "key")) + SCRIPT.stat().st_size
    assert 50_000 < page < 260_000  # 40 kB remain for the picture


# Messages


def test_a_matrix_is_answered_with_its_mask_and_scores(kept_masks, other):
    explorer = explore(kept_masks[0], other)
    for run, step in ((0, 10), (1, 30)):
        content, (packed,) = ask(explorer, kind="matrix", run=run, step=step, matrix=6)
        mask, (answer,) = kept_masks[1][step][QUERY][0], unpack(packed)[1]
        assert content == {}
        assert answer["mask"].tolist() == mask.ravel().tolist()
        assert answer["rows"].tolist() == mask.sum(1).tolist()
        assert answer["columns"].tolist() == mask.sum(0).tolist()
        scores = answer["scores"].reshape(64, 2).sum(0)
        assert scores.tolist() == [mask.size - mask.sum(), mask.sum()]
        assert answer["edges"].size == 3


def test_values_are_the_weights_and_scores_of_a_window(live):
    masks, path = live
    explorer = explore(path, masks=masks)
    content, buffers = ask(explorer, kind="values", matrix=4, window=[3, 5, 20, 11])
    name, *_, linear = masks.matrices[4]
    tensors = linear.parametrizations.weight.original, masks.rankings()[name]
    assert content == {}
    (answer,) = unpack(buffers[0])[1]
    for part, tensor in zip(("weights", "scores"), tensors, strict=True):
        np.testing.assert_array_equal(answer[part].reshape(20, 11),
                                      tensor.detach().numpy()[3:23, 5:16])
    assert unpack(explorer.state())[0]["values"] is True
    masks.merge()
    assert ask(explorer, kind="values", matrix=4, window=[3, 5, 20, 11])[1] == buffers
    with pytest.raises(ValueError, match="the masks are merged"):
        explore(path, masks=masks)


@pytest.mark.parametrize("message", [
    {"kind": "matrix", "run": 0, "step": 11, "matrix": 0},
    {"kind": "matrix", "run": 2, "step": 10, "matrix": 0},
    {"kind": "matrix", "run": 0, "step": 10, "matrix": 99},
    {"kind": "matrix", "run": 0, "step": [1], "matrix": "x"}, {"kind": "matrix"}, {},
    {"kind": "values", "matrix": 0, "window": [0, 0, 9, 9]},
    {"kind": "values", "matrix": 0, "window": [0, 0, 999, 9]},
    {"kind": "values", "matrix": 0, "window": [0]},
])
def test_a_wrong_message_is_answered_with_one_line(kept_masks, message):
    content, buffers = ask(explore(kept_masks[0]), **message)
    assert buffers == [] and content["error"] and "\n" not in content["error"]


def test_it_follows_a_training_and_names_a_damaged_file(live):
    masks, path = live
    explorer = explore(path)
    explorer.widget = type("Widget", (), {"state": b""})
    assert ask(explorer, kind="follow")[0] == {} and explorer.widget.state == b""
    masks.refresh(0.5)
    SnapshotWriter(path, heads=4).keep(7, masks)
    explorer.stamp = 0  # the file can be younger by less than the clock's step
    assert ask(explorer, kind="follow")[0] == {}
    assert unpack(explorer.widget.state)[0]["runs"][0]["steps"] == [0, 7]
    shown = explorer.widget.state
    masks.matrices = masks.matrices[1:]  # another encoder writes the file
    SnapshotWriter(path, heads=4).keep(7, masks)
    explorer.stamp = 0
    assert "is of another encoder than" in ask(explorer, kind="follow")[0]["error"]
    assert explorer.widget.state == shown and len(explorer.runs[0].names) > len(masks.matrices)
    path.write_bytes(b"damaged")
    explorer.stamp = 0
    assert "not a snapshot file of this project" in ask(explorer, kind="follow")[0]["error"]


# Display


def displayed(explorer, monkeypatch):
    """Return the MIME bundles that a cell shows."""
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append(bundle))
    explorer._ipython_display_()
    return shown


def test_a_cell_shows_the_page_and_the_widget(kept_masks, monkeypatch):
    explorer = explore(kept_masks[0])
    live, page = displayed(explorer, monkeypatch)
    assert live[VIEW]["model_id"] == explorer.widget.model_id and live["text/plain"] == ""
    assert explorer.widget.state == explorer.state()
    assert base64.b64decode(page["image/png"]).startswith(b"\x89PNG")
    packed = re.search('data-smp-state="([^"]+)"', page["text/html"])[1]
    assert base64.b64decode(packed) == explorer.state()
    assert f'data-smp-explorer="{explorer.key}"' in page["text/html"]
    assert page["text/html"].count("</script>") == 1 and VIEW not in page


def test_without_anywidget_a_cell_shows_the_page(kept_masks, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "anywidget", None)
    (page,) = displayed(explore(kept_masks[0]), monkeypatch)
    assert "text/html" in page and capsys.readouterr().out.count("pip install anywidget") == 1


def test_a_name_with_html_is_only_text_in_the_page(tmp_path):
    from test_snapshots import small_masks

    masks, path = small_masks(), tmp_path / "<b>x.safetensors"
    masks.matrices = [(name, '"><script>alert(1)</script>', layer, linear)
                      for name, _, layer, linear in masks.matrices]
    SnapshotWriter(path, model="<img src=x>", label="</script>").keep(0, masks)
    explorer = explore(path)
    page = explorer.page(explorer.state())["text/html"]
    assert page.count("<script") == page.count("</script>") == page.count("<img") == 1
    assert unpack(explorer.state())[0]["runs"][0]["file"] == "b-x"


# Bad input


def test_missing_foreign_and_other_files_raise_one_line(kept_masks, live, tmp_path):
    with pytest.raises(FileNotFoundError, match="no snapshots there"):
        explore(tmp_path / "none")
    (tmp_path / "x").write_text("hello")
    with pytest.raises(ValueError, match="is not a snapshot file of this project"):
        explore(tmp_path / "x")
    masks, path = live
    with pytest.raises(ValueError, match="is of another encoder than"):
        explore(kept_masks[0], path)
    SnapshotWriter(tmp_path / "heads.safetensors", heads=2).keep(0, masks)
    with pytest.raises(ValueError, match="the same number of heads"):
        explore(path, tmp_path / "heads.safetensors")
    with pytest.raises(ValueError, match="is of another encoder than `masks`"):
        Explorer(kept_masks[0], masks=masks)


# explorer.js


def tiny_state():
    """Return a state of two runs with one step, which keep nothing of a 1 x 1 matrix."""
    kind = "<b onclick=x()>"
    zeros = {name: np.zeros(1, "<u4") for name in ("kept", "again", "largest")}
    arrays = zeros | {"emptyRows": np.ones(1, "<u4"), "emptyColumns": np.ones(1, "<u4"),
                      "heads": np.zeros(0, "<u4"), "scores": np.zeros(128, "<u4"),
                      "edges": np.array([-0.5, 0.5, 0.5], "<f4"), "grid": np.zeros(1024, "u1")}
    matrix = {"layer": 0, "kind": kind, "rows": 1, "columns": 1, "heads": 0, "side": "rows"}
    run = {"label": "</style><img src=x>", "file": "x", "steps": [0], "arrays": arrays}
    return pack({"key": "key", "values": False, "layers": [0], "kinds": [kind], "both": [0, 0.0],
                 "matrices": [matrix]}, [run, run])


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_the_script_in_node(kept_masks, tmp_path):
    """explorer.test.mjs compares its numbers with those of `expected`."""
    saved = Snapshots(kept_masks[0])
    mask, earlier = (kept_masks[1][step][QUERY][0] for step in (20, 10))
    explorer, short = explore(kept_masks[0], kept_masks[0]), Snapshots(kept_masks[0])
    short.steps = short.steps[:1]
    for name, state in {"short": pack_state([short], "key"),
                        "state": pack_state([saved], "key"), "two": explorer.state(),
                        "answer": ask(explorer, kind="matrix", run=0, step=20, matrix=6)[1][0],
                        "tiny": tiny_state()}.items():
        (tmp_path / f"{name}.bin").write_bytes(state)
    expected = {
        "mask": mask.ravel().astype(int).tolist(),
        "earlier": earlier.ravel().astype(int).tolist(), "columns": mask.shape[1],
        "density": saved.density(20), "kept": int(mask.sum()),
        "head": int(mask[8:16].sum()), "both": int((mask & earlier).sum()),
        "window": int(mask[4:20, 8:24].sum()), "grid": coarse_mask(mask[:24, :20]).ravel().tolist(),
    }
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    shutil.copy(SCRIPT, tmp_path / "explorer.mjs")
    shutil.copy(Path(__file__).with_name("explorer.test.mjs"), tmp_path)
    run = subprocess.run(["node", "--test", "explorer.test.mjs"], cwd=tmp_path, text=True,
                         capture_output=True)
    assert run.returncode == 0, run.stdout[-3000:]
