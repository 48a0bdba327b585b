"""A sample of tools/bad_inputs.py: one line, little memory, nothing written."""

from pathlib import Path

import pytest

import bad_inputs
from smp.model.load import load_qa_model


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    saved = bad_inputs.hostile.save_models(tmp_path_factory.mktemp("saved"))
    load_qa_model(str(saved / "qa"))
    return bad_inputs.new_world(saved)


def test_there_are_over_300_bad_inputs_of_all_verbs():
    words = [*bad_inputs.arguments()]
    assert len(words) > 300 and {*bad_inputs.VERBS} <= {each[0] for each in words}


@pytest.mark.parametrize("first", range(0, 50, 10))
def test_a_sample_of_bad_inputs_ends_in_one_line(world, monkeypatch, first):
    """The time is that of the kernel's limit, because tests are not timed."""
    monkeypatch.setattr(bad_inputs, "SECONDS", bad_inputs.LIMIT)
    for name, read, make in [*bad_inputs.inputs()][first :: 250]:
        result = bad_inputs.measure(read, make, world)
        assert not bad_inputs.wrong(*result), (name, result)


def raises(line, before=lambda world: None):
    """Return a reader that raises ValueError(line) after before(world)."""
    def read(world, made):
        before(world)
        raise ValueError(line)

    return read


def spin(world):
    while True:
        pass


@pytest.mark.parametrize("read, why", [
    (raises("x"), ""), (raises("x\ny"), "no line, or more than one"),
    (raises(""), "no line, or more than one"), (lambda world, made: 1, "not refused"),
    (raises("x", lambda world: (Path(world.folder) / "half").touch()), "not refused"),
    (raises("x", lambda world: b"x" * 400 * 2**20), " MB"), (raises("x", spin), "2.00 s"),
    (lambda world, made: {}["x"], "no line, or more than one"),
])
def test_what_breaks_a_bar_is_noticed(world, monkeypatch, read, why):
    monkeypatch.setattr(bad_inputs, "LIMIT", 2)
    found = bad_inputs.wrong(*bad_inputs.measure(read, lambda world: None, world))
    assert why in found and bool(why) == bool(found)
