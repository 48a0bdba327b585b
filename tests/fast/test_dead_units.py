"""Dead units are removed without a change of the logits; compact models are saved and loaded."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertForMaskedLM,
)

from helpers import attach_masks, tiny_config
from smp.fast.compact_file import compact_as_csr, load_compact, save_compact
from smp.fast.dead_units import NarrowSelfAttention, prune_dead_units
from smp.model.encoder import encoder_linears
from smp.model.save import count_parameters, save_model
from smp.model.student import label_word_head

HEADS, SIZE, INNER = 3, 4, 10  # of the models below: hidden size 12
MATRICES = ["query", "key", "value", "attention output", "intermediate", "output"]
SIZES = dict(
    vocab_size=60, hidden_size=HEADS * SIZE, num_hidden_layers=2, num_attention_heads=HEADS,
    intermediate_size=INNER, max_position_embeddings=40, num_labels=2,
    hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,  # off in evaluation, on in training
)


def random_model(seed=0, family="bert", **changes):
    """Return a tiny model in fp64 with nonzero biases."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **SIZES | changes)
    model = AutoModelForQuestionAnswering.from_config(config).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def inputs(seed=0, padded=True):
    torch.manual_seed(seed)
    mask = torch.ones(3, 9, dtype=torch.long)
    if padded:
        mask[1, 5:], mask[2, 1:] = 0, 0
    return {"input_ids": torch.randint(3, 60, (3, 9)), "attention_mask": mask}


@torch.no_grad()
def logits(model, batch):
    out = model(**batch)
    return torch.stack([out.start_logits, out.end_logits])


def matrices(model, layer):
    found = {matrix: linear for _, matrix, at, linear in encoder_linears(model) if at == layer}
    return [found[name] for name in MATRICES]


def zero(linear, row=None, column=None):
    with torch.no_grad():
        linear.weight[slice(None) if row is None else row,
                      slice(None) if column is None else column] = 0


def count_by_hand(model, layer):
    """Return the numbers of dead units of a layer, counted weight by weight."""
    query, key, value, output, up, down = matrices(model, layer)

    def row(linear, i):
        return all(w == 0 for w in linear.weight[i].tolist())

    def column(linear, i):
        return all(w == 0 for w in linear.weight[:, i].tolist())

    neurons = sum(row(up, i) or column(down, i) for i in range(INNER))
    heads = keys = values = 0
    for head in range(HEADS):
        places = range(head * SIZE, (head + 1) * SIZE)
        dead = sum(row(value, i) or column(output, i) for i in places)
        heads, values = heads + (dead == SIZE), values + dead
        keys += SIZE if dead == SIZE else sum(
            row(key, i) or (row(query, i) and query.bias[i].item() == 0) for i in places
        )
    return {"neurons": neurons, "heads": heads, "value_dimensions": values, "key_dimensions": keys}


dimensions = st.sets(st.integers(0, HEADS * SIZE - 1))
some_heads = st.sets(st.integers(0, HEADS - 1))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 99), rows=st.lists(dimensions, min_size=8, max_size=8),
    neurons=st.lists(st.sets(st.integers(0, INNER - 1)), min_size=4, max_size=4),
    heads=st.lists(some_heads, min_size=2, max_size=2), density=st.sampled_from([1, 0.5, 0.15, 0]),
    padded=st.booleans(),
)
def test_removal_of_dead_units_keeps_the_logits(seed, rows, neurons, heads, density, padded):
    model = random_model(seed)
    for layer in range(2):
        query, key, value, output, up, down = matrices(model, layer)
        with torch.no_grad():
            for linear in (query, key, value, output, up, down):
                linear.weight *= torch.rand_like(linear.weight) < density
        whole_heads = [head * SIZE + i for head in heads[layer] for i in range(SIZE)]
        of_query, of_key, of_value, of_output = rows[4 * layer:4 * layer + 4]
        zero(value, row=sorted({*of_value, *whole_heads}))
        zero(output, column=sorted(of_output))
        zero(key, row=sorted(of_key))
        zero(query, row=sorted(of_query))
        query.bias.data[sorted(of_query)[::2]] = 0  # the others are not removable
        zero(up, row=sorted(neurons[2 * layer]))
        zero(down, column=sorted(neurons[2 * layer + 1]))
    batch, expected = inputs(seed, padded), [count_by_hand(model, layer) for layer in range(2)]
    before, size = logits(model, batch), count_parameters(model)
    report = prune_dead_units(model)
    assert not any(module.training for module in model.modules())
    assert torch.allclose(logits(model, batch), before, rtol=0, atol=1e-9)
    for layer, row in enumerate(report["layers"]):
        assert {kind: row[kind] for kind in expected[layer]} == expected[layer]
        hidden = HEADS * SIZE
        less = (
            row["neurons"] * (2 * hidden + 1) + row["value_dimensions"] * (2 * hidden + 1)
            + row["key_dimensions"] * 2 * (hidden + 1)
        )
        assert row["parameters"][0] - row["parameters"][1] == less
    assert report["parameters"] == [size, count_parameters(model)]
    saved = sum(row["parameters"][0] - row["parameters"][1] for row in report["layers"])
    assert size - count_parameters(model) == saved


