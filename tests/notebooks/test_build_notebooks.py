"""Notebooks built from small scripts and modules: order, stable bytes, and what is refused."""

import ast
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import build_notebooks

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "notebooks/story.py"
TARGET = {SCRIPT: "out/STORY.ipynb"}

BASE = """\
# %% [markdown]
# ## Base
#
# What the others stand on.

# %%
import re

import numpy as np

# %%
WORD = re.compile("[a-z]+")
LETTERS, DIGITS = frozenset("abc"), "0 1 2".split()


def base_value():
    return np.float32(1)
"""
LEFT = """\
# %% [markdown]
# ## Left

# %%
import numpy as np

# %%
from smp.base import base_value

# %%
def left_value():
    return np.negative(base_value())
"""
RIGHT = """\
# %% [markdown]
# ## Right

# %%
from smp.left import left_value

# %%
from smp.base import (
    WORD,
    base_value,
)

# %%
def right_value():
    return left_value(), base_value(), WORD
"""
STORY = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Some environment
#     name: somewhere-else
# ---

# %% [markdown]
# # A story

# %% tags=["parameters"]
DENSITY = None

# %%
# %pip install -q nothing

# %%
print("before")

# %%
from smp.right import right_value

# %%
from smp.base import base_value

# %%
print(right_value(), base_value())

