"""Three tasks of SMPTrainer on one base model: equal logits, the folder of a task, and errors."""

import json

import numpy as np
import pytest
import torch
import transformers
import yaml
from transformers import BertModel, MPNetConfig, MPNetModel, TrainingArguments, pipeline

from helpers import tiny_config
from smp.method.masks import Masks, competing_share
from smp.method.schedule import Pruning
from smp.model.encoder import encoder_linears
from smp.task.adapters import PrunedModel
from smp.task.mask_file import save_masks
from smp.task.mask_folder import CONFIG_FILE
from smp.task.mask_settings import MaskSettings
from smp.task.trainer import SMPTrainer
from smp.task.validate import load_masks

HEADS = {"question-answering": "QuestionAnswering", "text-classification": "SequenceClassification",
         "token-classification": "TokenClassification"}
LABELS = {"text-classification": ["bad", "good"], "token-classification": ["O", "B", "I"]}


@pytest.fixture(params=["bert", "mpnet"])
def encoder(request, tmp_path, tokenizer):
    """Return a folder with a tiny encoder without any head."""
    torch.manual_seed(0)
    model = BertModel(tiny_config()) if request.param == "bert" else MPNetModel(MPNetConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=130))
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def train_task(base, folder, task, tokenizer, **about):
    """Train a task for two steps, save its folder, and return the merged model."""
    torch.manual_seed(len(task))
    names = dict(enumerate(LABELS[task])) if task in LABELS else {0: "LABEL_0", 1: "LABEL_1"}
    model = getattr(transformers, f"AutoModelFor{HEADS[task]}").from_pretrained(
        base, id2label=names, label2id={name: i for i, name in names.items()})
    rows = [tokenizer(f"text {i} of a test", "a passage", padding="max_length", max_length=12)
            for i in range(8)]
    for i, row in enumerate(rows):
        row.update({"question-answering": {"start_positions": 3, "end_positions": 4},
                    "text-classification": {"labels": i % 2},
                    "token-classification": {"labels": [i % 3] * 12}}[task])
    masks = Masks(encoder_linears(model), competing_share, 1.0)
    trainer = SMPTrainer(model, TrainingArguments(
        str(folder), max_steps=2, use_cpu=True, report_to=[], disable_tqdm=True,
        save_strategy="no", learning_rate=0.1), train_dataset=rows, processing_class=tokenizer,
        pruning=Pruning(masks, MaskSettings(0.2, learning_rate=0.5)))
    trainer.train()
    size = trainer.save_mask(folder, base="base", **about)
    assert size == (folder / "masks.safetensors").stat().st_size
    return trainer.merge().eval()


def out_of(model, batch):
    with torch.no_grad():
        return torch.cat([each.flatten() for each in model(**batch).to_tuple()])


def test_three_tasks_share_one_encoder(encoder, tmp_path, tokenizer, batch):
    students = {task: train_task(encoder, tmp_path / task, task, tokenizer) for task in HEADS}
    first, *others = sorted(HEADS, reverse=True)  # token classification first
    pruned = PrunedModel.from_pretrained(encoder, tmp_path / first, first)
    shared = pruned.model.base_model
    for task in others:
        pruned.load_mask(tmp_path / task, task)
    for task in [*HEADS, *reversed(HEADS), first]:
        pruned.set_mask(task)
        assert type(pruned.model) is type(students[task]) and pruned.model.base_model is shared
        assert torch.equal(out_of(pruned.model, batch), out_of(students[task], batch)), task
        names = LABELS.get(task, ["LABEL_0", "LABEL_1"])
        assert [*pruned.model.config.id2label.values()] == names
    for task, student in students.items():
        pruned.set_mask(task)
        pruned.merge_and_unload().save_pretrained(tmp_path / "plain" / task)
        plain = type(student).from_pretrained(tmp_path / "plain" / task).eval()
        assert torch.equal(out_of(plain, batch), out_of(student, batch))
    total = sum(p.numel() for p in shared.parameters())
    assert total < 1.01 * sum(p.numel() for p in BertModel(tiny_config()).parameters())


def test_masks_are_switched_in_place(tmp_path, tokenizer, base):
    for task in ("text-classification", "token-classification"):
        train_task(base, tmp_path / task, task, tokenizer)
    pruned = PrunedModel.from_pretrained(base, tmp_path / "text-classification", "text")
    pruned.load_mask(tmp_path / "token-classification", "token")
    places = [linear.weight.data_ptr() for linear in pruned.linears.values()]
    for name in ("token", "text", "token"):
        pruned.set_mask(name)
        assert [linear.weight.data_ptr() for linear in pruned.linears.values()] == places
        for matrix, mask in pruned.masks(name).items():
            weight = pruned.linears[matrix].weight
            assert torch.equal(weight, pruned.own[matrix] * torch.from_numpy(mask)), matrix


