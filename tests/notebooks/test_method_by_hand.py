"""The toy cells of the notebooks print the numbers that can be checked on paper."""

import json
from pathlib import Path

import nbformat
import pytest

from build_notebooks import NOTEBOOKS
from helpers import run_in_ipython
from smp.runs.edited import edited_method

ROOT = Path(__file__).resolve().parents[2]
PRINTED = {
    "BERT_FINETUNE_QA.ipynb": """
        [CLS] who built the bridge ? [SEP] the bridge was designed by clara voss and built by
        henrik dahl . [SEP] (21 tokens)
        characters 51 to 62 -> tokens 17 and 18: henrik dahl
        p(start = henrik) = 0.500 -> 0.693
        p(end = dahl)     = 0.300 -> 1.204
        span loss           0.949
        clara 2 10 2 6
        voss · 5 1 3
        henrik · · 4 12
        dahl · · · 3
        answer: henrik dahl, score 12/48 = 0.25
        henrik dahl. EM 1 F1 1.000
        the Henrik Dahl EM 1 F1 1.000
        by Henrik Dahl EM 0 F1 0.800
        Dahl EM 0 F1 0.667
        Clara Voss EM 0 F1 0.000""",
    "BERT_SMP.ipynb": """
        mask 1101 0010
        S > 0.3 keeps 3, S >= 0.3 keeps 5, keep_top keeps 4
        kept_count(0.29, 100) = 29, floor(0.29 * 100) = 28
        loss 1.000
        0.5 -1.0 0.9 0.8
        0.6 -0.3 -1.0 -1.6
        by hand = autograd: True gradient of W: None
        0 1101 0010 1.000
        1 1100 0011 0.200
        2 1100 0011 0.200
        3 1100 0011 0.200
        4 1100 1010 1.300
        5 0100 1011 0.045
        all eight weights: 1.850
        score_init 0: density 1 equals plain True; density 0.5 keeps 1111 0000 [4, 4]
        score_init 1: density 1 equals plain True; density 0.5 keeps 0110 0011 [4, 4]
        density 0.50, p 1: SMP-L 4 + 4 SMP-S 6 + 2
        density 0.75, p 1: SMP-L 6 + 6 SMP-S 8 + 4
        density 0.50, p 4: SMP-L 4 + 4 SMP-S 5 + 3
        kept 4.6875, removed 2.2500
        closed form = autograd: True
        0: 100.00% 0.0 · 2: 47.97% 195.2 · 4: 21.25% 313.6 · 6: 11.41% 374.4 · 8: 10.00% 396.8
        · 10: 10.00% 400.0""",
    "BERT_SMP_KD.ipynb": """
        teacher tau 1 72.7% 18.2% 4.5% 4.5%
        teacher tau 2 50.0% 25.0% 12.5% 12.5%
        student tau 2 25.0% 12.5% 50.0% 12.5%
        start 1.3863, end 0.0000, mean 0.6931
        padding left in: 8.1678
        CE -0.818 +0.045 +0.727 +0.045
        KD -0.500 -0.250 +0.750 +0.000
        0.5 * 1.0116 + 0.5 * 0.6931 = 0.8524
        0.4 0.0 0.2""",
}


def method_cells(name):
    """Return the code cells of section 1 of a built notebook, and its METHOD_DIGESTS."""
    path = next(ROOT / to for to, _ in NOTEBOOKS.values() if to.endswith(name))
    cells = nbformat.read(path, as_version=4).cells
    end = next(i for i, cell in enumerate(cells) if "carry" in cell.metadata.get("tags", []))
    line = next(line for line in cells[end + 1].source.splitlines() if "METHOD_DIGESTS =" in line)
    sources = [cell.source for cell in cells[:end] if cell.cell_type == "code"
               and "PackageNotFoundError" not in cell.source]
    return sources, json.loads(line.partition("=")[2])


@pytest.mark.parametrize("name", PRINTED)
def test_toy_cells_print_the_numbers_worked_by_hand(name, tmp_path):
    printed = " ".join(run_in_ipython(["import re", *method_cells(name)[0]], tmp_path).split())
    place = 0
    for line in PRINTED[name].replace("\n        henrik dahl . ", " henrik dahl . ").replace(
            "\n        · 10:", " · 10:").strip().splitlines():
        expected = " ".join(line.split())
        assert expected in printed[place:], f"{expected!r} is not printed, or in another order"
        place = printed.index(expected, place)


def test_an_edited_straight_through_changes_the_five_steps(tmp_path):
    """With `* mask` no gradient reaches a removed weight, and the wrong weight returns."""
    sources, digests = method_cells("BERT_SMP.ipynb")
    edited = [source.replace("to_scores = grad * weight", "to_scores = grad * weight * mask")
              for source in sources]
    printed = run_in_ipython(["import re", *edited], tmp_path)
    assert "1 1100 1010 1.300" in printed and "1 1100 0011 0.200" not in printed
    assert edited_method(edited, digests) == "edited"


@pytest.mark.parametrize("name", PRINTED)
def test_an_unedited_method_has_no_variant(name, capsys):
    sources, digests = method_cells(name)
    assert digests and edited_method(sources, digests) == ""
    commented = [source.replace("):\n", "):  # a comment\n\n") for source in sources]
    assert edited_method(commented, digests) == "" and capsys.readouterr().out == ""


@pytest.mark.parametrize("old, new, name", [
    ("equal.cumsum(0)", "equal.flip(0).cumsum(0)", "keep_top"),
    ("** 3", "** 2", "cubic_ramp"),
    ("slope *= (1 - slope)", "slope *= (2 - slope)", "add_regulariser_gradient"),
])
def test_an_edit_is_printed_and_the_last_definition_counts(old, new, name, capsys):
    sources, digests = method_cells("BERT_SMP.ipynb")
    edited = [source.replace(old, new) for source in sources]
    assert edited != sources and edited_method([*sources, *edited], digests) == "edited"
    assert f"edited: {name}." in capsys.readouterr().out
    assert edited_method([*edited, "%magic", "x = (", *sources], digests) == ""
