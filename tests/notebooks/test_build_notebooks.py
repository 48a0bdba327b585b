"""The builder: method cells open, support files carried unchanged, and one-line errors."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

import build_notebooks
from build_notebooks import NOTEBOOKS, build, main
from helpers import run_in_ipython
from notebook_rules import code_lines

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "smp/__init__.py": '"""The package."""\n',
    "smp/method/core.py": '''"""The method."""

import math
from pathlib import Path, PurePath

from smp.method.other import NAME

LIMIT = 3


def half(x):
    """Return the half."""
    return math.floor(x / 2)  # rounds down


class Keeper:
    def keep(self, x):
        return min(half(x), LIMIT)
''',
    "smp/method/other.py": '"""More of the method."""\n\nNAME = "n"\n',
    "smp/data/left.py": '''"""Left."""

from smp.text import shout


def load():
    return shout("left")
''',
    "smp/text.py": '''"""Text."""


def shout(text):
    from smp.late import MARK

    return text.upper() + MARK
''',
    "smp/late.py": '"""Late."""\n\nMARK = "!"  # é\n',
    "tools/support_magic.py": (ROOT / "tools/support_magic.py").read_text("utf-8"),
}
STORY = '''# %% [markdown]
# # A story

# %% tags=["parameters"]
DENSITY = None  # a share

# %% [markdown]
# The method.

# %%
from smp.method.core import LIMIT, half

# %% [markdown]
# The class.

# %%
from smp.method.core import Keeper

# %% [markdown] tags=["carry"]
# # 2 Support code

# %% [markdown]
# # 3 The experiment

# %%
from smp.data.left import load

for name in ("nothing",):
    # %pip --version
print(load(), Keeper().keep(9), METHOD_DIGESTS.keys(), REFERENCE)
'''


@pytest.fixture
def project(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "story.py").write_text(STORY.replace("# A story", "# A story\n#\n# It begins."))
    return tmp_path


def cells_of(project):
    data, measures = build("story.py", "smp", project, reference={"quick": {"em": [0.5]}})
    return nbformat.reads(data.decode(), as_version=4).cells, measures


def test_a_method_cell_is_its_source_with_the_imports_it_needs(project):
    cells, _ = cells_of(project)
    assert cells[3].source == FILES["smp/method/core.py"].split("NAME\n\n")[1].split("\n\n\nclass")[
        0].replace("LIMIT = 3", "import math\n\n\nLIMIT = 3")
    assert cells[5].source.startswith("class Keeper:\n    def keep")  # math is imported already
    assert "PurePath" not in str(cells)


def test_carried_files_are_folded_unchanged_and_in_order(project):
    cells, (open_cells, open_lines, files, lines) = cells_of(project)
    (heading,) = [cell for cell in cells if "jp-MarkdownHeadingCollapsed" in cell.metadata]
    assert heading.metadata["id"] == heading.id and heading.source == "# 2 Support code"
    folded = [cell for cell in cells if "support" in cell.metadata.get("tags", [])]
    first = cells.index(heading) + 1
    assert cells[first : first + len(folded)] == folded
    assert all(cell.metadata["jupyter"] == {"source_hidden": True} for cell in folded)
    assert all(cell.metadata["cellView"] == "form" for cell in folded)
    assert [cell.source.splitlines()[0] for cell in folded[1:]] == [
        "%%support smp/late.py", "%%support smp/text.py", "%%support smp/data/left.py"]
    assert folded[1].source.splitlines()[1] == "# @title smp/late.py"
    for cell in folded[1:]:
        name = cell.source.split()[1]
        assert cell.source.split("\n", 2)[2] + "\n" == FILES[name]
    assert (open_cells, files) == (4, 3)
    assert open_lines == 1 + 4 + 3 + 4
    assert lines == sum(code_lines(FILES[f"smp/{name}.py"]) for name in ("late", "text",
                                                                         "data/left"))


@pytest.fixture
def sources(project):
    return [cell.source for cell in cells_of(project)[0] if cell.cell_type == "code"]


def test_a_notebook_in_a_clone_imports_its_carried_files(project, sources):
    (project / "smp/text.py").write_text("raise SystemExit('the clone was used')")
    printed = run_in_ipython([*sources, "import smp.text; print(smp.text.__file__)"], project)
    assert "LEFT! 3 dict_keys(['half', 'Keeper']) {'quick': {'em': [0.5]}}" in printed
    assert str(project) not in printed.splitlines()[-1]
    assert (project / "smp/text.py").read_text() == "raise SystemExit('the clone was used')"


def test_a_carried_file_that_is_edited_takes_effect(project, sources):
    text = next(source for source in sources if source.startswith("%%support smp/late"))
    again = [text, text.replace('"!"', '"?"'), sources[-1]]
    printed = run_in_ipython([*sources, *again], project)
    assert printed.count("smp/late.py changed: run the experiment (section 3) again") == 1
    assert printed.index("LEFT!") < printed.index("changed") < printed.index("LEFT?")


def test_running_the_support_section_again_changes_nothing(project, sources):
    folded = [source for source in sources if source.startswith("%%support") or "magic" in source]
    printed = run_in_ipython([*sources, *folded, sources[-1]], project)
    assert printed.count("LEFT! 3") == 2 and "changed" not in printed


def test_an_edited_method_cell_takes_effect_at_call_time(project, sources):
    edited = [source.replace("x / 2", "x / 9") for source in sources if "def half" in source]
    assert "LEFT! 1" in run_in_ipython([*sources[:-1], *edited, sources[-1]], project)


def test_equal_input_builds_equal_bytes_without_outputs(project):
    first, _ = build("story.py", "smp", project, reference={})
    assert first == build("story.py", "smp", project, reference={})[0]
    notebook = nbformat.reads(first.decode(), as_version=4)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids) and str(project) not in first.decode()
    assert notebook.metadata["colab"]["collapsed_sections"] == [
        cell.id for cell in notebook.cells if "carry" in cell.metadata.get("tags", [])]
    assert all(cell.outputs == [] for cell in notebook.cells if cell.cell_type == "code")


def test_a_cell_with_a_part_has_the_source_of_shared_py(project):
    text, cell = (project / "story.py").read_text(), "# %%\nfrom smp.method.core import Keeper\n"
    assert cell in text
    (project / "story.py").write_text(text.replace(cell, '# %% part="keeper"\n'))
    (project / "shared.py").write_text(cell.replace("# %%", '# %% part="keeper"'))
    cells, _ = cells_of(project)
    assert cells[5].source.startswith("class Keeper:") and "part" not in cells[5].metadata


@pytest.mark.parametrize("cell, message", [
    ('# %% part="masks"\n', "story.py, cell 6: shared.py has no part masks"),
    ('# %% part="keeper"\nprint(1)\n', "story.py, cell 6: the cell of part keeper has a text"),
])
def test_a_part_is_known_and_its_cell_is_empty(project, cell, message):
    text, old = (project / "story.py").read_text(), "# %%\nfrom smp.method.core import Keeper\n"
    (project / "story.py").write_text(text.replace(old, cell))
    (project / "shared.py").write_text(old.replace("# %%", '# %% part="keeper"'))
    with pytest.raises(ValueError, match=message):
        cells_of(project)


@pytest.mark.parametrize("old, new, message", [
    ("import LIMIT, half", "import LIMIT, third", "smp/method/core.py does not define third"),
    ("import LIMIT, half", "import half", "uses LIMIT of the method, which no cell"),
    ("from smp.data.left import load", "import smp.data.left", "smp is imported by `from smp.room"),
    ("from smp.data.left", "from smp.data.right", "there is no smp/data/right.py"),
    ("import LIMIT, half\n", "import LIMIT, half\n\nprint(1)\n", "has nothing but its imports"),
    ("# %% [markdown]\n# The class.\n\n", "", "an open cell has prose above it"),
    ("print(load()", "pass\n" * 60 + "print(load()", "an open cell has at most 60"),
])
def test_invalid_story_content_raises_one_line(project, old, new, message):
    text = (project / "story.py").read_text()
    assert old in text
    (project / "story.py").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message) as error:
        cells_of(project)
    assert "\n" not in str(error.value) and "story.py" in str(error.value)


@pytest.mark.parametrize("name, old, new, message", [
    ("smp/data/left.py", "from smp.text import shout", "from smp.method.core import half",
     "smp/data/left.py: imports smp.method.core: a carried module gets"),
    ("smp/late.py", "MARK", "from smp.data.left import load\nMARK", "import cycle smp.data.left"),
    ("smp/late.py", "MARK", "from . import text\nMARK", "smp/late.py: smp is imported by"),
    ("smp/method/core.py", "import math", "import math\nfrom smp.text import shout",
     "smp/method/core.py: the method imports smp.text"),
    ("smp/method/core.py", "LIMIT = 3", "LIMIT = 3\nprint(LIMIT)", "`print.LIMIT.` is no import"),
])
def test_invalid_module_content_raises_one_line(project, name, old, new, message):
    (project / name).write_text(FILES[name].replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as error:
        cells_of(project)
    assert "\n" not in str(error.value)


def test_check_prints_the_stale_notebook_and_writes_nothing(project, monkeypatch):
    monkeypatch.setattr(build_notebooks, "reference_results", lambda folder, stage: {})
    notebooks = {"story.py": ("out/story.ipynb", "smp")}
    with pytest.raises(SystemExit, match="stale: out/story.ipynb; run `make notebooks`"):
        main(["--check"], project, notebooks)
    assert not (project / "out").exists()
    main([], project, notebooks)
    main(["--check"], project, notebooks)
    monkeypatch.setitem(build_notebooks.MOST, "smp", (3, 380, 20, 3050))
    with pytest.raises(SystemExit, match="smp: 4 open cells, at most 3"):
        main(["--check"], project, notebooks)


@pytest.mark.parametrize("script", NOTEBOOKS)
def test_the_committed_notebooks_equal_their_built_sources(script):
    name, stage = NOTEBOOKS[script]
    assert (ROOT / name).read_bytes() == build(script, stage)[0]


@pytest.mark.parametrize("script", NOTEBOOKS)
def test_notebook_variables_hide_no_name_of_the_method(script):
    cells = nbformat.read(ROOT / NOTEBOOKS[script][0], as_version=4).cells
    seen = set()
    for cell in cells:
        if cell.cell_type == "code" and not cell.source.startswith("%%"):
            tree = ast.parse(re.sub(r"(?m)^( *)(%.*)$", r"\1pass", cell.source))
            defined = {node.name for node in tree.body
                       if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            stored = {name.id for node in tree.body  # not the local names of functions
                      if not isinstance(node, ast.FunctionDef | ast.ClassDef)
                      for name in ast.walk(node)
                      if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
            assert not (stored | defined) & seen
            seen |= defined
