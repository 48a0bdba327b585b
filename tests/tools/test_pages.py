"""A page of an executed notebook loads nothing, runs nothing and shows hostile text as text."""

import base64
import hashlib
import html.parser
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import nbformat
import pytest

from pages import NOTE, WIDGET, clean, main, markdown, page_of, write_page

ROOT = Path(__file__).parents[2]
BUILT = ["BERT_FINETUNE_QA.ipynb", *(f"Static_Model_Pruning/BERT_SMP{end}.ipynb"
                                     for end in ("", "_KD"))]
EXECUTED = sorted((ROOT / "results/reference/executed").glob("*/*.ipynb"))
LOADS = {"src", "srcset", "data", "poster", "background", "action", "formaction", "xlink:href"}
new = nbformat.v4


class Dangers(html.parser.HTMLParser):
    """Collector of the URLs and scripts, anchors and links of a page."""

    def __init__(self, page):
        super().__init__()
        self.found, self.anchors, self.links, self.in_style = [], set(), [], False
        self.feed(page)

    def check_style(self, style):
        self.found += re.findall(
            r"@import[^;]*|url\(\s*['\"]?(?!data:|#)[^)]*|\\|position|image-set", style)

    def handle_data(self, data):
        if self.in_style:
            self.check_style(data)

    def handle_starttag(self, tag, attributes):
        self.in_style = tag == "style"
        if tag in ("script", "iframe", "object", "embed", "link", "base", "form", "svg"):
            self.found.append(tag)
        for name, value in attributes:
            value = value or ""
            if name.startswith("on") or name in LOADS and not value.startswith("data:image/png;"):
                self.found.append(f"{name}={value}")
            if name == "href" and not re.match(r"https?:|mailto:|#|[^:]*$", value):
                self.found.append(f"{name}={value}")
            if name == "href" and value.startswith("#"):
                self.links.append(value[1:])
            if name == "id":
                self.anchors.add(value)
            if name == "style":
                self.check_style(value)
            if name == "class" and "evil" in value:
                self.found.append(value)

    def handle_endtag(self, tag):
        self.in_style = False


def dangers(page):
    return Dangers(page).found


def shown(*outputs, source="x"):
    cell = new.new_code_cell(source, outputs=list(outputs))
    return page_of(new.new_notebook(cells=[cell]), "one")


def display(**data):
    kinds = {"text": "text/plain", "png": "image/png", "page": "text/html", "widget": WIDGET,
             "md": "text/markdown", "js": "application/javascript", "svg": "image/svg+xml",
             "tex": "text/latex", "mermaid": "text/vnd.mermaid"}
    return new.new_output("display_data", data={kinds[name]: data[name] for name in data})


@pytest.mark.parametrize("name", BUILT)
def test_a_page_loads_nothing_and_draws_every_formula(name):
    notebook = nbformat.read(ROOT / name, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"
                      and not cell.metadata.get("jp-MarkdownHeadingCollapsed")]
    prose = [cell.source for cell in notebook.cells]
    formulas = sum(len(re.findall(r"\$\$.+?\$\$|\$[^$]+\$", text, re.S)) for text in prose)
    page = page_of(notebook, name)
    assert dangers(page) == []
    drawn = re.findall(r"<math.*?</math>", page, re.S)
    assert len(drawn) == formulas
    for formula in drawn:  # the converter leaves an unknown command unchanged
        assert "\\" not in "".join(ElementTree.fromstring(formula).itertext())
        assert "&lt;" not in formula.replace("<mo>&lt;</mo>", "")
    assert f"<title>{prose[0].splitlines()[0].lstrip('# ')}</title>" in page


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_page_of_an_executed_copy_shows_all_of_it(path):
    page = page_of(nbformat.read(path, as_version=4), path.stem)
    assert dangers(page) == []
    for cell in nbformat.read(path, as_version=4).cells:
        for data in (output.get("data", {}) for output in cell.get("outputs", [])):
            assert data.get("image/png", "").replace("\n", "")[:200] in page
            if "text/html" in data:  # nothing that a figure uses is removed
                tags = [re.sub(r"</?tbody>", "", text).count("<")  # a parser adds tbody
                        for text in (clean(data["text/html"]), data["text/html"])]
                assert tags[0] == tags[1]
                assert clean(data["text/html"]).count("gradient(") == data["text/html"].count(
                    "gradient(")


