"""Encoder families: from the checkpoint to a pruned stock model, and the heads they support.

Each family is a tiny random model in a folder, with a small tokenizer of the kind it needs.
"""

import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
)

from helpers import attach_masks
from smp.cli.train import train
from smp.data.windows import featurise
from smp.method.masks import kept_count
from smp.method.schedule import Pruning
from smp.model.encoder import encoder_linears
from smp.model.load import EMBEDDED_ENCODER, load_qa_model
from smp.model.predict import predict_logits
from smp.model.question_answerer import QuestionAnswerer
from smp.model.save import save_model
from smp.model.student import (
    MASKED_LM_TRANSFORMS,
    STUDENT_HEADS,
    LabelWordHead,
    load_student,
    stock_model,
)
from smp.model.teacher import load_teacher
from smp.runs.settings import HEADS, choose_settings
from smp.runs.training import parameter_groups

USUAL = ["query", "key", "value", "attention output", "intermediate", "output"]
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
             hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
DISTILBERT = dict(dim=32, n_layers=2, n_heads=4, hidden_dim=64, dropout=0.0, attention_dropout=0.0,
                  qa_dropout=0.0)
FAMILIES = {  # model type: (changes to its config, its tokenizer)
    "bert": (SIZES, "word pieces"),
    "roberta": (SIZES | dict(type_vocab_size=1), "bytes"),
    "xlm-roberta": (SIZES | dict(type_vocab_size=1), "unigrams"),
    "camembert": (SIZES | dict(type_vocab_size=1), "unigrams"),
    "distilbert": (DISTILBERT, "word pieces"),
    "electra": (SIZES | dict(embedding_size=16), "word pieces"),
    "albert": (SIZES | dict(embedding_size=16), "word pieces"),
    "mpnet": (SIZES, "mpnet"),
    "deberta-v2": (SIZES | dict(relative_attention=True, share_att_key=True, type_vocab_size=0,
                                pos_att_type=["c2p", "p2c"], position_buckets=8), "word pieces"),
    "modernbert": (SIZES | dict(cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3),
                   "word pieces"),
}
OFFSET = {"roberta": 2, "xlm-roberta": 2, "camembert": 2, "mpnet": 2}  # positions never used
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@pytest.fixture(scope="session")
def tokenizers(synthetic, tokenizer):
    """Return {kind: tokenizer}; all of them have " yes" and " no" as one token each."""
    rows = synthetic["train"]
    texts = [*rows["context"], *rows["question"], *["oh yes or no"] * 50]
    size = dict(vocab_size=800, special_tokens=SPECIAL, show_progress=False)
    pairs = ByteLevelBPETokenizer()
    pairs.train_from_iterator(texts, **size)
    pairs = json.loads(pairs.to_str())["model"]
    pieces = Tokenizer(models.Unigram())
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.train_from_iterator(texts, trainers.UnigramTrainer(**size, unk_token="<unk>"))
    pieces = [tuple(row) for row in json.loads(pieces.to_str())["model"]["vocab"]]
    pieces = [row for row in pieces if row[0] not in ("▁yes", "▁no")] + [("▁yes", -1), ("▁no", -1)]
    words = {token for text in texts for token in tokenizer.tokenize(text)}
    words = sorted(words | {w for w in tokenizer.get_vocab() if len(w.removeprefix("##")) == 1})
    number = [{word: i for i, word in enumerate(first + words)} for first in (
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    )]
    return {
        "word pieces": transformers.BertTokenizer(vocab=number[0]),
        "mpnet": transformers.MPNetTokenizer(vocab=number[1]),
        "bytes": transformers.RobertaTokenizer(
            vocab=pairs["vocab"], merges=[tuple(pair) for pair in pairs["merges"]]
        ),
        "unigrams": transformers.XLMRobertaTokenizer(vocab=pieces),
    }