def test_a_model_without_dead_units_is_unchanged():
    model, batch = random_model(), inputs()
    before, state = logits(model, batch), {k: v.clone() for k, v in model.state_dict().items()}
    report = prune_dead_units(model)
    for row in report["layers"]:
        assert not any(row[kind] for kind in ("neurons", "heads", "value_dimensions",
                                              "key_dimensions"))
    assert report["parameters"][0] == report["parameters"][1]
    assert torch.equal(logits(model, batch), before)
    assert all(torch.equal(state[name], v) for name, v in model.state_dict().items())
    assert not any(isinstance(module, NarrowSelfAttention) for module in model.modules())


def test_a_model_of_zeros_keeps_only_biases_and_norms():
    model, batch = random_model(), inputs()
    for *_, linear in encoder_linears(model):
        zero(linear)
    before = logits(model, batch)
    report = prune_dead_units(model)
    for row, block in zip(report["layers"], model.bert.encoder.layer):
        assert (row["neurons"], row["heads"]) == (INNER, HEADS)
        assert sum(p.numel() for p in block.parameters()) == 6 * HEADS * SIZE  # biases, LayerNorms
    assert torch.allclose(logits(model, batch), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "camembert", "electra"])
@pytest.mark.parametrize("activation", ["gelu", "relu", "silu"])
def test_dead_units_of_each_family_and_activation(family, activation):
    changes = {"hidden_act": activation} | ({"embedding_size": 8} if family == "electra" else {})
    model, batch = random_model(1, family, **changes), inputs()
    for layer in range(2):
        query, key, value, output, up, down = matrices(model, layer)
        zero(up, row=[0, 3])
        zero(down, column=[4])
        zero(value, row=[0, 1, 5])
        zero(output, column=[2, 3, 11])
        zero(key, row=[6])
    before = logits(model, batch)
    report = prune_dead_units(model)
    assert [(row["neurons"], row["heads"], row["value_dimensions"], row["key_dimensions"])
            for row in report["layers"]] == [(3, 1, 6, 5)] * 2
    assert torch.allclose(logits(model, batch), before, rtol=0, atol=1e-9)


def test_dead_units_are_removed_only_after_merge(tiny_qa, batch):
    masks = attach_masks(tiny_qa)
    masks.refresh(0.01)  # all scores are equal: the first rows stay
    masked = logits(tiny_qa.eval(), batch)
    with pytest.raises(ValueError, match="still has its masks attached; merge"):
        prune_dead_units(tiny_qa)
    masks.merge()
    report = prune_dead_units(tiny_qa)
    assert all((row["neurons"], row["heads"]) == (63, 3) for row in report["layers"])
    assert torch.allclose(logits(tiny_qa, batch), masked, atol=1e-6)
    with pytest.raises(ValueError, match="are already removed"):
        prune_dead_units(tiny_qa)


@pytest.mark.parametrize("family, changes, reason", [
    ("distilbert", dict(dim=12, n_heads=3, n_layers=2, hidden_dim=10),
     "type is distilbert, expected one of bert, "),
    ("mpnet", {}, "type is mpnet, expected one of bert, "),
    ("albert", {"embedding_size": 8}, "type is albert, expected one of bert, "),
    ("bert", {"is_decoder": True}, "is a decoder, expected an encoder"),
])
def test_unsupported_models_raise_and_stay_unchanged(family, changes, reason):
    model = random_model(0, family, **changes)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=reason):
        prune_dead_units(model)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


# Save and load


def compacted():
    model = random_model().float()
    _, key, value, output, up, down = matrices(model, 1)  # layer 0 stays whole
    zero(up, row=[2, 7])
    zero(value, row=[4, 5, 6, 7, 8])
    zero(key, row=[0, 1])
    prune_dead_units(model)
    return model


