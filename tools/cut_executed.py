"""Cuts executed notebooks to what may and should be published, in results/reference/executed/.

Cells that only define something go (they stand in the notebook itself), and so does what shows
text of a data set that is not this project's own, and the table of all records, which is as old as
the copy. Run it before committing executed notebooks.
"""

import argparse
import os
import sys
from pathlib import Path

import nbformat

SHOWS_DATA = ("show_examples(", "show_answers(", "show_broken(", "convert_ids_to_tokens(")
SHOWS_TABLE = ("show_summary(",)
LEFT_OUT = "(left out here: it shows text of the data set; run the notebook to see it)\n"
TABLE_LEFT_OUT = "(left out here: the table as it was then; see results/reference/summary.md)\n"


def is_call(cell, names):
    return any(name in cell.source and f"def {name}" not in cell.source for name in names)


def cut(notebook, keep_data=False):
    """The notebook in place, without cells that show nothing and prose that leads to none."""
    kept, leads_on = [], False  # whether the cell after this one stays
    for cell in reversed(notebook.cells):
        if cell.cell_type == "code":
            leads_on = bool(cell.outputs)
            said = LEFT_OUT if is_call(cell, SHOWS_DATA) and not keep_data else None
            said = TABLE_LEFT_OUT if is_call(cell, SHOWS_TABLE) else said
            if leads_on and said:
                cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=said)]
        else:
            leads_on = leads_on or cell.source.startswith("# ")
        if leads_on:
            kept.append(cell)
    notebook.cells = kept[::-1]
    return notebook


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep-data", action="store_true", help="the data may be published")
    parser.add_argument("notebooks", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    for path in options.notebooks:
        if not path.is_file():
            sys.exit(f"cut_executed: {path}: no such notebook")
        draft = path.with_suffix(".part")
        nbformat.write(cut(nbformat.read(path, as_version=4), options.keep_data), draft)
        os.replace(draft, path)


if __name__ == "__main__":
    main()
