"""`make pages`: each executed notebook as a page of HTML that stands alone.

Nothing in a page is fetched from a network: pictures and styles are in it, formulas are MathML,
which every browser draws by itself. Cells that only define something are folded, and what needs a
running kernel (a widget) is replaced by a line that says so.
"""

import argparse
import os
import sys
from pathlib import Path

import nbformat
from jinja2 import DictLoader, pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from smp.cli.notebooks import tidy_outputs

WIDGET = "application/vnd.jupyter.widget-view+json"
STATIC = ("image/png", "image/svg+xml", "text/html", "text/markdown")
NOTE = "(something to click is here: open the notebook and run it to see it)\n"
TEMPLATE = """
{%- extends "lab/index.html.j2" -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}
<style>
body.jp-Notebook { padding: 0 1rem 4rem; overflow: auto; --jp-cell-prompt-width: 76px; }
main { max-width: 62rem; margin: 0 auto; }
.jp-OutputArea-output { overflow-x: auto; }
.jp-RenderedHTMLCommon table { display: block; overflow-x: auto; margin-left: 0; }
.jp-RenderedImage img { max-width: 100%; height: auto; }
.formula { display: block; overflow: auto hidden; padding: .4em 0; }
.jp-InputArea-editor .highlight { overflow-x: auto; }
details.definitions > summary { color: #616161; cursor: pointer; font: 13px monospace;
  overflow-wrap: anywhere; padding: .2rem 0 .2rem calc(var(--jp-cell-prompt-width) + 5px); }
[data-mime-type="application/vnd.jupyter.stderr"] { background: none !important; color: #616161; }
@media (max-width: 50rem) {
  .jp-RenderedImage img { max-width: max(100%, 45rem); }
  body.jp-Notebook { padding: 0 .3rem 3rem; --jp-cell-prompt-width: 0px; }
  .jp-InputPrompt, .jp-OutputPrompt { display: none !important; }
}
</style>
{%- endblock -%}
{%- block codecell -%}
{%- if cell.outputs or cell.source.count("\n") < 6 -%}
{{ super() }}
{%- else -%}
<details class="definitions"><summary>{{ cell | first_definition | e }}</summary>
{{ super() }}
</details>
{%- endif -%}
{%- endblock -%}
"""


class MathMLRenderer(IPythonRenderer):
    """Markdown's formulas become MathML, without a script that would have to be fetched."""

    def inline_math(self, body):
        return convert(body)

    def block_math(self, body):
        return f'<span class="formula">{convert(body, display="block")}</span>'


class PageExporter(HTMLExporter):
    """nbconvert's own page, without what it fetches from a network."""

    def __init__(self, **options):
        super().__init__(
            extra_loaders=[DictLoader({"page.html.j2": TEMPLATE})], template_file="page.html.j2",
            **options,
        )
        self.register_filter("first_definition", first_definition)

    @pass_context
    def markdown2html(self, context, source):
        renderer = MathMLRenderer(escape=False, exclude_anchor_links=True)
        return MarkdownWithMath(renderer=renderer).render(source)


def first_definition(cell):
    """What a folded cell is about: its first def or class, else its first line."""
    lines = [line for line in cell.source.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith(("def ", "class "))), lines[0])


def is_bar(output):
    """Whether an output is a widget that shows a bar of progress."""
    data = output.get("data", {})
    return WIDGET in data and "%|" in data.get("text/plain", "")


def without_widgets(notebook):
    """The notebook in place, tidy: a widget shows what it has beside itself, else a line; a bar of
    progress goes, or is text as it looked in the end."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_bar(output)]
            for data in (output.get("data", {}) for output in cell.outputs):
                if WIDGET in data and not any(kind in data for kind in STATIC):
                    data["text/plain"] = NOTE
            tidy_outputs(cell)
    return notebook


def page_of(notebook, name):
    """HTML of an executed notebook; name: its title where it opens with no heading."""
    first = notebook.cells[0].source.splitlines() if notebook.cells else []
    heading = first[0].lstrip("# ") if first and first[0].startswith("# ") else name
    notebook = without_widgets(notebook)
    notebook.metadata["title"] = heading
    return PageExporter().from_notebook_node(notebook)[0]


def write_page(path, folder):
    """Writes the notebook's page into the folder; returns its path. ValueError if it is none."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no notebook ({type(error).__name__}): run it again") from None
    page, draft = folder / f"{path.stem}.html", folder / f"{path.stem}.part"
    folder.mkdir(parents=True, exist_ok=True)
    draft.write_text(page_of(notebook, path.stem), encoding="utf-8")
    os.replace(draft, page)
    return page


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results",
                        help="folder with executed/; the pages go to pages/ in it")
    results = parser.parse_args(arguments).results
    paths = [path for path in sorted(results.glob("executed/*/*.ipynb"))
             if not path.stem.endswith(".failed")]
    if not paths:
        sys.exit(f"pages: no executed notebook in {results / 'executed'}: `make run` makes them")
    try:
        for path in paths:
            print(os.path.relpath(write_page(path, results / "pages" / path.parent.name)))
    except (OSError, ValueError) as error:
        sys.exit(f"pages: {error}")


if __name__ == "__main__":
    main()
