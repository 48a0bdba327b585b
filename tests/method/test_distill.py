"""Distillation losses equal reference computations; teachers load or raise one line."""

import io
import json
import zipfile

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, BertForQuestionAnswering, DistilBertConfig

from helpers import tiny_config
from smp.cli.train import teacher_loss
from smp.method.distill import distillation_loss, distilled_loss
from smp.method.loop import span_loss
from smp.model.archive import ARCHIVE_FILES, is_archive
from smp.model.teacher import load_teacher, teacher_logits
from smp.runs.settings import choose_settings


def reference_kd(student, teacher, lengths, tau):
    """Return torch's kl_div, row by row, on the unpadded part only."""
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
    padded[mask == 0] = -torch.inf  # logits at padding have no effect
    assert torch.equal(distillation_loss(student, padded, mask, tau), loss)


def test_kd_of_equal_logits_is_0_with_a_finite_gradient():
    student = torch.randn(2, 6, 2, requires_grad=True)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    loss = distillation_loss(student, student.detach(), mask, 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(student.grad).all()
    assert (student.grad[1, 4:] == 0).all()


def test_span_loss_equals_that_of_stock_models(tiny_qa, batch):
    labels = {"start_positions": torch.tensor([1, 2, 3]), "end_positions": torch.tensor([4, 5, 6])}
    out = tiny_qa(**batch, **labels)
    assert torch.allclose(span_loss(out.start_logits, out.end_logits, labels), out.loss)


def test_teacher_logits_are_computed_once_per_window(tiny_qa, tokenizer, windows):
    logits = teacher_logits(tiny_qa, windows, tokenizer, "fp32")
    assert logits.dtype == torch.float16 and logits.shape[0] == len(windows)
    for row in range(len(windows)):
        ids = torch.tensor([windows[row]["input_ids"]])
        kinds = torch.tensor([windows[row]["token_type_ids"]])
        alone = tiny_qa(input_ids=ids, token_type_ids=kinds).start_logits[0]
        assert torch.allclose(logits[row, : ids.shape[1], 0].float(), alone, atol=1e-3)
        assert (logits[row, ids.shape[1]:] == -6e4).all()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_distilled_loss_equals_the_weighted_sum(alpha):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 7, 2), torch.randn(5, 9, 2).half()
    batch = {"row": torch.tensor([4, 1]), "input_ids": torch.ones(2, 7),
             "attention_mask": torch.ones(2, 7),
             "start_positions": torch.tensor([0, 3]), "end_positions": torch.tensor([2, 6])}
    settings = choose_settings("quick", "smp-kd", distill_weight=alpha)
    loss = teacher_loss(settings, None, None, teacher)
    ce = span_loss(student[..., 0], student[..., 1], batch)
    kd = distillation_loss(student, teacher[[4, 1], :7].float(), batch["attention_mask"], 2.0)
    got = loss(student[..., 0], student[..., 1], batch)
    assert torch.allclose(got, (1 - alpha) * ce + alpha * kd)


def test_the_hidden_distance_has_weight_0_by_default():
    class Teacher:
        def read(self, batch):
            return torch.zeros(1, 2, 2), 7.0

    batch = {"attention_mask": torch.ones(1, 2)}
    logits = torch.zeros(1, 2)
    for weights, expected in (((0.5, 2.0), 1.5), ((0.5, 2.0, 2.0), 15.5), ((0.25, 2.0, 1.0), 9.25)):
        loss = distilled_loss(lambda *_: torch.tensor(3.0), Teacher(), *weights)
        assert loss(logits, logits, batch).item() == expected  # (1 - alpha) 3 + beta 7


def test_incompatible_teachers_raise_one_line(tmp_path, tokenizer):
    good = tmp_path / "good"
    BertForQuestionAnswering(tiny_config()).save_pretrained(good)
    tokenizer.save_pretrained(good)
    student = tiny_config()
    assert not load_teacher(str(good), tokenizer, 128, student).training

    def refused(match, *args):
        with pytest.raises((ValueError, FileNotFoundError), match=match) as error:
            load_teacher(*args, student)
        assert "\n" not in str(error.value)

    refused("reads at most 128 tokens", str(good), tokenizer, 256)

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


# An archive like the authors' teacher: a state dict, and at most a config

