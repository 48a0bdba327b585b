"""The authors' mask files are written bit for bit and load only onto a model of their shape."""

import io
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import BertConfig, BertForQuestionAnswering

from helpers import attach_masks, tiny_config
from smp.data.zip_files import open_zip, read_from_zip
from smp.model.encoder import encoder_linears
from smp.task.authors import load_authors_masks, load_authors_student, save_authors_masks
from smp.task.validate import apply_masks


def small_bert(**changes):
    return BertForQuestionAnswering(tiny_config(**dict(
        vocab_size=30, hidden_size=8, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=8,
    ) | changes))


def random_masks(model, seed=0):
    random = np.random.default_rng(seed)
    return {name: random.random(linear.weight.shape) < 0.4
            for name, _, _, linear in encoder_linears(model)}


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_file_of_twelve_layers_is_right_bit_by_bit(tmp_path):
    """The reference has the order written by hand and computes the bytes by plain loops."""
    model = small_bert(num_hidden_layers=12)
    masks = random_masks(model)
    bits = []
    for layer in (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9):
        for matrix in ("attention.output.dense", "attention.self.key", "attention.self.query",
                       "attention.self.value", "intermediate.dense", "output.dense"):
            for row in masks[f"encoder.layer.{layer}.{matrix}"]:
                bits.extend(int(kept) for kept in row)
    expected = [sum(bit << (7 - i) for i, bit in enumerate(bits[at : at + 8]))
                for at in range(0, len(bits), 8)]
    path = tmp_path / "squad_0.40_kd_mag.npy"
    size = save_authors_masks(masks, path)
    stored = np.load(path, allow_pickle=False)
    assert stored.dtype == np.uint8 and stored.tolist() == expected
    assert size == path.stat().st_size and [p.name for p in tmp_path.iterdir()] == [path.name]
    loaded = load_authors_masks(path, model)
    assert equal(loaded, masks) and list(loaded) == list(masks)
    assert all(mask.dtype == bool for mask in loaded.values())


def test_file_equals_that_of_the_authors_code(tmp_path):
    """As in their code, np.packbits of one vector in sorted order gives the same bytes."""
    model = small_bert(num_hidden_layers=11)
    masks = random_masks(model, seed=1)
    theirs = {f"bert.{name}.mask_scores": torch.tensor(mask) for name, mask in masks.items()}
    flat = torch.cat([theirs[name].flatten() for name in sorted(theirs)])
    np.save(tmp_path / "theirs.npy", np.packbits(flat.numpy()))
    save_authors_masks(masks, tmp_path / "ours.npy")
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()
    assert equal(load_authors_masks(tmp_path / "theirs.npy", model), masks)


def stack(shapes):
    """Return a stand-in for a model of any shape: its base model has one stack of equal blocks."""
    base = nn.Module()
    base.layer = nn.ModuleList(
        nn.ModuleList(nn.Linear(columns, rows, bias=False) for rows, columns in shapes)
        for _ in range(11)
    )
    return SimpleNamespace(base_model=base, named_parameters=base.named_parameters)


@settings(deadline=None, max_examples=30)
@given(shapes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
       seed=st.integers(0, 99), zipped=st.booleans())
