"""The choice of the best format, its measurement, its questions, int8, and damaged exports."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from test_export import needs, save_run
from torch import nn
from transformers import (
    BertForQuestionAnswering,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
)
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from helpers import compiler_named, tiny_config
from smp import __main__ as command_line
from smp.cli.options import FORMAT
from smp.data.windows import featurise
from smp.model.save import save_model
from smp.model.student import load_student
from smp.task.answerer import load_answerer
from smp.task.export import calibration_windows, export_run
from smp.task.formats import ABOUT, FORMATS, Format, padded_pair, why_not
from smp.task.mask_file import MASK_FILE
from smp.task.measure import (
    PLAIN,
    accuracy_rows,
    choose_best,
    speed_rows,
    time_in_turns,
    window_batches,
)
from smp.task.openvino_model import by_sensitivity, openvino_model, quantise, quiet
from smp.task.saved_run import questions_of_run

SETTINGS = {"data": "synthetic", "data_seed": 0, "n_train": 30, "n_valid": 4}


def row(ms, lost, half):
    return {"ms": ms, "em_difference": -lost, "half_interval": half}


@pytest.mark.parametrize("changed, most, best", [
    ({}, 0.005, "onnx"),  # int8 is faster, but may lose 0.6 EM
    ({}, 0.007, "openvino-int8"),
    ({"onnx": row(30, -0.01, 0.012)}, 0.005, "onnx"),  # a gain counts
    ({"onnx": row(30, 0.0, 0.006)}, 0.005, "csr"),  # its EM is equal, but uncertain
    ({"csr": row(10, 0.0, 0.0)}, 0.005, "csr"),
    ({"csr": row(10, 0.1, 0.0)}, 0.005, "onnx"),
    ({}, -0.001, "dense"),  # none qualifies
])
def test_the_fastest_accurate_format_is_chosen(changed, most, best):
    rows = {"dense": row(60, 0, 0), "csr": row(40, 0, 0), "onnx": row(30, 0.002, 0.002),
            "openvino-int8": row(20, 0.003, 0.003)} | changed
    kind, reason = choose_best(rows, most)
    assert kind == best and "\n" not in reason
    assert ("no format is certain" in reason) == (most < 0)


def test_command_line_and_export_have_the_same_formats():
    assert FORMAT == Format


class Recorder(nn.Module):
    """Logits that point at fixed tokens; `calls` has the name of each model that is called."""

    def __init__(self, name, calls, start):
        super().__init__()
        self.name, self.calls, self.start = name, calls, start

    def forward(self, input_ids, attention_mask, token_type_ids):
        self.calls.append(self.name)
        logits = torch.zeros(input_ids.shape)
        logits[:, self.start] = 9.0
        return QuestionAnsweringModelOutput(start_logits=logits, end_logits=logits)


def test_models_take_turns_on_each_batch(synthetic, tokenizer):
    calls = []
    models = {name: Recorder(name, calls, 1) for name in (PLAIN, "csr", "onnx")}
    features = featurise(synthetic["eval"], tokenizer, 96, 32)
    batches = window_batches(features, tokenizer, 8)
    times = time_in_turns(models, batches)
    assert [*times] == [*models] and all((each > 0).all() for each in times.values())
    turns = [calls[first : first + 3] for first in range(3, len(calls), 3)]
    assert len(turns) == len(batches) and [turn[0] for turn in turns[:4]] == [
        PLAIN, "csr", "onnx", PLAIN][: len(turns)]
    assert all(sorted(turn) == sorted(models) for turn in turns)


def test_batches_have_windows_of_similar_length(synthetic, tokenizer):
    features = featurise(synthetic["eval"], tokenizer, 64, 16)
    lengths = sorted(map(len, features["input_ids"]))
    batches = window_batches(features, tokenizer, 8)
    found = [int(n) for batch in batches for n in batch["attention_mask"].sum(1)]
    assert found == lengths and {len(b["input_ids"]) for b in batches[:-1]} == {8}


def test_the_best_dense_form_is_not_csr(synthetic, tokenizer):
    models = {name: Recorder(name, [], 1) for name in (PLAIN, "csr", "openvino-int8")}
    precisions = dict.fromkeys(models, "fp32") | {"openvino-int8": "int8, fp32"}
    features = featurise(synthetic["eval"], tokenizer, 96, 32)
    rows = speed_rows(models, precisions, window_batches(features, tokenizer, 1))
    assert {each["best_dense"] for each in rows.values()} == {PLAIN}
    for each in rows.values():
        low, middle, high = each["over_plain"]
        assert low <= middle <= high and each["over_plain"] == each["over_best"]


def test_accuracy_is_compared_question_by_question(synthetic, tokenizer, tiny_qa):
    features = featurise(synthetic["eval"], tokenizer, 96, 32)
    other = Recorder("onnx", [], int(np.argmax(features["token_type_ids"][0])))
    rows = accuracy_rows({PLAIN: tiny_qa, "onnx": other}, synthetic["eval"], features, tokenizer)
    assert rows[PLAIN]["same_answers"] == 16 and rows[PLAIN]["half_interval"] == 0
    assert rows["onnx"]["same_answers"] < 16
    assert rows["onnx"]["em_difference"] == rows["onnx"]["em"] - rows[PLAIN]["em"]


def test_held_out_questions_are_not_trained_on(tmp_path):
    parts = questions_of_run(SETTINGS, None, 9)
    assert len(parts["held out"]) == 9 and len(parts["train"]) == 30
    assert not set(parts["train"]["id"]) & set(parts["held out"]["id"])
    articles = [{"title": f"T{a}", "paragraphs": [
        {"context": f"Text {a} {p} is here.", "qas": [
            {"id": f"{a}-{p}-{q}", "question": "Where?",
             "answers": [{"text": "here", "answer_start": len(f"Text {a} {p} is ")}]}
            for q in range(3)]} for p in range(4)]} for a in range(5)]
    path = tmp_path / "questions.json"
    path.write_text(json.dumps({"version": "1.1", "data": articles}))
    parts = questions_of_run(SETTINGS, str(path), 9)
    held, trained = parts["held out"]["id"][:], set(parts["train"]["id"])
    assert len(held) == 9 and not trained & set(held) and len(trained) == 30
    assert [name for name in held if name[0] == "4"] == []  # the last article is for evaluation
    valid = questions_of_run(SETTINGS, str(path), 4)["held out"]["id"][:]
    assert held[:4] == valid  # the run's validation comes first
    with pytest.raises(ValueError, match="trained on all 48 questions") as error:
        questions_of_run(SETTINGS | {"n_train": 48, "n_valid": 0}, str(path), 9)
    assert "\n" not in str(error.value)


def test_the_layer_with_an_outlier_is_most_sensitive(tiny_qa, batch):
    weight = tiny_qa.bert.encoder.layer[1].output.dense.weight
    with torch.no_grad():
        weight[:, 0] = 300.0  # all other weights of a row become 0 in int8
    before = {name: tensor.clone() for name, tensor in tiny_qa.state_dict().items()}
    ranked = by_sensitivity(tiny_qa, [batch])
    assert ranked[0] == "bert.encoder.layer.1.output.dense" and len(ranked) == 2 * 6 + 1
    assert all(torch.equal(before[name], t) for name, t in tiny_qa.state_dict().items())


@pytest.mark.parametrize("losses, left_out", [
    ([0.005], 0), ([0.2, 0.1, 0.0], 2), ([0.02, 0.01, 0.03, 0.04], 1)])
def test_int8_leaves_out_layers_until_em_is_kept(tiny_qa, synthetic, tokenizer, losses, left_out):
    """Of steps that all lose too much, the one that loses least is kept."""
    needs("openvino-int8")
    features = featurise(synthetic["train"], tokenizer, 96, 32)
    windows = window_batches(features, tokenizer, 1)[:4]
    given = iter(losses)
    model, about = quantise(tiny_qa, windows, lambda _: next(given), 128)
    assert [one["lost_em"] for one in about["tried"]] == losses and about["windows"] == 4
    assert [one["left_out"] for one in about["tried"]] == [0, 1, 2, 4][: len(losses)]
    assert about["left_out"] == by_sensitivity(tiny_qa, windows)[:left_out]
    stored = {op.get_friendly_name(): op for op in model.get_ops()
              if op.get_type_name() == "MatMul" and "aten::linear" in op.get_friendly_name()}
    int8 = {name for name, op in stored.items()
            if int8_weight(op.input_value(1).get_node())}
    whole = {f"__module.{name}/aten::linear/MatMul" for name in about["left_out"]}
    assert stored.keys() - int8 == whole
    assert openvino_model(model, 128).precision.startswith("int8")


def int8_weight(node):
    """Return whether a weight is computed from int8 numbers, with one scale for each row."""
    if node.get_type_name() == "Constant":
        return node.get_element_type().get_type_name() == "i8"
    return any(int8_weight(each.get_node()) for each in node.input_values())


def test_openvino_keeps_the_environment(monkeypatch):
    monkeypatch.setenv("CI", "0")
    monkeypatch.delenv("NNCF_CI", raising=False)
    with quiet():
        assert os.environ["CI"] == os.environ["NNCF_CI"] == "true"
    assert os.environ["CI"] == "0" and "NNCF_CI" not in os.environ


def test_padding_stays_in_the_example(batch):
    window = {name: tensor[:1] for name, tensor in batch.items()}
    pair = padded_pair(window)
    assert pair["attention_mask"].sum(1).tolist() == [11, 12]
    assert window["attention_mask"].sum() == 12


@pytest.fixture
def run(base, tmp_path, tokenizer):
    save_run(base, tmp_path / "run", tokenizer, "trained")
    return tmp_path / "run"


def one_line_error(capsys, *arguments):
    assert command_line.main(["export", *map(str, arguments)]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and "Traceback" not in shown.err
    return shown.err


def test_wrong_requests_write_nothing(run, tmp_path, capsys, monkeypatch):
    before = sorted(path.name for path in run.iterdir())
    for package, kind in (("openvino", "openvino-bf16"), ("nncf", "openvino-int8"),
                          ("onnxscript", "onnx")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            said = one_line_error(capsys, run, "--format", "dense", kind)
            assert f"{kind} needs " in said and package in said and "pip install" in said
    with compiler_named("no-such-compiler"):
        assert "C compiler" in one_line_error(capsys, run, "--format", "csr")
    with pytest.raises(SystemExit):
        command_line.main(["export", str(run), "--format", "tflite"])
    assert "invalid choice 'tflite'" in capsys.readouterr().err
    assert "questions is 0" in one_line_error(capsys, run, "--questions", "0")
    path = run / "record.json"
    record = json.loads(path.read_text())
    for field, value in (("max_length", "96"), ("stride", None), ("data", 7), ("data_seed", [])):
        path.write_text(json.dumps(record | {"settings": record["settings"] | {field: value}}))
        assert f"its setting {field} is" in one_line_error(capsys, run)
    path.write_text(json.dumps(record)[:-9])
    assert "is not a record of a run" in one_line_error(capsys, run)
    assert sorted(path.name for path in run.iterdir()) == before


def test_models_that_csr_cannot_hold(run, base, tokenizer, capsys):
    save_model(load_student(base, head="trained")[0], tokenizer, run.parent / "dense")
    (run / "record.json").rename(run.parent / "dense/record.json")
    (run / MASK_FILE).rename(run.parent / "dense" / MASK_FILE)
    said = one_line_error(capsys, run.parent / "dense", "--format", "csr")
    assert "csr cannot make the model smaller" in said
    assert not (run.parent / "dense/csr").exists()
    wide = BertForQuestionAnswering(tiny_config(intermediate_size=65_537, num_hidden_layers=1))
    assert "a matrix with 65,537 columns" in str(why_not("csr", wide))
    other = DistilBertForQuestionAnswering(DistilBertConfig(
        vocab_size=99, dim=32, hidden_dim=64, n_layers=1, n_heads=4))
    assert "csr cannot hold a distilbert model" in str(why_not("csr", other))
    assert why_not("dense", other) is None


def test_formats_without_their_packages_are_named(run, capsys, monkeypatch):
    for package in ("onnx", "openvino", "nncf"):
        monkeypatch.setitem(sys.modules, package, None)
    report = export_run(run, questions=2)
    assert [*report["about"]] == ["dense", "csr"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1].split()[0] for line in lines] == [
        "onnx", "openvino-bf16", "openvino-int8"]
    assert "pruned" in (run / "README.md").read_text()


def test_int8_needs_training_questions(run, tmp_path, synthetic, capsys):
    """By default the other formats are written; a request for int8 or --best fails."""
    needs("openvino-int8")
    rows = synthetic["eval"].to_list()
    articles = [{"title": row["id"], "paragraphs": [{"context": row["context"], "qas": [{
        "id": row["id"], "question": row["question"], "answers": [{
            "text": row["answers"]["text"][0],
            "answer_start": row["answers"]["answer_start"][0]}]}]}]} for row in rows]
    path = tmp_path / "few.json"
    path.write_text(json.dumps({"version": "1.1", "data": articles}))
    for more in (["--format", "openvino-int8"], ["--best", "--format", "dense"]):
        assert "n_" in one_line_error(capsys, run, "--data", path, *more)
    assert command_line.main(["export", str(run), "--data", str(path)]) == 0
    assert "Not written: openvino-int8 needs training questions" in capsys.readouterr().out
    assert (run / "openvino-bf16").exists() and not (run / "openvino-int8").exists()


def test_calibration_uses_128_training_windows(tokenizer):
    train = questions_of_run(SETTINGS | {"n_train": 200}, None, 1)["train"]
    names = ["input_ids", "attention_mask"]
    windows = calibration_windows(train, tokenizer, (96, 32), names)
    assert len(windows) == 128 and {*windows[0]} == {*names}
    possible = {tuple(ids) for ids in featurise(train, tokenizer, 96, 32)["input_ids"]}
    found = [tuple(window["input_ids"][0].tolist()) for window in windows]
    assert set(found) <= possible and len(set(found)) > 100
    again = calibration_windows(train, tokenizer, (96, 32), names)
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(windows, again))


def test_a_failed_export_leaves_the_complete_formats(run, capsys):
    export_run(run, formats=("dense",), questions=2)
    before = (run / "dense/README.md").read_bytes()
    data = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(data[:-100])
    one_line_error(capsys, run, "--format", "dense", "onnx")
    assert (run / "dense/README.md").read_bytes() == before
    assert not [path for path in run.iterdir() if path.suffix in (".part", ".old")]
    assert not (run / "onnx").exists()


def test_damaged_formats_raise_a_one_line_error(run, tmp_path):
    kinds = ["dense", "csr", "onnx"]
    files = {"dense": "model.safetensors", "csr": "csr.safetensors", "onnx": "model.onnx"}
    export_run(run, formats=tuple(kinds), questions=2)

    def error_of(folder):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            load_answerer(str(folder))
        assert "\n" not in str(error.value)
        return str(error.value)

    for kind in kinds:
        copy, name = tmp_path / "copy", files[kind]
        for damage in (lambda file: file.write_bytes(file.read_bytes()[:-200]),
                       lambda file: file.write_bytes(b"x" * 50), lambda file: file.unlink()):
            shutil.copytree(run / kind, copy)
            damage(copy / name)
            error_of(copy)
            shutil.rmtree(copy)
    for text in ("", "[]", "{}", '{"format": "tflite"}', '{"format": "csr", "max_length": "9"}',
                 json.dumps({"format": "csr", "max_length": 96, "stride": 1, "tokens": [],
                             "products": 3})):
        shutil.copytree(run / "csr", tmp_path / "copy")
        (tmp_path / "copy" / ABOUT).write_text(text)
        error_of(tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy")
    about = json.loads((run / "csr" / ABOUT).read_text())
    for products in (["no.such.layer"], ["encoder.layer.0"], "encoder", 3):
        (run / "csr" / ABOUT).write_text(json.dumps(about | {"products": products}))
        error_of(run / "csr")
    assert set(kinds) < set(FORMATS)
