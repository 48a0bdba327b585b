"""A sweep: the grid, finished runs, interruption, wrong input in one line."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from transformers import BertForQuestionAnswering, set_seed

from helpers import attach_masks, tiny_config
from smp.cli import sweep as sweep_module
from smp.cli.main import main
from smp.cli.parameters import read_changes
from smp.cli.sweep import Sweep, plan_sweep
from smp.cli.train import train
from smp.data.reading import load_squad
from smp.data.windows import featurise
from smp.method.schedule import Pruning
from smp.model.load import load_student
from smp.model.predict import evaluate_answers
from smp.model.save import model_fingerprint
from smp.runs.methods import read_method, record_method, sweep_method
from smp.runs.names import run_name
from smp.runs.read import read_records
from smp.runs.record import check_record
from smp.task.mask_file import load_masks


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, tokenizer):
    """A folder with a tiny random BERT that has no question-answering head."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    BertForQuestionAnswering(tiny_config(max_position_embeddings=192)).bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plan(encoder, methods, densities=(0.5,), seeds=(0,), **changes):
    return plan_sweep("quick", methods, densities, seeds, model=str(encoder), n_train=24,
                      n_valid=0, n_eval=12, n_snapshots=1, **changes)


def test_the_grid_is_every_method_at_every_density_and_seed(encoder):
    methods = ["smp-l", "smp-s+kd", "soft-movement", "movement-s+kd", "movement"]
    runs = plan(encoder, methods, (0.5, 0.1), (0, 1))
    assert len(set(runs)) == 20
    assert [(c.seed, c.density, record_method(c), c.sharing) for c in runs[:6]] == [
        (0, 0.5, "SMP", "local"), (0, 0.5, "SMP + KD", "shared"),
        (0, 0.5, "soft movement", "local"), (0, 0.5, "movement + KD", "shared"),
        (0, 0.5, "movement", "local"), (0, 0.1, "SMP", "local")]
    assert [sweep_method(asdict(run)) for run in runs[:5]] == methods
    assert {c.data_seed for c in runs} == {0}  # all seeds read the same questions
    assert plan(encoder, ["smp-l", "smp-l"]) == plan(encoder, ["smp-l"])


@pytest.mark.parametrize("word", ["smp", "smp-l+", "smp-l+tea", "global", "movement-kd", ""])
def test_an_unknown_method_gets_one_line(word):
    with pytest.raises(ValueError, match="METHODS=.*expected some of smp-l, smp-s, magnitude"):
        read_method(word)


def test_a_run_equals_the_calls_of_the_notebook(encoder, tmp_path):
    """Masks and scores are those of the notebook's calls, written out here."""
    (settings,) = plan(encoder, ["smp-s"], (0.4,), (3,))
    record = Sweep([settings], tmp_path).run(settings)

    set_seed(3)
    model, tokenizer, head = load_student(str(encoder), settings.dropout, settings.max_length)
    data = load_squad("almanac", 24, 0, 12)
    windows = {part: featurise(data[part], tokenizer, settings.max_length, settings.stride)
               for part in ("train", "eval")}
    masks = attach_masks(model, "shared", start=settings.score_start)
    train(model, windows["train"], tokenizer, settings, Pruning(masks, settings))
    scores, _ = evaluate_answers(model, data["eval"], windows["eval"], tokenizer)
    assert (record["em"], record["f1"], record["head"]) == (scores["em"], scores["f1"], head)
    assert record["layers"] == masks.counts() and record["name"] == run_name(record)
    saved, about = load_masks(tmp_path / "sweep/models" / record["name"] / "masks.safetensors")
    assert all(np.array_equal(saved[name], mask) for name, mask in masks.numpy().items())
    assert (about["em"], about["base_sha"]) == (record["em"], record["model_sha"])
    assert about["density"] == 0.4 and read_records(tmp_path / "sweep") == [check_record(record)]


def arguments(encoder, tmp_path, *more):
    return ["sweep", "--profile", "quick", "--model", str(encoder), "--n-train", "24", "--n-valid",
            "0", "--n-eval", "12", "--results", str(tmp_path), "--densities", "0.5", *more]


def test_a_stopped_sweep_continues_with_the_missing_runs(encoder, tmp_path, monkeypatch, capfd):
    methods = ["--methods", "smp-l", "magnitude", "movement"]
    run, begun = Sweep.run, []

    def stop_at_the_second(self, settings):
        begun.append(settings.method)
        if len(begun) == 2:
            monkeypatch.setattr(sweep_module, "evaluate_answers", interrupted)
        return run(self, settings)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Sweep, "run", stop_at_the_second)
        whole = sweep_module.evaluate_answers
        assert main(arguments(encoder, tmp_path, *methods)) == 130
        monkeypatch.setattr(sweep_module, "evaluate_answers", whole)
    shown = capfd.readouterr()
    assert "interrupted in tiny_almanac_magnitude_0.50_seed0" in shown.err
    first = (tmp_path / "sweep").glob("*.json")
    before = {path.name: path.read_bytes() for path in first}
    assert len(before) == 1 and "smp-l" in next(iter(before))

    assert main(arguments(encoder, tmp_path, *methods)) == 0
    shown = capfd.readouterr()
    assert "3 cells, 1 of them done before" in shown.out
    records = {path.name: path.read_bytes() for path in (tmp_path / "sweep").glob("*.json")}
    assert len(records) == 3 and before.items() <= records.items()
    assert (tmp_path / "sweep" / "summary.png").stat().st_size > 5000
    table = (tmp_path / "sweep" / "summary.md").read_text()
    assert all(name in table for name in ("SMP-L", "magnitude", "movement")) and table in shown.out

    assert main(arguments(encoder, tmp_path, *methods)) == 0
    assert "3 cells, 3 of them done before" in capfd.readouterr().out


