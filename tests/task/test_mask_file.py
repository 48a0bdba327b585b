"""Mask files load as they were saved; a damaged file raises a one-line error."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

from smp.task.mask_file import checksum_with, load_masks, save_masks


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
    loaded, said = load_masks(path)
    found = {kind: said.pop(kind) for kind in ("head_weights", "vectors") if kind in said}
    assert said == about and size == path.stat().st_size and same(loaded, masks)
    assert found.keys() == trained.keys()
    with safe_open(path, framework="numpy") as file:  # old readers would pass vectors over
        assert file.metadata()["format"] == ("smp-masks-3" if with_vectors else "smp-masks-2")
    for kind, arrays in found.items():
        assert arrays.keys() == trained[kind].keys()
        assert all(arrays[n].tobytes() == trained[kind][n].tobytes() for n in arrays)


@pytest.mark.parametrize("density", [0.03, 0.1, 0.5])
def test_file_is_at_most_5_percent_above_entropy(tmp_path, density):
    """One layer as in BERT-base; the names and shapes of its matrices count as well."""
    shapes = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
    masks = random_masks(shapes, density)
    n = sum(mask.size for mask in masks.values())
    v = sum(mask.sum() for mask in masks.values()) / n
    bound = -n * (v * np.log2(v) + (1 - v) * np.log2(1 - v)) / 8
    assert bound < save_masks(masks, tmp_path / "m", density=density) < 1.05 * bound
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_any_flipped_bit_raises(tmp_path):
    path = tmp_path / "m"
    masks = random_masks([(5, 7), (3, 3)], 0.3)
    save_masks(masks, path, {"bias": np.zeros(2, np.float32)}, base="tiny", em=0.5)
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 5):  # of every byte one or two, each of the eight in turn
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a mask file of this project") as error:
            load_masks(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("change, said", [
    (dict(vectors="[1, 2]"), "its metadata say what only tensors can"),
    (dict(head_weights="{}"), "its metadata say what only tensors can"),
    (dict(format="smp-masks-2"), "tensors vector: make the form smp-masks-3"),
])
def test_metadata_that_contradict_the_tensors_raise(tmp_path, change, said):
    path = tmp_path / "m"
    save_masks(random_masks([(3, 3)], 0.3), path, vectors={"bias": np.zeros(3, np.float32)})
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() | change | {"checksum": "0" * 64}
    data = save(load_file(path), metadata)
    digest, place = checksum_with(data)
    path.write_bytes(data[: place.start(1)] + digest + data[place.end(1) :])
    with pytest.raises(ValueError, match=said):
        load_masks(path)


def test_smp_masks_1_loads(tmp_path):
    """As it was written before: bits packed, nothing compressed, no checksum."""
    masks = random_masks([(5, 7), (16, 3)], 0.3)
    save_file(
        {name: np.packbits(mask, axis=None) for name, mask in masks.items()}, tmp_path / "m",
        {"format": "smp-masks-1", "density": "0.3", "base": '"tiny"',
         "shapes": json.dumps({name: list(mask.shape) for name, mask in masks.items()})},
    )
    loaded, about = load_masks(tmp_path / "m")
    assert about == {"density": 0.3, "base": "tiny"} and same(loaded, masks)


def test_safetensors_loads_the_file(tmp_path):
    masks = random_masks([(64, 64)], 0.1)
    save_masks(masks, tmp_path / "m", {"bias": np.ones(2, np.float32)})
    tensors = load_file(tmp_path / "m")
    assert tensors.keys() == {"layer.0", "head:bias"} and tensors["layer.0"].dtype == np.uint8


def test_wrong_files_raise_a_one_line_error(tmp_path):
    path = tmp_path / "m"
    save_masks({"w": np.ones((64, 64), dtype=bool)}, path)
    whole = path.read_bytes()
    for damaged in (whole[:-10], whole[:7], b"", b"x" * 100, whole + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a mask file of this project") as error:
            load_masks(path)
        assert "\n" not in str(error.value)
    save_file({"w": np.ones(3)}, path)
    with pytest.raises(ValueError, match="smp-masks-2"):
        load_masks(path)
    with pytest.raises(FileNotFoundError, match="no such mask file"):
        load_masks(tmp_path / "none")
