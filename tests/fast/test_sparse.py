"""Sparse products equal dense ones and replace them if they are faster."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoConfig, AutoModelForQuestionAnswering

from helpers import SQUAD, attach_masks, compiler_named, needs_squad
from smp.data.answers import decode_answers
from smp.data.reading import load_squad
from smp.data.windows import featurise
from smp.fast import sparse
from smp.fast.compact_file import save_compact
from smp.fast.dead_units import prune_dead_units
from smp.fast.products import compiled_products, sparse_product
from smp.fast.sparse import SparseLinear, TorchSparseLinear, accelerate, measure_speed_up
from smp.method.baselines import MagnitudeMasks
from smp.model.encoder import encoder_linears
from smp.model.load import load_qa_model
from smp.model.predict import predict_logits
from smp.model.save import save_model

needs_compiler = pytest.mark.skipif(compiled_products() is None, reason="no C compiler with OpenMP")
KINDS = [TorchSparseLinear, pytest.param(SparseLinear, marks=needs_compiler)]


@pytest.fixture
def always(monkeypatch):
    """Replace every layer, also with a slower product."""
    monkeypatch.setattr(sparse, "MARGIN", 0)


def sparse_linear(rows, columns, density, bias=True):
    linear = nn.Linear(columns, rows, bias=bias)
    with torch.no_grad():
        linear.weight *= torch.rand(rows, columns) < density
    return linear


@torch.no_grad()
def logits(model, batch):
    out = model.eval()(**batch)
    return torch.stack([out.start_logits, out.end_logits])


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=80)
@given(
    rows=st.integers(1, 70), columns=st.integers(1, 70), tokens=st.integers(0, 200),
    density=st.sampled_from([0, 0.03, 0.1, 0.5, 1]), bias=st.booleans(),
    threads=st.integers(1, 4), seed=st.integers(0, 99),
)
def test_product_equals_the_dense_one(kind, rows, columns, tokens, density, bias, threads, seed):
    torch.manual_seed(seed)
    linear = sparse_linear(rows, columns, density, bias)
    x = torch.randn(tokens, columns)
    exact = nn.functional.linear(
        x.double(), linear.weight.double(), linear.bias.double() if bias else None
    )
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = kind(linear)(x)
    finally:
        torch.set_num_threads(usual)
    assert y.shape == (tokens, rows) and y.dtype == torch.float32
    assert torch.allclose(y.double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_leading_sizes_and_layouts_do_not_change_the_product(kind):
    linear = sparse_linear(24, 40, 0.3)
    sparse = kind(linear)
    for x in (torch.randn(40), torch.randn(2, 3, 5, 40), torch.randn(40, 70).T,
              torch.randn(3, 40, 20)[:, :, ::2].mT):
        assert torch.allclose(sparse(x), linear(x), atol=1e-5)
    assert torch.allclose(sparse(x.bfloat16()), linear(x.bfloat16().float()), atol=1e-5)


@needs_compiler
def test_a_kept_weight_needs_six_bytes():
    sparse = SparseLinear(sparse_linear(64, 40, 0.1))
    assert sparse.columns.element_size() + sparse.values.element_size() == 6
    assert not any(buffer._is_view() for buffer in sparse.buffers() if buffer is not sparse.bias)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_of_wrong_shape_or_device_raise(kind):
    sparse = kind(sparse_linear(24, 40, 0.3))
    with pytest.raises(ValueError, match=r"shape \(40, 2\), expected \(..., 40\)"):
        sparse(torch.randn(40, 2))
    with pytest.raises(ValueError, match="must stay torch.float32 on cpu"):
        sparse(torch.randn(2, 40, device="meta"))
    sparse.bias = sparse.bias.half()
    with pytest.raises(ValueError, match="must stay torch.float32 on cpu"):
        sparse(torch.randn(2, 40))


@pytest.mark.parametrize("family, changes", [
    ("bert", {}), ("roberta", {}), ("distilbert", dict(dim=32, n_heads=4, n_layers=2,
                                                       hidden_dim=64)),
    ("electra", dict(embedding_size=16)), ("albert", dict(embedding_size=16)), ("mpnet", {}),
])
def test_an_accelerated_model_has_the_same_logits(family, changes, always):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **dict(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=40,
    ) | changes)
    model = AutoModelForQuestionAnswering.from_config(config)
    masks = attach_masks(model)
    masks.refresh(0.1)
    masks.merge()
    batch = {"input_ids": torch.randint(5, 100, (3, 20)), "attention_mask": torch.ones(3, 20)}
    batch["attention_mask"][1, 9:] = 0
    before, kept = logits(model, batch), [name for name, *_ in encoder_linears(model)]
    assert accelerate(model, batch) is model
    assert [row["matrix"] for row in model.acceleration] == kept
    assert all(row["density"] == pytest.approx(0.1, abs=0.01) for row in model.acceleration)
    product = "torch CSR" if compiled_products() is None else "compiled CSR"
    assert all(row["product"] == product for row in model.acceleration)
    assert isinstance(model.base_model.get_submodule(kept[0]), TorchSparseLinear)
    assert torch.allclose(logits(model, batch), before, atol=1e-5)


@pytest.mark.parametrize("save", [
    lambda model, tokenizer, folder: model.save_pretrained(folder), save_model, save_compact,
    lambda model, tokenizer, folder: model.state_dict(),
], ids=["save_pretrained", "save_model", "save_compact", "state_dict"])
def test_saving_an_accelerated_model_raises(save, tiny_qa, tokenizer, batch, tmp_path, always):
    accelerate(tiny_qa, batch)
    with pytest.raises(ValueError, match="query.weight is sparse|contains SparseLinear") as error:
        save(tiny_qa, tokenizer, tmp_path / "saved")
    assert "\n" not in str(error.value) and not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("change", [attach_masks, prune_dead_units, encoder_linears])
def test_changing_an_accelerated_model_raises(change, tiny_qa, batch, monkeypatch):
    ratios = [2.0, 0.5] * 6  # half of the matrices become sparse
    monkeypatch.setattr(sparse, "measure_speed_up", lambda *functions: ratios.pop())
    accelerate(tiny_qa, batch)
    with pytest.raises(ValueError, match="is accelerated, for inference only"):
        change(tiny_qa)


def test_slower_products_stay_dense(tiny_qa, batch, monkeypatch):
    monkeypatch.setattr(sparse, "MARGIN", float("inf"))
    before, keys = logits(tiny_qa, batch), list(tiny_qa.state_dict())
    accelerate(tiny_qa, batch)
    assert {row["product"] for row in tiny_qa.acceleration} == {"dense"}
    assert list(tiny_qa.state_dict()) == keys and torch.equal(logits(tiny_qa, batch), before)


def test_without_a_compiler_torchs_product_is_used(tiny_qa, batch, always):
    with compiler_named("no-such-compiler"):
        before = logits(tiny_qa, batch)
        with pytest.warns(UserWarning, match="'no-such-compiler'.*; install a C compiler") as given:
            accelerate(tiny_qa, batch)
        assert len(given) == 1 and "\n" not in str(given[0].message)
        assert {row["product"] for row in tiny_qa.acceleration} == {"torch CSR"}
        assert torch.allclose(logits(tiny_qa, batch), before, atol=1e-5)


@pytest.mark.parametrize("compiler, reason", [
    ("", "sparse.so"), ("echo no -fopenmp >&2; exit 1", r"\(no -fopenmp\)"),
    ('for last; do :; done; : > "$last"', "sparse.so"), (None, "Exec format"),  # no program at all
], ids=["no output", "failure", "empty file", "no program"])
def test_a_broken_compiler_returns_none_and_warns(compiler, reason, tmp_path):
    named = tmp_path / "compiler"
    named.write_bytes(b"\0" if compiler is None else f"#!/bin/sh\n{compiler}\n".encode())
    named.chmod(0o755)
    with compiler_named(named):
        with pytest.warns(UserWarning, match=reason):
            assert compiled_products() is None
        with pytest.raises(RuntimeError, match="need a C compiler with OpenMP"):
            sparse_product(torch.ones(1, 1), (), None, 1)


@needs_compiler
def test_CC_may_contain_options():
    with compiler_named("cc -pthread"):
        assert compiled_products() is not None


def test_a_compact_model_can_be_accelerated(tiny_qa, batch, always):
    with torch.no_grad():
        for *_, linear in encoder_linears(tiny_qa):
            linear.weight[: len(linear.weight) // 3] = 0
        first = tiny_qa.bert.encoder.layer[0]
        first.attention.self.value.weight.zero_()  # no head is left
    before = logits(tiny_qa, batch)
    prune_dead_units(tiny_qa)
    accelerate(tiny_qa, batch)
    assert len(tiny_qa.acceleration) == 12 - 4
    assert torch.allclose(logits(tiny_qa, batch), before, atol=1e-5)


@pytest.mark.parametrize("change, reason", [
    (lambda model: attach_masks(model), "still has its masks attached"),
    (lambda model: model.double(), "torch.float64 on cpu; expected torch.float32 on cpu"),
    (lambda model: model.to("meta"), "on meta; expected torch.float32 on cpu"),
    (lambda model: setattr(model.bert.encoder, "layer", nn.ModuleList()), "no stack of encoder"),
])
def test_unsuitable_models_raise(tiny_qa, batch, change, reason):
    change(tiny_qa)
    with pytest.raises(ValueError, match=reason):
        accelerate(tiny_qa, batch)


def test_speed_up_is_the_median_over_calls_in_turns(monkeypatch):
    clock = {"now": 0.0}
    monkeypatch.setattr(sparse.time, "perf_counter", lambda: clock["now"])
    calls = []

    def timed(name, *seconds):
        def function():
            clock["now"] += seconds[calls.count(name)]
            calls.append(name)
        return function

    found = measure_speed_up(timed("before", 9, 2, 4, 6), timed("after", 1, 2, 2, 2), rounds=3)
    assert calls == ["before", "after"] * 4
    assert found == 2  # the median of 1, 2 and 3; the warm-up is not among them


@needs_squad
def test_answers_to_real_questions_stay_equal():
    dev = load_squad(SQUAD / "squad-dev-v1.1.json.xz", n_train=80, longest_passage=70)
    rows = dev["train"]  # of a single file, load_squad calls the larger part "train"
    assert len(rows) == 80
    torch.manual_seed(0)
    model, tokenizer, _ = load_qa_model("all-MiniLM-L6-v2", dropout=0.0)
    masks = attach_masks(model, kind=MagnitudeMasks)
    masks.refresh(0.1)
    masks.merge()
    with torch.no_grad():
        for *_, linear in encoder_linears(model):
            linear.weight[::7] = 0  # so that there are dead units
    windows = featurise(rows, tokenizer, 384, 128)

    def read():
        start, end = predict_logits(model, windows, tokenizer, "fp32")
        return start, end, decode_answers(rows, windows, start, end)

    def same(found, wanted):
        return all(
            torch.allclose(torch.from_numpy(a), torch.from_numpy(b), rtol=0, atol=1e-4)
            for a, b in zip(found[:2], wanted[:2])
        ) and [a["prediction_text"] for a in found[2]] == [a["prediction_text"] for a in wanted[2]]

    masked = read()
    report = prune_dead_units(model)
    assert report["parameters"][1] < report["parameters"][0]
    assert all(row["neurons"] and row["value_dimensions"] for row in report["layers"])
    assert same(read(), masked)
    accelerate(model, {"input_ids": torch.ones(8, 100, dtype=torch.long)})
    assert same(read(), masked)
