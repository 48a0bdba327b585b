"""Masks on disk: what is saved is what is loaded; a damaged file says so."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smp.maskfile import load_masks, save_masks


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 9), columns=st.integers(1, 17), seed=st.integers(0, 99))
def test_round_trip(tmp_path_factory, rows, columns, seed):
    path = tmp_path_factory.mktemp("masks") / "mask.safetensors"
    random = np.random.default_rng(seed)
    masks = {f"layer.{i}": random.random((rows, columns)) < 0.3 for i in range(3)}
    size = save_masks(masks, path, density=0.3, model="tiny")
    loaded, about = load_masks(path)
    assert about == {"density": 0.3, "model": "tiny"} and size == path.stat().st_size
    assert loaded.keys() == masks.keys()
    assert all(np.array_equal(loaded[name], masks[name]) for name in masks)


def test_one_bit_a_weight(tmp_path):
    masks = {"w": np.ones((1000, 1000), dtype=bool)}
    assert save_masks(masks, tmp_path / "m") < 1000 * 1000 / 8 + 1000
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_damaged_foreign_and_missing_files(tmp_path):
    path = tmp_path / "m"
    save_masks({"w": np.ones((64, 64), dtype=bool)}, path)
    whole = path.read_bytes()
    for damaged in (whole[:-10], whole[:7], b"", b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a mask file of this project") as error:
            load_masks(path)
        assert "\n" not in str(error.value)
    from safetensors.numpy import save_file

    save_file({"w": np.ones(3)}, path)
    with pytest.raises(ValueError, match="smp-masks-1"):
        load_masks(path)
    with pytest.raises(FileNotFoundError, match="no such mask file"):
        load_masks(tmp_path / "none")
