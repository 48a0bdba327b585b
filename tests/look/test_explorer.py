"""The figures show what the masks are, and the explorer's controls change what is shown."""

import base64
import builtins
import shutil

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

matplotlib.use("Agg")

from smp.look.drawing import Selection
from smp.look.explorer import Explorer, explore
from smp.look.layer_figures import layers_figure
from smp.look.mask_figures import FIGURES, matrix_figure, scores_figure
from smp.look.mask_stats import kept_shares, pool_mask
from smp.look.snapshot_writer import SnapshotWriter
from smp.look.snapshots import Snapshots
from smp.look.stills import plot_masks, png_bytes, still
from smp.text import as_percent

PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    assert plt.get_fignums() == []  # an open figure would be shown a second time


@pytest.fixture
def saved(kept_masks):
    return Snapshots(kept_masks[0])


@pytest.fixture
def other(kept_masks, tmp_path):
    """The path of a second run's file, of the same encoder."""
    return shutil.copy(kept_masks[0], tmp_path / "other.safetensors")


# The views


def test_layers_figure_shows_the_kept_shares(saved):
    figure, words = layers_figure(Selection(saved, 20, saved.names[0]))
    shares, types = kept_shares(saved, 20), saved.types
    ax = figure.axes[0]
    np.testing.assert_array_equal(ax.images[0].get_array(), shares)
    texts = [text.get_text() for text in ax.texts]
    assert texts[: shares.size] == [f"{100 * share:.1f}%" for share in shares.ravel()]
    i, j = np.unravel_index(shares.argmin(), shares.shape)
    assert f"Least is left of layer {i}, {types[j]} ({as_percent(shares.min())})" in words
    assert f"{saved.parts[20]['kept'].sum():,} of its {saved.weights:,}" in words
    assert "Every matrix keeps the same share" in layers_figure(Selection(saved, 0, ""))[1]


def test_matrix_figure_pools_and_its_window_shows_weights(saved, kept_masks):
    name, mask = saved.names[4], kept_masks[1][20][saved.names[4]][0]
    figure, words = matrix_figure(Selection(saved, 20, name, side=16, row=8, column=30))
    whole, window = figure.axes[0].images[0], figure.axes[1].images[0]
    np.testing.assert_array_equal(whole.get_array(), pool_mask(mask, 128)[0])
    np.testing.assert_array_equal(window.get_array(), mask[8:24, 16:32])  # pushed inside
    assert whole.norm.vmin == 0 and whole.norm.vmax == 1
    assert f"{mask.sum():,} of {mask.size:,} weights are kept" in words
    assert f"rows 8 to 23 and columns 16 to 31, {mask[8:24, 16:32].sum():,} of 256." in words
    assert "Every point is one weight" in words


def test_matrix_figure_counts_the_weights_of_a_and_b(saved, kept_masks):
    name = saved.names[0]
    a, b = (kept_masks[1][step][name][0] for step in (10, 20))
    counts = ((a & b).sum(), (a & ~b).sum(), (b & ~a).sum())
    figure, words = matrix_figure(Selection(saved, 10, name), Selection(saved, 20, name))
    assert ": {:,} kept in both, {:,} only in A, {:,} only in B".format(*counts) in words
    assert [int(ax.images[0].get_array().sum()) for ax in figure.axes[:3]] == [*counts]
    figure, words = matrix_figure(*(Selection(saved, step, name, 16, 4, 4) for step in (10, 20)))
    kinds = figure.axes[0].images[0].get_array()
    part = (slice(4, 20), slice(4, 20))
    np.testing.assert_array_equal(kinds, (a + 2 * (b & ~a) + 0 * a)[part] + (a & ~b)[part])


def test_scores_figure_has_every_weight_once(saved, kept_masks):
    name, (mask, _, _) = saved.names[2], kept_masks[1][10][saved.names[2]]
    figure, words = scores_figure(Selection(saved, 10, name))
    both, kept = (patch.get_data().values for patch in figure.axes[0].patches[:2])
    assert (both.sum(), kept.sum()) == (mask.size, mask.sum())
    assert f"{mask.sum():,} of {mask.size:,} weights have a score of at least" in words


@pytest.mark.parametrize("view", FIGURES)
@pytest.mark.parametrize("compare", [None, 0, 10])
def test_every_figure_draws_every_step_with_a_caption(saved, view, compare):
    b = None if compare is None else Selection(saved, compare, saved.names[1])
    for step in saved.steps:
        figure, words = FIGURES[view](Selection(saved, step, saved.names[1]), b)
        assert png_bytes(figure).startswith(PNG)
        assert words[:1].isalpha() and words.endswith(".") and "nan" not in words


def test_heads_figure_without_a_number_of_heads(saved):
    saved.about = {}
    words = FIGURES["heads"](Selection(saved, 0, saved.names[0]))[1]
    assert words.startswith("Heads cannot be")


# On paper


def test_still_has_a_caption_and_refuses_unknown_names(saved):
    figure = still(saved, "one matrix", 20, saved.names[0], side=16)
    assert "query (32 × 32) at step 20" in " ".join(figure.texts[-1].get_text().split())
    assert "step 30" in still(saved).texts[-1].get_text()
    for wrong, told in ((dict(view="all"), "no view 'all'; expected one of: layers, one matrix"),
                        (dict(step=5), "no step 5; expected one of: 0, 10, 20, 30"),
                        (dict(name="x"), "no matrix 'x'; expected one of: encoder.layer.0")):
        with pytest.raises(ValueError) as error:
            still(saved, **wrong)
        assert told in str(error.value)