def test_round_trip(tmp_path_factory, shapes, seed, zipped):
    folder, model = tmp_path_factory.mktemp("authors"), stack(shapes)
    masks, path = random_masks(model, seed), folder / "new" / "m.npy"
    save_authors_masks(masks, path)
    total = sum(mask.size for mask in masks.values())
    stored = np.load(path)
    assert stored.shape == ((total + 7) // 8,)
    assert sum(int(byte).bit_count() for byte in stored) == sum(m.sum() for m in masks.values())
    if zipped:
        path = zip_of(folder / "m.npy.zip", {"m.npy": path.read_bytes()})
    assert equal(load_authors_masks(path, model), masks)


def test_bert_base_has_the_released_size(tmp_path):
    with torch.device("meta"):
        model = BertForQuestionAnswering(BertConfig())
    shapes = {name: tuple(linear.weight.shape) for name, _, _, linear in encoder_linears(model)}
    assert len(shapes) == 72 and sum(a * b for a, b in shapes.values()) == 8 * 10_616_832
    path = tmp_path / "none.npy"
    save_authors_masks({name: np.zeros(shape, dtype=bool) for name, shape in shapes.items()}, path)
    assert np.load(path).nbytes == 10_616_832
    assert refusal(path, small_bert()).endswith(
        "it contains 10,616,832 bytes, the size for BERT-base, expected 112 for this model")


# Errors


def zip_of(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def refusal(path, model):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_authors_masks(path, model)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


GOOD = npy(np.zeros(112, np.uint8))  # for small_bert(): 896 weights
WRONG = {
    "too short": (npy(np.zeros(111, np.uint8)), "contains 111 bytes, expected 112 for this model"),
    "too long": (npy(np.zeros(113, np.uint8)), "contains 113 bytes, expected 112 for this model"),
    "bools": (npy(np.zeros(112, bool)), "contains bool of shape (112,), expected one vector of"),
    "floats": (npy(np.zeros(112)), "contains float64"),
    "objects": (npy(np.array([{}] * 112)), "contains object"),
    "a matrix": (npy(np.zeros((4, 28), np.uint8)), "of shape (4, 28)"),
    "cut off": (GOOD[:-10], "header gives 112 bytes, it contains 102: download"),
    "longer than its header": (GOOD + b"x", "header gives 112 bytes, it contains more"),
    "a cut header": (GOOD[:60], "its header is not that of np.save"),
    "half a header": (GOOD[:40] + b" " * 87 + b"\n" + GOOD[128:], "its header is not"),
    "no npy": (b"<html>Not found</html>", "its header is not"),
    "empty": (b"", "its header is not"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", WRONG)
def test_other_files_raise_a_one_line_error(tmp_path, name, zipped):
    content, message = WRONG[name]
    path = tmp_path / "m.npy"
    path.write_bytes(content)
    if zipped:
        path = zip_of(tmp_path / "m.npy.zip", {"m.npy": content})
    model = small_bert()
    assert sum(mask.size for mask in random_masks(model).values()) == 8 * 112
    assert message in refusal(path, model)


def test_a_huge_file_raises_before_it_is_read(tmp_path):
    header = npy(np.zeros(112, np.uint8))[:128].replace(b"(112,), }      ", b"(10**12,), }   ")
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("m.npy", "w") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": (10**12,)})
    assert "contains 1,000,000,000,000 bytes" in refusal(tmp_path / "m.zip", small_bert())
    (tmp_path / "m.npy").write_bytes(header)  # a header is data and is not executed
    assert "its header is not" in refusal(tmp_path / "m.npy", small_bert())


def test_wrong_zip_files_raise_a_one_line_error(tmp_path):
    model, path = small_bert(), tmp_path / "m.zip"
    assert "no such mask file" in refusal(path, model)
    assert "no such mask file" in refusal(tmp_path / "m.npy", model)
    assert "contains 0 .npy files" in refusal(zip_of(path, {"readme.txt": b""}), model)
    assert "contains 2 .npy files" in refusal(zip_of(path, {"a.npy": GOOD, "b.npy": GOOD}), model)
    load_authors_masks(zip_of(path, {  # a folder, a text and what macOS adds do no harm
        "a/m.npy": GOOD, "a/readme.txt": b"", "__MACOSX/a/._m.npy": b"x"}), model)
    for odd in ("../m.npy", "/m.npy", "a/../../m.npy", "..\\m.npy", "C:\\m.npy"):
        assert "leads out of it" in refusal(zip_of(path, {odd: GOOD}), model)
    whole = zip_of(path, {"m.npy": npy(np.arange(112, dtype=np.uint8))}).read_bytes()
    for damaged in (b"", whole[:50], b"no zip at all", whole.replace(b"m.npy", b"n.npy", 1)):
        path.write_bytes(damaged)
        assert "cannot be read as a zip" in refusal(path, model)
    at = whole.index(b"PK\x01\x02")  # the directory states that the file is encrypted
    path.write_bytes(whole[: at + 8] + b"\x01" + whole[at + 9 :])
    assert "cannot be read as a zip" in refusal(path, model)


def test_a_bit_flip_in_a_zip_raises_a_one_line_error(tmp_path):
    model, path, random = small_bert(), tmp_path / "m.zip", np.random.default_rng(0)
    whole = zip_of(path, {"m.npy": npy(np.arange(112, dtype=np.uint8))}).read_bytes()
    expected = load_authors_masks(path, model)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        try:  # some bits, such as those of the date, are not read
            assert equal(load_authors_masks(path, model), expected)
        except ValueError as error:
            assert "\n" not in str(error) and str(path) in str(error)


def test_a_zip_is_read_up_to_the_expected_size(tmp_path):
    path = zip_of(tmp_path / "bomb.zip", {"a": b"\0" * 10**7})
    with open_zip(path) as archive:
        assert read_from_zip(archive, "a", 10**7) == b"\0" * 10**7
        with pytest.raises(ValueError, match="a unpacks to 10,000,000 bytes, expected at most 999"):
            read_from_zip(archive, "a", 999)
    at = path.read_bytes().index(b"PK\x01\x02")  # a directory with a wrong size
    lying = path.read_bytes()[: at + 24] + (50).to_bytes(4, "little") + path.read_bytes()[at + 28 :]
    path.write_bytes(lying)
    with pytest.raises(ValueError, match="cannot be read as a zip"), open_zip(path) as archive:
        read_from_zip(archive, "a", 999)
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"1"), archive.writestr("a", b"2")
    with pytest.raises(ValueError, match="'a' twice"), open_zip(path):
        pass


def test_bits_after_the_last_weight_must_be_zero(tmp_path):
    """612 weights leave four unused bits, which are 0; a 1 means another model."""
    model = small_bert(hidden_size=6, intermediate_size=5, num_hidden_layers=3)
    masks, path = {k: np.ones_like(m) for k, m in random_masks(model).items()}, tmp_path / "m.npy"
    assert sum(mask.size for mask in masks.values()) == 612
    save_authors_masks(masks, path)
    whole = path.read_bytes()
    assert whole[-2:] == b"\xff\xf0"
    for last in (0xF1, 0xF8, 0xFF):
        path.write_bytes(whole[:-1] + bytes([last]))
        assert "has bits after the last weight" in refusal(path, model)


def test_a_failed_save_keeps_the_earlier_file(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="mask w is float64, expected bool"):
        save_authors_masks({"w": np.zeros((2, 2))}, tmp_path / "m.npy")
    (tmp_path / "m.npy").write_bytes(b"earlier")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_authors_masks({"w": np.zeros((2, 2), dtype=bool)}, tmp_path / "m.npy")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("m.npy", b"earlier")]


# On a model


def test_applied_masks_equal_merged_masks(tiny_qa, batch):
    before = {name: linear.weight.detach().clone() for name, _, _, linear in
              encoder_linears(tiny_qa)}
    rest = {name: tensor.clone() for name, tensor in tiny_qa.state_dict().items()
            if name.removeprefix("bert.").removesuffix(".weight") not in before}
    masks = random_masks(tiny_qa)
    apply_masks(tiny_qa, masks)
    for name, _, _, linear in encoder_linears(tiny_qa):
        weights, mask = before[name].tolist(), masks[name].tolist()
        assert linear.weight.tolist() == [
            [w if kept else 0 for w, kept in zip(*rows)] for rows in zip(weights, mask)]
    after = tiny_qa.state_dict()
    assert len(rest) > 20 and all(torch.equal(after[name], rest[name]) for name in rest)

    learned = BertForQuestionAnswering(tiny_qa.config).eval()
    learned.load_state_dict(after | {f"bert.{name}.weight": w for name, w in before.items()})
    attached = attach_masks(learned)
    for name, mask in masks.items():
        attached.masks[name].mask.copy_(torch.from_numpy(mask))
    with pytest.raises(ValueError, match="has masks already"):
        apply_masks(learned, masks)
    attached.merge()
    assert torch.equal(learned(**batch).start_logits, tiny_qa(**batch).start_logits)


def test_masks_of_another_model_change_nothing(tiny_qa):
    before = {name: tensor.clone() for name, tensor in tiny_qa.state_dict().items()}
    good = random_masks(tiny_qa)
    first, *_, last = good
    for masks, message in (
        ({k: m for k, m in good.items() if k != last}, f"mask {last} is missing, expected bool"),
        (good | {"encoder.layer.2.x": good[first]},
         "mask encoder.layer.2.x is bool of shape (32, 32), expected none"),
        (good | {last: good[last].T}, f"{last} is bool of shape (64, 32), expected bool of shape"),
        (good | {last: good[last].astype(np.uint8)}, f"{last} is uint8"),
    ):
        with pytest.raises(ValueError) as error:
            apply_masks(tiny_qa, masks)
        assert message in str(error.value) and "\n" not in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_qa.state_dict().items())


def test_authors_student_equals_the_masked_lm(tmp_path, tiny_masked_lm, tokenizer, tiny_qa, batch):
    folder, path = tmp_path / "bert", tmp_path / "m.npy"
    tiny_masked_lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    masks = random_masks(tiny_masked_lm)
    save_authors_masks(masks, path)
    model, its_tokenizer, density = load_authors_student(str(folder), path)
    assert not model.training and its_tokenizer.get_vocab() == tokenizer.get_vocab()
    assert density == (np.concatenate([m.ravel() for m in masks.values()])).mean()
    for name, mask in masks.items():  # oracle: the masked language model, its weights zeroed
        tiny_masked_lm.bert.get_submodule(name).weight.data[torch.tensor(~mask)] = 0
    full = tiny_masked_lm(**batch).logits
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    assert torch.allclose(model(**batch).start_logits, full[..., yes], atol=1e-6)
    assert torch.allclose(model(**batch).end_logits, full[..., no], atol=1e-6)

    headless = tmp_path / "headless"
    tiny_qa.save_pretrained(headless)
    tokenizer.save_pretrained(headless)
    with pytest.raises(ValueError, match="has no masked-LM head"):
        load_authors_student(str(headless), path)