@pytest.fixture
def checkpoint(tmp_path, tokenizers):
    """Return (family, auto class) -> folder with a tiny random model and its tokenizer."""

    def save(family, auto_class=AutoModelForMaskedLM, kind=None, **changes):
        sizes, its_kind = FAMILIES[family]
        reader = tokenizers[kind or its_kind]
        config = AutoConfig.for_model(family, **{
            "vocab_size": len(reader), "max_position_embeddings": 128,
            "pad_token_id": reader.pad_token_id, **sizes, **changes,
        })
        torch.manual_seed(0)
        model = auto_class.from_config(config)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and "norm" not in name.lower():  # pretrained biases are not 0
                torch.nn.init.normal_(parameter, std=0.1)
        folder = tmp_path / f"{family}-{auto_class.__name__}"
        model.save_pretrained(folder)
        reader.save_pretrained(folder)
        return str(folder)

    return save


def text_batch(tokenizer):
    """Return a padded batch of two pairs of texts."""
    pairs = [["Who built the bridge?", "Where?"], ["Ada built the bridge in 1893.", "In Ostby."]]
    return dict(tokenizer(*pairs, padding=True, return_tensors="pt"))


def both_logits(model, batch):
    with torch.no_grad():
        out = model.eval()(**batch)
    return torch.stack([out.start_logits, out.end_logits])


# From a checkpoint to a pruned stock model


@pytest.mark.parametrize("family, sharing", [
    *((family, "local") for family in FAMILIES), ("roberta", "shared"), ("albert", "shared"),
])
def test_a_family_is_trained_merged_and_saved(family, sharing, checkpoint, synthetic, tmp_path):
    folder = checkpoint(family)
    model, tokenizer, head = load_student(folder, dropout=0.0, max_length=96)
    assert head == ("label words" if family in MASKED_LM_TRANSFORMS else "trained")
    settings = choose_settings(
        "quick", "smp", precision="fp32", max_length=96, stride=32, epochs=1, batch_size=16,
        n_validations=1, density=0.3, method="smp-l" if sharing == "local" else "smp-s",
    )
    windows = featurise(synthetic["train"].select(range(32)), tokenizer, 96, 32)
    before = {name: weight.clone() for name, weight in model.base_model.state_dict().items()}
    masks = attach_masks(model, sharing)
    train(model, windows, tokenizer, settings, pruning=Pruning(masks, settings))

    rows, loaded = masks.counts(), masks.numpy()
    for matrix in {row["matrix"] for row in rows}:
        group = [row for row in rows if row["matrix"] == matrix]
        total = sum(row["total"] for row in group)
        if sharing == "local":
            assert all(row["kept"] == kept_count(0.3, row["total"]) for row in group)
        else:
            assert sum(row["kept"] for row in group) == kept_count(0.3, total)
    first_only = (mask.ravel()[: mask.sum()].all() for mask in loaded.values())
    assert not all(first_only)  # the masks of untrained scores

    batch = text_batch(tokenizer)
    masked = both_logits(model, batch)
    masks.merge()
    assert torch.equal(both_logits(model, batch), masked)
    for name, weight in model.base_model.state_dict().items():
        kept = torch.from_numpy(loaded[name[:-7]]) if name[:-7] in loaded else 1
        assert torch.equal(weight, before[name] * kept), name

    saved = save_model(stock_model(model, folder), tokenizer, tmp_path / "pruned")
    if head == "trained":
        stock = AutoModelForQuestionAnswering.from_pretrained(saved)
        assert torch.equal(both_logits(stock, batch), masked)
    else:
        ids = [AutoTokenizer.from_pretrained(saved).encode(w, add_special_tokens=False)[0]
               for w in (" yes", " no")]
        stock = AutoModelForMaskedLM.from_pretrained(saved).eval()
        with torch.no_grad():
            assert torch.allclose(stock(**batch).logits[..., ids].movedim(-1, 0), masked, atol=1e-6)
    again, _, same_head = load_student(str(saved))
    assert same_head == head and torch.equal(both_logits(again, batch), masked)


