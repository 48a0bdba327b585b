"""Pictures and the sweep table: their numbers are those of the records."""

import io
from dataclasses import asdict

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from smp.runs.curves import plot_records
from smp.runs.settings import choose_settings
from smp.runs.sweep_curves import plot_sweep, sweep_markdown


def draw(figure):
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def run(method, density, em, sharing="SMP-L", **more):
    record = {"method": method, "density": density, "em": em, "sharing": sharing, "model": "m",
              "model_sha": "a", "data": "d", "data_sha": "b", "n_eval": 100, "n_train": 10,
              "steps": 5, "settings": {}, "teacher": None,
              "density_target": round(density, 2)} | more
    return {"name": str(record)} | record


def test_the_picture_shows_means_over_seeds_and_the_dense_line():
    records = [run("fine-tuned", 1.0, 0.6, None), run("SMP", 0.1, 0.2), run("SMP", 0.0999998, 0.3),
               run("SMP", 0.5, 0.5)]
    figure = draw(plot_records(records, [{"method": "SMP", "sharing": "SMP-S", "density": 0.03,
                                          "em": 0.7}]))
    dense, means, seeds, published = figure.axes[0].lines[:4]
    assert set(dense.get_ydata()) == {0.6}
    np.testing.assert_allclose(means.get_xydata(), [[0.1, 0.25], [0.5, 0.5]])
    np.testing.assert_allclose(sorted(seeds.get_ydata()), [0.2, 0.3])
    np.testing.assert_allclose(published.get_xydata(), [[0.03, 0.7]])
    assert published.get_markerfacecolor() == "none"


def test_runs_with_other_losses_or_parts_are_not_averaged():
    records = [run("SMP + KD", 0.1, em, settings=settings) for em, settings in (
        (0.2, {}), (0.4, {"hidden_weight": 1.0}), (0.6, {"vector_learning_rate": 0.001}))]
    lines = draw(plot_records(records)).axes[0].lines
    drawn = {line.get_label(): line.get_ydata().tolist() for line in lines if len(line.get_ydata())}
    assert {name: drawn[name] for name in ("SMP-L + KD", "SMP-L + KD + hidden states",
                                           "SMP-L + KD + biases, LayerNorms")} == {
        "SMP-L + KD": [0.2], "SMP-L + KD + hidden states": [0.4],
        "SMP-L + KD + biases, LayerNorms": [0.6]}


def test_the_line_connects_the_longest_runs():
    records = [run("SMP", 0.1, 0.2), run("SMP", 0.1, 0.5, steps=9), run("SMP", 0.5, 0.6, steps=7)]
    line, small = draw(plot_records(records)).axes[0].lines[:2]
    np.testing.assert_allclose(line.get_xydata(), [[0.1, 0.5], [0.5, 0.6]])
    np.testing.assert_allclose(small.get_xydata(), [[0.1, 0.2]])
    assert small.get_markersize() < line.get_markersize()


def test_runs_of_other_settings_have_lines_of_their_own():
    records = [run("SMP", 0.1, 0.2, seed=seed) for seed in (0, 1)]
    records.append(run("SMP", 0.1, 0.6, settings={"regulariser": 40_000.0}))
    lines = draw(plot_records(records)).axes[0].lines
    drawn = {line.get_label(): line.get_ydata().tolist() for line in lines if len(line.get_ydata())}
    assert drawn["SMP-L, regulariser 400"] == [0.2]
    assert drawn["SMP-L, regulariser 40000"] == [0.6]


def test_baselines_have_markers_of_their_own():
    records = [run("SMP", 0.1, 0.3), run("magnitude", 0.1, 0.2, None),
               run("movement", 0.1, 0.25, None)]
    lines = {line.get_label(): line for line in draw(plot_records(records)).axes[0].lines
             if len(line.get_ydata())}
    assert lines["magnitude"].get_ydata().tolist() == [0.2]
    looks = {(line.get_marker(), str(line.get_color())) for line in lines.values()}
    assert len(looks) == 3


@pytest.mark.parametrize("records", [
    [], [run("SMP", 0.1, 0.2), run("SMP", 0.1, 0.2, data_sha="other")],
    [run("SMP", 0.1, 0.2), run("SMP", 0.1, 0.2, n_train=11)],
])
def test_runs_of_several_groups_are_not_drawn_together(records):
    with pytest.raises(ValueError, match="pick one group"):
        plot_records(records)


# A sweep


def cell(method, target, em, seed=0, sharing=None, **more):
    return run(method, target, em, sharing, density_target=target, f1=em + 0.1, seed=seed,
               profile="laptop", name=f"{method}{target}{seed}", settings={"batch_size": 8}) | more


CELLS = [
    cell("SMP", 0.1, 0.2, sharing="SMP-L"), cell("SMP", 0.1, 0.4, seed=1, sharing="SMP-L"),
    cell("SMP", 0.5, 0.5, sharing="SMP-L"), cell("SMP + KD", 0.5, 0.6, sharing="SMP-S"),
    cell("soft movement", 0.1, 0.25, density=0.14), cell("magnitude", 0.03, 0.05),
]


