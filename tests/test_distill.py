"""The losses and the teacher."""

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, BertForQuestionAnswering

from conftest import tiny_config
from smp.distill import ask_teacher, distillation_loss, distilled_loss, load_teacher
from smp.settings import choose_settings
from smp.train import span_loss


def reference_kd(student, teacher, lengths, tau):
    """Oracle: torch's kl_div row by row, on the unpadded part only."""
    total = 0.0
    for row, length in enumerate(lengths):
        for side in (0, 1):
            s, t = student[row, :length, side] / tau, teacher[row, :length, side] / tau
            total += F.kl_div(s.log_softmax(0), t.softmax(0), reduction="sum") * tau**2
    return total / (2 * len(lengths))


@pytest.mark.parametrize("tau", [1.0, 2.0, 5.5])
def test_kd_is_kl_div_on_unpadded_rows(tau):
    torch.manual_seed(0)
    lengths = [5, 9, 7]
    student, teacher = torch.randn(3, 9, 2) * 3, torch.randn(3, 9, 2) * 3
    mask = torch.tensor([[1] * n + [0] * (9 - n) for n in lengths])
    loss = distillation_loss(student, teacher, mask, tau)
    assert loss == pytest.approx(
        float(reference_kd(student, teacher, lengths, tau)), rel=1e-5)
    padded = teacher.clone()
    padded[mask == 0] = -torch.inf  # what stands at padding does not matter
    assert torch.equal(distillation_loss(student, padded, mask, tau), loss)


def test_kd_with_oneself_is_zero_and_has_a_finite_gradient():
    student = torch.randn(2, 6, 2, requires_grad=True)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    loss = distillation_loss(student, student.detach(), mask, 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(student.grad).all()
    assert (student.grad[1, 4:] == 0).all()


def test_span_loss_is_the_stock_models(tiny_qa, batch):
    labels = {"start_positions": torch.tensor([1, 2, 3]), "end_positions": torch.tensor([4, 5, 6])}
    out = tiny_qa(**batch, **labels)
    assert torch.allclose(span_loss(out.start_logits, out.end_logits, labels), out.loss)


def test_the_teacher_is_asked_once_per_window(tiny_qa, tokenizer, windows):
    logits = ask_teacher(tiny_qa, windows, tokenizer, "fp32")
    assert logits.dtype == torch.float16 and logits.shape[0] == len(windows)
    for row in range(len(windows)):
        ids = torch.tensor([windows[row]["input_ids"]])
        kinds = torch.tensor([windows[row]["token_type_ids"]])
        alone = tiny_qa(input_ids=ids, token_type_ids=kinds).start_logits[0]
        assert torch.allclose(logits[row, : ids.shape[1], 0].float(), alone, atol=1e-3)
        assert (logits[row, ids.shape[1]:] == -6e4).all()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_distilled_loss_mixes_both(alpha):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 7, 2), torch.randn(5, 9, 2).half()
    batch = {"row": torch.tensor([4, 1]), "attention_mask": torch.ones(2, 7),
             "start_positions": torch.tensor([0, 3]), "end_positions": torch.tensor([2, 6])}
    loss = distilled_loss(teacher, choose_settings("quick", "smp-kd", kd_weight=alpha))
    ce = span_loss(student[..., 0], student[..., 1], batch)
    kd = distillation_loss(student, teacher[[4, 1], :7].float(), batch["attention_mask"], 2.0)
    got = loss(student[..., 0], student[..., 1], batch)
    assert torch.allclose(got, (1 - alpha) * ce + alpha * kd)


def test_teachers_that_do_not_fit_are_refused_in_one_line(tmp_path, tokenizer):
    good = tmp_path / "good"
    BertForQuestionAnswering(tiny_config()).save_pretrained(good)
    tokenizer.save_pretrained(good)
    assert not load_teacher(str(good), tokenizer, 128).training

    def refused(match, *args):
        with pytest.raises((ValueError, FileNotFoundError), match=match) as error:
            load_teacher(*args)
        assert "\n" not in str(error.value)

    refused("reads 128 tokens", str(good), tokenizer, 256)

    headless = tmp_path / "headless"
    BertForQuestionAnswering(tiny_config()).bert.save_pretrained(headless)
    tokenizer.save_pretrained(headless)
    refused("no question-answering head", str(headless), tokenizer, 64)

    small = tmp_path / "small"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no"]
    BertForQuestionAnswering(tiny_config(vocab_size=len(words))).save_pretrained(small)
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    type(tokenizer)(vocab=str(tmp_path / "vocab.txt")).save_pretrained(small)
    assert len(AutoTokenizer.from_pretrained(small)) == len(words)
    refused("another vocabulary", str(small), tokenizer, 64)

    refused("no such folder", str(tmp_path / "nowhere"), tokenizer, 64)
