"""A sweep: the grid, finished runs, interruption, and one line for wrong input."""

import re
import shutil

import numpy as np
import pytest
import torch
from transformers import BertForQuestionAnswering, set_seed

from helpers import attach_masks, tiny_config
from smp.cli import grid as grid_module
from smp.cli.grid import Grid
from smp.cli.main import main
from smp.cli.sweep import plan_sweep, read_method
from smp.cli.train import train
from smp.data.reading import load_squad
from smp.data.windows import featurise
from smp.method.schedule import Pruning
from smp.model.predict import evaluate_answers
from smp.model.save import model_bytes, model_fingerprint
from smp.model.student import load_student
from smp.runs import teaching
from smp.runs.methods import METHODS
from smp.runs.read import read_records
from smp.runs.record import check_record, run_name
from smp.task.validate import load_masks


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, tokenizer):
    """Return a folder with a tiny random BERT without a question-answering head."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    BertForQuestionAnswering(tiny_config(max_position_embeddings=192)).bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plan(encoder, methods, densities=(0.5,), seeds=(0,), **changes):
    return plan_sweep("quick", methods, densities, seeds, model=str(encoder), n_train=24,
                      n_valid=0, n_eval=12, n_validations=1, **changes)


def test_a_grid_has_each_method_at_each_density_and_seed(encoder):
    methods = ["smp-l", "smp-s+kd", "soft-movement", "movement-s+hidden", "movement"]
    runs = plan(encoder, methods, (0.5, 0.1), (0, 1))
    assert len(set(runs)) == 20
    assert [(c.seed, c.density, c.method, c.distill, c.stage) for c in runs[:6]] == [
        (0, 0.5, "smp-l", "none", "smp"), (0, 0.5, "smp-s", "logits", "smp-kd"),
        (0, 0.5, "soft-movement", "none", "smp"), (0, 0.5, "movement-s", "hidden", "smp-kd"),
        (0, 0.5, "movement", "none", "smp"), (0, 0.1, "smp-l", "none", "smp")]
    assert {c.data_seed for c in runs} == {0}  # all seeds read the same questions
    assert plan(encoder, ["smp-l", "smp-l"]) == plan(encoder, ["smp-l"])


def test_fine_tuned_runs_come_first_one_for_each_seed(encoder):
    runs = plan(encoder, ["smp-l+kd", "fine-tuned", "smp-l"], (0.5, 0.1), (0, 1))
    assert [(c.seed, c.stage) for c in runs[:2]] == [(0, "fine-tune"), (1, "fine-tune")]
    assert len(runs) == 2 + 8
    without = plan(encoder, ["smp-l+kd", "smp-l"], (0.5, 0.1), (0, 1))
    assert runs[2:] == without


@pytest.mark.parametrize("word", ["smp", "smp-l+", "smp-l+tea", "global", "movement-kd", "",
                                  "fine-tuned+kd"])
def test_an_unknown_method_raises_one_line(word):
    expected = f"method {word!r}: expected fine-tuned or one of {', '.join(METHODS)}, each also"
    with pytest.raises(ValueError, match=re.escape(expected)):
        read_method(word)


def test_a_run_equals_the_calls_of_the_notebook(encoder, tmp_path):
    """Compare masks and scores with those of the notebook's calls, which this test repeats."""
    (settings,) = plan(encoder, ["smp-s"], (0.4,), (3,))
    record = Grid([settings], tmp_path).run(settings)

    set_seed(3)
    model, tokenizer, head = load_student(str(encoder), settings.dropout, settings.max_length)
    data = load_squad("synthetic", 24, 0, 12)
    windows = {part: featurise(data[part], tokenizer, settings.max_length, settings.stride)
               for part in ("train", "eval")}
    masks = attach_masks(model, "shared", start=settings.score_init)
    train(model, windows["train"], tokenizer, settings, Pruning(masks, settings))
    scores, _ = evaluate_answers(model, data["eval"], windows["eval"], tokenizer)
    assert (record["em"], record["f1"], record["head"]) == (scores["em"], scores["f1"], head)
    assert record["layers"] == masks.counts() and record["name"] == run_name(record)
    saved, about = load_masks(tmp_path / "models" / record["name"] / "masks.safetensors")
    assert all(np.array_equal(saved[name], mask) for name, mask in masks.numpy().items())
    assert (about["em"], about["base_sha"]) == (record["em"], record["model_sha"])
    assert about["density"] == 0.4 and read_records(tmp_path) == [check_record(record)]


