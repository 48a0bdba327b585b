"""`speed_up`: the same steps except for rounding, the same evaluations bit for bit."""

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from transformers import BertForQuestionAnswering, MPNetConfig, MPNetForQuestionAnswering

from helpers import tiny_config
from smp.data.windows import featurise, make_loader
from smp.fast import speed_up as speed
from smp.fast.speed_up import ATTENTION, AttentionOfTraining, keep_bytes, speed_up, use_onednn
from smp.model.load import EMBEDDED_ENCODER, load_qa_model
from smp.model.predict import MODEL_INPUTS

QKV = (2, 3, 5, 4)  # batch, heads, tokens, width
VISIBLE = torch.tensor([5 * [True], 3 * [True] + 2 * [False]]).view(2, 1, 1, 5).expand(2, 1, 5, 5)
LABELS = {"start_positions": torch.tensor([1, 2, 3]), "end_positions": torch.tensor([4, 5, 6])}


@pytest.fixture(autouse=True)
def forget():
    """Let each test print its lines, and restore the process-wide choice of products."""
    speed.print_once.cache_clear()
    speed.print_load.cache_clear()
    yield
    speed.use_onednn.cache_clear()


def some(dtype=torch.double):
    torch.manual_seed(0)
    return [torch.randn(QKV, dtype=dtype, requires_grad=True) for _ in range(3)]


def gradients(model, batch, bf16=False):
    """Return all gradients of one training step, as one vector."""
    model.train().zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(**LABELS | batch).loss
    loss.float().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("mask", [None, VISIBLE], ids=["all visible", "padded"])
def test_attention_without_dropout_equals_that_of_torch(mask):
    q, k, v = some()
    ours = AttentionOfTraining.apply(q, k, v, mask, 0.5, 0.0)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, mask, scale=0.5))


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5])
def test_attention_has_the_gradients_of_finite_differences(dropout):
    def attend(q, k, v):
        torch.manual_seed(1)
        return AttentionOfTraining.apply(q, k, v, VISIBLE, 0.5, dropout)

    assert torch.autograd.gradcheck(attend, some())


def test_dropout_of_attention_drops_and_rescales_shares():
    q, k = torch.randn(2, 2, 3, 5, 5, dtype=torch.double)
    one = torch.eye(5, dtype=torch.double).expand(2, 3, 5, 5)  # the output is the shares
    shares = AttentionOfTraining.apply(q, k, one, None, 0.5, 0.0)
    torch.manual_seed(2)
    dropped = AttentionOfTraining.apply(q, k, one, None, 0.5, 0.25)
    torch.manual_seed(2)
    kept, factor = keep_bytes((6, 5, 5), 0.25)
    assert factor == 1 / 0.75 and 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(dropped, shares * kept.view(2, 3, 5, 5) / 0.75)


@pytest.mark.parametrize("dropout", [0.1, 0.25])
def test_bytes_are_kept_with_the_nearest_probability_of_256(dropout):
    torch.manual_seed(0)
    kept, factor = keep_bytes((1001, 999), dropout)
    expected = 1 - round(256 * dropout) / 256
    assert kept.shape == (1001, 999) and factor == pytest.approx(1 / expected)
    spread = (expected * (1 - expected) / kept.numel()) ** 0.5
    assert abs(kept.double().mean() - expected) < 4 * spread
    torch.manual_seed(0)
    assert torch.equal(kept, keep_bytes((1001, 999), dropout)[0])


def test_evaluations_and_fp32_steps_keep_their_bits(tiny_qa, batch):
    fast = copy.deepcopy(tiny_qa)
    speed_up(fast)
    assert fast.config._attn_implementation == ATTENTION
    if not use_onednn():  # its products round differently
        assert torch.equal(gradients(tiny_qa, batch), gradients(fast, batch))
    with torch.no_grad():
        before, after = tiny_qa.eval()(**batch), fast.eval()(**batch)
    assert torch.equal(before.start_logits, after.start_logits)


def test_bf16_gradients_are_no_less_exact_than_with_torch(synthetic, tokenizer):
    model = load_qa_model(EMBEDDED_ENCODER, dropout=0.0)[0]
    model.bert.encoder.layer = model.bert.encoder.layer[:1]  # many CPUs emulate bf16 slowly
    windows = featurise(synthetic["train"], tokenizer, 160, 64)
    batches = [{name: batch[name] for name in (*MODEL_INPUTS, *LABELS)}
               for batch in make_loader(windows, tokenizer, 4, shuffle=False)][:3]
    exact = [gradients(model, batch) for batch in batches]
    by_torch = [gradients(model, batch, bf16=True) for batch in batches]
    speed_up(model)
    ours = [gradients(model, batch, bf16=True) for batch in batches]
    assert not torch.equal(ours[0], by_torch[0])

    def error(found):
        return sum((one - other).norm() / other.norm() for one, other in zip(found, exact))

    assert error(ours) < 1.05 * error(by_torch)


def test_a_model_with_its_own_attention_is_named(capsys):
    config = tiny_config()
    model = MPNetForQuestionAnswering(MPNetConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
    before = model.config._attn_implementation
    speed_up(model)
    assert model.config._attn_implementation == before != config._attn_implementation
    assert "attention: unchanged (MPNetForQuestionAnswering has its own)" in capsys.readouterr().out


def test_one_line_names_what_is_switched_on(tiny_qa, capsys, monkeypatch):
    monkeypatch.setattr(speed, "print_load", lambda: None)
    speed_up(tiny_qa)
    speed_up(copy.deepcopy(tiny_qa))
    line, rest = capsys.readouterr().out.split("\n", 1)
    assert line.startswith("speed_up: memory: ") and rest == ""
    assert "attention: two products with dropout or bf16; fp32 products: " in line


def test_without_glibc_and_with_another_torch_it_is_plain(tiny_qa, capsys, monkeypatch):
    monkeypatch.setattr(speed.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(torch.backends.mkldnn, "matmul", None, raising=False)
    speed.use_onednn.cache_clear()
    speed_up(tiny_qa)
    out = capsys.readouterr().out
    assert "memory: unchanged (no glibc)" in out and "fp32 products: unchanged" in out


def test_products_stay_those_of_fp32():
    default = torch.backends.mkldnn.matmul.fp32_precision
    used = use_onednn()
    assert (torch.backends.mkldnn.matmul.fp32_precision == default) is not used
    torch.manual_seed(0)
    left, right = torch.randn(2, 300, 300)
    exact = left.double() @ right.double()
    assert (left @ right - exact).norm() < 1e-6 * exact.norm()


def test_a_saved_model_does_not_name_the_attention(tiny_qa, tmp_path):
    speed_up(tiny_qa)
    tiny_qa.save_pretrained(tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text()
    again = BertForQuestionAnswering.from_pretrained(tmp_path)
    assert again.config._attn_implementation == "sdpa"


def test_a_loaded_machine_is_named_with_the_advice(tiny_qa, capsys):
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        speed_up(tiny_qa)
    finally:
        other.kill()
        other.wait()
    out = capsys.readouterr().out
    assert "Other processes use " in out and "use fewer threads (--threads" in out
