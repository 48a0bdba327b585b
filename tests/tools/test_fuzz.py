"""A short run of tools/fuzz.py: readers on damaged input, through hypothesis."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fuzz

TRIES = {"archive": 60}  # a model is made of each that is read


@pytest.fixture(scope="module")
def readers():
    return {kind: make() for kind, make in fuzz.READERS.items()}


@pytest.mark.filterwarnings("ignore")  # of zipfile and numpy, about what is odd
@pytest.mark.parametrize("kind", fuzz.READERS)
def test_damaged_files_are_read_exactly_or_refused_in_a_line(kind, readers, tmp_path):
    taken = []

    @settings(max_examples=TRIES.get(kind, 300), deadline=None, database=None)
    @given(st.integers(0, 2**32))
    def try_damaged(number):
        taken.append(fuzz.try_number(kind, readers[kind], tmp_path, 0, number))

    try_damaged()
    assert len(taken) > 50


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind, name", [
    ("masks", "m"), ("old-masks", "m"), ("authors", "m.npy"), ("authors", "m.zip"),
    ("squad", "p.json"), ("squad", "p.json.gz"), ("squad", "p.json.xz"), ("archive", "outer.zip"),
    ("records", "r.json"),
])
def test_no_bytes_at_all_are_taken_for_a_file(kind, name, readers, tmp_path):
    @settings(max_examples=100, deadline=None, database=None)
    @given(st.binary(max_size=200))
    def try_any(data):
        assert not fuzz.try_bytes(readers[kind], tmp_path, name, data)

    try_any()


@pytest.mark.parametrize("kind", fuzz.READERS)
def test_what_is_whole_is_read(kind, readers, tmp_path, monkeypatch):
    """The undamaged input passes the checks, so these do look at what was read."""
    monkeypatch.setattr(fuzz, "damaged", lambda chance, data: data)
    monkeypatch.setattr(fuzz, "odd_json", lambda chance, value: value)
    for number in range(20):
        name, data = readers[kind].make(random.Random(number))
        assert fuzz.try_bytes(readers[kind], tmp_path, name, data)


def test_a_reader_that_lies_hangs_or_breaks_is_found(readers, tmp_path, monkeypatch, capsys):
    honest = fuzz.Masks.read

    def lie(path):
        return {name: ~mask for name, mask in honest(readers["masks"], path).items()}

    def crash(path):
        raise KeyError("x")

    def refuse_at_length(path):
        raise ValueError(f"{path}:\nno")

    def hang(path):
        fuzz.too_slow()

    for read, said in ((lie, "AssertionError"), (crash, "KeyError"), (hang, "no answer after"),
                       (refuse_at_length, "not one line")):
        monkeypatch.setattr(fuzz.Masks, "read", lambda self, path, read=read: read(path))
        monkeypatch.setattr(fuzz, "damaged", lambda chance, data: data)
        monkeypatch.setattr(fuzz, "odd_json", lambda chance, value: value)
        (tmp_path / "m").mkdir(exist_ok=True)
        assert fuzz.fuzz("masks", tmp_path / "m", inputs=3) == 3
        assert capsys.readouterr().out.count(said) == 3
