"""A page of an executed notebook stands alone: nothing is fetched, nothing needs a kernel."""

import html.parser
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import nbformat
import pytest

from pages import NOTE, WIDGET, main, page_of, write_page

ROOT = Path(__file__).parents[2]
BUILT = ["BERT_FINETUNE_QA.ipynb", *(f"Static_Model_Pruning/BERT_SMP{end}.ipynb"
                                     for end in ("", "_KD"))]
FETCHES = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"),
           ("source", "src"), ("object", "data"), ("video", "src"), ("audio", "src")}
new = nbformat.v4


class Fetched(html.parser.HTMLParser):
    """What a browser would fetch for a page, beside what is in the page itself."""

    def __init__(self, page):
        super().__init__()
        self.found = re.findall(r"@import[^;]*|url\(\s*['\"]?(?!data:|#|['\")])[^)]*", page)
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes
                       if (tag, name) in FETCHES and not (value or "").startswith("data:")]
        if tag == "script":  # MathJax's configuration, say
            self.found += [value for name, value in attributes if "text/x-" in (value or "")]


def shown(*outputs, source="x"):
    cell = new.new_code_cell(source, outputs=list(outputs))
    return page_of(new.new_notebook(cells=[cell]), "one")


def display(**data):
    kinds = {"text": "text/plain", "png": "image/png", "page": "text/html", "widget": WIDGET}
    return new.new_output("display_data", data={kinds[name]: data[name] for name in data})


@pytest.mark.parametrize("name", BUILT)
def test_a_page_fetches_nothing_and_draws_every_formula(name):
    notebook = nbformat.read(ROOT / name, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    prose = [cell.source for cell in notebook.cells]
    formulas = sum(len(re.findall(r"\$\$.+?\$\$|\$[^$]+\$", text, re.S)) for text in prose)
    page = page_of(notebook, name)
    assert Fetched(page).found == []
    drawn = re.findall(r"<math.*?</math>", page, re.S)
    assert len(drawn) == formulas
    for formula in drawn:  # a command that the converter does not know stays as it was typed
        assert "\\" not in "".join(ElementTree.fromstring(formula).itertext())
    assert f"<title>{prose[0].splitlines()[0].lstrip('# ')}</title>" in page


def test_the_check_of_what_is_fetched_can_fail():
    assert Fetched('<script src="https://x.org/a.js"></script>').found == ["https://x.org/a.js"]
    assert Fetched("<style>@import 'a.css'; b {background: url(b.png)}</style>").found
    assert not Fetched('<img src="data:image/png;base64,AA"><style>a {b: url(data:x)}').found


def test_widgets_become_a_line_bars_go_and_pictures_stay():
    widget = {"model_id": "m", "version_major": 2, "version_minor": 0}
    assert NOTE.strip() in shown(display(text="VBox(children=())", widget=widget))
    bar = shown(display(text="reading: 100%|##| 9/9", widget=widget))
    assert NOTE.strip() not in bar and "reading" not in bar
    still = shown(display(text="VBox()", png="iVBORw0KGgo=", widget=widget))
    assert "data:image/png;base64,iVBORw0KGgo=" in still and NOTE.strip() not in still
    notebook = new.new_notebook(
        cells=[new.new_code_cell("x", outputs=[display(text="V()", widget=widget)])],
        metadata={"widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}}}},
    )
    assert Fetched(page_of(notebook, "one")).found == [] and WIDGET not in page_of(notebook, "one")


def test_what_a_cell_printed_is_text():
    page = shown(new.new_output("stream", name="stdout", text="<script>alert('$x$')</script>"))
    assert "&lt;script&gt;alert" in page and "<script>alert" not in page and "<math" not in page


def test_definitions_are_folded_and_what_shows_something_is_not():
    long = "import math\n\n\ndef f(x):\n    a = 1\n    b = 2\n    return a < b\n"
    assert '<summary>def f(x):</summary>' in shown(source=long)
    assert "<details" not in shown(source="y = 1")
    assert "<details" not in shown(display(text="3"), source=long)


def test_every_executed_notebook_gets_its_page(tmp_path, capsys):
    for profile in ("quick", "laptop"):
        folder = tmp_path / "executed" / profile
        folder.mkdir(parents=True)
        nbformat.write(new.new_notebook(cells=[new.new_markdown_cell("# <i>A</i> title")]),
                       folder / "A.ipynb")
    (folder / "B.failed.ipynb").write_text("{}")
    main(["--results", str(tmp_path)])
    pages = sorted(tmp_path.glob("pages/*/*"))
    assert [page.relative_to(tmp_path).as_posix() for page in pages] == [
        "pages/laptop/A.html", "pages/quick/A.html"]
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_file_that_is_no_notebook_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match="no executed notebook in .*`make run` makes them"):
        main(["--results", str(tmp_path)])
    damaged = tmp_path / "executed" / "quick" / "A.ipynb"
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"cells": [')
    with pytest.raises(ValueError, match="A.ipynb is no notebook .*: run it again"):
        write_page(damaged, tmp_path / "pages")
    with pytest.raises(SystemExit, match="^pages: .*A.ipynb is no notebook"):
        main(["--results", str(tmp_path)])
    assert not list(tmp_path.glob("pages/*"))
