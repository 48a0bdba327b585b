"""Records, their names and the tables computed from them."""

import copy
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from records import make_record
from smp.cli import table as table_module
from smp.data.reading import data_fingerprint, load_squad
from smp.files import results_folder
from smp.runs.curves import plot_records
from smp.runs.grouping import group_records
from smp.runs.methods import METHODS
from smp.runs.published import PUBLISHED, whole_model_share
from smp.runs.read import read_records
from smp.runs.record import RECORD_FIELDS, check_record, run_name, thin_history, write_record
from smp.runs.run import begin_record, finish_record, git_output, provenance
from smp.runs.settings import choose_settings
from smp.runs.summary import (
    between_markers,
    readme_markdown,
    summary_markdown,
    write_readme,
    write_summary,
)
from smp.runs.sweep_curves import plot_sweep, sweep_markdown
from smp.text import as_percent


def table_rows(text):
    return [[cell.strip() for cell in line.strip("|").split(" | ")]
            for line in text.splitlines() if line.startswith("| ")]


def run_tables(records):
    """Return the tables of runs, without those of EM retained and published numbers."""
    return [table for table in summary_markdown(records).split("### ") if "| Schedule" in table]


# Records


def test_a_written_record_reads_equal(tmp_path):
    record = make_record(exact_matches="0f" * 126, n_eval=1001, variant="norm-kept")
    path = write_record(record, tmp_path / "results")
    assert path == tmp_path / "results" / f"{record['name']}.json"
    assert read_records(path.parent) == [record]
    assert list(read_records(path.parent)[0]) == RECORD_FIELDS


MASKED = [{"layer": 0, "matrix": "query", "kept": 3, "total": 30}]


@pytest.mark.parametrize("stage, changes, layers, label", [
    ("fine-tune", {}, [], "fine-tuned"), ("smp", {"method": "smp-s"}, MASKED, "SMP-S"),
    ("smp", {"method": "movement-s", "bias_norm_learning_rate": 0.1}, MASKED, "movement-S"),
    ("smp-kd", {"distill": "hidden", "bias_norm_learning_rate": 0.1, "data": "/a/dev.json"}, MASKED,
     "SMP-L + KD + hidden states + biases, LayerNorms"),
])
def test_a_begun_and_finished_record_has_every_field(tmp_path, stage, changes, layers, label):
    settings = choose_settings("quick", stage, seed=3, **changes)
    teacher = {"name": "t", "em": 0.6, "sha": "d"} if stage == "smp-kd" else None
    begun = begin_record(settings, "a", "b", "c", teacher, variant="norm-kept")
    run = {"history": make_record()["history"], "steps": 2, "seconds": 1.5, "device": "cpu",
           "precision": "fp32", "threads": 1, "zeros": "skipped"}
    scores = {"em": 0.5, "f1": 0.6, "exact_matches": "f0", "ms_per_question": 2.5}
    record = finish_record(begun, run, scores, 100, layers, head="trained", n_train=9, n_eval=8)
    assert record.keys() == {*RECORD_FIELDS, "zeros"} and begun["name"] == run_name(record)
    write_record(record, tmp_path)
    (again,) = read_records(tmp_path)
    shown = [again[name] for name in ("label", "method", "seed", "train_sha", "variant", "threads")]
    assert shown == [label, settings.method, 3, "c", "norm-kept", 1]
    assert again["data"] == again["settings"]["data"] == ("dev" if "data" in changes
                                                          else "synthetic")
    assert (again["density"], again["remaining_of_model"]) == ((0.1, 0.73) if layers else (1, 1))
    assert again["exact_matches"] == "f0" and again["teacher"] == teacher


def test_the_file_has_one_line_per_field(tmp_path):
    text = write_record(make_record(), tmp_path).read_text()
    assert text.endswith("}\n") and '\n "em": 0.4804,\n' in text
    assert '\n  {"layer": 0, "matrix": "query", "kept": 73728, "total": 147456}\n' in text
    assert '\n  "loss": [5.1, 4.9],\n' in text


def test_numpy_numbers_become_plain_ones(tmp_path):
    record = make_record()
    record["em"], record["n_eval"] = np.float32(0.5), np.int64(1000)
    record["history"]["loss"] = np.array([1.0, 2.0])
    path = write_record(record, tmp_path)
    assert json.loads(path.read_text())["history"]["loss"] == [1.0, 2.0]
    assert read_records(tmp_path)[0]["em"] == 0.5


def test_a_rerun_replaces_its_own_record_and_no_other(tmp_path):
    write_record(make_record(em=0.1), tmp_path)
    write_record(make_record(seed=1, em=0.2), tmp_path)
    write_record(make_record(em=0.3), tmp_path)
    assert [record["em"] for record in read_records(tmp_path)] == [0.3, 0.2]


