"""Mask files of every format load as they were saved; a damaged file raises a one-line error."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

from smp.task.cards import mask_card
from smp.task.mask_file import save_masks, with_checksum
from smp.task.validate import current_fields, load_any_masks, load_masks

FIXTURES = Path(__file__).parent / "fixtures"
LOADERS = (load_masks, load_any_masks)


def random_masks(shapes, density, seed=0):
    random = np.random.default_rng(seed)
    return {f"layer.{i}": random.random(shape) < density for i, shape in enumerate(shapes)}


def same(loaded, masks):
    return loaded.keys() == masks.keys() and all(
        loaded[name].dtype == bool and np.array_equal(loaded[name], masks[name]) for name in masks
    )


shapes = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=4)


@settings(deadline=None, max_examples=100)
@given(shapes, st.floats(0, 1), st.integers(0, 99), st.booleans(), st.booleans())
def test_saved_masks_load_equal(tmp_path_factory, shapes, density, seed, with_head, with_vectors):
    path = tmp_path_factory.mktemp("masks") / "mask.safetensors"
    masks = random_masks(shapes, density, seed)
    about = {"density": density, "base": "tïny\n\"", "settings": {"seed": [seed, None]}}
    head = {"out.weight": np.float32([[1.5, -0.0]]), "out.bias": np.float32([np.pi])}
    vectors = {"layer.0.bias": np.float32([-0.0, 2.5]), "out.bias": np.float32([1.5])}
    trained = {"head_weights": head} if with_head else {}
    trained |= {"vectors": vectors} if with_vectors else {}
    size = save_masks(masks, path, **trained, **about)
    for load in LOADERS:
        loaded, said = load(path)
        found = {kind: said.pop(kind) for kind in ("head_weights", "vectors") if kind in said}
        assert said == about and size == path.stat().st_size and same(loaded, masks)
        assert found.keys() == trained.keys()
        for kind, arrays in found.items():
            assert arrays.keys() == trained[kind].keys()
            assert all(arrays[n].tobytes() == trained[kind][n].tobytes() for n in arrays)


@pytest.mark.parametrize("density", [0.03, 0.1, 0.5])
def test_file_is_at_most_5_percent_above_entropy(tmp_path, density):
    """One layer as in BERT-base; the size includes names and shapes of its matrices."""
    shapes = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
    masks = random_masks(shapes, density)
    n = sum(mask.size for mask in masks.values())
    v = sum(mask.sum() for mask in masks.values()) / n
    bound = -n * (v * np.log2(v) + (1 - v) * np.log2(1 - v)) / 8
    assert bound < save_masks(masks, tmp_path / "m", density=density) < 1.05 * bound
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("load", LOADERS)
def test_any_flipped_bit_raises(tmp_path, load):
    path = tmp_path / "m"
    masks = random_masks([(5, 7), (3, 3)], 0.3)
    save_masks(masks, path, {"bias": np.zeros(2, np.float32)}, base="tiny", em=0.5)
    whole = path.read_bytes()
    form = whole.index(b"smp-masks-3") + len(b"smp-masks-")
    bits = {*range(0, 8 * len(whole), 5), 8 * form, 8 * form + 1}  # 3 becomes 2 or 1
    for bit in sorted(bits):  # one or two of every byte, each of the eight in turn
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a mask file of this project") as error:
            load(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("change, said", [
    (dict(vectors="[1, 2]"), "its metadata contain vectors, expected tensors only"),
    (dict(head_weights="{}"), "its metadata contain head_weights, expected tensors only"),
    (dict(format="smp-masks-2"), "biases or LayerNorms, expected format 'smp-masks-3'"),
    (dict(head='"magic"'), "its head is 'magic', expected label words or embedding rows or tr"),
])
def test_metadata_that_contradict_the_tensors_raise(tmp_path, change, said):
    path = tmp_path / "m"
    save_masks(random_masks([(3, 3)], 0.3), path, vectors={"bias": np.zeros(3, np.float32)})
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() | change | {"checksum": "0" * 64}
    path.write_bytes(with_checksum(save(load_file(path), metadata)))
    with pytest.raises(ValueError, match=said):
        load_any_masks(path)


def test_smp_masks_1_loads(tmp_path):
    """The first format has packed bits, no compression and no checksum."""
    masks = random_masks([(5, 7), (16, 3)], 0.3)
    save_file(
        {name: np.packbits(mask, axis=None) for name, mask in masks.items()}, tmp_path / "m",
        {"format": "smp-masks-1", "density": "0.3", "base": '"tiny"',
         "shapes": json.dumps({name: list(mask.shape) for name, mask in masks.items()})},
    )
    loaded, about = load_any_masks(tmp_path / "m")
    assert about == {"density": 0.3, "base": "tiny"} and same(loaded, masks)
    with pytest.raises(ValueError, match="its format is 'smp-masks-1', expected 'smp-masks-3'"):
        load_masks(tmp_path / "m")


SHAPES = {  # one layer of hidden size 8, inner size 12
    "attention.self.query": (8, 8), "attention.self.key": (8, 8), "attention.self.value": (8, 8),
    "attention.output.dense": (8, 8), "intermediate.dense": (12, 8), "output.dense": (8, 12),
}


@pytest.mark.parametrize("form, trained, label", [
    ("1", [], None), ("2", ["head_weights"], "SMP-S + KD"),
    ("3", ["head_weights", "vectors"], "SMP-S + KD"),
    ("3-label", ["head_weights", "vectors"], "SMP-S + KD + hidden states"),
])
def test_files_of_every_format_load(form, trained, label):
    """smp-masks-1, -2 and -3 were written by the first version of each format (commits 318a442~1,
    318a442, 7b29306), with method and sharing; -3-label has the fields label, method, variant."""
    masks, about = load_any_masks(FIXTURES / f"smp-masks-{form}.safetensors")
    assert same(masks, {
        f"encoder.layer.0.{name}": ((np.arange(a * b)**2 % 7 + m) % 5 < 2).reshape(a, b)
        for m, (name, (a, b)) in enumerate(SHAPES.items())})
    assert (about["base"], about["base_sha"], about["density"]) == ("tiny", "0123456789ab", 0.3)
    assert [kind for kind in ("head_weights", "vectors") if kind in about] == trained
    card = mask_card(about, 1000)
    assert (f"- method: {label}\n" in card) if label else "- method" not in card
    if label:
        assert (about["method"], about["variant"], about["em"]) == ("smp-s", None, 0.25)
        assert "sharing" not in about and "Exact Match 0.2500, F1 0.5000 on 40 questions" in card
        head = about["head_weights"]["qa_outputs.weight"]
        assert np.array_equal(head, np.arange(16, dtype=np.float32).reshape(2, 8) / 16)


@pytest.mark.parametrize("method, sharing, label, now", [
    ("SMP", "SMP-L", "SMP-L", "smp-l"), ("SMP + KD", "SMP-S", "SMP-S + KD", "smp-s"),
    ("soft movement + KD", None, "soft movement + KD", "soft-movement"),
    ("fine-tuned", None, "fine-tuned", "fine-tuned"),
])
def test_earlier_fields_become_label_method_and_variant(method, sharing, label, now):
    old = {"em": 1, "method": method, "sharing": sharing, "settings": {"variant": "norm-kept"}}
    new = current_fields(old)
    assert new == {"em": 1, "label": label, "method": now, "variant": "norm-kept",
                   "settings": old["settings"]}
    assert current_fields(new) is new


def test_safetensors_loads_the_file(tmp_path):
    masks = random_masks([(64, 64)], 0.1)
    save_masks(masks, tmp_path / "m", {"bias": np.ones(2, np.float32)})
    tensors = load_file(tmp_path / "m")
    assert tensors.keys() == {"layer.0", "head:bias"} and tensors["layer.0"].dtype == np.uint8


@pytest.mark.parametrize("load", LOADERS)
def test_wrong_files_raise_a_one_line_error(tmp_path, load):
    path = tmp_path / "m"
    save_masks({"w": np.ones((64, 64), dtype=bool)}, path)
    whole = path.read_bytes()
    for damaged in (whole[:-10], whole[:7], b"", b"x" * 100, whole + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a mask file of this project") as error:
            load(path)
        assert "\n" not in str(error.value)
    save_file({"w": np.ones(3)}, path)
    with pytest.raises(ValueError, match="its format is None, expected 'smp-masks-3'"):
        load(path)
    with pytest.raises(FileNotFoundError, match="no such mask file"):
        load(tmp_path / "none")
