"""Build the notebooks from notebooks/*.py and smp/; with --check only compare.

A cell `from smp.method.x import a, b` becomes the source of a and b, which a reader can edit. The
other modules that the cells import, and what these import, are carried: after the heading with the
tag `carry` stands one folded cell for each file, which writes the file unchanged into a temporary
folder on sys.path. Same input, same bytes.
"""

import argparse
import ast
import hashlib
import json
import re
import sys
from pathlib import Path

import jupytext
import nbformat

from notebook_rules import (
    check_form,
    check_open_cells,
    code_lines,
    import_lines,
    is_support,
    own_imports,
    read_method,
    rule,
    used_names,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from smp.runs.edited import code_digest, definitions
from smp.runs.methods import FINE_TUNED
from smp.runs.profiles import PROFILES
from smp.runs.published import PUBLISHED
from smp.runs.read import read_records
from smp.runs.settings import choose_settings, stage_of

NOTEBOOKS = {
    "notebooks/finetune_qa.py": ("BERT_FINETUNE_QA.ipynb", "fine-tune"),
    "notebooks/smp.py": ("Static_Model_Pruning/BERT_SMP.ipynb", "smp"),
    "notebooks/smp_kd.py": ("Static_Model_Pruning/BERT_SMP_KD.ipynb", "smp-kd"),
}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
PERCENT = {"extension": ".py", "format_name": "percent", "comment_magics": False}
MOST = {  # open cells, open code lines, carried files, carried code lines
    "fine-tune": (20, 200, 24, 2395), "smp": (30, 380, 34, 3145), "smp-kd": (32, 400, 38, 3445),
}
WORDS = "smp.data.words"  # word lists, not counted
FOLDED = {"tags": ["support"], "jupyter": {"source_hidden": True}, "cellView": "form"}


def file_of(module):
    """Return the file of a module: "smp.room.x" -> smp/room/x.py."""
    return f"{module.replace('.', '/')}.py"


def read_file(root, module, where):
    """Return the text of a module's file; ValueError if there is none."""
    path = root / file_of(module)
    rule(path.is_file(), where, f"there is no {file_of(module)}")
    return path.read_text("utf-8")


def carried_modules(root, wanted, where):
    """Return {module: text} of the modules and all that they import, dependencies first."""
    found = {}

    def add(module, importer, waiting):
        rule(module not in waiting, importer, f"import cycle {' -> '.join((*waiting, module))}")
        if module in found:
            return
        rule(not module.startswith("smp.method."), importer,
             f"imports {module}: a carried module gets the method's objects as arguments")
        text = read_file(root, module, importer)
        tree = ast.parse(text, filename=file_of(module))
        check_form(tree, file_of(module))
        for other in sorted(set(own_imports(tree))):
            add(other, file_of(module), (*waiting, module))
        found[module] = text

    for module in wanted:
        add(module, where, ())
    return found


def without_magics(source):
    """Return a cell of a script with `pass` for its magics, `# %pip install x`."""
    return re.sub(r"(?m)^( *)# (?=[%!]\w)", r"\1pass  # ", source)


def read_cells(path):
    """Return the cells of a script; shared.py in its folder has the source of those with a part."""
    cells, shared = jupytext.reads(path.read_text("utf-8"), fmt=PERCENT).cells, {}
    if any("part" in cell.metadata for cell in cells):
        text = path.with_name("shared.py").read_text("utf-8")
        shared = {cell.metadata.get("part"): cell.source
                  for cell in jupytext.reads(text, fmt=PERCENT).cells}
    for number, cell in enumerate(cells, 1):
        if part := cell.metadata.pop("part", None):
            where = f"{path.name}, cell {number}"
            rule(part in shared, where, f"shared.py has no part {part}")
            rule(not cell.source, where, f"the cell of part {part} has a text of its own")
            cell.source = shared[part]
    return cells


class Story:
    """The cells of one notebook's script, with the method's source in its cells."""

    def __init__(self, root, script):
        self.root, self.script = root, script
        self.bound, self.digests, self.used = set(), {}, {}
        self.wanted = []
        self.cells = [self.read_cell(cell, f"{script}, cell {number}")
                      for number, cell in enumerate(read_cells(root / script), 1)]
        missing = {name: where for name, where in self.used.items() if name not in self.digests}
        for name, where in missing.items():
            rule(False, where, f"uses {name} of the method, which no cell of the notebook shows")

    def read_cell(self, cell, where):
        """Return the cell; a code cell that imports the method becomes its source."""
        if cell.cell_type != "code":
            return cell
        tree = ast.parse(without_magics(cell.source), filename=where)
        check_form(tree, where)
        modules = own_imports(tree)
        shown = [module for module in modules if module.startswith("smp.method.")]
        if shown:
            rule(len(tree.body) == len(modules) == len(shown), where,
                 "a cell that shows the method has nothing but its imports")
            cell.source = "\n\n\n".join(self.show(node, where) for node in tree.body)
            lines = cell.source.split("\n")
            imports = [line for line in lines if re.match(r"(from|import) ", line)]
            rest = "\n".join(line for line in lines if line not in imports).strip("\n")
            cell.source = "\n".join(imports) + "\n\n\n" * bool(imports) + rest
        else:
            self.bound |= {alias.asname or alias.name for node in ast.walk(tree)
                           if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
            self.wanted += [module for module in modules if module not in self.wanted]
        return cell

    def show(self, node, where):
        """Return imports and source of the definitions that an import names."""
        module = read_method(read_file(self.root, node.module, where), file_of(node.module))
        sources = []
        for alias in node.names:
            rule(alias.name in module.definitions, where,
                 f"{module.where} does not define {alias.name}")
            source = module.definitions[alias.name]
            found = definitions(source)
            self.digests[alias.name] = code_digest(found[alias.name]) if found else ""
            sources.append(source)
        used = used_names("\n".join(sources))
        self.used |= dict.fromkeys(used & module.definitions.keys(), where)
        return "\n\n\n".join(
            ["\n".join(import_lines(module, used, self.bound)), *sources]).strip("\n")


def reference_results(folder, stage):
    """Return the reference runs with a profile's settings and the paper's, see `show_result`."""
    found = {}
    for record in read_records(folder):
        settings = record["settings"]
        if (record["profile"] in PROFILES and not record["variant"] and not record["dirty"]
                and stage_of(record["method"], settings["distill"]) == stage):
            usual = choose_settings(record["profile"], stage)
            if all(usual.__dict__.get(name, value) == value for name, value in settings.items()
                   if name not in ("seed", "data", "model")):
                rows = found.setdefault(record["profile"], {})
                rows[record["seed"]] = record
    runs = {profile: {
        "em": [round(rows[seed]["em"], 4) for seed in sorted(rows)], "seeds": sorted(rows),
        "on": ", ".join(sorted({f"{row['device']} {row['precision']}" for row in rows.values()})),
    } for profile, rows in found.items()}
    keys = ("method", "distill", "density", "em")
    return {"runs": runs, "paper": [
        {key: row[key] for key in keys} for row in PUBLISHED["rows"]
        if row["method"] in (FINE_TUNED, "smp-l", "smp-s")
        and stage_of(row["method"], row["distill"]) == stage]}


def support_cells(story, root, stage, reference):
    """Return the folded cells: the magic with the notebook's facts, and a cell for each file."""
    carried = carried_modules(root, story.wanted, story.script)
    digests = {name: digest for name, digest in story.digests.items() if digest}
    facts = "".join(f"\n{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in (
        ("METHOD_DIGESTS", digests), ("REFERENCE", reference)))
    magic = (root / "tools" / "support_magic.py").read_text("utf-8").strip("\n")
    sources = [f"# @title the magic that writes the files\n{magic}\n{facts}".rstrip("\n")]
    for module, text in carried.items():
        files = {file_of(module): text}
        script = Path(file_of(module)).with_suffix(".js")  # of a view
        if (root / script).is_file():
            files[script.as_posix()] = (root / script).read_text("utf-8")
        sources += [f"%%support {name}\n# @title {name}\n{source}".rstrip("\n")
                    for name, source in files.items()]
    counted = [text for module, text in carried.items() if module != WORDS]
    return [nbformat.v4.new_code_cell(source, metadata=FOLDED) for source in sources], (
        len(counted), sum(map(code_lines, counted)))


def measure(cells):
    """Return (open code cells, open code lines)."""
    sources = [cell.source for cell in cells if cell.cell_type == "code" and not is_support(cell)]
    return len(sources), sum(code_lines(without_magics(source)) for source in sources)


def build(script, stage, root=ROOT, reference=None):
    """Return (the notebook's bytes, its measures): no outputs, ids from position and content."""
    story = Story(root, script)
    if reference is None:
        reference = reference_results(root / "results" / "reference", stage)
    measures, cells, folded = measure(story.cells), [], []
    for cell in story.cells:
        cells.append(cell)
        if "carry" in cell.metadata.get("tags", []):
            more, carried = support_cells(story, root, stage, reference)
            cells += more
    check_open_cells(cells, script)
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL})
    for position, cell in enumerate(cells):
        source = cell.source
        if cell.cell_type == "code":  # `# %pip install x` and `# !ls` become magics
            source = re.sub(r"(?m)^( *)# (?=[%!]\w)", r"\1", source)
        tags = cell.metadata.get("tags", [])
        metadata = {key: cell.metadata[key] for key in cell.metadata if "lines_to" not in key}
        number = f"{position:03d}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
        if cell.cell_type == "code" and is_support(cell):
            metadata |= FOLDED
        if cell.cell_type == "markdown" and {"carry", "folded"} & {*tags}:
            metadata |= {"jp-MarkdownHeadingCollapsed": True, "id": number}
            folded.append(number)
        make = getattr(nbformat.v4, f"new_{cell.cell_type}_cell")
        notebook.cells.append(make(source, id=number, metadata=metadata))
    notebook.metadata["colab"] = {"collapsed_sections": folded}
    nbformat.validate(notebook)
    return (nbformat.writes(notebook).rstrip("\n") + "\n").encode(), (*measures, *carried)


