"""`smp table`: tables and pictures of a folder of records, and of the reference."""

import re

import pytest

from records import make_record
from smp.cli import table as table_module
from smp.cli.main import main
from smp.runs.grouping import group_records
from smp.runs.read import read_records
from smp.runs.record import write_record
from smp.runs.summary import readme_markdown, summary_markdown
from smp.runs.sweep_curves import sweep_markdown

PNG = b"\x89PNG"
FINE_TUNED = dict(method="fine-tuned", em=0.8)
SETTINGS = {"batch_size": 8, "profile": "quick"}


def write(folder, *records):
    for changes in records:
        write_record(make_record(settings=dict(SETTINGS), distill="none", **changes), folder)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".json")


def test_several_methods_have_another_table_and_picture(tmp_path):
    write(tmp_path, FINE_TUNED, dict(em=0.6))
    text = table_module.table(tmp_path)
    assert text == summary_markdown(read_records(tmp_path))
    assert (tmp_path / "summary.md").read_text("utf-8") == text
    assert names(tmp_path) == ["summary.md", "summary.png"]
    assert (tmp_path / "summary.png").read_bytes().startswith(PNG)

    write(tmp_path, dict(method="magnitude", em=0.4, density=0.3))
    assert "magnitude" in table_module.table(tmp_path)
    assert names(tmp_path) == ["methods.md", "methods.png", "summary.md", "summary.png"]
    assert (tmp_path / "methods.png").read_bytes().startswith(PNG)
    methods = (tmp_path / "methods.md").read_text("utf-8")
    assert methods == sweep_markdown(read_records(tmp_path))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in methods.splitlines()]
    assert ["SMP-L", "0.600 / 0.568, 75.0% ± 4.9", "—"] in rows
    assert ["magnitude", "—", "0.400 / 0.568, 50.0% ± 4.9"] in rows


def test_a_record_of_a_removed_profile_is_in_the_tables(tmp_path):
    write(tmp_path, dict(em=0.6), dict(method="magnitude", em=0.4),
          dict(method="magnitude", em=0.3, seed=1))
    for path in tmp_path.glob("*_seed1_*.json"):
        path.write_text(path.read_text().replace('"profile": "quick"', '"profile": "gone"'))
    table_module.table(tmp_path)
    for name in ("summary.md", "methods.md"):
        rows = re.findall(r"^\| magnitude .*0\.[34]00 .*$", (tmp_path / name).read_text("utf-8"),
                          re.MULTILINE)
        assert len(rows) == 2


def test_a_folder_without_records_has_no_picture(tmp_path):
    assert "Nothing was measured yet" in table_module.table(tmp_path)
    assert names(tmp_path) == ["summary.md"]


def test_the_pictures_show_the_largest_groups(tmp_path, monkeypatch):
    """summary.png shows the group with the most questions, methods.png that with the most runs."""
    drawn = {}

    def draw(records, how, rank, path):
        group = max(group_records(records), key=rank)
        drawn[path.name] = {record["em"] for record in group}

    monkeypatch.setattr(table_module, "draw_group", draw)
    for em, n_train, n_eval in ((0.2, 3_000, 1_000), (0.3, 5_000, 1_000), (0.4, 9_000, 500)):
        write(tmp_path, dict(em=em, n_train=n_train, n_eval=n_eval, data_sha=str(n_train)))
    table_module.table(tmp_path)
    assert drawn == {"summary.png": {0.3}}
    write(tmp_path, dict(method="movement", em=0.1, n_train=3_000, n_eval=1_000, data_sha="3000"))
    table_module.table(tmp_path)
    assert drawn == {"summary.png": {0.3}, "methods.png": {0.1, 0.2}}


def test_published_numbers_are_drawn_for_squad_only(tmp_path, monkeypatch):
    seen = []

    class Figure:
        def savefig(self, path, format, dpi):
            path.write_bytes(PNG)

    for data, given in (("synthetic", False), ("squad", True)):
        write(tmp_path / data, dict(data=data))
        records = read_records(tmp_path / data)
        table_module.draw_group(records, lambda group, published: seen.append(published) or
                                Figure(), len, tmp_path / "x.png")
        assert bool(seen[-1]) == given and (tmp_path / "x.png").read_bytes() == PNG


@pytest.mark.parametrize("given", [True, False])
def test_table_prints_the_summary(given, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ("elsewhere" if given else "results")
    write(folder, FINE_TUNED, dict(em=0.6))
    assert main(["table", *["--results=elsewhere"] * given]) == 0
    shown = capfd.readouterr()
    assert shown.err == "" and shown.out == (folder / "summary.md").read_text("utf-8") + "\n"


@pytest.mark.parametrize("arguments, made, message", [
    ([], None, r"results: no such folder; `smp run` creates it"),
    (["--results=gone"], None, r"\S+gone: no such folder; `smp run` creates it"),
    (["--results=file"], "file", r"--results file: \S+file is not a folder; name a writable fold"),
    ([], "results/x.json", r"x\.json is not a result record: .*; run it again or move the file aw"),
    (["--reference"], None, r"--reference: the reference records are in the clone only"),
    (["--reference", "--results=x"], None, r"--reference and --results name two folders: use one"),
])
def test_a_missing_table_prints_one_line(arguments, made, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table_module, "ROOT", tmp_path)
    monkeypatch.setattr(table_module, "REFERENCE", tmp_path / "results/reference")
    if made:
        (tmp_path / made).parent.mkdir(exist_ok=True)
        (tmp_path / made).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    assert main(["table", *arguments]) == 2
    shown = capfd.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert re.match(f"table: {message}", shown.err) and sorted(tmp_path.rglob("*")) == before


def test_reference_writes_three_tables_and_the_readme(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(table_module, "ROOT", tmp_path)
    monkeypatch.setattr(table_module, "REFERENCE", tmp_path / "results/reference")
    reference = tmp_path / "results" / "reference"
    for folder, em in ((reference, 0.6), (reference / "sweep", 0.5), (reference / "tried", 0.4)):
        write(folder, FINE_TUNED, dict(em=em), dict(method="movement", em=em / 2))
    (tmp_path / "README.md").write_text("a\n<!-- results -->\nold\n<!-- /results -->\nb\n")
    monkeypatch.chdir(reference)
    assert main(["table", "--reference"]) == 0
    shown = capfd.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    for folder in (reference, reference / "sweep", reference / "tried"):
        records = read_records(folder)
        assert (folder / "summary.md").read_text("utf-8") == summary_markdown(records)
        assert (folder / "methods.md").read_text("utf-8") == sweep_markdown(records)
    table = readme_markdown(read_records(reference)).rstrip()
    assert "75.0%" in table and (tmp_path / "README.md").read_text("utf-8") == (
        f"a\n<!-- results -->\n{table}\n<!-- /results -->\nb\n")