def test_a_failed_write_leaves_the_old_file_only(tmp_path, monkeypatch):
    path = write_record(make_record(em=0.1), tmp_path)
    before = path.read_bytes()
    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            def fail(*_):
                raise OSError("disk full")
            patch.setattr(os, function, fail)
            with pytest.raises(OSError, match="disk full"):
                write_record(make_record(em=0.9), tmp_path)
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("field, value, message", [
    ("em", float("nan"), "em is nan"),
    ("f1", 81.0, r"f1 is 81.0, expected a fraction in \[0, 1\]"),
    ("density", True, "density is True"),
    ("seconds", float("inf"), "seconds is inf"),
    ("history", {"loss": [1.0, float("nan")]}, r"history.loss\[1\] is nan"),
    ("settings", {"path": object()}, "settings.path is of type object"),
    ("schema", 1, "schema is 1, expected 2"),
    ("method", "", "method is '', expected text"),
    ("method", None, "method is None, expected text"),
    ("label", "SMP\n-L", r"label is .*, expected a name, without < ` \$ \\ or line breaks"),
    ("variant", "", "variant is '', expected null or a name"),
    ("head", None, "head is None, expected text"),
    ("n_eval", None, "n_eval is None"),
    ("model_sha", None, "model_sha is None"),
    ("train_sha", 7, "train_sha is 7, expected null or text"),
    ("density_target", 1.5, r"density_target is 1.5, expected in \[0, 1\]"),
    ("teacher", {"name": "one"}, "teacher is .*, expected null, or a name, without"),
    ("settings", {}, "settings is {}, expected distill to be one of none, logits, hidden"),
    ("settings", {"distill": "kd"}, "settings is {'distill': 'kd'}, expected distill to be"),
    ("settings", {"method": [], "distill": "none"}, "settings is .*, expected method to be a name"),
    ("exact_matches", "f" * 248, "exact_matches is .*, expected null, or a bit for each"),
    ("exact_matches", "g" * 250, "exact_matches is .*, expected null, or a bit for each"),
    ("exact_matches", 250 * [1], "exact_matches is .*, expected null, or a bit for each"),
    ("train_sha", 7, "train_sha is 7, expected null or text"),
    ("data_note", ["guessed"], "data_note is .'guessed'., expected null or text, without < or"),
    ("data_note", "guessed\n### Table", r"data_note is 'guessed\\n### Table', expected null or"),
    ("data_note", "<script>", "data_note is '<script>', expected null or text"),
    ("name", "../../escape", "expected a safe file name"),
    ("name", 9999 * "a", "name is 'aaaa.*, expected a safe file name"),
    ("layers", [{"layer": 0}], "layers is expected"),
    ("density", 0.4, "density is 0.4, but layers keep 73728 of 147456"),
])
def test_an_impossible_record_raises_a_one_line_error(tmp_path, field, value, message):
    with pytest.raises(ValueError, match=message) as error:
        write_record(make_record() | {field: value}, tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("field", RECORD_FIELDS)
def test_a_missing_field_raises(tmp_path, field):
    record = make_record()
    del record[field]
    with pytest.raises(ValueError, match=f"missing {field}"):
        write_record(record, tmp_path)


@pytest.mark.parametrize("text", ["{\"em\": 0.5,", "[1, 2]", "{\"em\": 0.5}", "\xff"])
def test_a_damaged_file_raises_one_line_with_its_name(tmp_path, text):
    write_record(make_record(), tmp_path)
    (tmp_path / "broken.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="^broken.json is not a result record") as error:
        read_records(tmp_path)
    assert "\n" not in str(error.value) and "move the file away" in str(error.value)


def test_a_record_with_few_settings_is_in_the_tables(tmp_path):
    write_record(make_record() | {"settings": {"distill": "logits"}}, tmp_path)
    for markdown in (summary_markdown, sweep_markdown):
        assert "| SMP-L + KD " in markdown(read_records(tmp_path))


def test_a_copied_record_raises(tmp_path):
    path = write_record(make_record(), tmp_path)
    shutil.copy(path, tmp_path / "copy.json")
    with pytest.raises(ValueError, match=r"copy.json.*is a copy"):
        read_records(tmp_path)


def test_bench_json_and_subfolders_are_not_read(tmp_path):
    (tmp_path / "bench.json").write_text("[]")
    (tmp_path / "executed").mkdir()
    (tmp_path / "executed" / "x.json").write_text("[]")
    assert read_records(tmp_path) == [] == read_records(tmp_path / "nowhere")


# Names


def test_run_name_depends_on_settings_model_data_and_teacher():
    record = make_record()
    name = run_name(record)
    assert name.startswith("all-MiniLM-L6-v2_synthetic_smp-l-kd_0.50_seed0_")
    assert run_name(copy.deepcopy(record) | {"em": 0.9, "seconds": 1, "commit": "c"}) == name
    assert run_name(record | {"settings": dict(reversed(record["settings"].items()))}) == name
    others = [
        {"settings": record["settings"] | {"learning_rate": 1}}, {"model_sha": "x"},
        {"settings": record["settings"] | {"optim": "adamw_hf"}},
        {"data_sha": "x"}, {"method": "smp-s"}, {"variant": "norm-kept"}, {"profile": "paper"},
        {"teacher": {"name": "another", "em": 0.6}},
    ]
    assert len({name, *(run_name(record | other) for other in others)}) == 1 + len(others)
    dense = make_record(method="fine-tuned", model="/home/me/my model/", data="../a/dev v1.json.xz")
    assert dense["name"].startswith("my-model_dev-v1_fine-tuned_seed0_")
    assert "_0.005_" in run_name(record | {"density_target": 0.005})
    for newer in ("n_validations", "optim"):  # a default that older records lack
        older = {key: value for key, value in record["settings"].items() if key != newer}
        assert run_name(record | {"settings": older}) == name


def test_a_thinned_history_keeps_the_mean_loss():
    n = 1003
    history = {"step": list(range(1, n + 1)), "loss": list(np.random.default_rng(0).random(n)),
               "density": list(np.linspace(1, 0.1, n)), "lambda": [1.0] * n,
               "valid_step": [n], "valid_em": [0.1], "valid_f1": [0.2]}
    thin = thin_history(history, most=100)
    assert len(thin["step"]) <= 100 and thin["step"][-1] == n and thin["valid_em"] == [0.1]
    assert thin["loss"][0] == pytest.approx(np.mean(history["loss"][:11]))
    sizes = np.diff([0, *thin["step"]])
    assert np.average(thin["loss"], weights=sizes) == pytest.approx(np.mean(history["loss"]))
    assert thin["density"][-1] == pytest.approx(0.1)
    assert thin_history(history, most=n) == history


# The tables


def test_numbers_of_the_table_equal_those_of_the_records():
    record = make_record(density=0.1, em=0.2784, f1=0.3846, ms_per_question=12.345)
    rows = table_rows(summary_markdown([record]))
    assert rows[0] == [
        "Model", "Remaining Weights", "Model Size", "Accuracy (EM)", "F1", "EM retained",
        "Size on disk", "ms per question", "Schedule", "Training time"]
    left = record["remaining_of_model"] * record["params_total"]
    assert rows[2] == [
        "SMP-L + KD", f"10% ({100 * record['remaining_of_model']:.3g}% of the model)",
        f"{left / 1e6:.1f}M of 22.6M", "0.278", "0.385", "—", "1.33 MB", "12.3",
        "2 epochs, 372 steps, seed 0",
        f"{record['seconds'] / 60:.0f} min, {record['device']} {record['precision']}",
    ]
    dense = [make_record("fine-tuned", em=em, settings={"epochs": epochs})
             for em, epochs in ((0.5, 1), (0.6, 9))]  # the second, the better one, counts
    (table,) = run_tables([record, *dense])
    retained = [row[5] for row in table_rows(table)[2:5]]
    halves = [100 * 1.96 * ((em * (1 - em) + 0.6 * 0.4) / 1000) ** 0.5 / 0.6
              for em in (0.2784, 0.5)]
    assert sorted(retained) == ["100.0%", f"46.4% ± {halves[0]:.1f}", f"83.3% ± {halves[1]:.1f}"]


def test_size_and_time_that_were_not_measured_are_marked():
    old = make_record("fine-tuned")  # as in records from before both were measured
    assert old["bytes_model"] is old["ms_per_question"] is None
    whole = make_record("fine-tuned", bytes_model=90_261_808, ms_per_question=4)
    trained = make_record("movement", bytes_model=8e7, seed=3)
    several = [make_record(seed=seed, bytes_mask_file=size, ms_per_question=ms)
               for seed, size, ms in ((0, 10**6, 2.0), (1, 2 * 10**6, 4.0))]
    for records, cells in (
        ([old], ["not measured", "not measured"]), ([whole], ["90.26 MB", "4.0"]),
        ([trained], ["80.00 MB", "not measured"]), (several, ["1.50 MB", "3.0"]),
        ([*several, make_record(seed=2)], ["1.44 MB", "not measured"]),
    ):
        assert table_rows(summary_markdown(records))[2][6:8] == cells
    for wrong in (-1, "4", True, float("inf")):
        for field in ("bytes_model", "ms_per_question", "bytes_mask_file", "threads"):
            with pytest.raises(ValueError, match=field):
                check_record(make_record(**{field: wrong}))


def test_each_table_has_one_note_on_its_data():
    note = "The ids are stand-ins."
    records = [make_record(seed=seed, density=density, data_note=note, data_sha=data)
               for seed, density, data in ((0, 0.5, "a"), (1, 0.5, "a"), (0, 0.1, "a"))]
    others = [make_record(data_sha="b"), make_record(data_sha="b", seed=1, data_note=None)]
    noted, plain = run_tables(records + others)
    assert noted.count(f"\n\nData: {note}\n") == 1 and "Data:" not in plain
    assert sweep_markdown(records + others).count(f"\n\nData: {note}\n") == 1
    assert "Data:" not in sweep_markdown(others)


def test_records_on_squad_have_a_note_on_its_train_file():
    records = [record for folder in ("", "sweep", "tried", "tried/fp32", "tried/one_thread",
                                     "tried/one_epoch")
               for record in read_records(REFERENCE / folder)]
    assert len(records) == sum(path.name != "bench.json" for path in REFERENCE.rglob("*.json"))
    for record in records:
        assert record["train_sha"], record["name"]
        assert ("stand-ins" in record.get("data_note", "")) == ("squad" in record["data"])


def test_rows_are_sorted_by_method_and_falling_density():
    records = [make_record(density=0.1), make_record(density=0.5), make_record("smp-s"),
               make_record(distill="none", density=0.03), make_record(distill="none", density=0.1),
               make_record(distill="hidden"), make_record("fine-tuned"),
               *(make_record(method, "none") for method in reversed(METHODS))]
    (table,) = run_tables(records)
    assert [(row[0], row[1].split()[0]) for row in table_rows(table)[2:]] == [
        ("fine-tuned", "100%"),
        ("SMP-L", "50%"), ("SMP-L", "10%"), ("SMP-L", "3%"), ("SMP-L + KD", "50%"),
        ("SMP-L + KD", "10%"), ("SMP-L + KD + hidden states", "50%"),
        ("SMP-S", "50%"), ("SMP-S + KD", "50%"), ("magnitude", "50%"), ("movement", "50%"),
        ("movement-S", "50%"), ("soft movement", "50%"),
    ]


def removed_method(**changes):
    """Return a record of a method that is not in METHODS."""
    record = make_record("magnitude", "none", **changes) | {"method": "lottery", "label": "lottery"}
    record["settings"] = record["settings"] | {"method": "lottery"}
    return record | {"name": run_name(record)}


def test_a_removed_method_is_the_last_in_tables(tmp_path):
    for record in (removed_method(em=0.3), make_record("soft-movement", "none", em=0.2),
                   make_record("fine-tuned", em=0.6)):
        write_record(record, tmp_path)
    records = read_records(tmp_path)
    labels = [record["label"] for record in records]
    assert labels == ["fine-tuned", "soft movement", "lottery"]
    (table,) = run_tables(records)
    assert table_rows(table)[-1][0] == "lottery" and table_rows(table)[-1][5].startswith("50.0%")
    assert [model for _, model in retained_table(records)][:2] == labels[1:]
    assert "| lottery " in sweep_markdown(records)
    for plot in (plot_records, plot_sweep):
        legend = plot(records).legends[0]
        assert any(text.get_text().startswith("lottery") for text in legend.get_texts())


@pytest.mark.parametrize("field", ["model", "model_sha", "data", "data_sha", "n_eval", "n_train"])
def test_different_groups_never_share_a_table(field):
    other = {field: 7 if field in ("n_eval", "n_train") else "other"}
    tables = run_tables([make_record(em=0.111), make_record(em=0.222, **other)])
    assert len(tables) == 2
    assert sorted("0.111" in table for table in tables) == [False, True]
    assert sorted("0.222" in table for table in tables) == [False, True]


def test_em_retained_requires_equal_numbers_of_questions():
    records = [make_record(method, em=em, n_train=n_train)
               for n_train, dense, pruned in ((9_000, 0.5, 0.4), (87_599, 0.7, 0.6))
               for method, em in (("fine-tuned", dense), ("smp-l", pruned))]
    large, small = run_tables(records)  # most questions first, by number and not by digits
    assert "9,000 training questions, 1,000 evaluation questions" in small
    assert "87,599 training questions" in large
    assert [row[5].split(" ±")[0] for row in table_rows(small)[2:4]] == ["100.0%", "80.0%"]
    assert [row[5].split(" ±")[0] for row in table_rows(large)[2:4]] == ["100.0%", "85.7%"]


def retained_table(records):
    """Return {(encoder and questions, model): {density: cell}} of the table of EM retained."""
    text = summary_markdown(records).split("### ")[1]
    if not text.startswith("EM retained at each share"):
        return {}
    (_, _, *densities), _, *rows = table_rows(text)
    where, table = "", {}
    for place, model, *cells in rows:
        where = place or where
        table[where, model] = dict(zip(densities, cells, strict=True))
    return table


def test_the_summary_shows_the_longest_run_of_method_and_density():
    other = {"regulariser": 7.0}
    soup = {"name": "all-MiniLM-L6-v2_synthetic_fine-tuned_soup", "em": 0.9}
    own = {"name": "all-MiniLM-L6-v2_synthetic_fine-tuned_seed3_0a1b2c", "em": 0.8}
    soft, target = ("soft-movement", "none"), {"density_target": 0.1}
    records = [
        make_record("fine-tuned", em=0.8),
        make_record(em=0.7, teacher=own, steps=5000),
        make_record(em=0.6, epochs=4, teacher=own),
        make_record(em=0.64, epochs=4, settings=other, teacher=own),  # equal length, higher EM
        make_record(em=0.1, epochs=9, dirty=True, teacher=own),
        make_record(em=0.2, density=0.1, seed=0, teacher=own),
        make_record(em=0.4, density=0.1, seed=1, teacher=own),  # the mean of the two
        make_record(em=0.82, density=0.1, teacher=soup),
        make_record(em=0.5, density=0.1, variant="norm-kept", teacher=own),
        make_record(*soft, em=0.7, density=0.9, epochs=9, **target),
        make_record(*soft, em=0.4, density=0.1),
        make_record(*soft, em=0.5, density=0.6, density_target=0.5),
        make_record("magnitude", "none", 0.05, em=0.4, seed=0, **target),
        make_record("magnitude", "none", 0.15, em=0.4, seed=1, **target),
        make_record(distill="none", em=0.3, n_train=7),  # nothing was fine-tuned on as many
    ]
    table = retained_table(records)
    ours = [(model, *cells.values()) for (where, model), cells in table.items()
            if "published" not in where]
    assert ours == [  # at 50%, 10% and 3%
        ("SMP-L + KD", "80.0% ± 4.8", "37.5% ± 17.7 (seeds)", "—"),
        ("SMP-L + KD (uncommitted changes)", "12.5% ± 3.9", "—", "—"),
        ("SMP-L + KD, teacher fine-tuned_soup", "—", "102.5% ± 4.3", "—"),
        ("SMP-L + KD, variant norm-kept", "—", "62.5% ± 5.0", "—"),
        ("magnitude", "—", "50.0% ± 0.0 (seeds) at 10%", "—"),  # one at 5%, one at 15%
        ("soft movement", "62.5% ± 5.0 at 60%", "50.0% ± 4.9", "—"),
    ]
    (paper,) = {where for where, _ in table if "published" in where}
    assert list(table[paper, "SMP-S + KD"].items()) == [
        ("50%", "103.0%"), ("10%", "98.6%"), ("3%", "93.3%")]
    assert retained_table(records[1:]) == retained_table([]) == retained_table(records[:1]) == {}


@pytest.mark.parametrize("field", ["model_sha", "data_sha"])
def test_the_summary_separates_two_models_or_data_of_one_name(field):
    records = [make_record(method, em=em, **{field: sha})
               for sha, dense, pruned in (("a1", 0.5, 0.4), ("b2", 0.4, 0.2))
               for method, em in (("fine-tuned", dense), ("smp-l", pruned))]
    table = retained_table(records)
    ours = {where: cells["50%"].split(" ±")[0] for (where, _), cells in table.items()
            if "published" not in where}
    assert list(ours.values()) == ["80.0%", "50.0%"] and "b2" in list(ours)[1]


def test_different_teachers_never_share_a_row():
    records = [make_record(em=em, teacher={"name": name, "em": em}) for em, name in (
        (0.3, "fine-tuned_soup"), (0.7, "all-MiniLM-L6-v2_synthetic_fine-tuned_soup"))]
    (table,) = run_tables(records)
    assert sorted(row[3] for row in table_rows(table)[2:]) == ["0.300", "0.700"]
    text = summary_markdown([*records, make_record("fine-tuned", em=1)]).split("### ")[1]
    retained = [row[2] for row in table_rows(text)[2:] if "fine-tuned_soup" in row[1]]
    assert sorted(retained) == ["30.0% ± 2.8", "70.0% ± 2.8"]


def test_only_seeds_are_averaged_with_sample_deviation():
    ems = [0.41, 0.44, 0.48]
    records = [make_record(seed=seed, em=em, f1=em + 0.1) for seed, em in enumerate(ems)]
    records.append(make_record(em=0.6, settings={"learning_rate": 1.0}))
    rows = sorted(table_rows(summary_markdown(records))[2:4], key=lambda row: row[3])
    assert rows[0][3] == f"{np.mean(ems):.3f} ± {np.std(ems, ddof=1):.3f}"
    assert rows[0][4] == f"{np.mean(ems) + 0.1:.3f} ± {np.std(ems, ddof=1):.3f}"
    assert rows[0][8].endswith("seeds 0, 1, 2 (3 runs), learning_rate 0.02")
    assert rows[1][3] == "0.600"


def test_rows_of_one_label_show_the_settings_that_differ():
    records = [
        make_record(), make_record(seed=1),
        make_record(settings={"regulariser": 40_000.0, "n_mask_snapshots": 2}),
        make_record(density=0.1, settings={"regulariser": 4000.0, "n_mask_snapshots": 2}),
        make_record("smp-s", density=0.1, settings={"regulariser": 5.0}),
    ]
    shown = [row[8].split("steps, ")[1] for row in table_rows(summary_markdown(records))[2:6]]
    assert sorted(shown[:2]) == [
        "seed 0, regulariser 40000", "seeds 0, 1 (2 runs), regulariser 400"]
    assert shown[2:] == ["seed 0, regulariser 4000", "seed 0"]


def test_teachers_have_separate_rows_but_their_seeds_do_not():
    names = ["_squad_fine-tuned_seed0_0b7711", "_squad_fine-tuned_seed1_a99752", "_squad_soup"]
    names = [f"all-MiniLM-L6-v2{name}" for name in names] + ["bert-large_seed1_0b7711"]
    records = [make_record(teacher={"name": name, "em": None}, seed=seed)
               for seed, name in enumerate(names)]
    shown = [row[8].split("steps, ")[1] for row in table_rows(summary_markdown(records))[2:5]]
    assert shown == ["seeds 0, 1 (2 runs)", "seed 2, teacher all-MiniLM-L6-v2_squad_soup",
                    "seed 3, teacher bert-large"]


def test_movement_s_and_movement_have_separate_rows():
    records = [make_record(method, "none") for method in ("movement-s", "movement")]
    rows = table_rows(summary_markdown(records))[2:4]
    assert [row[0] for row in rows] == ["movement", "movement-S"]
    assert all(row[8].endswith("seed 0") for row in rows)


def test_a_variant_has_a_separate_row():
    records = [make_record(), make_record(variant="norm-kept"), make_record(variant="norm-kept")]
    shown = [row[8].split("steps, ")[1] for row in table_rows(summary_markdown(records))[2:4]]
    assert shown == ["seed 0", "seed 0 (2 runs), variant norm-kept"]


def test_runs_of_uncommitted_code_have_a_separate_row():
    records = [make_record(), make_record(seed=1, dirty=True)]
    labels = {row[0] for row in table_rows(summary_markdown(records))[2:4]}
    assert labels == {"SMP-L + KD", "SMP-L + KD (uncommitted changes)"}


@pytest.mark.parametrize("changes, label", [
    ({"distill": "none"}, "SMP-L"), ({"distill": "hidden"}, "SMP-L + KD + hidden states"),
    ({"settings": {"bias_norm_learning_rate": 0.001}}, "SMP-L + KD + biases, LayerNorms"),
    ({"distill": "hidden", "settings": {"bias_norm_learning_rate": 0.001}},
     "SMP-L + KD + hidden states + biases, LayerNorms"),
])
def test_the_label_contains_distilled_and_trained_parts(changes, label):
    records = [make_record(), make_record(**changes)]
    labels = {row[0] for row in table_rows(summary_markdown(records))[2:4]}
    assert labels == {"SMP-L + KD", label}


def test_different_bias_norm_learning_rates_have_separate_rows():
    records = [make_record(settings={"bias_norm_learning_rate": rate}) for rate in (0.001, 0.003)]
    shown = [row[8].split("steps, ")[1] for row in table_rows(summary_markdown(records))[2:4]]
    assert shown == [f"seed 0, bias_norm_learning_rate {rate}" for rate in (0.001, 0.003)]


def test_the_summary_states_missing_bert_base_runs():
    missing = "BERT-base on SQuAD: not measured yet; `smp run --profile paper`"
    bert = {"model": "google-bert/bert-base-uncased", "data": "rajpurkar/squad"}
    assert missing in summary_markdown([make_record()])
    assert missing not in summary_markdown([make_record(**bert)])
    assert "Nothing was measured yet" in summary_markdown([])


def test_published_numbers_are_marked_and_match_the_paper():
    text = summary_markdown([])
    assert "published, not measured here" in text and "given at the start, not measured" in text
    shares = [whole_model_share(d, PUBLISHED["params_masked"], PUBLISHED["params_total"])
              for d in (0.1, 0.5, 0.03, 1)]
    assert [as_percent(share) for share in shares] == ["30.2%", "61.2%", "24.7%", "100%"]
    rows = table_rows(text)
    assert ["SMP-S + KD", "10% (30.2% of the model)", "33.0M of 109.5M", "0.793", "0.872",
            "98.6%"] in rows
    assert ["SMP + KD", "50%", "~85M", "0.82"] in rows


def test_tables_are_aligned_and_escape_names():
    record = make_record(model="/secret/place/a|b", dirty=True)
    text = summary_markdown([record, make_record("fine-tuned")])
    assert "secret" not in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({len(line) for line in block.splitlines()}) == 1


def test_the_order_of_records_does_not_change_the_tables():
    records = [make_record(seed=seed, density=d) for seed in range(3) for d in (0.1, 0.5)]
    assert summary_markdown(records) == summary_markdown(records[::-1])


def test_rows_are_sorted_by_settings_and_then_by_steps():
    runs = [(400.0, 12), (400.0, 30), (40_000.0, 9), (400_000.0, 5)]
    records = [make_record(settings={"regulariser": regulariser}, steps=steps)
               for regulariser, steps in runs]
    shown = [row[8] for row in table_rows(summary_markdown(records[::-1]))[2:6]]
    assert shown == [f"2 epochs, {steps} steps, seed 0, regulariser {regulariser:g}"
                    for regulariser, steps in runs]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_readme_changes_between_its_markers_only(tmp_path, newline):
    readme, results = tmp_path / "README.md", tmp_path / "results"
    head, tail = "# Title\n\n<!-- results -->", "<!-- /results -->\n\nEnd é\n"
    readme.write_bytes((head + "\nold\n" + tail).replace("\n", newline).encode())
    for record in (make_record(), make_record("fine-tuned")):
        write_record(record, results)
    text = readme_markdown(read_records(results))
    write_readme(results, readme)
    page = readme.read_bytes().decode()
    assert page == f"{head}\n{text}\n{tail}".replace("\n", newline)
    write_readme(results, readme)
    assert readme.read_bytes().decode() == page
    assert not (results / "summary.md").exists()


@pytest.mark.parametrize("page", ["", "<!-- results -->", "<!-- /results --> <!-- results -->",
                                  "<!-- results --> <!-- results --> <!-- /results -->"])
def test_a_readme_without_markers_raises_and_stays_unchanged(tmp_path, page):
    readme = tmp_path / "README.md"
    readme.write_text(page)
    with pytest.raises(ValueError, match="README.md: expected <!-- results -->") as error:
        write_readme(tmp_path, readme)
    assert "\n" not in str(error.value)
    assert readme.read_text() == page and [p.name for p in tmp_path.iterdir()] == ["README.md"]


def test_the_readme_has_one_smp_row_per_density():
    own = {"n_train": 9000}
    records = [
        make_record("fine-tuned", em=0.7, **own), make_record("fine-tuned", em=0.8, steps=9, **own),
        make_record(em=0.5, epochs=4, **own), make_record("smp-s", em=0.6, epochs=4, **own),
        make_record(em=0.7, epochs=2, **own),  # higher EM, fewer epochs
        make_record(em=0.79, epochs=9, variant="norm-kept", **own),
        make_record("movement", em=0.79, epochs=9, **own),
        make_record(distill="none", em=0.2, density=0.1, **own),
        make_record("fine-tuned", em=0.4), make_record(em=0.3),  # fewer questions
        make_record("fine-tuned", em=0.4, n_train=2, model="large", params_total=10**9),
        make_record(em=0.3, n_train=2, model="large", params_total=10**9),
        make_record(em=0.1, n_train=1),  # nothing was fine-tuned on as many
    ]
    large, small = readme_markdown(records).split("**all-MiniLM-L6-v2 on synthetic**: ")
    assert large.startswith("**large on synthetic**: 2 training questions, 1,000 evaluation")
    assert small.startswith("9,000 training questions, 1,000 evaluation questions\n")
    rows = table_rows(small)
    assert rows[0][-1] == "Size on disk" and len(rows[0]) == 7
    assert [(row[0], row[1].split()[0], row[3]) for row in rows[2:]] == [
        ("fine-tuned", "100%", "0.800"), ("SMP-S + KD", "50%", "0.600"), ("SMP-L", "10%", "0.200")]
    assert [row[5] for row in rows[2:]] == ["100.0%", "75.0% ± 4.9", "25.0% ± 4.4"]
    assert [row[0] for row in table_rows(large)[2:]] == ["fine-tuned", "SMP-L + KD"]
    assert readme_markdown(records[::-1]) == readme_markdown(records)


def test_the_readme_without_a_fine_tuned_model_has_no_table():
    assert readme_markdown([]) == readme_markdown([make_record()]) == ""


def test_the_figure_shows_the_group_with_most_questions(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(table_module, "draw_group", lambda records, how, rank, path: drawn.append(
        {record["em"] for record in max(group_records(records), key=rank)}))
    assert "Nothing was measured yet" in table_module.table(tmp_path) and not drawn
    for em, n_train, n_eval in ((0.2, 3_000, 1_000), (0.3, 5_000, 1_000), (0.4, 9_000, 500)):
        counts = {"n_train": n_train, "n_eval": n_eval}
        write_record(make_record(em=em, settings=counts, **counts), tmp_path)
    text = table_module.table(tmp_path)
    assert drawn == [{0.3}] and text == (tmp_path / "summary.md").read_text()
    assert not (tmp_path / "methods.md").exists()


def test_a_folder_with_two_methods_has_a_methods_table(tmp_path):
    for record in (make_record("fine-tuned"), make_record("magnitude"), make_record("movement")):
        write_record(record, tmp_path)
        table_module.table(tmp_path)
        assert (tmp_path / "methods.md").exists() == (record["method"] == "movement")
    assert (tmp_path / "methods.md").read_text() == sweep_markdown(read_records(tmp_path))
    assert {path.name for path in tmp_path.glob("*.png")} == {"summary.png", "methods.png"}


def test_the_summary_of_no_records(tmp_path):
    assert "Nothing was measured yet" in write_summary([], tmp_path / "results")
    assert (tmp_path / "results" / "summary.md").is_file()


# Folder and provenance


def test_results_folder_is_in_the_project_or_the_current_folder(tmp_path, monkeypatch):
    project = tmp_path / "project"
    (project / "Static_Model_Pruning").mkdir(parents=True)
    (project / "BERT_FINETUNE_QA.ipynb").touch()
    assert results_folder(project / "Static_Model_Pruning") == (
        project / "Static_Model_Pruning" / "results"
    )
    (project / "results").mkdir()
    assert results_folder(project) == project / "results"
    assert results_folder(project / "Static_Model_Pruning") == project / "results"
    monkeypatch.chdir(project / "Static_Model_Pruning")
    assert results_folder().resolve() == (project / "results").resolve()
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    monkeypatch.chdir(lonely)
    assert results_folder().resolve() == lonely / "results"
    assert not (lonely / "results").exists()


def git(folder, *arguments):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    clean |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=clean).stdout


@pytest.fixture
def clone(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "clone"
    for name in ("smp/a.py", "results/x.json", "README.md", "BERT_FINETUNE_QA.ipynb", "Makefile"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1")
    git(tmp_path, "init", "-q", str(folder))
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_provenance_of_a_clean_clone(clone):
    here = provenance(clone / "smp")
    assert here["commit"] == git(clone, "rev-parse", "HEAD").strip() and here["dirty"] is False
    packages = {"python", "torch", "transformers", "datasets", "evaluate", "accelerate", "numpy"}
    assert set(here["versions"]) == packages and here["versions"]["numpy"] == np.__version__
    assert provenance(clone / "results" / "not" / "yet")["commit"] == here["commit"]


@pytest.mark.parametrize("name, dirty", [
    ("results/x.json", False), ("README.md", False), ("results/new.json", False),
    ("notes.txt", False), ("smp/a.py", True), ("Makefile", True), ("BERT_FINETUNE_QA.ipynb", True),
    ("smp/new.py", True), ("notebooks/new.py", True), ("tools/new.py", True),
])
def test_dirty_is_true_for_uncommitted_code_only(clone, name, dirty):
    (clone / name).parent.mkdir(exist_ok=True)
    (clone / name).write_text("2")
    assert provenance(clone)["dirty"] is dirty
    assert provenance(clone / "smp")["dirty"] is dirty


def test_a_clone_whose_configuration_names_programs_runs_none(clone):
    program, ran = clone.parent / "program", clone.parent / "ran"
    program.write_text(f"#!/bin/sh\necho $0 $* >> {ran}\ncat\n")
    program.chmod(0o755)
    (clone / ".gitattributes").write_text("*.py filter=evil diff=evil\n")
    git(clone, "add", "-A")
    git(clone, "commit", "-q", "-m", "second")
    for key in ("core.fsmonitor", "core.pager", "filter.evil.clean", "filter.evil.process",
                "diff.evil.command", "diff.external", "core.sshCommand"):
        git(clone, "config", key, str(program))
    git(clone, "config", "filter.evil.required", "true")
    git(clone, "config", "core.hooksPath", str(clone.parent))
    (clone / "smp/a.py").write_text("2")
    here = provenance(clone)
    assert here["dirty"] is True and len(here["commit"]) == 40
    assert not ran.exists()


def test_a_stranger_may_name_a_setting_teacher():
    record = make_record("smp-s")
    for value in (None, 5, [], "x"):
        record["settings"]["teacher"] = value
        assert summary_markdown([record]).count("\n### ") >= 1


def test_a_filter_with_an_equals_sign_in_its_name_runs_nothing(clone):
    """`git -c` ends the name of a setting at its first =, so it cannot switch the filter off."""
    ran = clone.parent / "ran"
    (clone / ".gitattributes").write_text("* filter=a=b\n")
    git(clone, "add", "-A")
    git(clone, "commit", "-q", "-m", "second")
    git(clone, "config", "filter.a=b.clean", f"touch {ran}; cat")
    (clone / "smp/a.py").write_text("2")
    here = provenance(clone)
    assert here["dirty"] is None and len(here["commit"]) == 40
    assert not ran.exists()


def test_commit_is_none_outside_a_clone_and_without_git(clone, tmp_path, monkeypatch):
    nothing = {"commit": None, "dirty": None}
    foreign = tmp_path / "foreign"
    git(tmp_path, "init", "-q", str(foreign))
    (foreign / "BERT_FINETUNE_QA.ipynb").write_text("downloaded, not tracked")
    outside = tmp_path / "outside"
    outside.mkdir()
    # Inside a hook, git uses the hook's repository, which is not this folder's.
    monkeypatch.setenv("GIT_DIR", str(clone / ".git"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for folder in (foreign, outside):
        here = provenance(folder)
        assert {key: here[key] for key in nothing} == nothing
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(
        FileNotFoundError("git")))
    here = provenance(clone)
    assert {key: here[key] for key in nothing} == nothing


# The committed results


ROOT = Path(__file__).parents[2]


REFERENCE = ROOT / "results" / "reference"
COMMITTED = (REFERENCE, REFERENCE / "sweep", REFERENCE / "tried")


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_the_committed_summary_equals_that_of_its_records(folder):
    text = (folder / "summary.md").read_text("utf-8")
    assert text == summary_markdown(read_records(folder)), "run `smp table --reference`"


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_the_committed_methods_table_equals_that_of_its_records(folder):
    records, page = read_records(folder), folder / "methods.md"
    assert page.exists() == (len({record["method"] for record in records} - {"fine-tuned"}) > 1)
    if page.exists():
        assert page.read_text("utf-8") == sweep_markdown(records), "run `smp table --reference`"


def test_the_readme_has_at_most_ten_rows_of_the_reference():
    text = readme_markdown(read_records(REFERENCE))
    page = (ROOT / "README.md").read_text("utf-8")
    assert between_markers(page, text) == page, "run `smp table --reference`"
    tables = text.count("\n| Model ")
    assert 0 < len(table_rows(text)) - 2 * tables <= 10


def test_synthetic_questions_equal_those_of_the_reference():
    records = [record for record in read_records(REFERENCE) if record["data"] == "synthetic"]
    parts = load_squad("synthetic", 2000, 100, 400)
    assert {(record["train_sha"], record["data_sha"]) for record in records} == {
        (data_fingerprint(parts["train"]), data_fingerprint(parts["eval"]))}


def test_committed_records_are_of_committed_code():
    paths = [path for path in sorted(REFERENCE.rglob("*.json")) if path.name != "bench.json"]
    tracked = git_output(ROOT, "ls-files", "--", "results")
    if tracked is None:
        pytest.skip("not a git checkout: nobody knows what is committed")
    changed = git_output(ROOT, "diff", "--name-only", "HEAD", "--", "results").split()
    assert paths
    for path in paths:
        record, name = check_record(json.loads(path.read_text("utf-8"))), path.relative_to(ROOT)
        assert record["name"] == path.stem  # so that names are unique in a folder
        if name.as_posix() in {*tracked.split()} - {*changed}:
            assert record["dirty"] is False and record["commit"], name
