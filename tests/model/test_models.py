"""Loading, the label-word head and saving: no weight is silently initialised."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForQuestionAnswering, BertForMaskedLM

from helpers import attach_masks
from smp.model.load import EMBEDDED_ENCODER, find_model, load_qa_model
from smp.model.save import model_fingerprint, save_model
from smp.model.student import load_student, stock_model


def test_the_embedded_encoder_loads_bit_for_bit():
    model, tokenizer, has_head = load_qa_model(EMBEDDED_ENCODER, dropout=0.25)
    saved = load_file(find_model(EMBEDDED_ENCODER) + "/model.safetensors")
    loaded = model.bert.state_dict()
    shared = [name for name in saved if name in loaded]
    assert len(shared) == len(loaded)
    assert all(torch.equal(saved[name].float(), loaded[name]) for name in shared)
    assert not has_head and len(tokenizer) == 30522
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}


def test_label_word_head_equals_the_masked_lm(base, batch):
    student, tokenizer, head = load_student(base)
    assert head == "label words"
    full = BertForMaskedLM.from_pretrained(base).eval()(**batch).logits
    out = student.eval()(**batch)
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    assert torch.allclose(out.start_logits, full[..., yes], atol=1e-6)
    assert torch.allclose(out.end_logits, full[..., no], atol=1e-6)
    assert not any(p.requires_grad for p in student.qa_outputs.parameters())


def test_without_a_masked_lm_head_the_head_is_trained():
    student, _, head = load_student(EMBEDDED_ENCODER)
    assert head == "trained" and isinstance(student.qa_outputs, torch.nn.Linear)


@pytest.mark.parametrize("with_masked_lm", [True, False])
def test_stock_code_loads_a_merged_model(
    tmp_path, base, tiny_qa, tokenizer, batch, with_masked_lm
):
    if with_masked_lm:
        model, tokenizer, _ = load_student(base)
        model.eval()
    else:
        model = tiny_qa
    masks = attach_masks(model)
    for score in masks.scores:
        score.data = torch.randn_like(score)
    masks.refresh(0.3)
    before = model(**batch)
    masks.merge()
    folder = tmp_path / "merged"
    for _ in range(2):  # the second save replaces the first
        save_model(stock_model(model, base), tokenizer, folder)
    if with_masked_lm:
        again = load_student(str(folder))[0].eval()
    else:
        again = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    assert torch.equal(again(**batch).start_logits, before.start_logits)
    assert torch.equal(again(**batch).end_logits, before.end_logits)
    assert [path.name for path in tmp_path.iterdir() if "." in path.name] == []


def test_a_label_word_head_is_not_saved_as_a_stock_model(tmp_path, base, tokenizer):
    """Stock classes have no such head; from_pretrained would load another one without an error."""
    with pytest.raises(ValueError, match="contains LabelWordHead.*save stock_model") as error:
        save_model(load_student(base)[0], tokenizer, tmp_path / "model")
    assert "\n" not in str(error.value) and not (tmp_path / "model").exists()


def test_fingerprint_depends_on_the_encoder_only(tiny_qa):
    before = model_fingerprint(tiny_qa)
    tiny_qa.qa_outputs.weight.data.add_(1)
    assert model_fingerprint(tiny_qa) == before
    tiny_qa.bert.encoder.layer[0].output.dense.weight.data[0, 0] += 1e-3
    assert model_fingerprint(tiny_qa) != before


@pytest.mark.parametrize("name, message", [
    ("./nowhere", "no such folder"),
    ("nobody/no-such-model", "nor reachable on the Hub"),
])
def test_a_missing_model_raises_one_line(name, message):
    with pytest.raises(FileNotFoundError, match=message) as error:
        load_qa_model(name)
    assert "\n" not in str(error.value) and name in str(error.value)


def test_a_folder_without_config_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config.json"):
        load_qa_model(str(tmp_path))


def test_an_incomplete_checkpoint_raises(tmp_path, tiny_qa, tokenizer):
    tiny_qa.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="is missing from the checkpoint"):
        load_qa_model(str(tmp_path))