@pytest.mark.parametrize("family, names, layers", [
    ("bert", USUAL, 2), ("roberta", USUAL, 2), ("distilbert", USUAL, 2), ("electra", USUAL, 2),
    ("mpnet", USUAL, 2), ("deberta-v2", USUAL, 2), ("albert", USUAL, 1),
    ("modernbert", ["attn Wqkv", "attn Wo", "mlp Wi", "mlp Wo"], 2),
])
def test_matrices_are_named_and_counted(family, names, layers, checkpoint):
    model = AutoModelForQuestionAnswering.from_pretrained(checkpoint(family))
    rows = attach_masks(model).counts()
    assert [row["matrix"] for row in rows] == names * layers
    if names == USUAL:
        assert [row["total"] for row in rows] == ([32 * 32] * 4 + [64 * 32] * 2) * layers
    inside = sum(p.numel() for n, p in model.base_model.named_parameters()
                 if p.dim() > 1 and "embed" not in n and n.endswith("original"))
    assert sum(row["total"] for row in rows) == inside


def test_albert_layer_groups_count_as_layers(checkpoint):
    config = AutoConfig.for_model(
        "albert", **SIZES | dict(num_hidden_layers=4, num_hidden_groups=2, inner_group_num=2)
    )
    rows = attach_masks(AutoModelForQuestionAnswering.from_config(config)).counts()
    assert [row["layer"] for row in rows] == [0] * 12 + [1] * 12
    assert len({row["matrix"] for row in rows}) == 12  # of each group's two inner layers


@pytest.mark.parametrize("family", ["roberta", "mpnet", "xlm-roberta", "albert", "distilbert"])
def test_windows_of_every_tokenizer_contain_their_answers(family, checkpoint, synthetic):
    _, tokenizer, _ = load_qa_model(checkpoint(family, AutoModelForQuestionAnswering))
    rows, found = synthetic["train"], set()
    for window in featurise(rows, tokenizer, 64, 16):
        context, answers = rows[window["example"]]["context"], rows[window["example"]]["answers"]
        assert len(window["input_ids"]) <= 64
        start, end = window["start_positions"], window["end_positions"]
        if start or end:
            first, last = window["offsets"][start][0], window["offsets"][end][1]
            assert context[first:last] == answers["text"][0]
            assert first == answers["answer_start"][0]
            found.add(window["example"])
    assert len(found) > 0.8 * len(rows)


@pytest.mark.parametrize("family", ["roberta", "mpnet", "distilbert", "electra", "albert"])
def test_padding_does_not_change_a_windows_logits(family, checkpoint, synthetic):
    folder = checkpoint(family, AutoModelForQuestionAnswering)
    model, tokenizer, has_head = load_qa_model(folder)
    assert has_head
    windows = featurise(synthetic["eval"].select(range(4)), tokenizer, 96, 32)
    together, _ = predict_logits(model, windows, tokenizer, "fp32")
    for row in range(len(windows)):
        alone, _ = predict_logits(model, windows.select([row]), tokenizer, "fp32")
        length = alone.shape[1]
        assert np.allclose(together[row, :length], alone[0], atol=1e-5)
    passage = "Ada built the bridge. " * 20
    answer = QuestionAnswerer(model, tokenizer, 64, 16, "fp32")("Who built it?", passage)
    assert answer["answer"] == passage[answer["start"]:answer["end"]] != ""


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "camembert", "mpnet",
                                    "distilbert", "electra"])
def test_max_length_is_limited_by_the_model(family, checkpoint):
    folder = checkpoint(family, AutoModelForQuestionAnswering, max_position_embeddings=66)
    most = 66 - OFFSET.get(family, 0)
    model, _, _ = load_qa_model(folder, max_length=most)
    words = torch.full((1, most), 7)
    model(words)
    with pytest.raises((IndexError, RuntimeError)):  # oracle: the model itself
        model(torch.cat([words, words[:, :1]], dim=1))
    with pytest.raises(ValueError, match=f"max_length is {most + 1}, but .* at most {most} tokens"):
        load_qa_model(folder, max_length=most + 1)