def test_a_damaged_record_is_no_finished_run(encoder, tmp_path, capfd):
    methods = ["--methods", "magnitude"]
    assert main(arguments(encoder, tmp_path, *methods)) == 0
    (path,) = (tmp_path / "sweep").glob("*.json")
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
    computed, compute = [], sweep_module.teacher_logits
    monkeypatch.setattr(sweep_module, "teacher_logits",
                        lambda *a, **k: computed.append(1) or compute(*a, **k))
    runs = plan(encoder, ["smp-l+kd", "movement+kd"])
    sweep = Sweep(runs, tmp_path, str(teacher))
    records = [sweep.run(run) for run in runs]
    assert len(computed) == 1 and [r["method"] for r in records] == ["SMP + KD", "movement + KD"]
    assert {r["teacher"]["name"] for r in records} == {"teacher"}
    assert {r["teacher"]["sha"] for r in records} == {
        model_fingerprint(model, with_head=True)}
    plain = Sweep(plan(encoder, ["smp-l"]), tmp_path).run(plan(encoder, ["smp-l"])[0])
    assert plain["teacher"] is None
    kept = [record["history"]["loss"] for record in (*records, plain)]
    assert kept[0] != kept[2]  # the teacher's logits were used
    runs = plan(encoder, ["smp-l", "smp-l+kd"], hidden_weight=1.0, head="teacher")
    sweep = Sweep(runs, tmp_path, str(teacher))
    plain, following = (sweep.run(run)["history"]["loss"] for run in runs)
    assert len(computed) == 1  # it runs on every batch instead
    assert plain == kept[2] and following not in (kept[0], kept[2])


def test_a_teacher_of_another_shape_is_refused_before_any_run(
    encoder, tmp_path, tokenizer, capfd
):
    for name, changes, setting, line in (
        ("deep", {"num_hidden_layers": 3}, "hidden_weight=1", "HIDDEN_WEIGHT needs a teacher"),
        ("wide", {"hidden_size": 64}, "head=teacher", "HEAD='teacher': the teacher has no"),
    ):
        BertForQuestionAnswering(
            tiny_config(max_position_embeddings=192, **changes)
        ).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        command = [*arguments(encoder, tmp_path, "--methods", "smp-l", "smp-l+kd"),
                   "--teacher", str(tmp_path / name), "--set", setting]
        assert main(command) == 2
        assert line in capfd.readouterr().err and not (tmp_path / "sweep").exists()


def test_a_run_done_with_another_teacher_is_reported(
    encoder, tmp_path, tokenizer, capfd
):
    teacher, model = tmp_path / "teacher", load_student(str(encoder))[0]
    tokenizer.save_pretrained(teacher)
    command = [*arguments(encoder, tmp_path, "--methods", "smp-l+kd"), "--teacher", str(teacher)]
    for trained_anew, told in ((False, 0), (False, 0), (True, 1)):
        if trained_anew:
            torch.nn.init.normal_(model.qa_outputs.weight)  # the head alone is enough
        model.save_pretrained(teacher)
        assert main(command) == 0
        assert capfd.readouterr().out.count("done with another teacher of that name") == told


@pytest.mark.parametrize("more, message", [
    (["--methods", "smp"], "METHODS='smp'"), (["--densities", "2"], "DENSITY=2"),
    (["--densities", "x"], "DENSITY='x': expected a number"), (["--seeds", "-1"], "SEED=-1"),
    (["--set", "speed=9"], "unknown setting 'speed'"), (["--set", "fast"], "SET='fast'"),
    (["--set", "regulariser=hard"], "REGULARISER='hard'"),
    (["--methods", "smp-l+kd"], "no fine-tuned"), (["--n-train", "none"], "N_TRAIN='none'"),
])
def test_wrong_values_are_one_line_before_any_run(
    encoder, tmp_path, capfd, more, message
):
    assert main([*arguments(encoder, tmp_path), *more]) == 2
    shown = capfd.readouterr()
    lines = [line for line in shown.err.splitlines() if "examples/s" not in line]
    assert len(lines) == 1 and lines[0].startswith("sweep: ") and message in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_any_setting_can_be_set_for_the_whole_grid(encoder, tmp_path):
    changes = read_changes(["score_start=0", "learning_rate=1e-1", "head=auto"])
    assert changes == {"score_start": 0, "learning_rate": 0.1, "head": "auto"}
    (run,) = plan(encoder, ["smp-l"], score_start=0)
    assert run.score_start == 0