def test_a_loaded_model_equals_the_saved_one(tmp_path, tokenizer):
    model, batch = compacted(), inputs()
    folder = save_compact(model, tokenizer, tmp_path / "small")
    again = load_compact(folder)
    assert torch.equal(logits(again, batch), logits(model, batch))
    assert again.config._attn_implementation == "sdpa" and not again.training
    assert AutoTokenizer.from_pretrained(folder).vocab_size == tokenizer.vocab_size
    save_compact(again, tokenizer, folder)  # over itself
    assert torch.equal(logits(load_compact(folder), batch), logits(model, batch))
    assert [each.name for each in tmp_path.iterdir()] == ["small"]
    with pytest.raises(OSError, match="no file named"):
        AutoModelForQuestionAnswering.from_pretrained(folder)


def test_tied_weights_stay_tied(tmp_path, tokenizer):
    torch.manual_seed(0)
    model = BertForMaskedLM(tiny_config(vocab_size=60)).eval()
    zero(model.bert.encoder.layer[0].attention.self.value, row=range(9))
    prune_dead_units(model)
    again = load_compact(save_compact(model, tokenizer, tmp_path / "small"))
    assert again.cls.predictions.decoder.weight is again.bert.embeddings.word_embeddings.weight
    with torch.no_grad():
        assert torch.equal(again(**inputs()).logits, model(**inputs()).logits)


def test_saving_a_label_word_head_raises(tmp_path, tokenizer, tiny_masked_lm, tiny_qa):
    tiny_qa.qa_outputs = label_word_head(tiny_masked_lm, tokenizer)
    with pytest.raises(ValueError, match="label-word head: save it with save_model"):
        save_compact(tiny_qa, tokenizer, tmp_path / "small")
    assert not list(tmp_path.iterdir())


def test_saving_attached_masks_raises(tmp_path, tokenizer, tiny_qa):
    attach_masks(tiny_qa)
    for save in (save_compact, save_model):
        with pytest.raises(ValueError, match="still has its masks attached"):
            save(tiny_qa, tokenizer, tmp_path / "small")
    assert not list(tmp_path.iterdir())


def changed(folder, **entries):
    path = folder / "compact.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize("damage", [
    lambda folder: (folder / "compact.safetensors").write_bytes(b"no weights"),
    lambda folder: (folder / "compact.json").write_text("{"),
    lambda folder: (folder / "compact.json").write_text("[]"),
    lambda folder: changed(folder, format="smp-compact-9"),
    lambda folder: changed(folder, layers=[]),
    lambda folder: changed(folder, layers=[{"neurons": 10, "heads": [[4, 4]] * 3}] * 2),
    lambda folder: changed(folder, layers=[{"neurons": -1, "heads": [[9, 4]] * 8}] * 2),
    lambda folder: changed(folder, layers=[{"neurons": "x", "heads": None}] * 2),
    lambda folder: changed(folder, **{"class": "AutoTokenizer"}),
    lambda folder: changed(folder, **{"class": "logging"}),
    lambda folder: changed(folder, **{"class": "DistilBertForQuestionAnswering"}),
])
def test_a_damaged_compact_model_raises_one_line(damage, tmp_path, tokenizer):
    folder = save_compact(compacted(), tokenizer, tmp_path / "small")
    damage(folder)
    with pytest.raises(ValueError, match="cannot be loaded as a compact model .*save") as caught:
        load_compact(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rows", [2**20, -1])
def test_rows_of_more_values_than_the_file_has_raise(rows, tmp_path, tokenizer):
    """Each value of the file would be repeated for them."""
    folder = save_compact(compacted(), tokenizer, tmp_path / "small")
    names = load_file(folder / "compact.safetensors")
    name = next(name for name in names if "query.weight" in name)
    compact_as_csr(folder, [name])
    csr = load_file(folder / "csr.safetensors")
    csr[f"rows:{name}"][1:] = rows
    save_file(csr, folder / "csr.safetensors")
    with pytest.raises(ValueError, match="the rows of .* do not have .* values"):
        load_compact(folder)


def test_the_error_names_a_missing_file(tmp_path, tokenizer):
    with pytest.raises(FileNotFoundError, match="no compact.json"):
        load_compact(tmp_path)
    folder = save_compact(compacted(), tokenizer, tmp_path / "small")
    (folder / "compact.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no compact.safetensors"):
        load_compact(folder)
