"""Checkpoints: a stopped and resumed run equals an uninterrupted one, bit for bit."""

import copy
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from helpers import change_json, change_weight, swap_unused_tokens
from smp.cli.train import attach_pruning, teacher_loss, train
from smp.data.windows import windows_fingerprint
from smp.look.snapshot_writer import SnapshotWriter
from smp.look.snapshots import Snapshots
from smp.method.loop import span_loss
from smp.model.encoder import biases_and_norms
from smp.model.load import load_qa_model, set_dropout
from smp.model.save import model_fingerprint, save_model
from smp.model.student import load_student
from smp.runs.checkpoint import (
    Checkpoints,
    check_same_run,
    random_states,
    read_checkpoint,
    restore_random_states,
)
from smp.runs.run import run_checkpoints
from smp.runs.settings import choose_settings

SHORT = dict(n_validations=3, n_mask_snapshots=6, batch_size=8, epochs=2, dropout=0.1,
             precision="fp32", max_length=96, stride=32)
RUNS = {
    "fine-tune": ("fine-tune", {}),
    "SMP-L": ("smp", dict(density=0.2)),
    "SMP-S + KD": ("smp-kd", dict(density=0.5, method="smp-s")),
    "SMP-L, adamw_hf": ("smp", dict(density=0.2, optim="adamw_hf")),
    "SMP-L, vectors": ("smp", dict(density=0.2, bias_norm_learning_rate=1e-2)),
    "movement": ("smp", dict(method="movement", density=0.3)),
    "magnitude": ("smp", dict(method="magnitude", density=0.3)),
    "soft movement": ("smp", dict(method="soft-movement", density=0.3, learning_rate=0.5)),
}


class Killed(Exception):
    pass


def run_of(model, windows, tokenizer, kind, folder=None, stop=None, kept=None, **changes):
    """Return (model, run, masks) of a run; with `stop`, it raises Killed in that step.

    kept: path of its snapshots, if it keeps any.
    """
    stage, own = RUNS[kind]
    settings = choose_settings("quick", stage, **SHORT | own | changes)
    torch.manual_seed(settings.seed)
    model = copy.deepcopy(model)
    set_dropout(model, settings.dropout)
    pruning = None if stage == "fine-tune" else attach_pruning(model, settings)
    loss, calls = span_loss, []
    if stage == "smp-kd":
        logits = 3 * torch.randn(len(windows), 96, 2, generator=torch.Generator().manual_seed(1))
        loss = teacher_loss(settings, None, None, logits.half())

    def watched(*arguments):
        calls.append(1)
        if stop is not None and len(calls) > stop:
            raise Killed
        return loss(*arguments)

    checkpoints = folder if isinstance(folder, Checkpoints | None) else Checkpoints(
        folder, {"model": "m"}, minutes=0)
    run = train(model, windows, tokenizer, settings, pruning, watched,
                validate=lambda model: {"em": float(torch.rand(1)), "f1": 0.5},
                checkpoints=checkpoints, snapshots=kept and SnapshotWriter(kept))
    run["calls"] = len(calls)
    return model, run, pruning and pruning.masks


def assert_same(first, second):
    for name, value in first[0].state_dict().items():
        assert torch.equal(value, second[0].state_dict()[name]), name
    for name, values in first[1]["history"].items():
        assert values == second[1]["history"][name], name


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_resumed_twice_has_the_same_bits(kind, tiny_qa, windows, tokenizer, tmp_path):
    files = tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    whole = run_of(tiny_qa, windows, tokenizer, kind, kept=files[0])
    steps = whole[1]["steps"]
    assert steps >= 12
    for stop in (3, 5):  # the second time in the second epoch
        with pytest.raises(Killed):
            run_of(tiny_qa, windows, tokenizer, kind, tmp_path / "run", stop, files[1])
    torch.rand(7)  # draws between the parts of a run have no effect
    resumed = run_of(tiny_qa, windows, tokenizer, kind, tmp_path / "run", kept=files[1])
    assert resumed[1]["calls"] == steps - 8  # no step ran twice
    assert_same(whole, resumed)
    before = biases_and_norms(tiny_qa)["encoder.layer.1.output.dense.bias"]
    moved = biases_and_norms(whole[0])["encoder.layer.1.output.dense.bias"]
    assert torch.equal(moved, before) == (
        kind in ("SMP-L", "SMP-S + KD", "SMP-L, adamw_hf"))
    bytes_of = [path.read_bytes() if path.exists() else None for path in files]
    assert bytes_of[0] == bytes_of[1] and (bytes_of[0] is None) == (kind == "fine-tune")


