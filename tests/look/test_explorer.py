"""Figures show the masks, and the controls of the explorer change the figures."""

import base64
import builtins
import shutil

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from smp.look.explorer import Explorer, explore
from smp.look.mask_figures import Selection, plot_overview, plot_turnover, scores
from smp.look.matrix_figures import VIEWS, matrix, plot_strip, pool_mask
from smp.look.overlap import compare_masks
from smp.look.snapshot_writer import SnapshotWriter
from smp.look.snapshots import Snapshots
from smp.plotting import png_bytes
from smp.text import as_percent

PNG = b"\x89PNG"


@pytest.fixture
def saved(kept_masks):
    return Snapshots(kept_masks[0])


@pytest.fixture
def other(kept_masks, tmp_path):
    """Return the path of a second run's file of the same encoder."""
    return shutil.copy(kept_masks[0], tmp_path / "other.safetensors")


def images(view):
    """Return the arrays that a view draws, one per panel."""
    return [ax.images[0].get_array() for ax in view.parts[0].axes if ax.images]


# All matrices


def test_overview_shows_heads_relative_to_the_density(saved, kept_masks):
    view, masks = plot_overview(saved, 20), kept_masks[1][20]
    density = saved.density(20)
    drawn = [mesh.get_array() for mesh in view.parts[0].axes[0].collections[:6]]
    for name, layer, kind, _ in saved.matrices:
        mask, place = masks[name][0], saved.types.index(kind)
        parts = [mask]
        if place < 4:  # attention matrices, four heads
            parts = np.split(mask, 4, axis=1 if kind == "attention output" else 0)
        expected = [max(part.mean() / density, 1e-9) for part in parts]
        np.testing.assert_allclose(drawn[place][layer], expected)


def test_overview_caption_has_counts_and_extremes(saved, kept_masks):
    words, masks = plot_overview(saved, 20).caption, kept_masks[1][20]
    kept = sum(mask.sum() for mask, _, _ in masks.values())
    assert f"Step 20: the encoder keeps {kept:,} of {saved.weights:,} weights" in words
    shares = {f"layer {layer}, {kind}": masks[name][0].mean()
              for name, layer, kind, _ in saved.matrices}
    least = min(shares, key=shares.get)
    assert f"{least} keeps least ({as_percent(shares[least])})." in words
    heads = {}
    for name, layer, kind, _ in saved.matrices:
        axis = {"attention output": 1, "intermediate": None, "output": None}.get(kind, 0)
        for head, part in enumerate(np.split(masks[name][0], 4, axis) if axis is not None else ()):
            heads.setdefault(f"head {head} of layer {layer}", []).append(part.mean())
    most = max(heads, key=lambda head: np.mean(heads[head]))
    assert f"{most} keeps most ({as_percent(np.mean(heads[most]))})" in words
    empty = sum(not row.any() for mask, _, _ in masks.values() for row in mask)
    assert f" {empty:,} rows and " in words
    assert "Every matrix keeps the same share" in plot_overview(saved, 0).caption
    assert "Step 30" in plot_overview(saved).caption


def test_overview_without_a_number_of_heads(saved):
    saved.about = {}
    view = plot_overview(saved, 20)
    assert "head" not in view.caption and "keeps most" in view.caption
    meshes = view.parts[0].axes[0].collections[:6]
    assert [mesh.get_array().shape for mesh in meshes] == [(2, 1)] * 6


def test_turnover_caption_has_the_shares_of_the_last_step(saved):
    steps, removed, returned = saved.turnover()
    overlap, chance = saved.magnitude_overlap()
    view = plot_turnover(saved)
    left, right = view.parts[0].axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), 100 * removed)
    np.testing.assert_allclose(right.lines[0].get_ydata(), 100 * overlap)
    peak = removed.argmax()
    assert f"highest at step {steps[peak]}: {as_percent(removed[peak])} of" in view.caption
    assert (f"From step 20 to 30, {as_percent(removed[-1])} are removed and "
            f"{as_percent(returned[-1])} return.") in view.caption
    assert f"At step 30, {as_percent(overlap[-1])} of the kept weights" in view.caption
    assert f"by chance: {as_percent(chance[-1])}." in view.caption


# One matrix


