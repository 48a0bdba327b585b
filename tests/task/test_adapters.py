"""A base model and a mask file equal the trained model; tasks switch; errors are one line."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.numpy import load_file, save
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertForQuestionAnswering,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

from fuzz_readers import header_of
from helpers import (
    attach_masks,
    change_json,
    change_weight,
    keep_capitals,
    swap_unused_tokens,
    tiny_config,
)
from smp.fast.dead_units import prune_dead_units
from smp.fast.sparse import accelerate
from smp.model.encoder import biases_and_norms
from smp.model.question_answerer import QuestionAnswerer
from smp.model.save import model_fingerprint, save_model
from smp.model.student import STUDENT_HEADS, load_student, stock_model
from smp.task.adapters import PrunedModel
from smp.task.answerer import load_answerer, load_any_task
from smp.task.apply import as_arrays, describe_task, load_task
from smp.task.mask_file import save_masks, with_checksum
from smp.task.validate import load_masks

ROOT = Path(__file__).resolve().parents[2]

SCORES = {"em": 0.25, "f1": 0.5}


def learn(base, path, head, seed=0, density=0.3, rate=0.0):
    """Merge random masks into a student as a run does, write its mask file, return the student.

    rate: how far biases and LayerNorms move.
    """
    torch.manual_seed(seed)
    model, _, head = load_student(base, head=head)
    sha, masks = model_fingerprint(model.eval()), attach_masks(model)
    for score in masks.scores:
        score.data = torch.randn_like(score)
    for vector in biases_and_norms(model).values():
        vector.data += rate * torch.randn_like(vector)
    masks.refresh(density)
    final = masks.numpy()
    masks.merge()
    begun = {
        "name": f"tiny_{seed}", "label": "SMP-L", "method": "smp-l", "variant": None,
        "model": "base", "model_sha": sha, "data": "synthetic", "data_sha": "0" * 12,
        "settings": {"seed": seed, "bias_norm_learning_rate": rate},
        "density_target": density,
    }
    save_masks(final, path, **describe_task(begun, model, base, None, head, SCORES, 7))
    return model


def logits(model, batch):
    with torch.no_grad():
        out = model(**batch)
    return torch.stack([out.start_logits, out.end_logits])


@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize("head", STUDENT_HEADS)
def test_base_and_mask_file_equal_the_trained_model(base, tmp_path, batch, head, rate):
    student = learn(base, tmp_path / "m", head, rate=rate)
    pruned = PrunedModel.from_pretrained(base, str(tmp_path / "m"))
    assert torch.equal(logits(pruned.model, batch), logits(student, batch))
    for load in (load_task, load_any_task):
        again, _, about = load(base, tmp_path / "m")
        assert torch.equal(logits(again, batch), logits(student, batch))
    assert about["head"] == head and ("head_weights" in about) == (head == "trained")
    assert ("vectors" in about) == (rate > 0)
    assert str(tmp_path) not in repr(about)  # no path of this machine


@pytest.mark.parametrize("head", STUDENT_HEADS)
def test_stock_classes_load_the_merged_model(base, tmp_path, batch, head):
    student = learn(base, tmp_path / "m", head, rate=0.1)
    pruned = PrunedModel.from_pretrained(base, str(tmp_path / "m"))
    pruned.merge_and_unload().save_pretrained(tmp_path / "plain")
    pruned.tokenizer.save_pretrained(tmp_path / "plain")
    asked = "Who wrote it?", "Ada Lovelace wrote the first program, for a machine of brass."
    ours = QuestionAnswerer(pruned.model, pruned.tokenizer)(*asked)
    plain = load_answerer(str(tmp_path / "plain"))(*asked)
    assert (plain["start"], plain["end"]) == (ours["start"], ours["end"])
    assert plain["score"] == pytest.approx(ours["score"], rel=1e-4)
    if head == "label words":
        full = AutoModelForMaskedLM.from_pretrained(tmp_path / "plain").eval()(**batch).logits
        ids = AutoTokenizer.from_pretrained(base).convert_tokens_to_ids(["yes", "no"])
        found = full[..., ids].movedim(-1, 0)
        assert torch.allclose(found, logits(student, batch), atol=1e-6)
    else:
        found = logits(AutoModelForQuestionAnswering.from_pretrained(tmp_path / "plain"), batch)
        assert torch.equal(found, logits(student, batch))


def test_switching_tasks_gives_the_logits_of_each(base, tmp_path, batch):
    """The order of the tasks has no effect, and the base model stays unchanged."""
    wanted, before = {}, model_fingerprint(load_student(base)[0])
    for seed, head in enumerate((*STUDENT_HEADS, "trained")):  # every second one moves vectors
        student = learn(base, tmp_path / str(seed), head, seed, rate=0.1 * (seed % 2))
        wanted[str(seed)] = logits(student, batch)
    pruned = PrunedModel.from_pretrained(base, str(tmp_path / "0"), name="0")
    for name in ("1", "2", "3"):
        pruned.load_mask(str(tmp_path / name), name)
    assert pruned.active == "0"
    for name in "0123321032130":
        pruned.set_mask(name)
        assert torch.equal(logits(pruned.model, batch), wanted[name]), name
    for matrix, linear in pruned.linears.items():
        linear.weight.data = pruned.own[matrix]
    for vector, parameter in biases_and_norms(pruned.model).items():
        parameter.data = pruned.own_vectors[vector]
    assert model_fingerprint(pruned.model) == before == pruned.sha
    with pytest.raises(KeyError, match="no task 'news': expected one of '0', '1', '2', '3'"):
        pruned.set_mask("news")


def test_answer_is_that_of_the_current_task(base, tmp_path):
    asked = ["Who wrote it?", "For what?"], "Ada wrote the first program, for a machine of brass."
    wanted = {}
    for seed in (0, 1):
        learn(base, tmp_path / str(seed), "trained", seed)
        wanted[str(seed)] = load_answerer(base, tmp_path / str(seed), 64)(*asked, top_k=2)
    pruned = PrunedModel.from_pretrained(base, tmp_path / "0", "0")
    pruned.load_mask(tmp_path / "1", "1")
    for name in "010":
        pruned.set_mask(name)
        assert pruned.answer(*asked, top_k=2, max_seq_len=64) == wanted[name]
    assert wanted["0"] != wanted["1"]


def test_a_new_task_of_the_current_name_is_set(base, tmp_path, batch):
    students = [learn(base, tmp_path / str(seed), "trained", seed) for seed in (0, 1)]
    pruned = PrunedModel.from_pretrained(base, tmp_path / "0")
    pruned.load_mask(tmp_path / "1", "default")
    assert torch.equal(logits(pruned.model, batch), logits(students[1], batch))


def test_bfloat16_tasks_switch_and_return_to_fp32(base, tmp_path, batch):
    for seed in (0, 1):
        learn(base, tmp_path / str(seed), "trained", seed, rate=0.1 * seed)
    pruned = PrunedModel.from_pretrained(base, tmp_path / "0", "0")
    pruned.load_mask(tmp_path / "1", "1")
    wanted = logits(pruned.model, batch)
    pruned.model.bfloat16()
    for name in "10":
        pruned.set_mask(name)
        assert {parameter.dtype for parameter in pruned.model.parameters()} == {torch.bfloat16}
    assert torch.allclose(logits(pruned.model, batch).float(), wanted, atol=0.05)
    pruned.model.float()
    pruned.set_mask("0")  # the tasks stay in fp32
    student, _, _ = load_task(base, tmp_path / "0")
    for name, parameter in student.named_parameters():
        if "embeddings" not in name:
            assert torch.equal(pruned.model.get_parameter(name), parameter), name


def test_a_bfloat16_base_is_used_in_fp32(tmp_path, tiny_qa, tokenizer, batch):
    tiny_qa.bfloat16().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    student = learn(str(tmp_path / "base"), tmp_path / "m", "trained")
    stock = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    pruned = PrunedModel.from_pretrained(stock, tmp_path / "m")
    assert torch.equal(logits(pruned.model, batch), logits(student, batch))


@pytest.mark.parametrize("change", [
    lambda model, batch: accelerate(model, batch), lambda model, batch: prune_dead_units(model),
], ids=["accelerate", "prune_dead_units"])
def test_set_mask_of_a_changed_model_raises(base, tmp_path, batch, change, monkeypatch):
    monkeypatch.setattr("smp.fast.sparse.MARGIN", 0)
    learn(base, tmp_path / "m", "trained", density=0.02)
    pruned = PrunedModel.from_pretrained(base, tmp_path / "m")
    wanted, merged = logits(pruned.model, batch), pruned.merge_and_unload()
    change(merged, batch)
    assert torch.allclose(logits(merged, batch), wanted, atol=1e-5)
    pruned.set_mask("default")
    change(pruned.model, batch)
    with pytest.raises(ValueError, match="was replaced or made smaller") as error:
        pruned.set_mask("default")
    assert "\n" not in str(error.value)


def test_set_mask_does_not_change_a_merged_model(base, tmp_path, batch):
    learn(base, tmp_path / "a", "trained", 1)
    learn(base, tmp_path / "b", "trained", 2)
    pruned = PrunedModel.from_pretrained(base, str(tmp_path / "a"), "a")
    merged = pruned.merge_and_unload()
    before = logits(merged, batch)
    pruned.load_mask(str(tmp_path / "b"), "b")
    pruned.set_mask("b")
    assert torch.equal(logits(merged, batch), before)
    assert not torch.equal(logits(pruned.model, batch), before)


def test_saved_task_and_card_load_again(base, tmp_path, batch):
    student = learn(base, tmp_path / "m", "trained", rate=0.1)
    first = PrunedModel.from_pretrained(base, str(tmp_path / "m"))
    size = first.save_pretrained(tmp_path / "task")
    assert {p.name: p.stat().st_size for p in (tmp_path / "task").iterdir()}.keys() == {
        "masks.safetensors", "README.md", "smp_config.json"}
    assert size == (tmp_path / "task/masks.safetensors").stat().st_size
    again = PrunedModel.from_pretrained(base, str(tmp_path / "task"))
    assert torch.equal(logits(again.model, batch), logits(student, batch))
    card = ModelCard.load(tmp_path / "task/README.md")
    assert "biases and LayerNorms of the encoder's layers are trained" in card.text
    card = card.data
    assert {r.metric_type: r.metric_value for r in card.eval_results} == {
        "exact_match": 0.25, "f1": 0.5}
    assert card.base_model == "base" and card.pipeline_tag == "question-answering"


def test_the_base_may_be_a_loaded_model(base, tmp_path, batch):
    student = learn(base, tmp_path / "m", "label words")
    stock = AutoModelForQuestionAnswering.from_pretrained(base)
    pruned = PrunedModel.from_pretrained(stock, str(tmp_path / "m"))
    assert pruned.model is stock
    assert torch.equal(logits(stock, batch), logits(student, batch))


def test_roberta_gives_the_same_logits(tmp_path, batch, tokenizer):
    torch.manual_seed(0)
    RobertaForQuestionAnswering(RobertaConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=130, type_vocab_size=1,
    )).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    student = learn(str(tmp_path / "base"), tmp_path / "m", "trained")
    pruned = PrunedModel.from_pretrained(str(tmp_path / "base"), str(tmp_path / "m"))
    assert torch.equal(logits(pruned.model, batch), logits(student, batch))


def changed(path, **changes):
    """Write the mask file again, with these changes and a right checksum."""
    masks, about = load_masks(path)
    save_masks(masks, path, **{k: v for k, v in (about | changes).items() if v is not None})


BIAS = "encoder.layer.1.output.dense.bias"


def changed_vectors(path, name, change):
    """Write the mask file with the vectors of its base model, one of them changed or added."""
    values = as_arrays(biases_and_norms(BertForQuestionAnswering(tiny_config())))
    changed(path, vectors=values | {name: change(values[BIAS])})


def lose_a_matrix(path):
    masks, about = load_masks(path)
    del masks["encoder.layer.0.attention.self.query"]
    save_masks(masks, path, **about)


@pytest.mark.parametrize("change, said", [
    (lambda p: changed(p, base_sha="0123456789ab", base="other"),
     "its base model is 'other' with hash '0123456789ab', but "),
    (lambda p: changed(p, head="embedding rows"),
     "head qa_outputs.bias is float32 of shape (2,), expected none"),
    (lambda p: changed(p, head_weights=None),
     "head qa_outputs.bias is missing, expected float32 of shape (2,)"),
    (lambda p: changed(p, head_weights={"qa_outputs.bias": np.zeros(2, np.float32)}),
     "head qa_outputs.weight is missing, expected float32 of shape (2, 32)"),
    (lambda p: changed(p, head_weights={"qa_outputs.bias": np.zeros(3, np.float32),
                                        "qa_outputs.weight": np.zeros((2, 32), np.float32)}),
     "head qa_outputs.bias is float32 of shape (3,), expected float32 of shape (2,)"),
    (lambda p: changed(p, vectors={"encoder.layer.0.output.dense.bias": np.zeros(32, np.float32)}),
     "bias or LayerNorm encoder.layer.0.attention.output.LayerNorm.bias is missing, expected "),
    (lambda p: changed_vectors(p, BIAS, lambda v: v[:5]), f"{BIAS} is float32 of shape (5,), exp"),
    (lambda p: changed_vectors(p, BIAS, lambda v: v.astype(np.int64)), f"{BIAS} is int64 of shape"),
    (lambda p: changed_vectors(p, BIAS, lambda v: v * np.nan), f"{BIAS} is not finite, expected"),
    (lambda p: changed_vectors(p, "x.bias", lambda v: v), "x.bias is float32 of shape (32,), exp"),
    (lambda p: changed(p, head=["x"], head_weights=None), "its head is \"['x']\", expected label"),
    (lambda p: changed(p, base_setup=["x"]), "its base_setup is \"['x']\", expected a dict"),
    (lambda p: changed(p, head=None, head_weights=None), "head qa_outputs.bias is missing"),
    (lose_a_matrix, "encoder.layer.0.attention.self.query has shape none, expected"),
    (lambda p: p.write_bytes(p.read_bytes()[:-1]), "is not a mask file of this project"),
    (lambda p: p.unlink(), "no such mask file"),
])
def test_wrong_mask_files_raise_a_one_line_error(tmp_path, tiny_qa, tokenizer, change, said):
    tiny_qa.save_pretrained(tmp_path / "base")  # without a masked-LM head
    tokenizer.save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    learn(base, tmp_path / "m", "trained")
    change(tmp_path / "m")
    for load in (load_any_task, PrunedModel.from_pretrained):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            load(base, tmp_path / "m")
        assert said in str(error.value) and "\n" not in str(error.value)


LOAD_IN_LITTLE_MEMORY = """
import resource
import sys