MASKED_CONFIG = {  # its class is not in transformers
    "architectures": ["MaskedBertForQuestionAnswering"], "model_type": "masked_bert",
    "pruning_method": "topK", "mask_init": "constant", "mask_scale": 0.0, "gradient_checkpointing":
    False, "position_embedding_type": "absolute", "transformers_version": "4.17.0",
}


@pytest.fixture
def archived(tiny_qa, tokenizer):
    """Return {file name: bytes} as the authors' code would save the model tiny_qa."""
    torch.nn.init.normal_(tiny_qa.qa_outputs.bias)  # so that a lost bias changes the logits
    tensors = {name: tensor.clone() for name, tensor in tiny_qa.state_dict().items()}
    for name in [n for n in tensors if ".encoder." in n and n.endswith("weight") and
                 "LayerNorm" not in n]:
        tensors[name.replace("weight", "mask_scores")] = torch.randn_like(tensors[name])
    tensors["bert.embeddings.position_ids"] = torch.arange(128)[None]
    tensors["bert.pooler.dense.weight"] = torch.randn(32, 32)
    config = {k: v for k, v in tiny_qa.config.to_dict().items() if k in (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "vocab_size", "hidden_act", "max_position_embeddings", "type_vocab_size", "layer_norm_eps",
        "pad_token_id", "hidden_dropout_prob")}
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    return {"pytorch_model.bin": saved(tensors),
            "config.json": json.dumps(config | MASKED_CONFIG).encode(),
            "vocab.txt": ("\n".join(words) + "\n").encode()}


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def put(place, files, inside="", compression=zipfile.ZIP_STORED):
    """Write the files into place, a .zip or a folder."""
    if place.suffix == ".zip":
        with zipfile.ZipFile(place, "w", compression) as archive:
            for name, content in files.items():
                archive.writestr(inside + name, content)
    else:
        for name, content in files.items():
            (place / inside).mkdir(parents=True, exist_ok=True)
            (place / inside / name).write_bytes(content)
    return str(place)


@pytest.mark.parametrize("place", ["teacher.zip", "teacher"])
@pytest.mark.parametrize("inside", ["", "squad_teacher_model/"])
@pytest.mark.parametrize("left_out", [(), ("config.json",), ("vocab.txt",),
                                      ("config.json", "vocab.txt")], ids=str)
def test_the_authors_archive_loads_as_a_stock_teacher(
    tmp_path, archived, tiny_qa, tokenizer, batch, capsys, place, inside, left_out
):
    files = {name: content for name, content in archived.items() if name not in left_out}
    path = put(tmp_path / place, files | {"training_args.bin": b"never read"}, inside,
               zipfile.ZIP_DEFLATED)
    before = sorted(tmp_path.rglob("*"))
    teacher = load_teacher(path, tokenizer, 128, tiny_qa.config)
    assert type(teacher) is BertForQuestionAnswering and not teacher.training
    got, expected = teacher(**batch), tiny_qa(**batch)
    assert torch.equal(got.start_logits, expected.start_logits)
    assert torch.equal(got.end_logits, expected.end_logits)
    said = f"{place} has no vocab.txt: the student's vocabulary is assumed\n"
    assert capsys.readouterr().out == (said if "vocab.txt" in left_out else "")
    assert sorted(tmp_path.rglob("*")) == before  # nothing was unpacked


def test_the_config_of_an_archive_has_precedence(tmp_path, tokenizer, batch):
    """Sizes and activation differ from the student's; tensor shapes do not contain heads and
    activation."""
    torch.manual_seed(3)
    config = tiny_config(hidden_size=24, num_attention_heads=2, num_hidden_layers=3,
                         hidden_act="relu", layer_norm_eps=1e-2)
    teacher = BertForQuestionAnswering(config).eval()
    path = put(tmp_path / "t.zip", {
        "pytorch_model.bin": saved(teacher.state_dict(), _use_new_zipfile_serialization=False),
        "config.json": json.dumps(config.to_dict() | MASKED_CONFIG).encode()})
    loaded = load_teacher(path, tokenizer, 128, tiny_config())
    assert torch.equal(loaded(**batch).start_logits, teacher(**batch).start_logits)


