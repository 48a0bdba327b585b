"""The lines that `smp run` prints before and after the notebooks, computed from records."""

from dataclasses import asdict
from pathlib import Path

import pytest

from records import make_record
from smp.cli.paths import NOTEBOOKS, notebook_path
from smp.cli.report import (
    closing_lines,
    expected_em,
    expected_text,
    notebook_settings,
    opening_lines,
    read_reference,
)
from smp.runs.record import record_json

QUICK = {"PROFILE": "quick"}
DISTILL = {"finetune": "none", "smp": "none", "smp_kd": "logits"}


def settings_of(parameters):
    return {name: notebook_settings(name, parameters) for name in NOTEBOOKS}


def reference_runs(parameters=QUICK, **changes):
    """Return a record of each notebook with the parameters and a training time of 60 seconds."""
    return [make_record(method=settings.method, distill=DISTILL[name], density=settings.density,
                        settings=asdict(settings), epochs=settings.epochs,
                        **{"seconds": 60.0} | changes)
            for name, settings in settings_of(parameters).items()]


def test_the_time_is_the_sum_of_the_reference_runs():
    lines = opening_lines(settings_of(QUICK), Path("results"), reference_runs(threads=2))
    assert lines == [
        "Profile quick: all-MiniLM-L6-v2 on synthetic, 2,000 training questions, 3 of 3 notebooks",
        "Time: training took about 3 minutes on two cores of a CPU in the reference runs. "
        "Evaluation adds to it.",
        "Results: results/",
        "BERT-base on SQuAD: smp run --profile squad (needs a GPU and a network)"]


@pytest.mark.parametrize("runs, shown", [
    (reference_runs(), "about 3 minutes on a CPU in"),  # threads were not recorded
    (reference_runs(threads=1), "about 3 minutes on one core of a CPU in"),
    (reference_runs(seconds=1.0), "about 1 minute on a CPU in"),
    (reference_runs(seconds=3600.0), "about 3.0 hours on a CPU in"),
    (reference_runs(device="cuda"), "about 3 minutes on cuda in"),
])
def test_the_time_line_names_the_device(runs, shown):
    assert shown in opening_lines(settings_of(QUICK), Path("results"), runs)[1]


@pytest.mark.parametrize("reference", [
    [], reference_runs()[:2], reference_runs(QUICK | {"N_TRAIN": 32}),
    reference_runs({"PROFILE": "laptop"}), reference_runs(data="squad"),
])
def test_there_is_no_time_without_the_same_runs(reference):
    lines = opening_lines(settings_of(QUICK), Path("results"), reference)
    assert len(lines) == 3 and not any("minute" in line for line in lines)


def test_a_run_of_bert_on_squad_has_no_line_about_it():
    lines = opening_lines(settings_of({"PROFILE": "squad"}), Path("results"), [])
    assert lines == ["Profile squad: bert-base-uncased on rajpurkar/squad, all training questions, "
                     "3 of 3 notebooks", "Results: results/"]


def test_notebook_settings_contain_those_in_set():
    chosen = notebook_settings("smp", QUICK | {"N_TRAIN": 32, "RESULTS": "x",
                                               "SET": {"batch_size": 4}})
    assert (chosen.n_train, chosen.batch_size, chosen.stage) == (32, 4, "smp")


@pytest.mark.parametrize("change", [
    {"profile": "laptop"}, {"density": 0.3}, {"model_sha": "cccc"}, {"data_sha": "cccc"},
    {"n_train": 32}, {"n_eval": 16}, {"epochs": 3}, {"distill": "none"}, {"method": "smp-s"},
    {"settings": {"learning_rate": 1.0}},
])
def test_another_run_has_no_expected_em(change):
    assert expected_em(make_record(), [make_record(**change)]) is None


def test_expected_em_is_of_the_same_seed_or_the_mean():
    reference = [make_record(seed=seed, em=em) for seed, em in ((0, 0.5), (1, 0.6), (2, 0.8))]
    assert expected_em(make_record(), reference) == 0.5
    assert expected_em(make_record(seed=7), reference) == pytest.approx(1.9 / 3)


def test_a_difference_within_noise_has_no_remark():
    reference = [make_record(em=0.5, n_eval=400)]
    assert expected_text(make_record(em=0.45, n_eval=400), reference) == ", expected 0.500"
    assert expected_text(make_record(em=0.4, n_eval=400), reference) == (
        ", expected 0.500 (difference -0.100, sampling error ±0.069)")
    assert expected_text(make_record(em=0.4), []) == ""


def test_a_run_ends_with_five_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [make_record(method="fine-tuned", em=0.92),
            make_record(distill="none", density=0.1, em=0.37), make_record(em=0.88)]
    results = tmp_path / "results"
    name = runs[-1]["name"]
    lines = closing_lines(runs, [runs[0]], results, results / "executed/quick")
    assert lines == [
        "fine-tuned  EM 0.920 at 100% remaining weights, expected 0.920",
        "SMP-L       EM 0.370 at 10% remaining weights",
        "SMP-L + KD  EM 0.880 at 50% remaining weights",
        "results/ contains records (*.json), summary.md, models/ and the executed notebooks "
        "(executed/quick/).",
        "Next: smp table; smp run --profile quick --density 0.3; smp ask --model "
        f'results/models/{name} --passage FILE --question "..."']
    assert closing_lines([], [], results, results / "executed/quick")[1:] == ["Next: smp table"]


def test_a_damaged_reference_gives_no_records(tmp_path):
    assert read_reference(tmp_path / "none") == []
    record = make_record()
    (tmp_path / f"{record['name']}.json").write_text(record_json(record))
    assert [one["name"] for one in read_reference(tmp_path)] == [record["name"]]
    (tmp_path / "damaged.json").write_text("{")
    assert read_reference(tmp_path) == []


def test_notebooks_are_in_the_clone_or_in_the_package(tmp_path):
    with pytest.raises(ValueError, match="install the package again"):
        notebook_path("smp", tmp_path)
    for name in ("smp/notebooks/BERT_SMP.ipynb", "BERT_FINETUNE_QA.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        if name.startswith("smp"):
            assert notebook_path("smp", tmp_path) == tmp_path / name
    with pytest.raises(ValueError, match="make notebooks"):
        notebook_path("smp", tmp_path)