# %%
print("before")
"""


@pytest.fixture
def project(tmp_path):
    """A folder with three modules, where right needs left and base, and left needs base."""
    write(tmp_path, {"smp/base.py": BASE, "smp/left.py": LEFT, "smp/right.py": RIGHT,
                     "smp/__init__.py": "", "smp/__main__.py": "print('not a module')",
                     SCRIPT: STORY})
    return tmp_path


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def built(root):
    return build_notebooks.build(SCRIPT, build_notebooks.read_modules(root), root)


def cells_of(root):
    return nbformat.reads(built(root).decode(), as_version=4).cells


def test_modules_are_spelled_out_once_dependencies_first_where_the_story_needs_them(project):
    openings = [cell.source.split("\n")[0] for cell in cells_of(project)]
    assert openings == [
        "# A story", "DENSITY = None", "%pip install -q nothing", 'print("before")',
        "## Base", "import re", 'WORD = re.compile("[a-z]+")',
        "## Left", "import numpy as np", "def left_value():",
        "## Right", "def right_value():",
        "print(right_value(), base_value())", 'print("before")',
    ]


def test_the_code_of_a_built_notebook_runs_without_the_package(project):
    code = [cell.source for cell in cells_of(project) if cell.cell_type == "code"]
    source = "\n".join(text for text in code if not text.startswith("%"))
    alone = subprocess.run([sys.executable, "-I", "-c", source], cwd=project / "notebooks",
                           capture_output=True, text=True)
    assert alone.returncode == 0 and alone.stdout.startswith("before\n("), alone.stderr


def test_same_input_same_bytes_and_nothing_of_a_run(project):
    first = built(project)
    assert first == built(project)
    assert first.endswith(b"}\n") and not first.endswith(b"\n\n") and b"\r" not in first
    notebook = nbformat.reads(first.decode(), as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3" and set(notebook.metadata) == {
        "kernelspec"}
    for cell in notebook.cells:
        assert cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None)
        assert set(cell.metadata) <= {"tags"}


def test_the_parameters_cell_keeps_its_tag(project):
    tagged = [cell for cell in cells_of(project) if "tags" in cell.metadata]
    assert [(cell.source, cell.metadata.tags) for cell in tagged] == [
        ("DENSITY = None", ["parameters"])]


def test_ids_are_unique_and_change_only_with_their_cell(project):
    before = [cell.id for cell in cells_of(project)]
    assert len(set(before)) == len(before)
    write(project, {"smp/left.py": LEFT.replace("negative", "positive")})
    after = [cell.id for cell in cells_of(project)]
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


MODULE = "# %% [markdown]\n# ## Odd\n\n# %%\n{}\n"
REFUSED = {
    "import of the package": ("import smp", "smp is used by"),
    "import of a module": ("import smp.base", "smp is used by"),
    "import under another name": ("import smp.base as b", "smp is used by"),
    "module out of the package": ("from smp import base", "smp is used by"),
    "relative": ("from .base import base_value", "smp is used by"),
    "relative package": ("from . import base", "smp is used by"),
    "star": ("from smp.base import *", "smp is used by"),
    "alias": ("from smp.base import base_value as b", "smp is used by"),
    "deeper module": ("from smp.base.more import b", "smp is used by"),
    "two imports": ("from smp.base import WORD\nfrom smp.left import left_value", "smp is used by"),
    "not alone": ("from smp.base import base_value\nONE = 1", "smp is used by"),
    "inside a function": ("def f():\n    from smp.base import base_value", "smp is used by"),
    "another use": ("def f():\n    return smp.base", "smp is used by"),
    "unknown module": ("from smp.nowhere import a", "there is no smp/nowhere.py"),
    "unknown name": ("from smp.base import other", "smp/base.py does not define other"),
    "name it only imports": ("from smp.base import np", "smp/base.py does not define np"),
    "file": ("def f():\n    return __file__", "no __file__"),
    "future": ("from __future__ import annotations", "no __future__"),
    "syntax": ("def f(:\n    pass", "invalid syntax"),
}
ACTS = {
    "prints": 'print("hello")',
    "calls": "torch.manual_seed(0)",
    "keeps a call's value": "HOME = pathlib.Path.home()",
    "nested call": "HOMES = [dict(home=pathlib.Path.home())]",
    "branches": 'if __name__ == "__main__":\n    pass',
    "loops": "for i in range(3):\n    pass",
    "tries": "try:\n    import torch\nexcept ImportError:\n    pass",
    "sets what is not its own": "np.seterr = None",
    "adds": "COUNT += 1",
}
HARMLESS = {
    "docstring": '"""Text."""',
    "constants": "A, B = 1, 2\nC: int = 3\nD = {**dict(a=1), 'b': [x for x in range(3)]}",
    "own class": "class Odd:\n    pass\n\n\nODD = Odd()",
    "decorated": "@torch.no_grad()\ndef odd():\n    return print('only when called')",
    "pattern": "ODD = re.compile('x', re.IGNORECASE)",
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("place", ["module", "script"])
def test_refused_forms_are_named_with_file_and_cell(project, capsys, name, place):
    source, message = REFUSED[name]
    file = {"module": "smp/odd.py", "script": SCRIPT}[place]
    needed = STORY + "\n# %%\nfrom smp.odd import other\n"
    write(project, {SCRIPT: needed, file: MODULE.format(source) + "\n# %%\nother = None\n"})
    with pytest.raises(SystemExit) as stopped:
        build_notebooks.main([], project, TARGET)
    line = str(stopped.value)
    assert Path(file).name + ", cell 2" in line and message in line and "\n" not in line
    assert not (project / "out").exists()


@pytest.mark.parametrize("name", ACTS)
def test_a_module_that_acts_when_imported_is_refused(project, name):
    write(project, {"smp/odd.py": MODULE.format(ACTS[name])})
    with pytest.raises(ValueError, match=r"^smp/odd\.py, cell 2: `.*` does something"):
        build_notebooks.read_modules(project)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_module_that_only_defines_is_taken(project, name):
    write(project, {"smp/odd.py": MODULE.format(HARMLESS[name])})
    assert "odd" in build_notebooks.read_modules(project)


def test_a_script_may_do_what_a_module_may_not(project):
    write(project, {SCRIPT: MODULE.format("for i in range(3):\n    print(i)")})
    assert b"print(i)" in built(project)


@pytest.mark.parametrize("source", [
    "def base_value():\n    pass", "class base_value:\n    pass", "base_value = 1",
    "from numpy import base_value", "import torch as np", "import re as WORD",
])
def test_a_name_that_means_two_things_is_refused(project, source):
    write(project, {"smp/odd.py": MODULE.format(source)})
    with pytest.raises(ValueError, match=r"^smp/odd\.py, cell 2: the name \w+ is taken by"):
        build_notebooks.read_modules(project)


def test_an_import_cycle_is_refused(project):
    write(project, {"smp/base.py": BASE + "\n# %%\nfrom smp.right import right_value\n"})
    with pytest.raises(ValueError, match="import cycle right -> left -> base -> right"):
        built(project)


def test_check_names_the_stale_notebook_and_the_command_that_mends_it(project):
    with pytest.raises(SystemExit) as missing:
        build_notebooks.main(["--check"], project, TARGET)
    assert str(missing.value) == "stale: out/STORY.ipynb; run `make notebooks`"
    assert not (project / "out").exists()
    build_notebooks.main([], project, TARGET)
    build_notebooks.main(["--check"], project, TARGET)
    write(project, {"smp/base.py": BASE.replace("stand on", "build on")})
    with pytest.raises(SystemExit) as stale:
        build_notebooks.main(["--check"], project, TARGET)
    assert str(stale.value) == str(missing.value)  # a text: Python prints it and exits with 1


# The three notebooks of this repository


@pytest.mark.parametrize("script", build_notebooks.NOTEBOOKS)
def test_the_committed_notebook_is_what_its_sources_say(script):
    committed = ROOT / build_notebooks.NOTEBOOKS[script]
    new = build_notebooks.build(script, build_notebooks.read_modules(ROOT))
    assert committed.read_bytes() == new, f"{committed.name} is stale; run `make notebooks`"


@pytest.mark.parametrize("script", build_notebooks.NOTEBOOKS)
def test_a_notebooks_own_variables_do_not_hide_what_a_module_defines(script):
    modules = build_notebooks.read_modules(ROOT)
    taken = {}
    for name, rows in modules.items():
        taken |= dict.fromkeys(build_notebooks.defined_names(rows), f"smp/{name}.py")
    hidden = set()
    for where, _, statements, _ in build_notebooks.read_cells(ROOT / script, ROOT):
        scopes = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp,
                  ast.DictComp, ast.GeneratorExp)
        todo = list(statements)
        while todo:
            node = todo.pop()
            name = getattr(node, "name", None)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.id
            if name in taken:
                hidden.add(f"{where}: {name} of {taken[name]}")
            if not isinstance(node, scopes):
                todo += ast.iter_child_nodes(node)
    assert not hidden
