"""A short run of tools/fuzz.py: readers with damaged input, with hypothesis."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fuzz
import fuzz_readers

EXAMPLES = {"archive": 60}  # fewer, because each accepted input is loaded as a model


@pytest.fixture(scope="module")
def readers():
    return {kind: make() for kind, make in fuzz_readers.READERS.items()}


@pytest.mark.filterwarnings("ignore")  # of zipfile and numpy, about odd input
@pytest.mark.parametrize("kind", fuzz_readers.READERS)
def test_damaged_files_are_read_exactly_or_raise_one_line(kind, readers, tmp_path):
    accepted = []

    @settings(max_examples=EXAMPLES.get(kind, 300), deadline=None, database=None)
    @given(st.integers(0, 2**32))
    def try_damaged(number):
        accepted.append(fuzz.try_number(kind, readers[kind], tmp_path, 0, number))

    try_damaged()
    assert len(accepted) > 50


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind, name", [
    ("masks", "m"), ("old-masks", "m"), ("authors", "m.npy"), ("authors", "m.zip"),
    ("squad", "p.json"), ("squad", "p.json.gz"), ("squad", "p.json.xz"), ("archive", "outer.zip"),
    ("records", "r.json"),
])
def test_random_bytes_raise_one_line(kind, name, readers, tmp_path):
    @settings(max_examples=100, deadline=None, database=None)
    @given(st.binary(max_size=200))
    def try_any(data):
        assert not fuzz.try_bytes(readers[kind], tmp_path, name, data)

    try_any()


@pytest.mark.parametrize("kind", fuzz_readers.READERS)
def test_undamaged_input_is_read(kind, readers, tmp_path, monkeypatch):
    """Undamaged input passes the checks of the result."""
    monkeypatch.setattr(fuzz_readers, "damaged", lambda chance, data: data)
    monkeypatch.setattr(fuzz_readers, "odd_json", lambda chance, value: value)
    for number in range(20):
        name, data = readers[kind].make(random.Random(number))
        assert fuzz.try_bytes(readers[kind], tmp_path, name, data)


def test_wrong_or_slow_readers_are_reported(readers, tmp_path, monkeypatch, capsys):
    correct = fuzz_readers.Masks.read

    def return_wrong_masks(path):
        return {name: ~mask for name, mask in correct(readers["masks"], path).items()}

    def raise_key_error(path):
        raise KeyError("x")

    def raise_two_lines(path):
        raise ValueError(f"{path}:\nno")

    def hang(path):
        fuzz.too_slow()

    for read, message in ((return_wrong_masks, "AssertionError"), (raise_key_error, "KeyError"),
                          (hang, "no result after"), (raise_two_lines, "not one line")):
        monkeypatch.setattr(fuzz_readers.Masks, "read", lambda self, path, read=read: read(path))
        monkeypatch.setattr(fuzz_readers, "damaged", lambda chance, data: data)
        monkeypatch.setattr(fuzz_readers, "odd_json", lambda chance, value: value)
        (tmp_path / "m").mkdir(exist_ok=True)
        assert fuzz.fuzz("masks", tmp_path / "m", inputs=3) == 3
        assert capsys.readouterr().out.count(message) == 3