def test_a_folder_saved_by_transformers_loads_equal(tmp_path, tiny_qa, tokenizer, archived, batch):
    """Also a .bin of older versions, with and without scores."""
    tiny_qa.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5/pytorch_model.bin").write_bytes(b"an earlier model, not read")
    assert not is_archive(str(tmp_path))
    for scores in (False, True):
        loaded = load_teacher(str(tmp_path), tokenizer, 128, DistilBertConfig())
        assert torch.equal(loaded(**batch).start_logits, tiny_qa(**batch).start_logits)
        (tmp_path / "model.safetensors").unlink(missing_ok=True)
        tensors = archived["pytorch_model.bin"] if scores else saved(tiny_qa.state_dict())
        (tmp_path / "pytorch_model.bin").write_bytes(tensors)
        assert is_archive(str(tmp_path))  # transformers would read it with pickle
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()  # transformers cannot load the rest
    assert is_archive(str(tmp_path))
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"bert"', '"roberta"'))
    assert not is_archive(str(tmp_path))
    (tmp_path / "config.json").write_text(config)
    loaded = load_teacher(str(tmp_path), tokenizer, 128, DistilBertConfig())
    assert torch.equal(loaded(**batch).start_logits, tiny_qa(**batch).start_logits)


class Code:
    def __reduce__(self):
        return print, ("this must never be printed",)


def changed(archived, **changes):
    """Return the state dict with changed tensors (dots written as __); None removes one."""
    tensors = torch.load(io.BytesIO(archived["pytorch_model.bin"]), weights_only=True)
    for name, tensor in changes.items():
        tensors[name.replace("__", ".")] = tensor
    return saved({name: tensor for name, tensor in tensors.items() if tensor is not None})


def config_with(archived, **changes):
    return json.dumps(json.loads(archived["config.json"]) | changes).encode()


