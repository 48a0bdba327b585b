"""The last lines of a notebook: EM and F1 of a run, its uncertainty and reference values."""

import numpy as np
import pytest

from records import make_record
from smp.runs.record import write_record
from smp.runs.result import half_interval, published_line, show_records, show_result

PAPER = [{"method": "smp-l", "distill": "logits", "density": density, "em": em}
         for density, em in ((0.5, 0.822), (0.1, 0.789), (0.03, 0.74))]
REFERENCE = {"runs": {"quick": {"em": [0.9425, 0.9325], "seeds": [0, 1], "on": "cpu fp32"}},
             "paper": PAPER}


def bits(right):
    """Return the exact_matches of a record whose first questions are right, n_eval 1,000."""
    return np.packbits(np.arange(1000) < right).tobytes().hex()


def test_half_interval_equals_the_binomial_one():
    assert half_interval(0.5, 400) == pytest.approx(1.96 * 0.025)
    assert half_interval(1.0, 400) == 0


def test_a_student_has_a_teacher_line_with_a_paired_interval(tmp_path, capsys):
    student = make_record(em=0.6, n_eval=1000, exact_matches=bits(600), bytes_mask_file=1_337_000)
    dense = make_record("fine-tuned", "none", 1.0, em=0.8, n_eval=1000, exact_matches=bits(800))
    show_result(student, tmp_path, REFERENCE, dense)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("this run           EM 0.600 ± 0.030   F1 ")
    assert shown[0].endswith("50% remaining weights   1.34 MB mask file")
    # the difference is 1 for 200 of 1,000 questions: its deviation is 0.4
    error = 1.96 * 0.4 / 1000**0.5 / 0.8
    assert shown[1] == ("teacher            EM 0.800 ± 0.025   same questions; "
                        f"EM retained 75.0% ± {error:.1%}")
    assert shown[2] == (f"reference          EM {0.9425:.3f}, {0.9325:.3f}   profile quick, "
                        "unchanged; seed 0, 1; cpu fp32")
    assert shown[3].startswith("paper, SMP-L + KD  EM 0.822") and len(shown) == 4


@pytest.mark.parametrize("changes, text", [
    (dict(data_sha="0" * 12), "other evaluation questions"),
    (dict(em=0.0), "other evaluation questions"),
])
def test_em_retained_requires_the_same_questions(tmp_path, capsys, changes, text):
    dense = make_record("fine-tuned", "none", 1.0) | changes
    show_result(make_record(bytes_mask_file=1), tmp_path, REFERENCE, dense)
    assert text in capsys.readouterr().out.splitlines()[1]


def test_em_retained_is_withheld_below_400_questions(tmp_path, capsys):
    few = dict(n_eval=399, exact_matches=None)
    show_result(make_record(bytes_mask_file=1, **few), tmp_path, REFERENCE,
                make_record("fine-tuned", "none", 1.0, **few))
    assert "EM retained withheld below 400 questions" in capsys.readouterr().out


def test_the_same_run_without_a_teacher_has_a_line(tmp_path, capsys):
    write_record(make_record(distill="none", em=0.45), tmp_path)
    write_record(make_record(distill="none", em=0.46, seed=1), tmp_path)
    (tmp_path / "damaged.json").write_text("{")
    show_result(make_record(em=0.5, bytes_mask_file=1), tmp_path, REFERENCE)
    shown = capsys.readouterr().out
    assert "without a teacher  EM 0.450" in shown and "0.460" not in shown


def test_the_first_line_of_an_edited_run_has_its_variant(tmp_path, capsys):
    show_result(make_record(variant="edited", bytes_mask_file=1), tmp_path, REFERENCE)
    assert capsys.readouterr().out.splitlines()[0].endswith("variant edited")


def test_the_published_line_has_the_nearest_density():
    for density, em in ((0.3, "0.822"), (0.08, "0.789"), (0.01, "0.740")):
        record = make_record(density=density)
        assert f"EM {em} " in published_line(record, PAPER)[1]


def test_show_records_prints_all_records_in_one_table(tmp_path, capsys):
    write_record(make_record("fine-tuned", "none", 1.0, em=0.9), tmp_path)
    write_record(make_record(em=0.5), tmp_path)
    show_records(tmp_path)
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "Model", "Remaining Weights", "Model Size", "Accuracy (EM)"]
    assert len(rows) == 2 and "fine-tuned" in rows[0] and "100%" in rows[0] and "0.900" in rows[0]