def test_matrix_pools_and_its_window_shows_weights(saved, kept_masks):
    name, mask = saved.names[4], kept_masks[1][20][saved.names[4]][0]
    view = matrix(Selection(saved, 20, name, side=16, row=8, column=30))
    whole, window = images(view)[:2]
    np.testing.assert_array_equal(whole, pool_mask(mask, 128)[0])
    np.testing.assert_array_equal(window, mask[8:24, 16:32])  # moved inside the matrix
    words = view.caption
    assert f"{mask.sum():,} of {mask.size:,} weights are kept ({as_percent(mask.mean())})" in words
    rows, columns = (sum(not line.any() for line in lines) for lines in (mask, mask.T))
    assert f"{rows:,} rows and {columns:,} columns are empty." in words
    assert f"rows 8 to 23 and columns 16 to 31, {mask[8:24, 16:32].sum():,} of 256 are" in words
    assert words.endswith("A point is one weight; kept weights are yellow.")


def test_matrix_counts_the_weights_of_a_and_b(saved, kept_masks):
    name = saved.names[0]
    a, b = (kept_masks[1][step][name][0] for step in (10, 20))
    for window, part in ((), ...), ((16, 4, 4), (slice(4, 20), slice(4, 20))):
        view = matrix(*(Selection(saved, step, name, *window) for step in (10, 20)))
        counts = [(kind[part]).sum() for kind in (a & b, a & ~b, b & ~a)]
        assert "kept in A and B {:,}, only in A {:,}, only in B {:,}.".format(*counts
                                                                             ) in view.caption
        assert [int(drawn.sum()) for drawn in images(view)[:3]] == counts


def test_scores_have_every_weight_once(saved, kept_masks):
    name, (mask, _, _) = saved.names[2], kept_masks[1][10][saved.names[2]]
    view = scores(Selection(saved, 10, name))
    both, kept = (patch.get_data().values for patch in view.parts[0].axes[0].patches[:2])
    assert (both.sum(), kept.sum()) == (mask.size, mask.sum())
    assert f"{mask.sum():,} of {mask.size:,} scores are at least" in view.caption


@pytest.mark.parametrize("place", [0, 4, 5])  # square, tall, wide
def test_strip_shows_first_and_last_step(saved, kept_masks, place):
    name = saved.names[place]
    view = plot_strip(saved, name, blocks=8, most=3)
    panels = view.parts[0].axes[:3]
    masks = [kept_masks[1][step][name][0] for step in (0, 20, 30)]
    assert [ax.get_title(loc="left").split()[1] for ax in panels] == ["0", "20", "30"]
    for drawn, mask in zip(images(view), masks):
        np.testing.assert_array_equal(drawn, pool_mask(mask, 8)[0])
    assert ", ".join(as_percent(mask.mean()) for mask in masks) in view.caption
    if place == 0:
        heads = [part.mean() for part in np.split(masks[-1], 4)]
        least = int(np.argmin(heads))
        assert (f"head {least} (rows {8 * least} to {8 * least + 7}) keeps least "
                f"({as_percent(heads[least])}).") in view.caption
    with pytest.raises(ValueError, match="no matrix 'x'"):
        plot_strip(saved, "x")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("compare", [None, 0, 10])
def test_every_view_draws_every_step_with_a_caption(saved, view, compare):
    b = None if compare is None else Selection(saved, compare, saved.names[1])
    for step in saved.steps if b is None else (0, 30):
        shown = VIEWS[view](Selection(saved, step, saved.names[1]), b)
        words = shown.caption
        assert png_bytes(shown.parts[0]).startswith(PNG)
        assert words[:1].isalpha() and words.endswith(".") and "nan" not in words


# Two runs


def test_compare_masks_counts_weights_that_both_keep(saved, kept_masks, other):
    """Run B is A's file cut after step 10, so its last masks are those of another step."""
    second = Snapshots(other)
    second.steps = [0, 10]
    a, b = ({name: mask for name, (mask, _, _) in kept_masks[1][step].items()}
            for step in (30, 10))
    view = compare_masks(saved, second)
    bars = [patch.get_height() for patch in view.parts[0].axes[0].patches]
    for kind, bar in zip(saved.types, bars, strict=True):
        names = [name for name, _, its_kind, _ in saved.matrices if its_kind == kind]
        kept, both = (sum(mask.sum() for mask in masks) for masks in (
            [a[name] for name in names], [a[name] & b[name] for name in names]))
        assert bar == pytest.approx(100 * both / kept)
    kept, both = sum(mask.sum() for mask in a.values()), sum((a[n] & b[n]).sum() for n in a)
    assert f"keeps {kept:,} weights." in view.caption
    assert f"{both / kept:.2%} of them" in view.caption
    chance = sum(a[name].sum() * b[name].mean() for name in a) / kept
    by_chance = float(view.caption.split("chance: ")[1].rstrip("%."))
    assert by_chance == pytest.approx(100 * chance, 0.01)


# The explorer