def test_no_token_types_for_a_model_with_one_type(checkpoint, tmp_path):
    folder = checkpoint("roberta", AutoModelForQuestionAnswering, kind="word pieces")
    model, tokenizer, _ = load_qa_model(folder)
    batch = text_batch(tokenizer)
    assert "token_type_ids" not in batch and torch.isfinite(both_logits(model, batch)).all()


def test_teacher_with_token_types_needs_them_in_windows(checkpoint, tokenizers):
    teacher = checkpoint("bert", AutoModelForQuestionAnswering)
    config = AutoConfig.from_pretrained(teacher)
    load_teacher(teacher, tokenizers["word pieces"], 64, config)
    plain = transformers.DistilBertTokenizer(vocab=tokenizers["word pieces"].get_vocab())
    with pytest.raises(ValueError, match="token_type_ids, but the student's") as error:
        load_teacher(teacher, plain, 64, config)
    assert "\n" not in str(error.value)


@trials(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 40),
       st.sampled_from(["local", "shared"]), st.floats(0.01, 1))
def test_masks_of_a_bert_of_any_size_are_exact(layers, heads, width, inner, sharing, density):
    hidden = 2 * heads * width
    config = AutoConfig.for_model("bert", vocab_size=9, hidden_size=hidden, intermediate_size=inner,
                                  num_hidden_layers=layers, num_attention_heads=heads)
    masks = attach_masks(AutoModelForQuestionAnswering.from_config(config), sharing)
    masks.refresh(density)
    rows = masks.counts()
    assert [row["matrix"] for row in rows] == USUAL * layers
    assert [row["total"] for row in rows] == ([hidden**2] * 4 + [inner * hidden] * 2) * layers
    for group in (rows[start::6] for start in range(6)):
        kept, total = (sum(row[name] for row in group) for name in ("kept", "total"))
        each = layers * kept_count(density, total // layers)
        assert kept == (each if sharing == "local" else kept_count(density, total))


# Models that cannot be masked


def unsupported_model(name):
    small = dict(vocab_size=50)
    config = {
        "gpt2": dict(n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0),
        "xlnet": dict(d_model=16, n_layer=1, n_head=2, d_inner=32),
        "t5": dict(d_model=16, num_layers=1, num_heads=2, d_kv=8, d_ff=32),
        "flaubert": dict(emb_dim=16, n_layers=1, n_heads=2, pad_index=1),
        "convbert": SIZES | dict(embedding_size=32),
    }[name]
    return AutoModelForQuestionAnswering.from_config(AutoConfig.for_model(name, **small, **config))


@pytest.mark.parametrize("name, reason", [
    ("gpt2", "has layers with weights in Conv1D (0.attn.c_attn)"),
    ("xlnet", "has layers with weights in XLNetRelativeAttention (0.rel_attn)"),
    ("convbert", "has layers with weights in SeparableConv1D"),
    ("t5", "has 2 stacks of encoder layers (encoder.block, decoder.block): masks need one"),
    ("flaubert", "has 2 stacks of encoder layers (attentions, ffns)"),
])
def test_unsupported_architectures_raise_with_reason(name, reason):
    model = unsupported_model(name)
    with pytest.raises(ValueError) as error:
        attach_masks(model)
    assert str(error.value).startswith(f"{type(model).__name__} {reason}")
    assert "\n" not in str(error.value)
    assert all(p.requires_grad for p in model.parameters())  # the model is unchanged


def make_unmaskable(model, how):
    layers = model.bert.encoder.layer
    if how == "one layer twice":
        layers[1] = layers[0]
    elif how == "one weight twice":
        layers[1].output.dense.weight = layers[0].output.dense.weight
    elif how == "narrower":
        layers[1].intermediate.dense = torch.nn.Linear(32, 48)
        layers[1].output.dense = torch.nn.Linear(48, 32)
    elif how == "one more":
        layers[1].adapter = torch.nn.Linear(32, 32)
    elif how == "eight bits":
        dense = layers[0].output.dense
        dense.weight = torch.nn.Parameter(dense.weight.to(torch.int8), requires_grad=False)
    elif how == "torch's eight bits":
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
    else:
        attach_masks(model)
    return model


@pytest.mark.filterwarnings("ignore")  # torch's quantisation is deprecated
@pytest.mark.parametrize("how, reason", [
    ("one layer twice", "uses one matrix in several places (0.attention.self.query)"),
    ("one weight twice", "uses one matrix in several places (0.output.dense)"),
    ("narrower", "has layers of different shapes (0 and 1)"),
    ("one more", "has layers of different shapes (0 and 1)"),
    ("eight bits", "has quantised layers (0.output.dense)"),
    ("torch's eight bits", "has quantised layers (0.attention.self.query)"),
    ("masked", "has masks already"),
])
def test_unmaskable_berts_raise_with_reason(tiny_qa, how, reason):
    with pytest.raises(ValueError) as error:
        encoder_linears(make_unmaskable(tiny_qa, how))
    assert f"ForQuestionAnswering {reason}" in str(error.value) and "\n" not in str(error.value)


def test_no_question_answering_class_raises_one_line(tmp_path, tokenizer):
    AutoConfig.for_model("clip").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be loaded.*CLIPConfig") as error:
        load_qa_model(str(tmp_path))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


# The heads


@pytest.mark.parametrize("family", MASKED_LM_TRANSFORMS)
def test_label_word_logits_equal_masked_lm_logits(family, checkpoint):
    folder = checkpoint(family)
    student, tokenizer, head = load_student(folder, head="label words")
    assert head == "label words" and isinstance(student.qa_outputs, LabelWordHead)
    assert student.qa_outputs.decoder.weight.shape[0] == 2
    assert not any(p.requires_grad for p in student.qa_outputs.parameters())
    batch = text_batch(tokenizer)
    full = AutoModelForMaskedLM.from_pretrained(folder).eval()
    vocabulary = tokenizer.get_vocab()
    mark = {"bytes": "Ġ", "unigrams": "▁"}.get(FAMILIES[family][1], "")
    with torch.no_grad():
        logits = full(**batch).logits
    logits = torch.stack([logits[..., vocabulary[mark + word]] for word in ("yes", "no")])
    assert torch.allclose(both_logits(student, batch), logits, atol=1e-6, rtol=0)
    assert logits.std() > 1e-3  # not all equal


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "mpnet"])
def test_embedding_rows_logits_equal_dot_products(family, checkpoint, tmp_path):
    folder = checkpoint(family, AutoModelForQuestionAnswering)
    student, tokenizer, head = load_student(folder, head="embedding rows")
    assert head == "embedding rows"
    batch = text_batch(tokenizer)
    with torch.no_grad():
        hidden = student.eval().base_model(**batch).last_hidden_state  # (batch, length, hidden)
        words = student.get_input_embeddings()
        pair = [words.weight[tokenizer.encode(f" {w}", add_special_tokens=False)[0]]
                for w in ("yes", "no")]
    logits = both_logits(student, batch)
    assert torch.allclose(logits, torch.stack([hidden @ row for row in pair]), atol=1e-6)

    masks = attach_masks(student)
    assert not any(p.requires_grad for p in student.qa_outputs.parameters())
    groups = parameter_groups(student, choose_settings("quick", "smp"))
    assert [id(p) for group in groups for p in group["params"]] == [id(s) for s in masks.scores]
    masks.refresh(0.4)
    masked = both_logits(student, batch)
    masks.merge()
    saved = save_model(stock_model(student, folder), tokenizer, tmp_path / "rows")
    stock = AutoModelForQuestionAnswering.from_pretrained(saved)
    assert torch.equal(both_logits(stock, batch), masked)
    again, _, head = load_student(str(saved))
    assert head == "trained" and torch.equal(both_logits(again, batch), masked)