ODD = {  # changed content of the archive, and its error
    "no head": (lambda a: {"pytorch_model.bin": changed(a, qa_outputs__weight=None)},
                "pytorch_model.bin has no qa_outputs.weight (1 of 39 tensors are missing)"),
    "a head for three": (lambda a: {"pytorch_model.bin": changed(
        a, qa_outputs__weight=torch.zeros(3, 32))}, "qa_outputs.weight has shape (3, 32)"),
    "fewer layers than the config": (lambda a: {"config.json": config_with(a, num_hidden_layers=3)},
                               "has no bert.encoder.layer.2"),
    "more layers than the config": (lambda a: {"config.json": config_with(a, num_hidden_layers=1)},
                              "contains bert.encoder.layer.1"),
    "another shape": (lambda a: {"config.json": config_with(a, intermediate_size=65)},
                      "has shape (64, 32), expected (65, 32) from its config.json"),
    "a tensor too many": (lambda a: {"pytorch_model.bin": changed(
        a, bert__adapter__weight=torch.zeros(2))}, "contains bert.adapter.weight, which a stock"),
    "whole numbers": (lambda a: {"pytorch_model.bin": changed(
        a, qa_outputs__bias=torch.zeros(2, dtype=torch.int64))}, "qa_outputs.bias is torch.int64"),
    "a sparse tensor": (lambda a: {"pytorch_model.bin": changed(
        a, qa_outputs__bias=torch.zeros(2).to_sparse())}, "expected dense floats"),
    "a tensor without data": (lambda a: {"pytorch_model.bin": changed(
        a, qa_outputs__bias=torch.zeros(2, device="meta"))}, "expected dense floats"),
    "a list": (lambda a: {"pytorch_model.bin": saved([torch.zeros(2)])}, "is not a state dict"),
    "a checkpoint": (lambda a: {"pytorch_model.bin": saved({"model": {"w": torch.zeros(2)}})},
                     "is not a state dict"),
    "a tensor": (lambda a: {"pytorch_model.bin": saved(torch.zeros(2))}, "is not a state dict"),
    "code": (lambda a: {"pytorch_model.bin": saved({"w": Code()})}, "contains objects other than"),
    "half a file": (lambda a: {"pytorch_model.bin": a["pytorch_model.bin"][:3000]}, "is damaged"),
    "no tensors at all": (lambda a: {"pytorch_model.bin": b"<html>"}, "is damaged"),
    "an empty file": (lambda a: {"pytorch_model.bin": b""}, "is damaged"),
    "no state dict": (lambda a: {"pytorch_model.bin": None}, "it contains 0 files pytorch"),
    "other words": (lambda a: {"vocab.txt": a["vocab.txt"].replace(b"bridge", b"brigde")},
                    "has another vocabulary (30,522 tokens)"),
    "a word too many": (lambda a: {"vocab.txt": a["vocab.txt"] + b"lenn\n"},
                        "vocab.txt has 30,523 tokens, the model 30,522"),
    "no words": (lambda a: {"vocab.txt": b"\xff\xfe"}, "vocab.txt is not UTF-8"),
    "another kind": (lambda a: {"config.json": config_with(a, model_type="roberta")},
                     "its config.json does not fit a stock BERT (model_type is 'roberta', "),
    "no JSON": (lambda a: {"config.json": b"{"}, "its config.json does not fit a stock BERT"),
    "a JSON list": (lambda a: {"config.json": b"[]"}, "its config.json does not fit a stock BERT"),
    "text for a number": (lambda a: {"config.json": config_with(a, hidden_size="32")},
                          "its config.json does not fit a stock BERT"),
    "an unknown activation": (lambda a: {"config.json": config_with(a, hidden_act="os.system")},
                              "its config.json does not fit a stock BERT"),
    "far too many layers": (lambda a: {"config.json": config_with(a, num_hidden_layers=10**9)},
                            "1000000000 layers, but there are only"),
    "far too large": (lambda a: {"config.json": config_with(a, hidden_size=2**20)},
                      "expected (30522, 1048576) from its config.json"),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_invalid_archive_raises_one_line(tmp_path, archived, tokenizer, capsys, odd):
    change, message = ODD[odd]
    files = {name: content for name, content in (archived | change(archived)).items() if content
             is not None}
    path = put(tmp_path / "teacher.zip", files)
    with pytest.raises(ValueError) as error:
        load_teacher(path, tokenizer, 128, tiny_config())
    text = str(error.value)
    assert message in text and "\n" not in text and text.startswith(f"teacher {path!r}")
    assert capsys.readouterr().out == ""


def test_archives_with_outside_paths_or_too_large_raise(tmp_path, archived, tokenizer, monkeypatch):
    def refused(files, message, student=None, length=128, error=ValueError):
        path = put(tmp_path / "t.zip", files) if files is not None else str(tmp_path / "no.zip")
        with pytest.raises(error) as caught:
            load_teacher(path, tokenizer, length, student or tiny_config())
        assert message in str(caught.value) and "\n" not in str(caught.value)

    weights = archived["pytorch_model.bin"]
    refused(None, "no such file or folder", error=FileNotFoundError)
    for name in ("../pytorch_model.bin", "/pytorch_model.bin", "a/../../evil", "..\\evil",
                 "C:\\evil"):
        refused(archived | {name: weights}, "a path that leads out of it")
    refused({"a/b/pytorch_model.bin": weights}, "contains 0 files")  # too deep
    refused({"a/pytorch_model.bin": weights, "b/pytorch_model.bin": weights}, "contains 2 files")
    refused(archived, "reads at most 128 tokens", length=129)
    bare = {"pytorch_model.bin": weights}
    refused(bare, "the student's config does not fit a stock BERT (model_type is 'distilbert', ",
            DistilBertConfig())
    refused(bare, "expected (40000, 32) from the student's config", tiny_config(vocab_size=40_000))
    refused(bare | {"config.json": archived["config.json"]},
            "has no vocab.txt and 30,522 tokens, but the student has 40,000",
            tiny_config(vocab_size=40_000))
    refused(archived | {"config.json": archived["config.json"] + b" " * 2**20},
            "config.json unpacks to 1,0", )
    monkeypatch.setitem(ARCHIVE_FILES, "pytorch_model.bin", len(weights) - 1)
    refused(archived, f"pytorch_model.bin unpacks to {len(weights):,} bytes, expected at most")
    monkeypatch.undo()

    packed = io.BytesIO()  # torch.load would unpack a state dict that is a compressed zip
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        with zipfile.ZipFile(io.BytesIO(weights)) as old:
            for info in old.infolist():
                new.writestr(info.filename, old.read(info) + b"\0" * 10**6)
    refused({"pytorch_model.bin": packed.getvalue()}, "is damaged, or contains objects other than")
    (tmp_path / "t.zip").write_bytes(b"<html>sign in to download</html>")
    with pytest.raises(ValueError, match="cannot be read as a zip"):
        load_teacher(str(tmp_path / "t.zip"), tokenizer, 128, tiny_config())
