"""Builds the notebooks from notebooks/*.py and smp/*.py; with --check it only compares.

A cell `from smp.x import a, b` is replaced by the cells of smp/x.py, once in each notebook, after
the cells of the modules that smp/x.py itself imports. Same input, same bytes.
"""

import argparse
import hashlib
import re
import sys
from pathlib import Path

import jupytext
import nbformat

from notebook_rules import check_modules, defined_names, read_code, rule

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = {
    "notebooks/finetune_qa.py": "BERT_FINETUNE_QA.ipynb",
    "notebooks/smp.py": "Static_Model_Pruning/BERT_SMP.ipynb",
    "notebooks/smp_kd.py": "Static_Model_Pruning/BERT_SMP_KD.ipynb",
}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
PERCENT = {"extension": ".py", "format_name": "percent", "comment_magics": False}


def read_cells(path, root):
    """Rows (where, cell, statements, wanted) of a percent file, one a cell."""
    cells, rows = jupytext.reads(path.read_text("utf-8"), fmt=PERCENT).cells, []
    for number, cell in enumerate(cells, 1):
        where = f"{path.relative_to(root).as_posix()}, cell {number}"
        source = cell.source if cell.cell_type == "code" else ""
        rows.append((where, cell, *read_code(source, where)))
    return rows


def read_modules(root):
    """{module: its rows} of smp/, the rules checked."""
    paths = sorted(p for p in (root / "smp").glob("*.py") if not p.stem.startswith("__"))
    modules = {path.stem: read_cells(path, root) for path in paths}
    check_modules(modules)
    return modules


def spell_out(rows, modules, done, waiting=()):
    """The cells of rows, every import of smp replaced by what `done` does not hold yet."""
    before, cells = [], []
    for where, cell, _, wanted in rows:
        if wanted is None:
            cells.append(cell)
            continue
        name, names = wanted
        rule(name in modules, where, f"there is no smp/{name}.py")
        rule(name not in waiting, where, "import cycle " + " -> ".join((*waiting, name)))
        unknown = names - defined_names(modules[name])
        rule(not unknown, where, f"smp/{name}.py does not define {', '.join(sorted(unknown))}")
        if name not in done:
            place = before if waiting else cells  # before a module's heading; within the story
            place += spell_out(modules[name], modules, done, (*waiting, name))
            done.add(name)
    return before + cells


def build(script, modules, root=ROOT):
    """The notebook's bytes: no outputs, ids made of each cell's position and content."""
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL})
    for position, cell in enumerate(spell_out(read_cells(root / script, root), modules, set())):
        source = cell.source
        if cell.cell_type == "code":  # `# %pip install x` and `# !ls` become magics
            source = re.sub(r"(?m)^( *)# (?=[%!]\w)", r"\1", source)
        make = getattr(nbformat.v4, f"new_{cell.cell_type}_cell")
        metadata = {key: cell.metadata[key] for key in cell.metadata if "lines_to" not in key}
        digest = hashlib.sha256(source.encode()).hexdigest()[:8]
        notebook.cells.append(make(source, id=f"{position:03d}-{digest}", metadata=metadata))
    nbformat.validate(notebook)
    return (nbformat.writes(notebook).rstrip("\n") + "\n").encode()


def main(arguments=None, root=ROOT, notebooks=NOTEBOOKS):
    parser = argparse.ArgumentParser(description="Build the notebooks from notebooks/ and smp/.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if one is stale")
    check = parser.parse_args(arguments).check
    try:
        modules = read_modules(root)
        built = {root / to: build(script, modules, root) for script, to in notebooks.items()}
    except (OSError, SyntaxError, ValueError) as error:
        sys.exit(f"build_notebooks: {error}")
    stale = [path for path in built if not path.is_file() or path.read_bytes() != built[path]]
    if check and stale:
        names = ", ".join(path.relative_to(root).as_posix() for path in stale)
        sys.exit(f"stale: {names}; run `make notebooks`")
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(built[path])


if __name__ == "__main__":
    main()
