"""Build the notebooks from notebooks/*.py and smp/; with --check only compare.

A cell `from smp.room.x import a, b` is replaced by the module smp/room/x.py, once in each notebook
and after the modules that it imports: its docstring as text, the rest as one cell. Same input, same
bytes.
"""

import argparse
import hashlib
import re
import sys
from pathlib import Path

import jupytext
import nbformat

from notebook_rules import check_modules, defined_names, read_module, read_story_cell, rule

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = {
    "notebooks/finetune_qa.py": "BERT_FINETUNE_QA.ipynb",
    "notebooks/smp.py": "Static_Model_Pruning/BERT_SMP.ipynb",
    "notebooks/smp_kd.py": "Static_Model_Pruning/BERT_SMP_KD.ipynb",
}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
PERCENT = {"extension": ".py", "format_name": "percent", "comment_magics": False}


def file_of(name):
    """Return the file of a module: "room.x" -> smp/room/x.py."""
    return f"smp/{name.replace('.', '/')}.py"


def read_modules(root):
    """Return {"room.x": `Module`} of smp/ without the command line, checked."""
    paths = sorted(path for path in (root / "smp").rglob("*.py") if not path.stem.startswith("__"))
    modules = {}
    for path in paths:
        name = ".".join(path.relative_to(root / "smp").with_suffix("").parts)
        if not name.startswith("cli."):
            where = path.relative_to(root).as_posix()
            modules[name] = read_module(path.read_text("utf-8"), where)
    check_modules(modules)
    return modules


def module_cells(name, modules, done, waiting, where):
    """Return the cells of a module, after those of the modules that it imports."""
    rule(name not in waiting, where, "import cycle " + " -> ".join((*waiting, name)))
    module, cells = modules[name], []
    for other, names in module.wanted:
        check_names(other, names, modules, module.where)
        if other not in done:
            cells += module_cells(other, modules, done, (*waiting, name), module.where)
    done.add(name)
    heading, _, text = module.docstring.partition("\n")
    words = f"## {heading.rstrip('.')}\n{text}".strip()
    cells.append(nbformat.v4.new_markdown_cell(words))
    if module.code:
        cells.append(nbformat.v4.new_code_cell(module.code))
    return cells


def check_names(name, names, modules, where):
    """Raise ValueError unless a module defines what is imported from it."""
    rule(name in modules, where, f"there is no {file_of(name)}")
    unknown = names - defined_names(modules[name])
    rule(not unknown, where, f"{file_of(name)} does not define {', '.join(sorted(unknown))}")


def story_cells(script, modules, root):
    """Return the cells of a notebook's script, imports from smp replaced by modules."""
    done, cells = set(), []
    path = root / script
    for number, cell in enumerate(jupytext.reads(path.read_text("utf-8"), fmt=PERCENT).cells, 1):
        where = f"{path.relative_to(root).as_posix()}, cell {number}"
        wanted = read_story_cell(cell.source, where) if cell.cell_type == "code" else None
        if wanted is None:
            cells.append(cell)
            continue
        check_names(*wanted, modules, where)
        if wanted[0] not in done:
            cells += module_cells(wanted[0], modules, done, (), where)
    return cells


def build(script, modules, root=ROOT):
    """Return the notebook's bytes: no outputs, ids from each cell's position and content."""
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL})
    for position, cell in enumerate(story_cells(script, modules, root)):
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
