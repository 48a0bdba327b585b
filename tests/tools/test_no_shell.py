"""No option, file name or variable reaches a shell."""

import ast
import os
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest

from smp.cli.main import main
from smp.fast.products import compiled_products

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("smp", "tools", "notebooks", "benchmarks", "experiments", "examples", "tests")
SHELLS = {"os.system", "os.popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}
EVIL = ["$(touch x)", "`touch x`", "; touch x", '"; touch x; "', "'; touch x; '", "| touch x",
        "a\ntouch x\n", "$(shell touch x)", "$$(touch x)", "&& touch x #"]


def calls_of_a_shell(source):
    """Return the code of the calls in a Python source that start a shell."""
    return [ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)
            and (SHELLS & {ast.unparse(node.func), ast.unparse(node.func).split(".")[-1]}
                 or any(word.arg == "shell" and getattr(word.value, "value", True)
                        for word in node.keywords))]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_code_starts_a_shell(folder):
    paths = list((ROOT / folder).rglob("*.py"))
    assert paths and {path: found for path in paths
                      if (found := calls_of_a_shell(path.read_text("utf-8")))} == {}


def test_calls_of_a_shell_are_found():
    code = 'os.system("a")\nrun("a", shell=True)\nrun("a", shell=x)\nrun(["a"], shell=False)'
    assert len(calls_of_a_shell(code)) == 3


@pytest.fixture
def make(tmp_path):
    """Return a function that runs make with the Makefile alone, without .venv."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").touch()

    def run(*arguments, **variables):
        outer = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        return subprocess.run(["make", *arguments], cwd=tmp_path, env=outer | variables,
                              capture_output=True, text=True)

    return run


@pytest.mark.parametrize("text", EVIL)
def test_the_python_of_make_is_one_word(make, tmp_path, text):
    before = sorted(tmp_path.iterdir())
    for run in (make(".venv/installed", f"PY={text}"), make(".venv/installed", PY=text)):
        assert run.returncode == 2 and "is not a Python 3.11 or newer" in run.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("variable", [f"N={text}" for text in EVIL] + [
    "a;>x;b=1", "`>x`=1", "a|tee>x=1", "a&&>x&&b=1", "'>x'=1"])
def test_an_unknown_variable_of_make_is_printed_only(make, tmp_path, variable):
    before, run = sorted(tmp_path.iterdir()), make("help", variable)
    assert run.returncode == 2 and "unknown variable" in run.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("text", EVIL)
def test_a_compiler_in_a_variable_is_no_shell_command(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    for words in (text, f"cc {text}"):
        monkeypatch.setenv("CC", words if words.count("'") % 2 == 0 else words + "'")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled_products.__wrapped__()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", EVIL[::3])
@pytest.mark.parametrize("arguments", [
    ["run", "--profile=TEXT"], ["run", "--model=TEXT"], ["run", "--data=TEXT"],
    ["run", "--teacher=TEXT"], ["run", "--method=TEXT"], ["run", "--only=TEXT"],
    ["sweep", "--methods=TEXT"], ["sweep", "--model=TEXT"], ["export", "TEXT"],
    ["table", "--results=TEXT"], ["repeat", "TEXT"], ["authors", "TEXT"], ["TEXT"],
    ["run", "--TEXT=1"], ["ask", "--model=TEXT", "--passage=TEXT"],
])
def test_an_option_is_printed_only(tmp_path, monkeypatch, capsys, arguments, text):
    monkeypatch.chdir(tmp_path)
    try:
        code = main([word.replace("TEXT", text) for word in arguments])
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    assert code == 2 and printed.out == "" and printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