def test_the_check_finds_each_dangerous_page():
    assert dangers('<script src="https://x.org/a.js"></script>') == [
        "script", "src=https://x.org/a.js"]
    assert dangers("<style>@import 'a.css'; b {background: url(b.png)}</style>")
    assert dangers('<a href="javascript:x()">') and dangers('<p onclick="x()">')
    assert not dangers('<img src="data:image/png;base64,AA"><style>a {b: url(data:x)}')


def test_an_explorer_is_shown_with_the_script_of_this_project():
    script = (ROOT / "smp/look/explorer.js").read_text("utf-8")
    output = display(png="AA==", text="picture",
                     page='<div data-smp-state="eJw="><img src=x></div><script>evil()</script>')
    page = shown(output, output)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in page and page.count("<script") == 1
    assert f'<script type="module">{script}</script>' in page and "evil" not in page
    assert page.count('<div data-smp-state="eJw=">') == 2
    hostile = display(png="AA==", text="a",
                      page='<div data-smp-state="eJ\'w="><script>evil()</script>')
    assert dangers(shown(hostile)) == [] and "script-src 'none'" in shown(hostile)


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<img src=https://x.org/a.png>",
    '<a href="javascript:alert(1)">a</a>',
    '<a href=" JaVa&#x09;Script:alert(1)">a</a>',
    '<a href="data:text/html,<script>alert(1)</script>">a</a>',
    "<svg onload=alert(1)><script>alert(1)</script></svg>",
    '<p style="background: url(https://x.org/a.png)">a</p>',
    r'<p style="background: \75rl(https://x.org/a.png); color: red">a</p>',
    '<p style="background: image-set(\'https://x.org/a.png\' 1x)">a</p>',
    '<p style="background: linear-gradient(red, url(https://x.org/a.png))">a</p>',
    "<style>@import 'https://x.org/a.css'</style>",
    '<p style="position: fixed; inset: 0">a</p>',
    '<p class="highlight evil" id="x" onclick="alert(1)">a</p>',
    '<iframe src="https://x.org"></iframe><object data="a"></object><embed src="a">',
    '<meta http-equiv="refresh" content="0; url=https://x.org"><base href="https://x.org">',
    '<form action="https://x.org"><input autofocus onfocus=alert(1)><button formaction=x></form>',
    "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=1 onerror=a>\">",
    '<math href="javascript:alert(1)" xlink:href="javascript:alert(1)"><mi>x</mi></math>',
    "</pre></div></main><script>alert(1)</script>",
    "<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">",
    "<!--><img src=x onerror=alert(1)>-->",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_neither_runs_nor_loads(text):
    pages = [
        page_of(new.new_notebook(cells=[new.new_markdown_cell(f"# {text}\n\n{text}")]), text),
        page_of(new.new_notebook(cells=[]), text),
        page_of(new.new_notebook(cells=[new.new_raw_cell(text)]), "one"),
        shown(source=f"name = {text!r}  # {text}"),
        shown(new.new_output("stream", name="stdout", text=text)),
        shown(new.new_output("stream", name="stderr", text=text)),
        shown(new.new_output("stream", name=text.replace("evil", "x"), text="x")),
        shown(new.new_output("error", ename=text, evalue=text, traceback=[text])),
        shown(display(page=text)), shown(display(md=text)), shown(display(text=text)),
        shown(display(png=f'">{text}', text=f'">{text}')),
    ]
    for page in pages:
        assert dangers(page) == []


