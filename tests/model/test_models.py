"""Loading, the label-word head, saving: nothing is initialised anew behind one's back."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, BertForMaskedLM

from helpers import attach_masks
from smp.model.load import EMBEDDED_ENCODER, find_model, load_qa_model, load_student
from smp.model.save import model_fingerprint, save_model


@pytest.fixture
def masked_lm_folder(tmp_path, tiny_masked_lm, tokenizer):
    folder = tmp_path / "bert-like"
    tiny_masked_lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_embedded_encoder_is_loaded_bit_for_bit():
    model, tokenizer, has_head = load_qa_model(EMBEDDED_ENCODER, dropout=0.25)
    saved = load_file(find_model(EMBEDDED_ENCODER) + "/model.safetensors")
    loaded = model.bert.state_dict()
    shared = [name for name in saved if name in loaded]
    assert len(shared) == len(loaded)
    assert all(torch.equal(saved[name].float(), loaded[name]) for name in shared)
    assert not has_head and len(tokenizer) == 30522
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}


def test_label_word_head_is_a_slice_of_the_masked_lm(masked_lm_folder, batch):
    student, tokenizer, head = load_student(str(masked_lm_folder))
    assert head == "label words"
    full = BertForMaskedLM.from_pretrained(masked_lm_folder).eval()(**batch).logits
    out = student.eval()(**batch)
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    assert torch.allclose(out.start_logits, full[..., yes], atol=1e-6)
    assert torch.allclose(out.end_logits, full[..., no], atol=1e-6)
    assert not any(p.requires_grad for p in student.qa_outputs.parameters())


def test_without_a_masked_lm_head_the_head_is_trained():
    student, _, head = load_student(EMBEDDED_ENCODER)
    assert head == "trained" and isinstance(student.qa_outputs, torch.nn.Linear)


@pytest.mark.parametrize("with_masked_lm", [True, False])
def test_a_baked_model_is_loaded_by_stock_code(
    tmp_path, masked_lm_folder, tiny_qa, tokenizer, batch, with_masked_lm
):
    if with_masked_lm:
        model, tokenizer, _ = load_student(str(masked_lm_folder))
        model.eval()
    else:
        model = tiny_qa
    masks = attach_masks(model)
    for score in masks.scores:
        score.data = torch.randn_like(score)
    masks.refresh(0.3)
    before = model(**batch)
    masks.merge()
    folder = tmp_path / "baked"
    for _ in range(2):  # the second save replaces the first
        save_model(model, tokenizer, folder, base=str(masked_lm_folder))
    if with_masked_lm:
        again = load_student(str(folder))[0].eval()
    else:
        again = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    assert torch.equal(again(**batch).start_logits, before.start_logits)
    assert torch.equal(again(**batch).end_logits, before.end_logits)
    assert [path.name for path in tmp_path.iterdir() if "." in path.name] == []


def test_fingerprint_is_of_the_encoder(tiny_qa):
    before = model_fingerprint(tiny_qa)
    tiny_qa.qa_outputs.weight.data.add_(1)
    assert model_fingerprint(tiny_qa) == before
    tiny_qa.bert.encoder.layer[0].output.dense.weight.data[0, 0] += 1e-3
    assert model_fingerprint(tiny_qa) != before


@pytest.mark.parametrize("name, message", [
    ("./nowhere", "no such folder"),
    ("nobody/no-such-model", "nor reachable on the Hub"),
])
def test_a_missing_model_gets_one_line(name, message):
    with pytest.raises(FileNotFoundError, match=message) as error:
        load_qa_model(name)
    assert "\n" not in str(error.value) and name in str(error.value)


def test_a_folder_that_is_no_model_gets_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config.json"):
        load_qa_model(str(tmp_path))


def test_half_a_checkpoint_is_refused(tmp_path, tiny_qa, tokenizer):
    tiny_qa.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    from safetensors.torch import save_file

    weights = load_file(tmp_path / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="the checkpoint lacks"):
        load_qa_model(str(tmp_path))