def test_controls_change_picture_and_caption(kept_masks):
    explorer = explore(kept_masks[0])
    assert bytes(explorer.picture.value).startswith(PNG) and "Step 30" in explorer.caption.value
    seen = {bytes(explorer.picture.value)}
    for view in VIEWS:
        explorer.view.value = view
        seen.add(bytes(explorer.picture.value))
    assert len(seen) == len(VIEWS)
    explorer.view.value = "one matrix"
    explorer.layer.value, explorer.matrix.value, explorer.step.value = 0, "key", 10
    mask = kept_masks[1][10]["encoder.layer.0.attention.self.key"][0]
    assert f"Layer 0, key (32 × 32) at step 10: {mask.sum():,} of" in explorer.words
    explorer.zoom.value, explorer.row.value = 16, 9
    assert f"rows 9 to 24 and columns 0 to 15, {mask[9:25, :16].sum():,} of 256" in explorer.words
    explorer.play.value = 2  # as when it plays
    assert explorer.step.value == 20 and "at step 20" in explorer.words


def test_explorer_hides_unused_controls(kept_masks):
    explorer = explore(kept_masks[0])

    def shown():
        return {name for name in ("where", "window")
                if getattr(explorer, name).layout.display != "none"}

    assert shown() == set()
    explorer.view.value = "scores"
    assert shown() == {"where"}
    explorer.view.value = "one matrix"
    assert shown() == {"where", "window"}


def test_explorer_compares_two_runs(kept_masks, other, tmp_path):
    explorer = explore(kept_masks[0], other)
    explorer.view.value, explorer.step.value = "one matrix", 10
    explorer.compare.value = (1, 20)
    assert "step 10 of the first run" in explorer.words
    assert "B is step 20 of the other run" in explorer.words
    name = "encoder.layer.1.attention.self.query"
    a, b = (kept_masks[1][step][name][0] for step in (10, 20))
    assert f"kept in A and B {(a & b).sum():,}" in explorer.words
    explorer.compare.value = (0, 20)
    assert "B is step 20 (" in explorer.words
    assert len(explore(kept_masks[0]).compare.options) == 5
    from test_snapshots import small_masks

    SnapshotWriter(tmp_path / "small").keep(0, small_masks())
    for compare in (explore, lambda *paths: compare_masks(*map(Snapshots, paths))):
        with pytest.raises(ValueError, match="is of another encoder than"):
            compare(kept_masks[0], tmp_path / "small")


def test_explorer_reads_new_steps_when_a_control_moves(tmp_path):
    from test_snapshots import small_masks

    masks, path = small_masks(), tmp_path / "run.safetensors"
    keeper = SnapshotWriter(path, heads=4)
    keeper.keep(0, masks)
    explorer = explore(path)
    explorer.compare.value = (0, 0)
    masks.refresh(0.5)
    keeper.keep(7, masks)
    explorer.view.value = "scores"
    assert [step for _, step in explorer.step.options] == [0, 7] and explorer.step.value == 0
    assert explorer.compare.value == (0, 0) and len(explorer.compare.options) == 3
    explorer.compare.value, explorer.step.value, explorer.view.value = None, 7, "overview"
    assert "Step 7" in explorer.words and explorer.play.max == explorer.play.value == 1
    path.write_bytes(b"damaged")
    explorer.view.value = "scores"
    assert "is not a snapshot file of this project" in explorer.caption.value


def test_explorer_displays_widgets_and_a_static_overview(kept_masks, monkeypatch):
    explorer = explore(kept_masks[0])
    for name in ("view", "step", "play", "layer", "matrix", "compare", "zoom", "row", "column",
                 "picture", "caption"):
        assert f"smp-{name}" in getattr(explorer, name)._dom_classes
    assert "smp-explorer" in explorer.panel._dom_classes
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append(bundle))
    explorer._ipython_display_()
    (bundle,) = shown
    view = bundle["application/vnd.jupyter.widget-view+json"]
    assert view == {"version_major": 2, "version_minor": 0, "model_id": explorer.panel.model_id}
    assert base64.b64decode(bundle["image/png"]).startswith(PNG)
    assert " ".join(bundle["text/plain"].split()) == explorer.words


def test_explore_without_ipywidgets_returns_a_picture(kept_masks, monkeypatch, capsys):
    real = builtins.__import__

    def without_widgets(name, *rest):
        if name == "ipywidgets":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_widgets)
    view = explore(kept_masks[0])
    assert not isinstance(view, Explorer) and "Step 30" in view.caption
    assert capsys.readouterr().out.count("pip install ipywidgets") == 1


def test_explore_of_a_missing_or_foreign_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="no snapshots there"):
        explore(tmp_path / "none")
    (tmp_path / "x").write_text("hello")
    with pytest.raises(ValueError, match="is not a snapshot file of this project"):
        explore(tmp_path / "x")
