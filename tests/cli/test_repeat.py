"""`smp repeat`: the settings of a record, and the same training again."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from transformers import BertForQuestionAnswering

from helpers import tiny_config
from records import make_record
from smp.cli.main import main
from smp.cli.repeat import recorded_settings
from smp.data.reading import data_fingerprint, load_squad
from smp.data.synthetic import make_synthetic_squad
from smp.model.save import model_fingerprint
from smp.model.student import load_student
from smp.runs.grouping import with_defaults
from smp.runs.read import read_records
from smp.runs.record import write_record
from smp.runs.settings import choose_settings

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("results/reference", "results/reference/sweep", "results/reference/tried")


@pytest.mark.parametrize("folder", FOLDERS)
def test_settings_equal_those_of_the_committed_record(folder):
    records = read_records(ROOT / folder)
    assert records
    for record in records:
        path = ROOT / folder / f"{record['name']}.json"
        if record["variant"]:
            with pytest.raises(ValueError, match=f"variant {record['variant']} is not in the pack"):
                recorded_settings(path, model=None, data=None)
            continue
        read, settings = recorded_settings(path, model=None, data=None)
        assert read == record
        found = asdict(settings)
        if record["data"] == "squad":
            assert found["data"] == "rajpurkar/squad"  # the Hub name
        for name in ("model", "data"):
            found[name] = found[name].split("/")[-1]
        assert found == with_defaults(record["settings"])


def test_embedded_weights_and_questions_have_the_recorded_sha():
    """A committed record of them can therefore be repeated on any machine."""
    records = [r for r in read_records(ROOT / FOLDERS[0]) if r["data"] == "synthetic"]
    assert records and {r["model"] for r in records} == {"all-MiniLM-L6-v2"}
    assert {r["model_sha"] for r in records} == {
        model_fingerprint(load_student("all-MiniLM-L6-v2")[0])}
    for record in records:
        data = load_squad("synthetic", *(
            record["settings"][name] for name in ("n_train", "n_valid", "n_eval")))
        assert data_fingerprint(data["eval"]) == record["data_sha"]
        assert data_fingerprint(data["train"]) == record["train_sha"]


def test_given_paths_replace_those_of_the_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = asdict(choose_settings("quick", "smp", model="mine", data="squad"))
    path = write_record(make_record(settings=settings, distill="none"), tmp_path / "results")
    Path("q.json").touch()
    Path("encoder").mkdir()
    _, settings = recorded_settings(path, model=None, data=None)
    assert (settings.model, settings.data) == ("mine", "rajpurkar/squad")
    _, settings = recorded_settings(path, model="encoder", data="q.json")
    assert (settings.model, settings.data) == (str(tmp_path / "encoder"), str(tmp_path / "q.json"))
    with pytest.raises(ValueError, match="^--data other.json: no such file or folder$"):
        recorded_settings(path, model=None, data="other.json")


def changed(**changes):
    return lambda record: json.dumps(record | changes)


def with_settings(**changes):
    return lambda record: json.dumps(record | {"settings": record["settings"] | changes})


@pytest.mark.parametrize("content, message", [
    (None, "record.json: no such file; expected a record, a .json file"),
    ("", "is not a result record: Expecting value"),
    ("\0\xff", "is not a result record: "),
    ("[" * 100_000, "is not a result record: maximum recursion depth exceeded"),
    ("[]", "is not a result record: a record is expected to be a JSON object, not list"),
    ('{"em": 0.5}', "is not a result record: missing schema, name, "),
    (changed(schema=1), "is not a result record: schema is 1, expected 2"),
    (changed(variant="norm-kept"), "variant norm-kept is not in the package; see experiments/"),
    (with_settings(gone=1), "its settings do not match this version: "),
    (changed(settings={"distill": "none"}), "its settings do not match this version: "),
    (with_settings(model=["a"]), "model is ['a']: expected a name or a path, as text"),
    (with_settings(density=2.0), "density is 2.0: expected a number above 0 and at most 1"),
    (with_settings(method="gone"), "method is 'gone': expected one of smp-l, "),
])
def test_an_invalid_record_prints_one_line(content, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "record.json"
    if callable(content):
        record = make_record(settings=asdict(choose_settings("quick", "smp")), distill="none")
        content = content(record)
    if content is not None:
        path.write_text(content, "utf-8")
    assert main(["repeat", str(path)]) == 2
    shown = capfd.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and shown.err.startswith("repeat: ")
    assert message in shown.err
    assert sorted(tmp_path.iterdir()) == [path] * (content is not None)


# A small training and its repetition


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer):
    """Return (folder with encoder, questions and results, {label: its record}) of a sweep."""
    folder = tmp_path_factory.mktemp("trained")
    for seed, name in enumerate(("tiny", "another")):
        torch.manual_seed(seed)
        model = BertForQuestionAnswering(tiny_config(max_position_embeddings=192))
        model.bert.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name, size in (("mine", 150), ("longer", 300)):
        (folder / f"{name}.json").write_text(json.dumps(make_synthetic_squad("train", size)))
    assert main([
        "sweep", f"--model={folder / 'tiny'}", f"--data={folder / 'mine.json'}", "--n-train=24",
        "--n-valid=0", "--n-eval=8", f"--results={folder / 'results'}", "--densities", "0.5",
        "--learning-rate=0.03", "--methods", "fine-tuned", "smp-s", "smp-s+kd"]) == 0
    return folder, {record["label"]: record for record in read_records(folder / "results")}


def repeat(trained, label, results, *more, model="tiny", data="mine.json"):
    folder, records = trained
    return main(["repeat", str(folder / "results" / f"{records[label]['name']}.json"),
                 f"--model={folder / model}", f"--data={folder / data}", f"--results={results}",
                 *more])


SAME = "name settings em f1 exact_matches layers steps head params_total train_sha".split()


@pytest.mark.parametrize("label", ["fine-tuned", "SMP-S", "SMP-S + KD"])
def test_a_repeated_run_equals_its_record(label, trained, tmp_path, capfd):
    before, results = trained[1][label], tmp_path / "results"
    if before["teacher"]:
        shutil.copytree(trained[0] / "results/models", results / "models")
    capfd.readouterr()
    assert repeat(trained, label, results) == 0
    (now,) = read_records(results)
    assert {name: now[name] for name in SAME} == {name: before[name] for name in SAME}
    assert now["history"]["loss"] == before["history"]["loss"]
    assert now["teacher"] and now["teacher"]["sha"] == before["teacher"]["sha"] \
        if before["teacher"] else now["teacher"] is None
    shown = [line for line in capfd.readouterr().out.splitlines() if line[:7].strip() in (
        "record", "now", "teacher")]
    score = f"EM {now['em']:.3f}  F1 {now['f1']:.3f}  density {now['density']:.1%}"
    device = f"{now['device']} {now['precision']}"
    assert shown == [f"record  {score}  {device}", f"now     {score}  {device}"]


def test_the_note_of_a_record_permits_other_questions(trained, tmp_path, capfd):
    """It is copied to the new record if the training questions are the same."""
    folder, records = trained
    note = "The ids are stand-ins."
    path = write_record(records["SMP-S"] | {"data_note": note}, tmp_path)
    for data, kept, lines in (("mine", note, 0), ("longer", None, 2)):
        results = tmp_path / data
        assert main(["repeat", str(path), f"--model={folder / 'tiny'}", f"--results={results}",
                     f"--data={folder / data}.json"]) == 0
        (now,) = read_records(results)
        assert now.get("data_note") == kept
        printed = capfd.readouterr().out
        assert printed.count(f"differ from the record's, which has a note: {note}\n") == lines
    assert main(["repeat", str(path), f"--model={folder / 'another'}",
                 f"--data={folder / 'mine.json'}", f"--results={tmp_path / 'none'}"]) == 2


def test_another_teacher_than_the_recorded_one_is_printed(trained, tmp_path, capfd):
    folder, records = trained
    models = tmp_path / "results/models"
    shutil.copytree(folder / "results/models", models)
    own = models / records["fine-tuned"]["name"]
    newer = shutil.copytree(own, models / "tiny_mine_fine-tuned_seed1_000000")
    other, tokenizer, _ = load_student(str(folder / "tiny"))
    other.save_pretrained(newer)
    (newer / "record.json").touch()  # newest
    assert repeat(trained, "SMP-S + KD", tmp_path / "results") == 0
    (now,) = read_records(tmp_path / "results")
    assert now["teacher"]["name"] == own.name and "teacher: " not in capfd.readouterr().out
    assert repeat(trained, "SMP-S + KD", tmp_path / "other", f"--teacher={newer}") == 0
    (now,) = read_records(tmp_path / "other")
    assert now["teacher"]["name"] == newer.name
    printed = capfd.readouterr().out
    assert f"teacher: {newer.name}, which is not the record's teacher" in printed


@pytest.mark.parametrize("places, message", [
    (dict(data="longer.json"), "the training questions of …longer.json differ from the record's: "
                               "set --data to the data of the record"),
    (dict(model="another"), "the weights of …another differ from the record's: set --model to "
                            "the model of the record"),
])
def test_other_questions_or_weights_print_one_line(places, message, trained, tmp_path, capfd):
    capfd.readouterr()
    assert repeat(trained, "SMP-S", tmp_path / "results", **places) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    before, after = message.split("…")
    assert line.startswith(f"repeat: {before}") and line.endswith(after)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("given", ["model", "data"])
def test_a_missing_path_prints_one_line(given, trained, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    folder, records = trained
    place = {"model": folder / "tiny", "data": folder / "mine.json"}[given]
    capfd.readouterr()
    assert main(["repeat", str(folder / "results" / f"{records['SMP-S']['name']}.json"),
                 f"--{given}={place}", "--results=results"]) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    missing = {"model": "mine: not an existing file or folder",
               "data": "model 'tiny' is neither a complete local folder nor reachable"}[given]
    assert line.startswith(f"repeat: {missing}") and not list(tmp_path.iterdir())
