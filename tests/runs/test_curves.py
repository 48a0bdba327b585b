"""Figures and the sweep table show the numbers of the records."""

import io

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from records import make_record
from smp.runs.curves import plot_records
from smp.runs.sweep_curves import plot_sweep, sweep_markdown


def draw(figure):
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def run(method, density, em, distill="none", **more):
    """Return a record with a unique name; its density has two digits."""
    name = str((method, density, em, distill, more))
    more = {"density_target": round(density, 2), "f1": em + 0.1, "steps": 5} | more
    return make_record(method, distill, density, em=em, **more) | {"name": name}


def drawn_lines(figure):
    """Return {label: line} of the lines with points."""
    return {line.get_label(): line for line in figure.axes[0].lines if len(line.get_ydata())}


def test_figure_shows_means_over_seeds_and_the_dense_line():
    records = [run("fine-tuned", 1.0, 0.6), run("smp-l", 0.1, 0.2), run("smp-l", 0.09999, 0.3),
               run("smp-l", 0.5, 0.5)]
    figure = draw(plot_records(records, [
        {"method": "smp-s", "distill": "none", "density": 0.03, "em": 0.7},
        {"method": "movement", "distill": "none", "density": 0.03, "em": 0.1}]))
    dense, means, seeds, published = figure.axes[0].lines[:4]
    assert set(dense.get_ydata()) == {0.6}
    np.testing.assert_allclose(means.get_xydata(), [[0.1, 0.25], [0.5, 0.5]])
    np.testing.assert_allclose(sorted(seeds.get_ydata()), [0.2, 0.3])
    np.testing.assert_allclose(published.get_xydata(), [[0.03, 0.7]])
    assert published.get_markerfacecolor() == "none"
    assert 0.1 not in [line.get_ydata()[0] for line in drawn_lines(figure).values()]


def test_runs_with_other_losses_or_parts_are_not_averaged():
    records = [run("smp-l", 0.1, em, distill, settings={"bias_norm_learning_rate": rate})
               for em, distill, rate in ((0.1, "none", 0.0), (0.2, "logits", 0.0),
                                         (0.4, "hidden", 0.0), (0.6, "logits", 0.001))]
    drawn = drawn_lines(draw(plot_records(records)))
    assert {label: line.get_ydata().tolist() for label, line in drawn.items()} == {
        "SMP-L": [0.1], "SMP-L + KD": [0.2], "SMP-L + KD + hidden states": [0.4],
        "SMP-L + KD + biases, LayerNorms": [0.6]}


def test_the_line_connects_the_longest_runs():
    records = [run("smp-l", 0.1, 0.2), run("smp-l", 0.1, 0.5, steps=9),
               run("smp-l", 0.5, 0.6, steps=7)]
    line, small = draw(plot_records(records)).axes[0].lines[:2]
    np.testing.assert_allclose(line.get_xydata(), [[0.1, 0.5], [0.5, 0.6]])
    np.testing.assert_allclose(small.get_xydata(), [[0.1, 0.2]])
    assert small.get_markersize() < line.get_markersize()


def test_runs_of_different_settings_have_separate_lines():
    records = [run("smp-l", 0.1, 0.2, seed=seed) for seed in (0, 1)]
    records.append(run("smp-l", 0.1, 0.6, settings={"regulariser": 40_000.0}))
    drawn = drawn_lines(draw(plot_records(records)))
    assert drawn["SMP-L, regulariser 400"].get_ydata().tolist() == [0.2]
    assert drawn["SMP-L, regulariser 40000"].get_ydata().tolist() == [0.6]


def test_baselines_have_different_markers():
    records = [run(method, 0.1, em) for method, em in (
        ("smp-l", 0.3), ("magnitude", 0.2), ("movement", 0.25), ("movement-s", 0.28))]
    lines = drawn_lines(draw(plot_records(records)))
    assert lines["magnitude"].get_ydata().tolist() == [0.2]
    assert lines["movement-S"].get_ydata().tolist() == [0.28]
    looks = {(line.get_marker(), str(line.get_color())) for line in lines.values()}
    assert len(looks) == 4