@pytest.mark.parametrize("place", [0, 4, 5])  # square, tall, wide
def test_plot_masks_shows_first_and_last_step(saved, kept_masks, place):
    name = saved.names[place]
    figure = plot_masks(saved, name, blocks=8, most=3)
    panels = figure.axes[:-1]
    assert [ax.get_title(loc="left").split()[1].strip(":") for ax in panels] == ["0", "20", "30"]
    for ax, step in zip(panels, (0, 20, 30)):
        expected = pool_mask(kept_masks[1][step][name][0], 8)[0]
        np.testing.assert_array_equal(ax.images[0].get_array(), expected)
    with pytest.raises(ValueError, match="no matrix 'x'"):
        plot_masks(saved, "x")


# The explorer


def test_controls_change_picture_and_caption(kept_masks):
    explorer = explore(kept_masks[0])
    assert bytes(explorer.picture.value).startswith(PNG) and "At step 30" in explorer.caption.value
    seen = {bytes(explorer.picture.value)}
    for view in FIGURES:
        explorer.view.value = view
        seen.add(bytes(explorer.picture.value))
    assert len(seen) == len(FIGURES)
    explorer.view.value = "one matrix"
    explorer.layer.value, explorer.matrix.value, explorer.step.value = 0, "key", 10
    mask = kept_masks[1][10]["encoder.layer.0.attention.self.key"][0]
    assert f"layer 0, key (32 × 32) at step 10: {mask.sum():,} of" in explorer.words
    explorer.zoom.value, explorer.row.value = 16, 9
    assert f"rows 9 to 24 and columns 0 to 15, {mask[9:25, :16].sum():,} of 256" in explorer.words
    explorer.play.value = 2  # as when it plays
    assert explorer.step.value == 20 and "at step 20" in explorer.words


def test_explorer_hides_unused_controls(kept_masks):
    explorer = explore(kept_masks[0])

    def shown():
        return {name for name in ("where", "zoom", "window", "other_step")
                if getattr(explorer, name).layout.display != "none"}

    assert shown() == set()
    explorer.view.value = "scores"
    assert shown() == {"where"}
    explorer.view.value, explorer.zoom.value = "one matrix", 16
    explorer.compare.value = "another step"
    assert shown() == {"where", "zoom", "window", "other_step"}


def test_explorer_compares_two_runs(kept_masks, other, tmp_path):
    explorer = explore(kept_masks[0], other)
    explorer.view.value, explorer.step.value = "one matrix", 10
    explorer.compare.value, explorer.other_step.value = "the other run", 20
    assert "step 10 of the first run" in explorer.words
    assert "B is step 20 of the other run" in explorer.words
    name = "encoder.layer.1.attention.self.query"
    a, b = (kept_masks[1][step][name][0] for step in (10, 20))
    assert f"{(a & b).sum():,} kept in both" in explorer.words
    assert "the other run" not in explore(kept_masks[0]).compare.options
    from test_snapshots import small_masks

    SnapshotWriter(tmp_path / "small").keep(0, small_masks())
    with pytest.raises(ValueError, match="is of another encoder than"):
        explore(kept_masks[0], tmp_path / "small")


def test_explorer_reads_new_steps_when_a_control_moves(tmp_path):
    from test_snapshots import small_masks

    masks, path = small_masks(), tmp_path / "run.safetensors"
    keeper = SnapshotWriter(path, heads=4)
    keeper.keep(0, masks)
    explorer = explore(path)
    masks.refresh(0.5)
    keeper.keep(7, masks)
    explorer.view.value = "heads"
    assert [step for _, step in explorer.step.options] == [0, 7] and explorer.step.value == 0
    explorer.step.value = 7
    assert "Step 7" in explorer.words and explorer.play.max == 1
    path.write_bytes(b"damaged")
    explorer.view.value = "layers"
    assert "is not a snapshot file of this project" in explorer.caption.value


def test_widgets_have_class_names_and_a_static_picture(kept_masks):
    pytest.importorskip("ipywidgets")
    explorer = explore(kept_masks[0])
    for name in ("view", "step", "play", "layer", "matrix", "compare", "other_step", "zoom", "row",
                 "column", "picture", "caption"):
        assert "smp-" + name.replace("_", "-") in getattr(explorer, name)._dom_classes
    assert "smp-explorer" in explorer.panel._dom_classes
    bundle = explorer._repr_mimebundle_()
    view = bundle["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == explorer.panel.model_id
    assert base64.b64decode(bundle["image/png"]).startswith(PNG)
    assert bundle["text/plain"] == explorer.words


def test_explorer_displays_with_ipywidgets_7(kept_masks, monkeypatch):
    widgets = pytest.importorskip("ipywidgets")
    explorer = explore(kept_masks[0])
    with_8 = explorer._repr_mimebundle_()
    monkeypatch.delattr(widgets.Widget, "_repr_mimebundle_", raising=False)
    assert explorer._repr_mimebundle_() == with_8


def test_explore_without_ipywidgets_returns_a_figure(kept_masks, monkeypatch, capsys):
    real = builtins.__import__

    def without_widgets(name, *rest):
        if name == "ipywidgets":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_widgets)
    figure = explore(kept_masks[0])
    assert not isinstance(figure, Explorer) and "At step 30" in figure.texts[-1].get_text()
    assert capsys.readouterr().out.count("pip install ipywidgets") == 1


def test_explore_refuses_a_missing_or_foreign_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no snapshots there"):
        explore(tmp_path / "none")
    (tmp_path / "x").write_text("hello")
    with pytest.raises(ValueError, match="is not a snapshot file of this project"):
        explore(tmp_path / "x")
