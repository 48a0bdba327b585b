"""Notebooks built from small scripts and modules: order, stable bytes, and what is refused."""

import ast
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

import build_notebooks

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "notebooks/story.py"
TARGET = {SCRIPT: "out/STORY.ipynb"}

BASE = """\
\"\"\"Base.

What the others stand on.
\"\"\"

import re

import numpy as np

WORD = re.compile("[a-z]+")
LETTERS, DIGITS = frozenset("abc"), "0 1 2".split()


def base_value():
    return np.float32(1)
"""
LEFT = """\
\"\"\"Left.\"\"\"

import numpy as np

from smp.base import base_value


def left_value():
    return np.negative(base_value())
"""
RIGHT = """\
\"\"\"Right.\"\"\"

from smp.base import (
    WORD,
    base_value,
)
from smp.room.left import left_value


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
from smp.room.right import right_value

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
    write(tmp_path, {"smp/base.py": BASE, "smp/room/left.py": LEFT, "smp/room/right.py": RIGHT,
                     "smp/__init__.py": "", "smp/room/__init__.py": "",
                     "smp/__main__.py": "print('not a module')",
                     "smp/cli/main.py": "print('not for notebooks')", SCRIPT: STORY})
    return tmp_path


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def built(root):
    return build_notebooks.build(SCRIPT, build_notebooks.read_modules(root), root)


def cells_of(root):
    return nbformat.reads(built(root).decode(), as_version=4).cells


def test_modules_appear_once_after_the_modules_they_import(project):
    openings = [cell.source.split("\n")[0] for cell in cells_of(project)]
    assert openings == [
        "# A story", "DENSITY = None", "%pip install -q nothing", 'print("before")',
        "## Base", "import re", "## Left", "import numpy as np", "## Right", "def right_value():",
        "print(right_value(), base_value())", 'print("before")',
    ]


def test_a_module_is_its_docstring_and_one_code_cell(project):
    base, code = cells_of(project)[4:6]
    assert base.source == "## Base\n\nWhat the others stand on."
    assert code.source == BASE[BASE.index("import re"):].rstrip("\n")
    left = cells_of(project)[7].source
    assert left == "import numpy as np\n\n\ndef left_value():\n    return np.negative(base_value())"


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
    write(project, {"smp/room/left.py": LEFT.replace("negative", "positive")})
    after = [cell.id for cell in cells_of(project)]
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


MODULE = '"""Odd."""\n\n{}\n'
CELL = "# %% [markdown]\n# ## Odd\n\n# %%\n{}\n"
REFUSED = {
    "import of the package": ("import smp", "smp is used by"),
    "import of a module": ("import smp.base", "smp is used by"),
    "import under another name": ("import smp.base as b", "smp is used by"),
    "module out of the package": ("from smp import base", "smp is used by"),
    "relative": ("from .base import base_value", "smp is used by"),
    "relative package": ("from . import base", "smp is used by"),
    "star": ("from smp.base import *", "smp is used by"),
    "alias": ("from smp.base import base_value as b", "smp is used by"),
    "deeper module": ("from smp.base.more import b", "there is no smp/base/more.py"),
    "above a branch": ("if ONE:\n    from smp.base import base_value", "smp is used by"),
    "inside a function": ("def f():\n    from smp.base import base_value", "smp is used by"),
    "another use": ("def f():\n    return smp.base", "smp is used by"),
    "the command line": ("from smp.cli.main import main", "there is no smp/cli/main.py"),
    "unknown module": ("from smp.nowhere import a", "there is no smp/nowhere.py"),
    "unknown name": ("from smp.base import other", "smp/base.py does not define other"),
    "name it only imports": ("from smp.base import np", "smp/base.py does not define np"),
    "file": ("def f():\n    return __file__", "no __file__"),
    "future": ("from __future__ import annotations", "no __future__"),
    "syntax": ("def f(:\n    pass", "invalid syntax"),
}
REFUSED_IN_A_SCRIPT = {
    "two imports": "from smp.base import WORD\nfrom smp.room.left import left_value",
    "not alone": "from smp.base import base_value\nONE = 1",
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


def refusal(project):
    """The line with which the builder refuses; it writes nothing."""
    with pytest.raises(SystemExit) as stopped:
        build_notebooks.main([], project, TARGET)
    assert not (project / "out").exists()
    assert "\n" not in str(stopped.value)
    return str(stopped.value)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_forms_in_a_module_are_named_with_the_file(project, name):
    source, message = REFUSED[name]
    write(project, {SCRIPT: STORY + "\n# %%\nfrom smp.odd import other\n",
                    "smp/odd.py": MODULE.format(source) + "\nother = None\n"})
    line = refusal(project)
    assert "odd.py" in line and message in line


@pytest.mark.parametrize("name", [*REFUSED, *REFUSED_IN_A_SCRIPT])
def test_refused_forms_in_a_script_are_named_with_file_and_cell(project, name):
    source, message = REFUSED.get(name) or (REFUSED_IN_A_SCRIPT[name], "smp is used by")
    write(project, {SCRIPT: CELL.format(source)})
    line = refusal(project)
    assert "story.py, cell 2" in line and message in line


@pytest.mark.parametrize("source, message", [
    ("ONE = 1", "begins with a docstring"),
    ('"""Odd."""\nfrom smp.base import WORD; ONE = 1', "one statement a line"),
])
def test_a_module_without_the_plain_form_is_refused(project, source, message):
    write(project, {"smp/odd.py": source})
    with pytest.raises(ValueError, match=rf"^smp/odd\.py: .*{message}"):
        build_notebooks.read_modules(project)


@pytest.mark.parametrize("name", ACTS)
def test_a_module_that_acts_when_imported_is_refused(project, name):
    write(project, {"smp/odd.py": MODULE.format(ACTS[name])})
    with pytest.raises(ValueError, match=r"^smp/odd\.py: `.*` does something"):
        build_notebooks.read_modules(project)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_module_that_only_defines_is_taken(project, name):
    write(project, {"smp/odd.py": MODULE.format(HARMLESS[name])})
    assert "odd" in build_notebooks.read_modules(project)


def test_a_script_may_do_what_a_module_may_not(project):
    write(project, {SCRIPT: CELL.format("for i in range(3):\n    print(i)")})
    assert b"print(i)" in built(project)


@pytest.mark.parametrize("source", [
    "def base_value():\n    pass", "class base_value:\n    pass", "base_value = 1",
    "from numpy import base_value", "import torch as np", "import re as WORD",
])
def test_a_name_that_means_two_things_is_refused(project, source):
    write(project, {"smp/odd.py": MODULE.format(source)})
    with pytest.raises(ValueError, match=r"^smp/odd\.py: the name \w+ is taken by"):
        build_notebooks.read_modules(project)


def test_an_import_cycle_is_refused(project):
    write(project, {"smp/base.py": BASE + "\nfrom smp.room.right import right_value\n"})
    with pytest.raises(ValueError, match="cycle room.right -> base -> room.right"):
        built(project)


def test_check_names_the_stale_notebook_and_the_fix(project):
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
def test_variables_of_a_notebook_hide_no_name_of_a_module(script):
    taken = {}
    for module in build_notebooks.read_modules(ROOT).values():
        taken |= dict.fromkeys(build_notebooks.defined_names(module), module.where)
    hidden = set()
    cells = jupytext.reads((ROOT / script).read_text("utf-8"), fmt=build_notebooks.PERCENT).cells
    for cell in cells:
        if cell.cell_type != "code" or build_notebooks.read_story_cell(cell.source, script):
            continue
        scopes = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp,
                  ast.DictComp, ast.GeneratorExp)
        todo = list(ast.parse(cell.source).body)
        while todo:
            node = todo.pop()
            name = getattr(node, "name", None)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.id
            if name in taken:
                hidden.add(f"{cell.source[:30]!r}: {name} of {taken[name]}")
            if not isinstance(node, scopes):
                todo += ast.iter_child_nodes(node)
    assert not hidden