@pytest.mark.parametrize("records", [
    [], [run("smp-l", 0.1, 0.2), run("smp-l", 0.1, 0.2, data_sha="other")],
    [run("smp-l", 0.1, 0.2), run("smp-l", 0.1, 0.2, n_train=11)],
])
def test_plot_records_of_several_groups_raises(records):
    with pytest.raises(ValueError, match="pick one group"):
        plot_records(records)


# A sweep


def cell(method, target, em, distill="none", density=None, **more):
    """Return a record of the laptop profile with this target density."""
    density = target if density is None else density
    return run(method, density, em, distill, density_target=target, profile="laptop", **more)


CELLS = [
    cell("smp-l", 0.1, 0.2), cell("smp-l", 0.1, 0.4, seed=1), cell("smp-l", 0.5, 0.5),
    cell("smp-s", 0.5, 0.6, "logits"), cell("soft-movement", 0.1, 0.25, density=0.14),
    cell("magnitude", 0.03, 0.05),
]


def grid(records):
    """Return {first cell: other cells} of the rows of a sweep's tables."""
    return {line.split("|")[1].strip(): [part.strip() for part in line.split("|")[2:-1]]
            for line in sweep_markdown(records).splitlines() if line.startswith("| ")}


def labels_of(records, start):
    """Return the sorted rows of a sweep's tables that begin with this text."""
    return sorted(label for label in grid(records) if label.startswith(start))


def test_sweep_line_is_the_mean_and_bars_end_at_the_seeds():
    published = [
        {"method": "smp-l", "distill": "none", "density": 0.03, "em": 0.7, "f1": 0.81},
        {"method": "fine-tuned", "distill": "none", "density": 1.0, "em": 0.8, "f1": 0.88}]
    figure = draw(plot_sweep(CELLS, published))
    em, em_kd, f1, _ = figure.axes
    assert em.get_title(loc="left") == "Exact Match, without a teacher"
    line, _, (bars,) = em.containers[0]
    np.testing.assert_allclose(line.get_xydata(), [[0.1, 0.3], [0.5, 0.5]], atol=1e-5)
    np.testing.assert_allclose(bars.get_segments()[0], [[0.1, 0.2], [0.1, 0.4]], atol=1e-5)
    np.testing.assert_allclose(f1.containers[0][0].get_ydata(), [0.4, 0.6])
    soft = next(c for c in em.containers if c.get_label() == "soft movement")
    np.testing.assert_allclose(soft[0].get_xydata(), [[0.14, 0.25]], atol=1e-5)  # as reached
    assert [c.get_label() for c in em_kd.containers] == ["SMP-S"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:-1] == ["SMP-L", "soft movement", "magnitude", "SMP-S"]
    hollow = [one for one in em.lines if one.get_markerfacecolor() == "none"]
    np.testing.assert_allclose(hollow[0].get_xydata(), [[0.03, 0.7]])
    assert any(set(one.get_ydata()) == {0.8} for one in em.lines)


def test_a_sweep_draws_changed_settings_as_a_dashed_line():
    apart = [cell("smp-s", 0.1, em, "logits", settings={"distill_weight": weight})
             for em, weight in ((0.4, 0.5), (0.5, 0.9))]
    usual, other = draw(plot_sweep([*CELLS, *apart])).axes[1].containers
    np.testing.assert_allclose(usual[0].get_xydata(), [[0.1, 0.4], [0.5, 0.6]], atol=1e-5)
    np.testing.assert_allclose(other[0].get_xydata(), [[0.1, 0.5]], atol=1e-5)
    assert other.get_label() == "SMP-S, distill_weight 0.9" and other[0].get_linestyle() == "--"
    assert usual[0].get_linestyle() == "-"


def test_plot_sweep_of_two_data_sets_raises():
    with pytest.raises(ValueError, match="of one model"):
        plot_sweep([*CELLS, cell("smp-l", 0.1, 0.2, data_sha="other")])