def test_pipelines_use_the_current_task(tmp_path, tokenizer, base):
    train_task(base, tmp_path / "m", "text-classification", tokenizer)
    pruned = PrunedModel.from_pretrained(base, tmp_path / "m", "mood")
    run = pipeline("text-classification", pruned.model, tokenizer=pruned.tokenizer)
    assert run("a text")[0]["label"] in LABELS["text-classification"]
    with pytest.raises(ValueError, match="the task 'mood' does not answer questions: use transfo"):
        pruned.answer("Who?", "Ada wrote it.")


def test_the_folder_describes_the_task(tmp_path, tokenizer, base):
    train_task(base, tmp_path / "m", "text-classification", tokenizer, name="mood", data="films",
               license="mit", metrics={"accuracy": 0.75, "f1": 0.5})
    about = json.loads((tmp_path / "m" / CONFIG_FILE).read_text("utf-8"))
    masks, metadata = load_masks(tmp_path / "m" / "masks.safetensors")
    kept = {name: value for name, value in about.items()
            if name not in ("masks", "bytes", "versions")}
    assert kept == {k: v for k, v in metadata.items() if k != "head_weights"}
    assert about["task_class"] == "BertForSequenceClassification" and about["density"] == 0.2
    assert about["method"] == "smp-s" and about["labels"] == ["bad", "good"]
    assert about["versions"].keys() == {"bert-smp", "torch", "transformers", "accelerate", "numpy"}
    assert sorted(metadata["head_weights"]) == ["classifier.bias", "classifier.weight",
                                                "pooler.dense.bias", "pooler.dense.weight"]
    kept = sum(int(mask.sum()) for mask in masks.values())
    kinds = [2 * 1024] * 4 + [2 * 2048] * 2  # two layers share the weights of a kind
    assert kept == sum(int(0.2 * size) for size in kinds)
    _, block, body = (tmp_path / "m/README.md").read_text("utf-8").split("---\n", 2)
    card = yaml.safe_load(block)
    assert card["license"] == "mit" and card["pipeline_tag"] == "text-classification"
    assert card["base_model"] == "base" and card["datasets"] == ["films"]
    result = card["model-index"][0]["results"][0]
    assert result["task"]["type"] == "text-classification"
    assert {m["type"]: m["value"] for m in result["metrics"]} == {"accuracy": 0.75, "f1": 0.5}
    assert "- trained on: films" in body and "- accuracy: 0.7500" in body
    pruned = PrunedModel.from_pretrained(base, tmp_path / "m")
    pruned.save_pretrained(tmp_path / "again")
    for name in (CONFIG_FILE, "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "m" / name).read_bytes()


def test_the_code_of_a_card_runs(tmp_path, tokenizer, base, capsys):
    train_task(base, tmp_path / "m", "text-classification", tokenizer)
    card = (tmp_path / "m/README.md").read_text("utf-8")
    code = card.split("```python\n")[1].split("```")[0]
    exec(code.replace("'base'", repr(base)).replace('"this folder"', repr(str(tmp_path / "m"))), {})
    assert "'label': '" in capsys.readouterr().out


def changed(path, **changes):
    masks, about = load_masks(path)
    about |= changes
    save_masks(masks, path, **{name: value for name, value in about.items() if value is not None})


@pytest.mark.parametrize("change, said", [
    (dict(base_sha="0123456789ab"), "use the base model that the masks were trained on"),
    (dict(labels=["a", "b", "c"]), r"head classifier.bias is float32 of shape \(2,\), expected"),
    (dict(labels="ab"), "its labels are 'ab', expected a list of texts"),
    (dict(task="image-classification"), "its task is 'image-classification', expected one of"),
    (dict(task="token-classification"), "head pooler.dense.bias is float32 .*, expected none"),
    (dict(head_weights=None), "head classifier.bias is missing, expected float32"),
    (dict(head_weights={"classifier.bias": np.zeros(2, np.float32)}), "head classifier.weight is"),
])
def test_a_folder_that_does_not_fit_raises_one_line(tmp_path, tokenizer, base, change, said):
    train_task(base, tmp_path / "m", "text-classification", tokenizer)
    changed(tmp_path / "m/masks.safetensors", **change)
    with pytest.raises(ValueError, match=said) as error:
        PrunedModel.from_pretrained(base, tmp_path / "m")
    assert "\n" not in str(error.value)


def test_a_class_without_stock_head_has_no_mask_file(tmp_path, tokenizer, tiny_masked_lm):
    masks = Masks(encoder_linears(tiny_masked_lm))
    trainer = SMPTrainer(
        tiny_masked_lm, TrainingArguments(str(tmp_path), use_cpu=True, report_to=[]),
        pruning=Pruning(masks, MaskSettings(0.5)), processing_class=tokenizer)
    with pytest.raises(ValueError, match="BertForMaskedLM has no stock head for question-answeri"):
        trainer.save_mask(tmp_path)
