"""The parts of `make test-browser` that need no browser."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

import browser
from browser import Row, find_chromium, main
from jupyter_apps import SMALL, BrowserError, end_group, server_environment, small_copy
from notebook_page import NotebookPage

ROOT = Path(__file__).parents[2]
new = nbformat.v4


def test_a_missing_browser_raises_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BROWSER", raising=False)
    with pytest.raises(BrowserError, match="^no Chromium found: install one .*BROWSER=") as error:
        find_chromium()
    assert "\n" not in str(error.value)


def test_chromium_is_found_by_name_or_by_variable(monkeypatch, tmp_path):
    for name in ("google-chrome", "mine"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BROWSER", raising=False)
    assert find_chromium() == str(tmp_path / "google-chrome")
    monkeypatch.setenv("BROWSER", str(tmp_path / "mine"))
    assert find_chromium() == str(tmp_path / "mine")
    monkeypatch.setenv("BROWSER", "missing")
    with pytest.raises(BrowserError, match="at BROWSER='missing'"):
        find_chromium()


def test_a_process_group_that_ignores_sigterm_is_killed():
    """Its child holds the pipe open, so reading to the end waits until both have ended."""
    stubborn = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; sh -c \"trap '' TERM; echo up; exec sleep 600\""],
        stdout=subprocess.PIPE, start_new_session=True, text=True,
    )
    assert stubborn.stdout.readline() == "up\n"
    end_group(stubborn, seconds=0.2)
    assert stubborn.stdout.read() == "" and stubborn.returncode == -9


@pytest.mark.parametrize("name", browser.LIMITS)
def test_a_small_copy_differs_in_parameters_only(tmp_path, name):
    before = nbformat.read(ROOT / name, as_version=4)
    after = small_copy(ROOT / name, tmp_path)
    changed = [(a, b) for a, b in zip(before.cells, after.cells, strict=True) if a != b]
    assert len(changed) == 1
    lines = changed[0][1].source.splitlines()
    assert len(lines) == len(changed[0][0].source.splitlines())
    assert {"N_TRAIN = 24", "EPOCHS = 1", "RESULTS = 'results'"} <= set(lines)
    names = {line.split(" = ")[0] for line in lines}
    assert {line for line in lines if line.split(" = ")[0] in SMALL} == {
        f"{name} = {value!r}" for name, value in SMALL.items() if name in names}
    assert nbformat.read(tmp_path / Path(name).name, as_version=4) == after


@pytest.mark.parametrize("source, tags", [("N_TRAIN = 1", []), ("x = 1", ["parameters"])])
def test_a_notebook_without_parameters_raises_one_line(tmp_path, source, tags):
    path = tmp_path / "A.ipynb"
    cell = new.new_code_cell(source, metadata={"tags": tags})
    nbformat.write(new.new_notebook(cells=[cell]), path)
    with pytest.raises(BrowserError, match="parameters"):
        small_copy(path, tmp_path)


def test_the_server_has_no_path_to_network_or_clone(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "clone")
    environment = server_environment(tmp_path)
    assert "PYTHONPATH" not in environment and environment["https_proxy"].startswith("http://127.")
    assert "127.0.0.1" in environment["no_proxy"] and environment["HOME"] == str(tmp_path)


def test_folded_and_support_cells_are_not_open():
    cells = [new.new_markdown_cell("# A", metadata={"jp-MarkdownHeadingCollapsed": True}),
             new.new_code_cell("explore(1)"), new.new_markdown_cell("# B"),
             new.new_code_cell("def explore(path):\n    pass"), new.new_code_cell("explore(2)"),
             new.new_code_cell("explore(3)", metadata={"tags": ["support"]})]
    page = SimpleNamespace(locator=lambda selector: None)
    notebook = NotebookPage(page, new.new_notebook(cells=cells), Path())
    assert notebook.code_cells() == [3, 4]
    assert notebook.code_cells(r"(?<!def )\bexplore\(") == [4]


def test_problems_follow_the_table_one_line_each(monkeypatch, capsys):
    rows = [Row("A", "lab", 12.34, float("nan"), 5.0)]
    monkeypatch.setattr(browser, "try_all", lambda paths, apps: (rows, ["A in lab: x", "y"]))
    with pytest.raises(SystemExit, match="^test-browser: A in lab: x\ntest-browser: y$"):
        main(["A.ipynb"])
    assert capsys.readouterr().out.splitlines()[1].split() == ["A", "lab", "12.3", "nan", "5"]