def arguments(encoder, tmp_path, *more):
    return ["sweep", "--profile", "quick", "--model", str(encoder), "--n-train", "24", "--n-valid",
            "0", "--n-eval", "12", "--results", str(tmp_path), "--densities", "0.5", *more]


def test_a_stopped_sweep_continues_with_the_missing_runs(encoder, tmp_path, monkeypatch, capfd):
    methods = ["--methods", "smp-l", "magnitude", "movement"]
    run, begun = Grid.run, []

    def stop_at_the_second(self, settings):
        begun.append(settings.method)
        if len(begun) == 2:
            monkeypatch.setattr(grid_module, "evaluate_answers", interrupted)
        return run(self, settings)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Grid, "run", stop_at_the_second)
        whole = grid_module.evaluate_answers
        assert main(arguments(encoder, tmp_path, *methods)) == 130
        monkeypatch.setattr(grid_module, "evaluate_answers", whole)
    shown = capfd.readouterr()
    assert "interrupted in tiny_synthetic_magnitude_0.50_seed0" in shown.err
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    assert len(before) == 1 and "smp-l" in next(iter(before))

    assert main(arguments(encoder, tmp_path, *methods)) == 0
    shown = capfd.readouterr()
    (skipped,) = re.findall(r"^\[1/3\] (.+): has a record$", shown.out, re.MULTILINE)
    assert f"{skipped}.json" in before and shown.out.count("has a record") == 1
    records = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    assert len(records) == 3 and before.items() <= records.items()
    for name in ("summary.png", "methods.png"):
        assert (tmp_path / name).stat().st_size > 5000
    table = (tmp_path / "methods.md").read_text()
    assert all(f"| {name} " in table for name in ("SMP-L", "magnitude", "movement"))
    assert table in shown.out
    assert all(f"| {name} " in (tmp_path / "summary.md").read_text()
               for name in ("SMP-L", "magnitude", "movement"))
    assert not list((tmp_path / "checkpoints").glob("*/*"))

    assert main(arguments(encoder, tmp_path, *methods)) == 0
    assert capfd.readouterr().out.count("has a record") == 3


def scores_of(monkeypatch, *scores):
    """Replace the EM of the next evaluations; the first of 400 questions match."""
    waiting, evaluate = list(scores), grid_module.evaluate_answers

    def scored(*arguments):
        real, predictions = evaluate(*arguments)
        em = waiting.pop(0)
        bits = np.packbits(np.arange(400) < 400 * em).tobytes().hex()
        return real | {"em": em, "exact_matches": bits}, predictions

    for module in (grid_module, teaching):
        monkeypatch.setattr(module, "evaluate_answers", scored)