def test_trained_head_of_a_masked_lm_checkpoint(checkpoint):
    folder = checkpoint("bert")
    student, _, head = load_student(folder, head="trained")
    assert head == "trained" and type(student.qa_outputs) is torch.nn.Linear
    attach_masks(student)
    groups = parameter_groups(student, choose_settings("quick", "smp"))
    assert [id(p) for p in groups[1]["params"]] == [id(p) for p in student.qa_outputs.parameters()]


@pytest.mark.parametrize("head", ["label words", "embedding rows", "trained"])
def test_only_a_trained_head_changes_in_training(head, checkpoint, synthetic):
    student, tokenizer, _ = load_student(checkpoint("bert"), head=head)
    before = [p.detach().clone() for p in student.qa_outputs.parameters()]
    settings = choose_settings("quick", "smp", precision="fp32", epochs=0.3, batch_size=8,
                               max_length=96, stride=32, n_validations=0, density=0.5)
    windows = featurise(synthetic["train"], tokenizer, 96, 32)
    train(student, windows, tokenizer, settings, pruning=Pruning(attach_masks(student), settings))
    moved = [not torch.equal(*pair) for pair in zip(before, student.qa_outputs.parameters())]
    assert moved == [head == "trained"] * len(moved)


@pytest.mark.parametrize("family, auto_class, head, reason", [
    ("bert", AutoModelForQuestionAnswering, "label words", "the checkpoint has no masked-LM head"),
    ("electra", AutoModelForQuestionAnswering, "label words", "has no masked-LM head"),
    ("deberta-v2", AutoModelForMaskedLM, "label words", "'deberta-v2' models is not supported"),
    ("electra", AutoModelForMaskedLM, "embedding rows", "have size 16, its hidden states 32"),
    ("albert", AutoModelForMaskedLM, "embedding rows", "have size 16, its hidden states 32"),
    ("modernbert", AutoModelForMaskedLM, "embedding rows", "has no linear layer qa_outputs"),
])
def test_unavailable_heads_raise_with_reason(family, auto_class, head, reason, checkpoint):
    folder = checkpoint(family, auto_class)
    with pytest.raises(ValueError) as error:
        load_student(folder, head=head)
    assert reason in str(error.value) and f"head {head!r}" in str(error.value)
    assert folder in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("head", ["label words", "embedding rows"])