def test_checkpoints_change_no_result_and_repeat_no_step(
    tiny_qa, windows, tokenizer, tmp_path
):
    whole = run_of(tiny_qa, windows, tokenizer, "SMP-L")
    kept = run_of(tiny_qa, windows, tokenizer, "SMP-L", tmp_path / "run")
    again = run_of(tiny_qa, windows, tokenizer, "SMP-L", tmp_path / "run", kept=tmp_path / "masks")
    assert Snapshots(tmp_path / "masks").steps == [whole[1]["steps"]]  # the only step left
    assert_same(whole, kept)
    assert_same(whole, again)
    assert again[1]["calls"] == 0
    assert all(np.array_equal(a, b) for a, b in zip(
        kept[2].numpy().values(), again[2].numpy().values(), strict=True))
    files = sorted((tmp_path / "run").iterdir())
    assert len(files) == 2 and {f.suffix for f in files} == {".safetensors"}
    Checkpoints(tmp_path / "run").clear()
    assert not (tmp_path / "run").exists()


def test_checkpoints_contain_no_frozen_weights(tiny_qa, windows, tokenizer, tmp_path):
    run_of(tiny_qa, windows, tokenizer, "SMP-L", tmp_path)
    tensors, state = read_checkpoint(Checkpoints(tmp_path).paths()[0])
    masked = sum(p.numel() for n, p in tiny_qa.named_parameters()
                 if ".layer." in n and p.dim() == 2)
    stored = sum(t.numel() for n, t in tensors.items() if n.startswith("value."))
    assert masked < stored < masked + 200  # the scores and the new head
    assert not any("embeddings" in name for name in tensors)
    assert state["run"]["settings"]["density"] == 0.2 and "torch" in state["run"]["versions"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_step_and_writes_a_checkpoint(
        name, tiny_qa, windows, tokenizer, tmp_path):
    whole = run_of(tiny_qa, windows, tokenizer, "SMP-L")
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    class Stopping(Checkpoints):
        def due(self):
            os.kill(os.getpid(), getattr(signal, name))
            return False

    with pytest.raises(KeyboardInterrupt, match="stopped after step 2: run it again to resume"):
        run_of(tiny_qa, windows, tokenizer, "SMP-L", Stopping(tmp_path / "c", {"model": "m"}))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert read_checkpoint(Checkpoints(tmp_path / "c").paths()[0])[1]["step"] == 2
    resumed = run_of(tiny_qa, windows, tokenizer, "SMP-L", tmp_path / "c")
    assert resumed[1]["calls"] == whole[1]["calls"] - 2
    assert_same(whole, resumed)


def test_a_run_has_one_process_and_a_dead_one_is_no_owner(tmp_path):
    from records import make_record

    record, code = make_record(), (
        "import json, os, sys, time; from smp.runs.run import run_checkpoints;"
        "kept = run_checkpoints(json.loads(sys.argv[1]), sys.argv[2]);"
        "print(os.getpid(), flush=True); time.sleep(600)")
    process = subprocess.Popen([sys.executable, "-c", code, json.dumps(record), str(tmp_path)],
                               stdout=subprocess.PIPE, text=True)
    try:
        owner = process.stdout.readline().strip()
        with pytest.raises(ValueError, match=f"by another process \\({owner} on ") as error:
            run_checkpoints(record, tmp_path)
        assert record["name"] in str(error.value) and "\n" not in str(error.value)
    finally:
        process.kill()
        process.wait()
    first = run_checkpoints(record, tmp_path)
    again = run_checkpoints(record, tmp_path)  # the cell of a notebook runs twice
    first.clear()
    again.clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["cut", "flipped", "emptied", "foreign"])
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    harm, tiny_qa, windows, tokenizer, tmp_path, capsys
):
    whole = run_of(tiny_qa, windows, tokenizer, "SMP-L")
    with pytest.raises(Killed):
        run_of(tiny_qa, windows, tokenizer, "SMP-L", tmp_path, stop=6)
    newest, before = Checkpoints(tmp_path).paths()
    data = bytearray(newest.read_bytes())
    if harm == "cut":
        data = data[: len(data) // 2]
    elif harm == "flipped":
        data[len(data) // 3] ^= 16
    elif harm == "emptied":
        data = b""
    newest.write_bytes(b"hello" if harm == "foreign" else data)
    capsys.readouterr()
    resumed = run_of(tiny_qa, windows, tokenizer, "SMP-L", tmp_path)
    printed = capsys.readouterr().out
    assert f"skipping the checkpoint {newest.name}" in printed and "after step 5" in printed
    assert resumed[1]["calls"] == whole[1]["steps"] - 5
    assert_same(whole, resumed)


def test_a_run_with_damaged_checkpoints_starts_at_step_0(tiny_qa, windows, tokenizer, tmp_path):
    whole = run_of(tiny_qa, windows, tokenizer, "fine-tune")
    with pytest.raises(Killed):
        run_of(tiny_qa, windows, tokenizer, "fine-tune", tmp_path, stop=4)
    for path in Checkpoints(tmp_path).paths():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Killed):
        run_of(tiny_qa, windows, tokenizer, "fine-tune", tmp_path, stop=3)
    resumed = run_of(tiny_qa, windows, tokenizer, "fine-tune", tmp_path)
    assert resumed[1]["calls"] == whole[1]["steps"] - 3  # every damaged checkpoint was removed
    assert_same(whole, resumed)


@pytest.mark.parametrize("changes, message", [
    (dict(density=0.3), "settings density is 0.3, the checkpoint has 0.2"),
    (dict(epochs=3), "settings epochs is 3, the checkpoint has 2"),
])
def test_a_checkpoint_of_another_run_raises_with_the_difference(
    changes, message, tiny_qa, windows, tokenizer, tmp_path
):
    with pytest.raises(Killed):
        run_of(tiny_qa, windows, tokenizer, "SMP-L", tmp_path, stop=3)
    with pytest.raises(ValueError) as error:
        run_of(tiny_qa, windows, tokenizer, "SMP-L", tmp_path, **changes)
    assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match=": data is "):
        run_of(tiny_qa, windows.select(range(40)), tokenizer, "SMP-L", tmp_path)