def measures_table(built):
    """Return the lines of the table of measures, and the breaches of MOST."""
    names = ("open cells", "open lines", "carried files", "carried lines")
    lines = [f"{'':12}" + "".join(f"{name:>20}" for name in names)]
    breaches = []
    for stage, measures in built.items():
        lines.append(f"{stage:12}" + "".join(
            f"{f'{value:,} of {most:,}':>20}" for value, most in zip(measures, MOST[stage])))
        breaches += [f"{stage}: {value:,} {name}, at most {most:,}"
                     for name, value, most in zip(names, measures, MOST[stage]) if value > most]
    return lines, breaches


def main(arguments=None, root=ROOT, notebooks=NOTEBOOKS):
    parser = argparse.ArgumentParser(description="Build the notebooks from notebooks/ and smp/.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if one is stale")
    parser.add_argument("--measure", action="store_true", help="print cells, lines and limits")
    options = parser.parse_args(arguments)
    try:
        built, measured = {}, {}
        for script, (to, stage) in notebooks.items():
            built[root / to], measured[stage] = build(script, stage, root)
    except (OSError, SyntaxError, ValueError) as error:
        sys.exit(f"build_notebooks: {error}")
    lines, breaches = measures_table(measured)
    if options.measure:
        print("\n".join(lines))
    if options.check and breaches:
        sys.exit(f"build_notebooks: {'; '.join(breaches)}")
    stale = [path for path in built if not path.is_file() or path.read_bytes() != built[path]]
    if options.check and stale:
        names = ", ".join(path.relative_to(root).as_posix() for path in stale)
        sys.exit(f"stale: {names}; run `make notebooks`")
    for path in [] if options.check else stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(built[path])


if __name__ == "__main__":
    main()