def test_label_words_must_be_single_tokens(head, checkpoint, tokenizers, monkeypatch):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "n", "##o", "bridge"]
    vocabulary = {word: i for i, word in enumerate(words)}
    monkeypatch.setitem(tokenizers, "few words", transformers.BertTokenizer(vocab=vocabulary))
    folder = checkpoint("bert", kind="few words")
    with pytest.raises(ValueError, match="the label word 'no' is not one token"):
        load_student(folder, head=head)
    assert load_student(folder)[2] == "trained"


def test_heads_of_the_settings_are_those_of_students():
    assert HEADS == ("auto", *STUDENT_HEADS)


def test_unknown_head_raises():
    with pytest.raises(ValueError, match="head is 'magic': expected one of auto, label"):
        load_student(EMBEDDED_ENCODER, head="magic")


def test_head_of_electra_generator_and_discriminator(checkpoint):
    assert load_student(checkpoint("electra"))[2] == "label words"
    assert load_student(checkpoint("electra", AutoModelForPreTraining))[2] == "trained"


def test_embedding_rows_of_the_embedded_encoder():
    student, tokenizer, _ = load_student(EMBEDDED_ENCODER, head="embedding rows")
    rows = student.bert.embeddings.word_embeddings.weight
    ids = tokenizer.convert_tokens_to_ids(["yes", "no"])
    assert torch.equal(student.qa_outputs.weight, rows[ids])
    assert student.qa_outputs.bias.eq(0).all()