WORDS = "cls.predictions.transform.dense.bias"
BASE_CHANGES = {  # {name of the difference: change of the base model's folder}
    "num_attention_heads": lambda base: change_json(
        f"{base}/config.json", "num_attention_heads", value=2),
    "hidden_act": lambda base: change_json(f"{base}/config.json", "hidden_act", value="relu"),
    "layer_norm_eps": lambda base: change_json(f"{base}/config.json", "layer_norm_eps", value=0.1),
    "tokenizer": swap_unused_tokens,
    "head": lambda base: change_weight(base, WORDS),
}


@pytest.mark.parametrize("name", BASE_CHANGES)
def test_a_run_resumes_with_its_own_base_only(name, base, windows, tokenizer, tmp_path):
    """The weights of the encoder and the tokens of the windows stay the same."""
    before = load_student(base)[0]
    with pytest.raises(Killed):
        run_of(before, windows, tokenizer, "SMP-L", tmp_path / "run", stop=3)
    BASE_CHANGES[name](base)
    now = load_student(base)[0]
    assert model_fingerprint(now) == model_fingerprint(before)
    with pytest.raises(ValueError, match=f"base {name} is .*, the checkpoint has ") as error:
        run_of(now, windows, tokenizer, "SMP-L", tmp_path / "run")
    assert "\n" not in str(error.value)


def test_a_resumed_run_started_from_the_same_trained_head(
    tiny_qa, windows, tokenizer, tmp_path
):
    save_model(tiny_qa, tokenizer, tmp_path / "base")
    with pytest.raises(Killed):
        run_of(load_qa_model(str(tmp_path / "base"))[0], windows, tokenizer, "fine-tune",
               tmp_path / "run", stop=3)
    change_weight(tmp_path / "base", "qa_outputs.bias")
    with pytest.raises(ValueError, match="base head is '.*', the checkpoint has '"):
        run_of(load_qa_model(str(tmp_path / "base"))[0], windows, tokenizer, "fine-tune",
               tmp_path / "run")


def test_dropout_and_names_of_the_base_may_change(base, windows, tokenizer, tmp_path):
    with pytest.raises(Killed):
        run_of(load_student(base)[0], windows, tokenizer, "SMP-L", tmp_path / "run", stop=3)
    for field, value in (("hidden_dropout_prob", 0.3), ("architectures", ["BertModel"]),
                         ("dtype", "bfloat16"), ("transformers_version", "9.9")):
        change_json(f"{base}/config.json", field, value=value)
    moved = shutil.move(base, tmp_path / "elsewhere")
    resumed = run_of(load_student(str(moved))[0], windows, tokenizer, "SMP-L", tmp_path / "run")
    assert resumed[1]["calls"] == resumed[1]["steps"] - 3


def test_a_checkpoint_without_base_is_of_the_same_run():
    now = {"base": {"head": "a", "new field": None}}
    for before in ({}, {"base": {"head": "a"}}, {"base": {"head": "a", "old field": 1}}):
        check_same_run(before, now, "here")


def test_another_package_version_prints_a_line_and_resumes(
    tiny_qa, windows, tokenizer, tmp_path, capsys, monkeypatch
):
    with pytest.raises(Killed):
        run_of(tiny_qa, windows, tokenizer, "SMP-L", tmp_path, stop=3)
    monkeypatch.setattr("smp.runs.training.package_versions", lambda: {"torch": "9.9"})
    run_of(tiny_qa, windows, tokenizer, "SMP-L", tmp_path)
    printed = capsys.readouterr().out
    assert "this is 9.9: the result may differ in its last bits" in printed
    assert "zeros" not in printed