def test_the_sweep_line_is_the_mean_and_bars_reach_the_seeds():
    published = [{"method": "SMP", "sharing": "SMP-L", "density": 0.03, "em": 0.7, "f1": 0.81},
                 {"method": "fine-tuned", "sharing": None, "density": 1.0, "em": 0.8, "f1": 0.88}]
    figure = draw(plot_sweep(CELLS, published))
    em, em_kd, f1, _ = figure.axes
    assert em.get_title(loc="left") == "Exact Match, without a teacher"
    line, _, (bars,) = em.containers[0]
    np.testing.assert_allclose(line.get_xydata(), [[0.1, 0.3], [0.5, 0.5]])
    np.testing.assert_allclose(bars.get_segments()[0], [[0.1, 0.2], [0.1, 0.4]])
    np.testing.assert_allclose(f1.containers[0][0].get_ydata(), [0.4, 0.6])
    soft = next(c for c in em.containers if c.get_label() == "soft movement")
    np.testing.assert_allclose(soft[0].get_xydata(), [[0.14, 0.25]])  # the density reached
    assert [c.get_label() for c in em_kd.containers] == ["SMP-S"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:-1] == ["SMP-L", "soft movement", "magnitude", "SMP-S"]
    apart = [cell("SMP + KD", 0.1, em, sharing="SMP-S", name=str(em), settings={
        "batch_size": 8, "kd_weight": weight}) for em, weight in ((0.4, 0.5), (0.5, 0.9))]
    usual, other = draw(plot_sweep([*CELLS, *apart])).axes[1].containers  # each a line of its own
    np.testing.assert_allclose(usual[0].get_xydata(), [[0.1, 0.4], [0.5, 0.6]])
    np.testing.assert_allclose(other[0].get_xydata(), [[0.1, 0.5]])
    assert other.get_label() == "SMP-S, kd_weight 0.9" and other[0].get_linestyle() == "--"
    hollow = [one for one in em.lines if one.get_markerfacecolor() == "none"]
    np.testing.assert_allclose(hollow[0].get_xydata(), [[0.03, 0.7]])
    assert any(set(one.get_ydata()) == {0.8} for one in em.lines)


def test_a_sweep_of_two_data_sets_is_not_drawn_together():
    with pytest.raises(ValueError, match="of one model"):
        plot_sweep([*CELLS, cell("SMP", 0.1, 0.2, data_sha="other")])


def test_the_sweep_table_has_a_row_a_method_and_marks_gaps():
    text = sweep_markdown(CELLS)
    rows = {line.split("|")[1].strip(): [part.strip() for part in line.split("|")[2:-1]]
            for line in text.splitlines() if line.startswith("|")}
    assert rows["Model"] == ["50%", "10%", "3%"]
    assert rows["SMP-L"] == ["0.500 / 0.600", "0.300 ± 0.141 / 0.400 ± 0.141 (2 runs)", "—"]
    assert rows["SMP-S + KD"] == ["0.600 / 0.700", "—", "—"]
    assert rows["soft movement"] == ["—", "0.250 / 0.350 at 14%", "—"]
    assert list(rows)[-1] == "soft movement"
    other = cell("soft movement", 0.1, 0.5, density=0.9, name="other",
                 settings={"batch_size": 8, "learning_rate": 0.1})
    rows = [line.split("|")[1].strip() for line in sweep_markdown([*CELLS, other]).splitlines()
            if "soft" in line]
    assert sorted(rows) == [f"soft movement (learning_rate {rate})" for rate in ("0.02", "0.1")]
    tried = [cell("SMP + KD", 0.1, em, sharing="SMP-S", name=str(em),
                  settings={"batch_size": 8, "kd_weight": weight})
             for em, weight in ((0.1, 0.5), (0.2, 0.5), (0.3, 0.9))]
    text = sweep_markdown([*CELLS, *tried])  # what most have is not told
    assert text.count("kd_weight") == 1 and "| SMP-S + KD (kd_weight 0.9) " in text
    both = {"batch_size": 8, "hidden_weight": 100.0}  # changed for every run of the method
    tried = [cell("SMP + KD", 0.1, 0.1, sharing="SMP-S", seed=seed, settings=both)
             for seed in (0, 1)]
    text = sweep_markdown([*CELLS[:3], *tried])
    assert "| SMP-S + KD (hidden_weight 100) " in text and "| SMP-L " in text
    presets = [cell("SMP", density, 0.1, sharing="SMP-L", seed=seed, settings=(
        asdict(choose_settings("laptop", "smp", density=density, seed=seed)) | more
    ), name=f"{density}{seed}") for density, seed, more in (
        (0.1, 0, {}), (0.03, 1, {}), (0.1, 2, {"density_ramp": 0.4}))]
    rows = [line.split("|")[1].strip() for line in sweep_markdown(presets).splitlines()
            if line.startswith("| SMP")]
    assert sorted(rows) == ["SMP-L", "SMP-L (density_ramp 0.4)"]
    movement = [cell("movement", 0.1, 0.1, settings=asdict(choose_settings(
        "laptop", "smp", method="movement", density=0.1, sharing=sharing)), name=str(sharing))
        for sharing in (None, "shared")]
    rows = [line.split("|")[1].strip() for line in sweep_markdown(movement).splitlines()
            if line.startswith("| movement")]
    assert rows == ["movement", "movement (sharing shared)"]
    taught = [cell("SMP + KD", 0.1, 0.1, sharing="SMP-S", name=name, teacher={"name": name})
              for name in ("m_squad_fine-tuned_seed0_0b7711", "m_squad_soup")]
    rows = [line.split("|")[1].strip() for line in sweep_markdown(taught).splitlines()
            if line.startswith("| SMP")]
    assert rows == ["SMP-S + KD", "SMP-S + KD (teacher m_squad_soup)"]
    newer = cell("SMP", 0.03, 0.1, sharing="SMP-L", settings={"batch_size": 8, "n_masks": 24})
    assert "| SMP-L " in sweep_markdown([*CELLS, newer])  # a default that older records lack
    assert "n_masks" not in sweep_markdown([*CELLS, newer])
    assert sweep_markdown(CELLS + [cell("SMP", 0.1, 0.1, sharing="SMP-L", steps=9)]).count(
        "###") == 2  # longer runs stand apart