from smp.task.adapters import PrunedModel
from smp.task.answerer import load_any_task
from smp.task.apply import load_task
from smp.task.validate import load_any_masks, load_masks

base, *paths = sys.argv[1:]
load_any_task(base, paths.pop())  # imports what transformers imports late
for path in paths:
    for load in (load_masks, load_any_masks, *(
            lambda path, each=each: each(base, path)
            for each in (load_task, load_any_task, PrunedModel.from_pretrained))):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            load(path)
            print("loaded", end="")
        except ValueError as error:
            print(error, end="")
        print("", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def bomb(path, shape, code):
    """Write a mask file again whose masks have this shape and code, with a right checksum."""
    changed(path)
    header, rest = header_of(path.read_bytes())
    about = header["__metadata__"]
    names = json.loads(about["shapes"])
    tensors = load_file(path) | dict.fromkeys(names, np.frombuffer(code, np.uint8))
    about["shapes"] = json.dumps(dict.fromkeys(names, shape))
    path.write_bytes(with_checksum(save(tensors, about)))


def test_a_small_mask_file_takes_little_memory(base, tmp_path):
    """Empty masks of any size need 9 bytes, masks of all weights a thousandth of their size."""
    whole, few, all_kept = tmp_path / "m", tmp_path / "few", tmp_path / "all"
    for path in (whole, few, all_kept):
        learn(base, path, "label words")
    bomb(few, [2**14, 2**14], zlib.compress(b"\1"))
    bomb(all_kept, [2**11, 2**11], zlib.compress(b"\1" + b"\0" * 2**22, 9))
    run = subprocess.run(
        [sys.executable, "-c", LOAD_IN_LITTLE_MEMORY, base, few, all_kept, whole],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert run.stderr == ""
    lines = [line.rsplit(" ", 1) for line in run.stdout.splitlines()]
    assert len(lines) == 10 and max(int(mb) for _, mb in lines) <= 100, run.stdout
    for line, _ in lines[2:5]:  # with the base model
        assert "has shape [16384, 16384], expected [32, 32]" in line
    for line, _ in lines:
        assert "is not a mask file of this project: " in line


@pytest.mark.parametrize("change, said", [
    (lambda p: changed(p, base_sha="0123456789ab"), "use the base model that the masks were"),
    (lambda p: p.write_bytes(p.read_bytes()[:-1]), "is not a mask file of this project"),
    (lambda p: p.unlink(), "no such mask file"),
])
def test_load_task_raises_for_wrong_or_damaged_files(base, tmp_path, change, said):
    learn(base, tmp_path / "m", "label words")
    change(tmp_path / "m")
    with pytest.raises((ValueError, FileNotFoundError), match=said) as error:
        load_task(base, tmp_path / "m")
    assert "\n" not in str(error.value)


def loads_of(base, path):
    """Return four ways to load a base model and a mask file."""
    stock = AutoModelForQuestionAnswering.from_pretrained(base)
    return [lambda: load_task(base, path), lambda: load_any_task(base, path),
            lambda: PrunedModel.from_pretrained(base, path),
            lambda: PrunedModel.from_pretrained(stock, path)]


@pytest.mark.parametrize("name, change", [
    ("num_attention_heads 4, but '.*' has num_attention_heads 2; use the base model that the masks "
     "were trained on", lambda p: change_json(p / "config.json", "num_attention_heads", value=2)),
    ("layer_norm_eps", lambda p: change_json(p / "config.json", "layer_norm_eps", value=0.1)),
    ("hidden_act", lambda p: change_json(p / "config.json", "hidden_act", value="relu")),
    ("tokenizer", swap_unused_tokens),
    ("tokenizer", keep_capitals),
    ("head", lambda p: change_weight(p, "cls.predictions.transform.dense.bias")),
])
def test_masks_of_a_changed_base_raise_with_what_differs(base, tmp_path, name, change):
    """The weights of the encoder stay the same."""
    learn(base, tmp_path / "m", "label words")
    change(tmp_path / "base")
    for load in loads_of(base, tmp_path / "m"):
        with pytest.raises(ValueError, match=f"its base model is 'base' with {name}") as error:
            load()
        assert "\n" not in str(error.value)
    changed(tmp_path / "m", base_setup=None)  # an earlier file
    for load in loads_of(base, tmp_path / "m"):
        load()


def test_masks_load_after_changes_without_effect(tiny_qa, tokenizer, tmp_path, batch):
    tiny_qa.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    student = learn(str(tmp_path / "base"), tmp_path / "m", "trained")
    change_weight(tmp_path / "base", "qa_outputs.bias")  # the mask file contains a trained head
    for field, value in (("hidden_dropout_prob", 0.3), ("transformers_version", "9.9"), ("new", 1)):
        change_json(tmp_path / "base/config.json", field, value=value)
    for load in loads_of(str(tmp_path / "base"), tmp_path / "m"):
        loaded = load()
        model = loaded.model if isinstance(loaded, PrunedModel) else loaded[0]
        assert torch.equal(logits(model, batch), logits(student, batch))


@pytest.mark.parametrize("head", STUDENT_HEADS)
def test_a_saved_student_describes_its_base_as_the_base_does(base, tmp_path, head):
    """A notebook describes the task of the model that it saved and loaded again."""
    student = learn(base, tmp_path / "m", head)
    tokenizer = AutoTokenizer.from_pretrained(base)
    save_model(stock_model(student, base), tokenizer, tmp_path / "saved")
    begun = {"model": "base", "model_sha": "", "density_target": 0.3, "settings": {
        "bias_norm_learning_rate": 0}} | dict.fromkeys(
        "name label method variant data data_sha".split())
    about = describe_task(
        begun, load_student(str(tmp_path / "saved"))[0], base, None, head, SCORES, 7)
    assert about["base_setup"] == load_masks(tmp_path / "m")[1]["base_setup"]


def test_a_wrong_task_changes_nothing(base, tmp_path, batch):
    student = learn(base, tmp_path / "m", "label words")
    pruned = PrunedModel.from_pretrained(base, str(tmp_path / "m"), "m")
    learn(base, tmp_path / "n", "label words", 1)
    changed(tmp_path / "n", base_sha="0123456789ab")
    with pytest.raises(ValueError, match="use the base model that the masks were trained on"):
        pruned.load_mask(str(tmp_path / "n"), "n")
    assert pruned.tasks.keys() == {"m"}
    assert torch.equal(logits(pruned.model, batch), logits(student, batch))


def test_hub_failures_raise_a_one_line_error(base, tmp_path):
    """Offline, the Hub's client raises before a request (tests/conftest.py)."""
    learn(base, tmp_path / "m", "label words")
    pruned = PrunedModel.from_pretrained(base, str(tmp_path / "m"))
    with pytest.raises(ValueError, match="'owner/name': the upload to the Hub failed") as error:
        pruned.push_to_hub("owner/name")
    assert "\n" not in str(error.value)
    for name in ("owner/name", "name"):
        with pytest.raises(FileNotFoundError, match=f"{name}: ") as error:
            PrunedModel.from_pretrained(base, name)
        assert "\n" not in str(error.value)