def test_check_same_run_compares_how_zeros_are_computed(capsys):
    multiplied, skipped = {"versions": {"zeros": "multiplied"}}, {"versions": {"zeros": "skipped"}}
    check_same_run(multiplied, multiplied, "here")
    check_same_run(skipped, skipped, "here")
    assert not capsys.readouterr().out
    check_same_run(multiplied, skipped, "here")
    assert "with zeros multiplied, this is skipped: the result may" in capsys.readouterr().out


def test_a_checkpoint_without_a_newer_setting_has_its_default():
    plain, other = (asdict(choose_settings("quick", "smp", optim=optim))
                    for optim in ("adamw_torch", "adamw_hf"))
    older = {"settings": {name: value for name, value in plain.items() if name != "optim"}}
    check_same_run(older, {"settings": plain}, "here")
    with pytest.raises(ValueError, match="optim is 'adamw_hf', the checkpoint has 'adamw_torch'"):
        check_same_run(older, {"settings": other}, "here")


def test_a_checkpoint_with_a_removed_setting_is_of_another_run():
    plain = asdict(choose_settings("quick", "smp"))
    with pytest.raises(ValueError, match="regulariser_rule is None, the checkpoint has 'density'"):
        check_same_run({"settings": plain | {"regulariser_rule": "density"}},
                       {"settings": plain}, "here")


@pytest.mark.parametrize("before, message", [
    ({"name": "t", "em": 0.8001, "sha": "a"}, None),  # measured again, on another GPU
    ({"name": "t", "em": 0.8, "sha": "b"}, "teacher sha is 'a', the checkpoint has 'b'"),
    ({"name": "u", "em": 0.8}, "teacher name is 't', the checkpoint has 'u'"),
    (None, "teacher is .*, the checkpoint has None"),
])
def test_a_run_resumes_with_its_own_teacher_only(before, message):
    now = {"teacher": {"name": "t", "em": 0.8, "sha": "a"}}
    if message is None:
        check_same_run({"teacher": before}, now, "here")
    else:
        with pytest.raises(ValueError, match=message):
            check_same_run({"teacher": before}, now, "here")


def test_a_checkpoint_made_without_a_gpu_resumes_with_one(monkeypatch):
    tensors, state = random_states()
    expected = torch.rand(3), np.random.rand(3)
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    restore_random_states({k: v for k, v in tensors.items() if "cuda" not in k}, state)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])


def test_a_full_disk_keeps_the_run_and_its_checkpoints(
    tiny_qa, windows, tokenizer, tmp_path, capsys
):
    """RLIMIT_FSIZE simulates a full disk: writing beyond it fails."""
    with pytest.raises(Killed):
        run_of(tiny_qa, windows, tokenizer, "SMP-L", tmp_path, stop=4)
    kept = {path.name for path in tmp_path.iterdir()}
    whole = run_of(tiny_qa, windows, tokenizer, "SMP-L")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        resumed = run_of(tiny_qa, windows, tokenizer, "SMP-L", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "no checkpoint at step 5" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert_same(whole, resumed)


def test_checkpoints_wait_five_minutes_and_cost_two_percent(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    checkpoints = Checkpoints(tmp_path, minutes=5)
    assert not checkpoints.due()
    clock[0] = 300
    assert checkpoints.due()
    checkpoints.keep(1, {"a": torch.zeros(1)}, {})
    assert not checkpoints.due()
    clock[0] = 599
    assert not checkpoints.due()
    clock[0] = 600
    assert checkpoints.due()
    checkpoints.cost = 20.0  # a slow drive
    assert not checkpoints.due()
    clock[0] = 300 + 1000
    assert checkpoints.due()
    checkpoints.cost = 10_000.0  # the process was stopped while it wrote
    assert not checkpoints.due()
    clock[0] = 300 + 6 * 300
    assert checkpoints.due()


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(st.data())
def test_any_changed_byte_of_a_checkpoint_is_found(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("c")
    Checkpoints(folder).keep(3, {"x": torch.arange(5.0)}, {"run": {}})
    (path,) = folder.iterdir()
    tensors, state = read_checkpoint(path)
    assert state == {"run": {}, "step": 3} and torch.equal(tensors["x"], torch.arange(5.0))
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    with pytest.raises(ValueError):
        read_checkpoint(path)
    shutil.rmtree(folder)


def test_windows_fingerprint_depends_on_tokens_labels_and_order(windows):
    first = windows_fingerprint(windows)
    assert first == windows_fingerprint(windows.select(range(len(windows))))
    backwards = windows.select(range(len(windows) - 1, -1, -1))
    assert first != windows_fingerprint(backwards)
    labels = [(p + 1) % 90 for p in windows["start_positions"]]
    moved = windows.remove_columns("start_positions").add_column("start_positions", labels)
    assert first != windows_fingerprint(moved)