@pytest.mark.parametrize("source", [
    "[a](javascript:alert(1))", "![a](https://x.org/a.png)", "![a](javascript:alert(1))",
    "<https://x.org> [a]: javascript:alert(1)", "[a](vbscript:x)",
    "[a](<data:text/html;base64,AA>)",
    "$\\text{<img src=x onerror=alert(1)>}$", "$$\\href{javascript:alert(1)}{x}$$",
    "$\\class{evil}{x} \\style{background:url(https://x.org)}{y}$",
    "```mermaid\n<img src=x onerror=alert(1)>\n```", "```<script>\nx\n```",
    '# A "quoted" <i onclick=x>title</i>', "| a |\n|---|\n| <script>x</script> |",
])
def test_hostile_markdown_neither_runs_nor_loads(source):
    assert dangers(markdown(source)) == []


@pytest.mark.parametrize("kind", ["js", "svg", "tex", "mermaid"])
def test_other_kinds_of_output_show_their_text(kind):
    page = shown(display(**{kind: HOSTILE[0]}, text="the text"))
    assert dangers(page) == [] and "the text" in page and "alert(1)" not in page


def test_a_page_forbids_scripts_and_loads_in_its_head():
    head = shown().split("<body>")[0]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', head)[1]
    assert "default-src 'none'" in policy and "script-src 'none'" in policy
    assert head.index("Content-Security-Policy") < head.index("<style>")


def test_printed_output_is_escaped_text():
    page = shown(new.new_output("stream", name="stdout", text="<script>alert('$x$')</script>"))
    assert "&lt;script&gt;alert" in page and "<script>alert" not in page and "<math" not in page


def test_allowed_styles_links_and_code_stay():
    assert clean('<p style="color:red;position:fixed">a</p>') == '<p style="color:red;">a</p>'
    link = '<a href="https://x.org" title="t">a</a>'
    assert clean(link) == link
    assert '<span class="k">def</span>' in shown(source="def f():\n    pass")


def test_links_inside_a_notebook_open_its_headings():
    cells = [new.new_markdown_cell("[a](#1.3-The-mask-of-a-model) [b](#What-$x$-is)"),
             new.new_markdown_cell("## 1.3 The mask of a model"),
             new.new_markdown_cell("# `Its` code")]
    found = Dangers(page_of(new.new_notebook(cells=cells), "one"))
    assert found.links[0] in found.anchors and "Its-code" in found.anchors


def test_widgets_become_one_line_and_bars_are_removed():
    widget = {"model_id": "m", "version_major": 2, "version_minor": 0}
    assert NOTE in shown(display(text="VBox(children=())", widget=widget))
    bar = shown(display(text="reading: 100%|##| 9/9", widget=widget))
    assert NOTE not in bar and "reading" not in bar
    still = shown(display(text="VBox()", png="iVBORw0KGgo=", widget=widget))
    assert "data:image/png;base64,iVBORw0KGgo=" in still and NOTE not in still
    assert 'alt="VBox()"' in still


def test_support_code_becomes_one_line():
    tags = {"tags": ["support"]}
    page = page_of(new.new_notebook(cells=[
        new.new_markdown_cell("# 2 Support code", metadata={"jp-MarkdownHeadingCollapsed": True}),
        new.new_code_cell("%%carry smp/a.py\nsecret = 1", metadata=tags),
        new.new_markdown_cell("# 3 The experiment"), new.new_code_cell("secret = 2", metadata=tags),
    ]), "one")
    assert "<strong>2 Support code</strong>: 1 file, folded in the notebook" in page
    assert "secret" not in page and ">3 The experiment</h1>" in page


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


def test_a_file_that_is_not_a_notebook_raises_one_line(tmp_path):
    with pytest.raises(SystemExit, match="no executed notebook in .*run `make run` first"):
        main(["--results", str(tmp_path)])
    damaged = tmp_path / "executed" / "quick" / "A.ipynb"
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"cells": [')
    with pytest.raises(ValueError, match="A.ipynb is not a notebook"):
        write_page(damaged, tmp_path / "pages")
    with pytest.raises(SystemExit, match="^pages: .*A.ipynb is not a notebook"):
        main(["--results", str(tmp_path)])
    assert not list(tmp_path.glob("pages/*"))
