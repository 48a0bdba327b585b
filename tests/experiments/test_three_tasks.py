"""Entity F1 of experiments/three_tasks.py, and the labels of the tokens of a word."""

import json
import lzma
import re
from argparse import Namespace
from pathlib import Path

import pytest

from experiments.three_tasks import encode, entities, entity_counts, f1_of, read_part, run
from experiments.three_tasks_table import table

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("tags, wanted", [
    (["O", "B-a", "I-a", "O", "B-b"], {("a", 1, 3), ("b", 4, 5)}),
    (["B-a", "B-a", "I-b"], {("a", 0, 1), ("a", 1, 2), ("b", 2, 3)}),
    (["I-a", "I-a", "I-b", "O"], {("a", 0, 2), ("b", 2, 3)}),  # as conlleval, without a B
    (["O"], set()),
])
def test_entities_are_spans_of_one_type(tags, wanted):
    assert entities(tags) == wanted


def test_entity_f1_counts_exact_spans_over_all_texts():
    truth = [["B-a", "I-a", "O"], ["B-b", "O", "B-a"]]
    guess = [["B-a", "O", "O"], ["B-b", "O", "B-b"]]  # one of three is right
    assert entity_counts(guess, truth) == [(0, 1, 1), (1, 2, 2)]
    assert f1_of(entity_counts(guess, truth)) == pytest.approx(1 / 3)
    assert f1_of(entity_counts(truth, truth)) == 1 and f1_of([(0, 0, 0)]) == 0
    assert f1_of([(1, 1, 1), (0, 1, 1), (1, 1, 1), (1, 1, 1)]) == 0.75  # accuracy of four texts


def test_a_line_with_only_a_tab_also_ends_a_text(tmp_path):
    path = tmp_path / "wnut17" / "train.conll.xz"
    path.parent.mkdir()
    path.write_bytes(lzma.compress(b"one\tO\ntwo\tB-a\n\t\nthree\tO\n\nfour\tO\n"))
    assert read_part(tmp_path, "wnut17", "train") == [
        (["one", "two"], ["O", "B-a"]), (["three"], ["O"]), (["four"], ["O"])]


def test_the_first_token_of_a_word_has_its_label(tokenizer):
    row, = encode([(["unbelievable", "Zürich"], ["O", "B-a"])], tokenizer, ["B-a", "O"], 20)
    ids = tokenizer(["unbelievable", "Zürich"], is_split_into_words=True).word_ids()
    assert [label for label in row["labels"] if label >= 0] == [1, 0]
    assert [ids[place] for place, label in enumerate(row["labels"]) if label >= 0] == [0, 1]
    cut, = encode([(["one"] * 30, ["O"] * 30)], tokenizer, ["B-a", "O"], 20)
    assert len(cut["labels"]) == 20 and cut["labels"].count(1) == 18


def test_texts_keep_their_order_when_batches_group_lengths(tmp_path):
    path = tmp_path / "sst2" / "train.tsv.xz"
    path.parent.mkdir()
    lines = (f"{'bad' if row % 2 else 'good'}{' film' * (row * 7 % 17)}\t{row % 2}\n"
             for row in range(64))
    path.write_bytes(lzma.compress("".join(lines).encode()))
    found = run("sst2", "fine-tuned", 1.0, Namespace(
        data=tmp_path, part="train", sentences=64, seed=0, model="all-MiniLM-L6-v2", max_length=20,
        epochs=3, learning_rate=3e-4, batch_size=8, bf16=False))
    assert found["score"] > 0.95 and found["n_eval"] == 64


def test_the_table_pairs_runs_with_the_fine_tuned_model(tmp_path):
    runs = [{"task": "sst2", "method": method, "density": density, "counts": counts}
            for method, density, counts in (
                ("fine-tuned", 1.0, [(1, 1, 1)] * 90 + [(0, 1, 1)] * 10),
                ("smp-s", 0.1, [(1, 1, 1)] * 80 + [(0, 1, 1)] * 20),
                ("magnitude", 0.1, [(1, 1, 1)] * 90 + [(0, 1, 1)] * 10))]
    path = tmp_path / "runs.json"
    path.write_text(json.dumps({"settings": {"model": "encoder"}, "runs": runs}))
    *_, dense, smp, magnitude = table([path]).splitlines()
    assert "| encoder | fine-tuned | 100%" in dense and "| 0.900 " in dense
    assert "0.800 (-0.100 ± 0.0" in smp and "not measured" in smp
    wide = float(smp.split("± ")[1].split(")")[0])
    assert wide == pytest.approx(1.96 * (0.09 / 100) ** 0.5, abs=0.01)
    assert "0.900 (+0.000 ± 0.000)" in magnitude


def test_the_page_has_the_table_of_its_command():
    page = (ROOT / "docs" / "tasks.md").read_text("utf-8")
    patterns = re.search(r"three_tasks_table (.+)", page)[1].split()
    files = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    assert len(files) >= len(patterns)
    assert f"<!-- table -->\n{table(files)}\n<!-- /table -->" in page