def test_sweep_table_has_one_row_per_method_and_marks_gaps():
    rows = grid(CELLS)
    assert rows["Model"] == ["50%", "10%", "3%"]
    assert rows["SMP-L"] == ["0.500 / 0.600", "0.300 ± 0.141 / 0.400 ± 0.141 (2 runs)", "—"]
    assert rows["SMP-S + KD"] == ["0.600 / 0.700", "—", "—"]
    assert rows["soft movement"] == ["—", "0.250 / 0.350 at 14%", "—"]
    assert [*rows][-1] == "soft movement"
    methods = [cell(method, 0.1, 0.1) for method in ("movement-s", "movement")]
    assert labels_of(methods, "movement") == ["movement", "movement-S"]


def test_sweep_table_begins_with_the_fine_tuned_model():
    dense = cell("fine-tuned", 1.0, 0.8, steps=1234)
    text = sweep_markdown([*CELLS, dense, cell("smp-l", 0.1, 0.4, steps=9)])
    assert text.count("### ") == text.count("| fine-tuned, 1,234 steps: 0.800 / 0.900 ") == 2
    rows = grid([*CELLS, dense])
    assert [*rows][2].startswith("fine-tuned, 1,234 steps")
    assert rows["SMP-L"][:2] == [  # the ± of one run is over questions, of two over seeds
        "0.500 / 0.600, 62.5% ± 5.0",
        "0.300 ± 0.141 / 0.400 ± 0.141, 37.5% ± 17.7 (seeds) (2 runs)"]
    assert rows["soft movement"][1] == "0.250 / 0.350, 31.2% ± 4.6 at 14%"


def test_sweep_table_shows_settings_changed_from_the_profile():
    other = cell("soft-movement", 0.1, 0.5, density=0.9, settings={"learning_rate": 0.1})
    assert labels_of([*CELLS, other], "soft") == [
        "soft movement", "soft movement (learning_rate 0.1)"]
    tried = [cell("smp-s", 0.1, em, "logits", settings={"distill_weight": weight})
             for em, weight in ((0.1, 0.5), (0.2, 0.5), (0.3, 0.9))]
    assert labels_of([*CELLS, *tried], "SMP-S") == [
        "SMP-S + KD", "SMP-S + KD (distill_weight 0.9)"]
    both = [cell("smp-s", 0.1, 0.1, "hidden", seed=seed, settings={"hidden_distill_weight": 10.0})
            for seed in (0, 1)]  # changed for every run of the method
    assert labels_of([*CELLS[:3], *both], "SMP") == [
        "SMP-L", "SMP-S + KD + hidden states (hidden_distill_weight 10)"]


def test_sweep_table_omits_presets_and_newer_defaults():
    presets = [cell("smp-l", density, 0.1, seed=seed, settings=more) for density, seed, more in (
        (0.1, 0, {}), (0.03, 1, {}), (0.1, 2, {"density_ramp_fraction": 0.4}))]
    assert labels_of(presets, "SMP") == ["SMP-L", "SMP-L (density_ramp_fraction 0.4)"]
    older = cell("smp-l", 0.03, 0.1)
    del older["settings"]["n_mask_snapshots"]  # a setting that is newer than the record
    older["settings"]["regulariser_rule"] = "cubic"  # a removed setting
    assert labels_of([*CELLS, older], "SMP-L") == ["SMP-L"]


def test_sweep_table_separates_teachers():
    taught = [cell("smp-s", 0.1, 0.1, "logits", teacher={"name": name, "em": 0.6, "sha": None})
              for name in ("all-MiniLM-L6-v2_squad_fine-tuned_seed0_0b7711", "m_squad_soup")]
    assert labels_of(taught, "SMP") == ["SMP-S + KD", "SMP-S + KD (teacher m_squad_soup)"]


def test_runs_of_different_lengths_have_separate_tables():
    assert sweep_markdown([*CELLS, cell("smp-l", 0.1, 0.1, steps=9)]).count("### ") == 2
