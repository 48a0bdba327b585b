"""The code of a mask: round trip, size near the entropy bound, damaged codes raise."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smp.model.mask_code import decode_mask, encode_mask


def bound(mask):
    """Return n H(k / n) in bytes."""
    n, k = mask.size, np.count_nonzero(mask)
    return sum(-c * np.log2(c / n) for c in (k, n - k) if c) / 8


def random_mask(shape, density, seed=0):
    return np.random.default_rng(seed).random(shape) < density


shapes = st.tuples(st.integers(1, 70), st.integers(1, 70))


@settings(deadline=None, max_examples=300)
@given(shapes, st.floats(0, 1), st.integers(0, 99))
def test_round_trip_in_at_most_one_bit_a_weight(shape, density, seed):
    mask = random_mask(shape, density, seed)
    code = encode_mask(mask)
    assert code.dtype == np.uint8 and code.ndim == 1
    assert len(code) <= mask.size / 8 + 20
    found = decode_mask(code, shape)
    assert found.dtype == bool and found.shape == shape and np.array_equal(found, mask)
    assert np.array_equal(decode_mask(encode_mask(mask.T), shape[::-1]), mask.T)  # a strided array


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 100_000), st.data())
def test_gaps_of_every_length_round_trip(size, data):
    """Gaps between kept weights are long, also 254 to 256; then gaps of the inverse mask."""
    places = data.draw(st.lists(st.integers(0, size - 1), max_size=9)) + [0, 255, 510, 766]
    mask = np.zeros((1, size), bool)
    mask[0, [place for place in places if place < size]] = True
    for each in (mask, ~mask):
        assert np.array_equal(decode_mask(encode_mask(each), each.shape), each)


def test_full_empty_and_diagonal_masks_round_trip():
    for shape in ((1, 1), (1, 8), (3, 3), (768, 3072)):
        for mask in (np.ones(shape, bool), np.zeros(shape, bool), np.eye(*shape) > 0):
            assert np.array_equal(decode_mask(encode_mask(mask), shape), mask)
    assert len(encode_mask(np.ones((3072, 768), bool))) < 10


@pytest.mark.parametrize("density", [0.03, 0.1, 0.25, 0.38, 0.5, 0.62, 0.9, 0.97])
def test_code_is_within_2_percent_of_the_entropy_bound(density):
    mask = random_mask((768, 768), density)
    assert bound(mask) <= len(encode_mask(mask)) <= 1.02 * bound(mask)


def test_structured_masks_are_below_the_bound_of_random_ones():
    """Without every second row, the code is shorter than for the same bits at random."""
    mask = random_mask((512, 512), 0.3)
    mask[::2] = False
    assert len(encode_mask(mask)) < 0.97 * bound(mask)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]), st.randoms(use_true_random=False))
def test_damaged_code_raises_or_decodes_the_same(density, chance):
    mask = random_mask((23, 41), density)
    code = encode_mask(mask)
    damaged = bytearray(code)
    accident = chance.randrange(3)
    if accident == 0:
        damaged[chance.randrange(len(code))] ^= 1 << chance.randrange(8)
    elif accident == 1:
        del damaged[chance.randrange(len(code)):]
    else:
        damaged += b"\0"
    try:
        found = decode_mask(np.frombuffer(damaged, np.uint8), mask.shape)
    except ValueError as error:
        assert str(error).startswith("the code of a mask is damaged") and "\n" not in str(error)
    else:  # a few bits of zlib's format are unused
        assert accident == 0 and np.array_equal(found, mask)


@pytest.mark.parametrize("inside", [
    b"", b"\3", b"\0", b"\0" + b"a" * 1, b"\0" + b"a" * 3, b"\1\x10", b"\1\x0f\0", b"\2\xff",
    b"\1\xff\0", b"\1" + b"\0" * 17, b"\0" * 10**7,
])
def test_valid_zlib_of_wrong_content_raises(inside):
    """A mask of 4 x 4 is two bytes of bits, or gaps below 16; these contents are neither."""
    code = np.frombuffer(zlib.compress(inside), np.uint8)
    with pytest.raises(ValueError, match="not of shape 4 x 4"):
        decode_mask(code, (4, 4))


def test_code_of_another_shape_raises():
    for density in (0.1, 0.5):
        code = encode_mask(random_mask((20, 30), density))
        with pytest.raises(ValueError, match="damaged"):
            decode_mask(code, (10, 20))