def cells(table):
    """Return {first cell: other cells} of a Markdown table."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()
            if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def test_one_command_trains_teacher_and_students_once(encoder, tmp_path, monkeypatch, capfd):
    """Start in an empty folder; results/ then contains records, models and tables."""
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results"
    command = ["sweep", "--model", str(encoder), "--n-train=24", "--n-valid=0", "--n-eval=400",
               "--densities=0.5", "--methods", "smp-l", "smp-l+kd", "smp-l+hidden", "fine-tuned"]
    scores_of(monkeypatch, 0.5, 0.4, 0.45, 0.475)
    assert main(command) == 0
    printed = capfd.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert {path.name for path in results.iterdir() if path.suffix != ".json"} == {
        "models", "summary.md", "summary.png"}
    dense, plain, kd, hidden = read_records(results)
    assert [r["label"] for r in (dense, plain, kd, hidden)] == [
        "fine-tuned", "SMP-L", "SMP-L + KD", "SMP-L + KD + hidden states"]
    own = BertForQuestionAnswering.from_pretrained(results / "models" / dense["name"])
    teacher = {"name": dense["name"], "em": 0.5, "sha": model_fingerprint(own, with_head=True)}
    assert [r["teacher"] for r in (dense, plain, kd, hidden)] == [None, None, teacher, teacher]
    assert dense["bytes_model"] == model_bytes(results / "models" / dense["name"])
    assert len({str(r["history"]["loss"]) for r in (plain, kd, hidden)}) == 3
    table = cells(printed)
    assert "EM retained" in printed and any(
        row.startswith(f"fine-tuned, {dense['steps']} steps: 0.500 / ") for row in table)
    for record, share in ((plain, "80.0%"), (kd, "90.0%"), (hidden, "95.0%")):
        (cell,) = table[record["label"]]
        assert re.fullmatch(rf"{record['em']:.3f} / [\d.]+, {share} ± [\d.]+", cell)

    def trained(*_, **__):
        raise AssertionError("a finished run was trained again")

    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.*")
              if path.suffix in (".json", ".safetensors")}
    monkeypatch.setattr(Grid, "run", trained)
    assert main(command) == 0
    again = capfd.readouterr().out
    assert again.count("has a record") == 4 and "another teacher" not in again
    assert cells(again) == table
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_the_sweeps_first_fine_tuned_model_is_the_teacher(encoder, tmp_path):
    """Test it also with newer models in results, of other seeds or fewer questions."""
    assert main(arguments(encoder, tmp_path, "--methods", "fine-tuned")) == 0
    (first,) = read_records(tmp_path)
    assert main([*arguments(encoder, tmp_path, "--methods", "fine-tuned"), "--n-train=16"]) == 0
    assert main([*arguments(encoder, tmp_path, "--methods", "smp-l+kd", "fine-tuned"),
                 "--seeds", "0", "1"]) == 0
    students = [r for r in read_records(tmp_path) if r["method"] == "smp-l"]
    assert [r["seed"] for r in students] == [0, 1]
    assert {r["teacher"]["name"] for r in students} == {first["name"]}


def test_a_record_without_its_model_is_no_teacher(encoder, tmp_path, capfd):
    assert main(arguments(encoder, tmp_path, "--methods", "fine-tuned")) == 0
    (record,) = read_records(tmp_path)
    shutil.rmtree(tmp_path / "models" / record["name"])
    capfd.readouterr()
    assert main(arguments(encoder, tmp_path, "--methods", "fine-tuned", "smp-l+kd")) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("sweep: no fine-tuned ") and line.endswith(
        f"remove {record['name']}.json, its record, to train it again")


def test_a_sweep_with_em_0_has_a_table(encoder, tmp_path, monkeypatch, capfd):
    scores_of(monkeypatch, 0.0, 0.0)
    assert main([*arguments(encoder, tmp_path, "--methods", "fine-tuned", "smp-l"),
                 "--n-eval=400"]) == 0
    (cell,) = cells(capfd.readouterr().out)["SMP-L"]
    assert cell.startswith("0.000 / ") and cell.endswith("—")


def test_a_given_setting_equal_to_the_profiles_is_no_change(encoder, tmp_path, capfd):
    """1 in the profile and 1.0 in the command line give the same name of the run."""
    command = arguments(encoder, tmp_path, "--methods", "fine-tuned", "smp-l")
    assert main(command) == 0
    capfd.readouterr()
    first, second = plan(encoder, ["fine-tuned", "smp-l"])
    for more in (["--learning-rate=0.0003", f"--epochs={first.epochs}"],
                 ["--learning-rate=0.02", f"--epochs={second.epochs}", "--score-init=1"]):
        main([*command, *more])
        assert "has a record" in capfd.readouterr().out
    assert len(read_records(tmp_path)) == 4


def test_a_damaged_record_prints_one_line(encoder, tmp_path, capfd):
    methods = ["--methods", "magnitude"]
    assert main(arguments(encoder, tmp_path, *methods)) == 0
    (path,) = tmp_path.glob("*.json")
    path.write_text(path.read_text()[:200])
    capfd.readouterr()
    assert main(arguments(encoder, tmp_path, *methods)) == 2
    shown = capfd.readouterr()
    assert f"sweep: {path.name} is not a result record" in shown.err and shown.err.count("\n") == 1


def test_teacher_logits_are_computed_once_for_all_runs(
    encoder, tmp_path, tokenizer, monkeypatch
):
    teacher = tmp_path / "teacher"
    model, _, _ = load_student(str(encoder))
    model.save_pretrained(teacher)
    tokenizer.save_pretrained(teacher)
    computed, compute = [], grid_module.teacher_logits
    monkeypatch.setattr(grid_module, "teacher_logits",
                        lambda *a, **k: computed.append(1) or compute(*a, **k))
    runs = plan(encoder, ["smp-l+kd", "movement+kd"])
    sweep = Grid(runs, tmp_path, str(teacher))
    records = [sweep.run(run) for run in runs]
    assert len(computed) == 1
    assert [r["label"] for r in records] == ["SMP-L + KD", "movement + KD"]
    assert {r["teacher"]["name"] for r in records} == {"teacher"}
    assert {r["teacher"]["sha"] for r in records} == {
        model_fingerprint(model, with_head=True)}
    plain = Grid(plan(encoder, ["smp-l"]), tmp_path).run(plan(encoder, ["smp-l"])[0])
    assert plain["teacher"] is None
    kept = [record["history"]["loss"] for record in (*records, plain)]
    assert kept[0] != kept[2]  # the teacher's logits were used
    runs = plan(encoder, ["smp-l", "smp-l+hidden"], hidden_distill_weight=1.0,
                init_head_from_teacher=True)
    sweep = Grid(runs, tmp_path, str(teacher))
    plain, following = (sweep.run(run) for run in runs)
    assert len(computed) == 1  # with hidden states the teacher runs on every batch
    assert following["label"] == "SMP-L + KD + hidden states" and following["head"] == "trained"
    plain, following = (record["history"]["loss"] for record in (plain, following))
    assert plain == kept[2] and following not in (kept[0], kept[2])


def test_a_teacher_of_another_shape_raises_before_any_run(
    encoder, tmp_path, tokenizer, capfd
):
    for name, changes, more, line in (
        ("deep", {"num_hidden_layers": 3}, ["smp-l+hidden"],
         "the teacher has 3 layers of size 32 and the student 2 of size 32"),
        ("wide", {"hidden_size": 64}, ["smp-l+kd", "--init-head-from-teacher"],
         "the teacher has no qa_outputs like the student's Linear"),
    ):
        BertForQuestionAnswering(
            tiny_config(max_position_embeddings=192, **changes)
        ).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        command = [*arguments(encoder, tmp_path / "results", "--methods", "smp-l", *more),
                   "--teacher", str(tmp_path / name)]
        assert main(command) == 2
        assert line in capfd.readouterr().err and not (tmp_path / "results").exists()


def test_a_run_done_with_another_teacher_is_reported(
    encoder, tmp_path, tokenizer, capfd
):
    teacher, model = tmp_path / "teacher", load_student(str(encoder))[0]
    tokenizer.save_pretrained(teacher)
    command = [*arguments(encoder, tmp_path, "--methods", "smp-l+kd"), "--teacher", str(teacher)]
    for is_other_teacher in (False, False, True):
        if is_other_teacher:
            torch.nn.init.normal_(model.qa_outputs.weight)  # the head alone is enough
        model.save_pretrained(teacher)
        assert main(command) == 0
        shown = capfd.readouterr().out
        line = "has a record, but with another teacher of this name"
        assert shown.count(line) == int(is_other_teacher)


@pytest.mark.parametrize("more, message", [
    (["--methods", "smp"], "method 'smp': expected fine-tuned or one of smp-l, "),
    (["--methods"], "--methods: expected one or more"),
    (["--densities", "2"], "density is 2.0: expected a number above 0 and at most 1"),
    (["--densities", "0.5", "nan"], "density is nan: expected a number above 0 and at most 1"),
    (["--densities", "x"], "--densities x: expected a number"),
    (["--densities"], "--densities: expected one or more"),
    (["--seeds", "0", "-1"], "seed is -1: expected a whole number from 0"),
    (["--seeds"], "--seeds: expected one or more"),
    (["--speed", "9"], "unknown option --speed: did you mean --seed?"),
    (["--set", "fast"], "unknown option --set"),
    (["--regulariser=hard"], "--regulariser hard: expected a number"),
    (["--regulariser=-1"], "regulariser is -1.0: expected a number from 0"),
    (["--method", "smp-s"], "--method: a sweep takes --methods"),
    (["--method", "movement"], "--method: a sweep takes --methods"),
    (["--distill=logits"], "--distill: a sweep takes --methods"),
    (["--density=0.1"], "--density: a sweep takes --densities"),
    (["--seed=1"], "--seed: a sweep takes --seeds"),
    (["--methods", "smp-l", "smp-l+kd"], "no fine-tuned"),
    (["--n-train", "none"], "--n-train none: expected a whole number"),
    (["--max-length", "193"], "max_length is 193, but model '"),
])
def test_wrong_values_print_one_line_before_any_run(
    encoder, tmp_path, capfd, more, message
):
    try:
        code = main([*arguments(encoder, tmp_path, *(["--methods", "smp-l"]
                                                     if "--methods" not in more else [])), *more])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    shown = capfd.readouterr()
    lines = [line for line in shown.err.splitlines() if "examples/s" not in line]
    assert len(lines) == 1 and lines[0].startswith("sweep: ") and message in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_any_setting_can_be_set_for_the_whole_grid(encoder, tmp_path):
    command = arguments(encoder, tmp_path, "--methods", "smp-l", "movement", "--score-init=0",
                        "--learning-rate", "1e-1", "--head=trained")
    assert main(command) == 0
    records = read_records(tmp_path)
    assert [record["method"] for record in records] == ["smp-l", "movement"]
    for record in records:
        settings = record["settings"]
        assert (settings["score_init"], settings["learning_rate"], settings["head"]) == (
            0, 0.1, "trained")
