"""Prepare executed notebooks for results/reference/executed/, where GitHub shows them.

GitHub folds nothing, so folded sections and support cells become one line. Outputs with text of a
data set are removed, unless --keep-data states that the text may be published. Pictures are reduced
to 256 colours. A copy over 600 KB, or more than nine copies, is an error.
"""

import argparse
import base64
import io
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from notebook_rules import is_support
from smp.files import replace_text_file

COPIES, KILOBYTES = 9, 600  # at most: copies in all, and of each copy
SHOWS_DATA = r"(?<!def )\b(show_examples?|show_answers|show_broken|convert_ids_to_tokens)\("
LEFT_OUT = "(Left out: text of the data set. Run the notebook to see it.)\n"


def read_notebook(path: Path) -> NotebookNode:
    """Return the notebook of a file. Raises ValueError, one line, for anything else."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # nbformat raises many kinds, from TypeError to RecursionError
        raise ValueError(f"{path} is not a notebook ({type(error).__name__}): "
                         "execute the notebook again") from None
    return notebook


def heading_level(cell: NotebookNode) -> int:
    """Return 1 to 6 for a Markdown cell that begins with a heading, 0 for any other cell."""
    heading = re.match(r"#{1,6} ", cell.source) if cell.cell_type == "markdown" else None
    return len(heading[0]) - 1 if heading else 0


def folded_sections(cells: list[NotebookNode]) -> list[range]:
    """Return the positions of each folded heading and of the cells that JupyterLab hides below it.

    A section ends before the next heading of the same or a higher level.
    """
    sections: list[range] = []
    for start, cell in enumerate(cells):
        level = heading_level(cell)
        inside = bool(sections) and start < sections[-1].stop
        if level and not inside and cell.metadata.get("jp-MarkdownHeadingCollapsed"):
            ends = (i for i in range(start + 1, len(cells)) if 0 < heading_level(cells[i]) <= level)
            sections.append(range(start, next(ends, len(cells))))
    return sections


def folded_line(cells: list[NotebookNode]) -> str:
    """Return the line that replaces a folded section: its heading, and its number of files."""
    title = cells[0].source.splitlines()[0].lstrip("# ")
    files = sum(is_support(cell) and cell.source.startswith("%%") for cell in cells)
    count = f"{files} file{'s' * (files > 1)}, " if files else ""
    return f"**{title}**: {count}folded in the notebook"


def leave_out_support(notebook: NotebookNode) -> NotebookNode:
    """Replace each folded section by one line, remove all other support cells; in place."""
    lines, hidden = {}, set()
    for section in folded_sections(notebook.cells):
        hidden |= set(section)
        lines[section.start] = folded_line([notebook.cells[i] for i in section])
    notebook.cells = [
        nbformat.v4.new_markdown_cell(lines[i], id=cell.get("id", f"folded-{i}"))
        if i in lines else cell
        for i, cell in enumerate(notebook.cells)
        if i in lines or i not in hidden and not is_support(cell)
    ]
    return notebook


def small_png(encoded: str) -> str:
    """Return a base64 PNG with 256 colours on white, or the same if that is not smaller."""
    picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    reduced = Image.alpha_composite(white, picture).convert("RGB").quantize(256, dither=0)
    buffer = io.BytesIO()
    reduced.save(buffer, "PNG", optimize=True)
    return min(encoded, base64.b64encode(buffer.getvalue()).decode(), key=len)


def cut(notebook: NotebookNode, keep_data: bool = False) -> NotebookNode:
    """Return the notebook, changed in place, as it may be published."""
    leave_out_support(notebook)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of the machine
        if cell.cell_type != "code":
            continue
        if cell.outputs and re.search(SHOWS_DATA, cell.source) and not keep_data:
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=LEFT_OUT)]
        for data in (output.get("data", {}) for output in cell.outputs):
            if "image/png" in data:
                data["image/png"] = small_png(data["image/png"])
    return notebook


def write_copies(paths: Iterable[Path], keep_data: bool) -> None:
    """Cut each notebook and replace its file. Raises ValueError, one line, for a limit."""
    for path in paths:
        notebook = read_notebook(path)
        folder = path.resolve().parent.parent
        copies = [copy for copy in folder.glob("*/*.ipynb") if not copy.stem.endswith(".failed")]
        if len(copies) > COPIES:
            raise ValueError(f"{folder} has {len(copies)} executed copies, expected at most "
                             f"{COPIES}: remove those that the README does not link to")
        text = nbformat.writes(cut(notebook, keep_data)) + "\n"
        if len(text.encode()) > 1000 * KILOBYTES:
            raise ValueError(f"{path}: {len(text.encode()) / 1000:,.0f} KB after the cut, expected "
                             f"at most {KILOBYTES} KB: make its pictures smaller")
        replace_text_file(path, text)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep-data", action="store_true",
                        help="text of the data set may be published")
    parser.add_argument("notebooks", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    try:
        write_copies(options.notebooks, options.keep_data)
    except (OSError, ValueError) as error:
        sys.exit(f"cut_executed: {error}")


if __name__ == "__main__":
    main()
