"""`make pages`: export executed notebooks as HTML pages that contain all they show.

A page loads nothing: pictures and styles are in it, formulas are MathML, and its
Content-Security-Policy forbids the rest. The only script is explorer.js, for outputs of the mask
explorer. All text is escaped. Markdown and HTML outputs keep only the tags, attributes
and styles that are listed below. Folded sections become one line.
"""

import argparse
import base64
import hashlib
import html
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import bleach
import tinycss2
from bleach.css_sanitizer import CSSSanitizer
from jinja2 import Environment
from latex2mathml.converter import convert
from markupsafe import Markup
from nbconvert.filters.ansi import strip_ansi
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from cut_executed import ROOT, leave_out_support, read_notebook
from smp.cli.notebooks import tidy_outputs
from smp.files import replace_text_file

WIDGET = "application/vnd.jupyter.widget-view+json"
KINDS = ("text/html", "text/markdown", "image/png", "text/plain")  # in the order of preference
STATE = re.compile(r'data-smp-state="([A-Za-z0-9+/=]+)"')  # of the mask explorer
EXPLORER = ROOT / "smp" / "look" / "explorer.js"
NOTE = "(Interactive output: run the notebook to use it.)"

HEADINGS = {f"h{level}" for level in range(1, 7)}
TAGS = HEADINGS | set(
    "a b blockquote br caption code dd del div dl dt em hr i li mark ol p pre s small span strong"
    " sub sup table tbody td tfoot th thead tr u ul".split())
MATH_TAGS = set(
    "math menclose mfrac mi mmultiscripts mn mo mover mpadded mphantom mroot mrow mspace msqrt"
    " mstyle msub msubsup msup mtable mtd mtext mtr munder munderover".split())
MATH_ATTRIBUTES = set(
    "accent columnalign columnlines columnspacing depth display displaystyle fence form height"
    " largeop linethickness lspace mathcolor mathsize mathvariant maxsize minsize movablelimits"
    " notation rowlines rowspacing rspace scriptlevel separator stretchy voffset width".split())
CLASSES = r" ?highlight( hl-\w+)?|formula|[a-z]\w{0,2}"  # Pygments' names have up to three letters
STYLES = set(
    "background background-color border border-bottom border-left border-top color font-family"
    " font-size font-style font-weight line-height margin max-width min-width padding padding-left"
    " text-align text-decoration vertical-align white-space width".split())
FUNCTIONS = {"linear-gradient", "repeating-linear-gradient", "rgb", "rgba"}  # none loads a file

CSS = """
body { margin: 0; color: #1f2328; background: #fff; font: 1.0625rem/1.6 system-ui, sans-serif;
  overflow-wrap: break-word; }
main { max-width: 54rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1, h2, h3 { line-height: 1.25; margin: 2.2rem 0 .5rem; }
h1 { font-size: 1.8rem; }
h2 { font-size: 1.4rem; }
h3 { font-size: 1.15rem; }
a { color: #0550ae; }
pre, code { font: .8125rem/1.5 ui-monospace, monospace; }
pre { margin: .5rem 0; overflow-x: auto; }
code { font-size: .875em; }
.highlight { background: #f6f8fa; border-radius: 6px; margin: .6rem 0; padding: .1rem .8rem; }
.output { margin: .5rem 0 1.2rem; padding-left: .8rem; border-left: 3px solid #d0d7de;
  overflow-x: auto; }
.stderr { color: #6e7781; }
img { display: block; max-width: 100%; height: auto; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #d0d7de; text-align: left;
  vertical-align: top; }
.formula { display: block; overflow: auto hidden; padding: .4em 0; }
@media (max-width: 50rem) { img { max-width: max(100%, 42rem); } }
"""
TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src {{ allowed }};
 img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ css }}</style>
</head>
<body>
<main>
{% for cell in cells -%}
{% if cell.cell_type == "markdown" -%}
<section>{{ cell.source | markdown }}</section>
{% elif cell.cell_type == "code" -%}
{{ cell.source | code if cell.source.strip() }}
{% for output in cell.outputs %}{% set kind, value = output | shown -%}
<div class="output" tabindex="0">
{%- if kind == "text/html" %}{{ value | clean }}
{%- elif kind == "text/markdown" %}{{ value | markdown }}
{%- elif kind == "explorer" %}<div data-smp-state="{{ value }}">
<img alt="{{ output | caption }}" src="data:image/png;base64,{{ output.data["image/png"] }}"></div>
{%- elif kind == "image/png" -%}
<img alt="{{ output | caption }}" src="data:image/png;base64,{{ value }}">
{%- else %}<pre class="{{ kind }}">{{ value }}</pre>
{%- endif %}</div>
{% endfor %}{% endif %}{% endfor -%}
</main>
{% if script %}<script type="module">{{ script }}</script>{% endif %}
</body>
</html>
"""


class StyleSanitizer(CSSSanitizer):
    """Keep the declarations of a style attribute that are in STYLES and load nothing."""

    def sanitize_css(self, style: str) -> str:
        nodes = tinycss2.parse_declaration_list(style, skip_comments=True, skip_whitespace=True)
        return tinycss2.serialize([
            node for node in nodes if node.type == "declaration" and node.lower_name in STYLES
            and is_harmless(node.value)])


def is_harmless(tokens: Iterable) -> bool:
    """Return whether CSS tokens are plain values and calls of FUNCTIONS."""
    for token in tokens:
        if token.type == "function":
            if token.lower_name not in FUNCTIONS or not is_harmless(token.arguments):
                return False
        elif token.type not in ("ident", "number", "percentage", "dimension", "hash", "string",
                                "literal", "whitespace"):
            return False
    return True


def allowed_attribute(tag: str, name: str, value: str) -> bool:
    """Return whether a tag keeps an attribute; bleach checks the protocol of a link's address."""
    if name == "class":
        return bool(re.fullmatch(CLASSES, value))
    if name in ("href", "id"):
        return tag == "a" if name == "href" else tag in HEADINGS
    if tag in MATH_TAGS:
        return name in MATH_ATTRIBUTES
    return name in ("title", "style", "colspan", "rowspan", "start")


def clean(text: str) -> Markup:
    """Return HTML with the allowed tags and attributes; other tags become visible text."""
    return Markup(bleach.clean(
        text, tags=TAGS | MATH_TAGS, attributes=allowed_attribute,
        protocols=("http", "https", "mailto"), css_sanitizer=StyleSanitizer()))


class PageRenderer(IPythonRenderer):
    """Markdown with formulas as MathML, and headings with the anchors of JupyterLab."""

    def inline_math(self, body: str) -> str:
        return convert(body)

    def block_math(self, body: str) -> str:
        return f'<span class="formula">{convert(body, display="block")}</span>'

    def heading(self, text: str, level: int, **attrs) -> str:
        anchor = html.unescape(re.sub(r"<[^>]*>", "", text)).strip().replace(" ", "-")
        return f'<h{level} id="{html.escape(anchor)}">{text}</h{level}>\n'


def markdown(source: str) -> Markup:
    """Return clean HTML of Markdown."""
    return clean(MarkdownWithMath(renderer=PageRenderer(escape=False)).render(source))


def code(source: str) -> Markup:
    """Return clean HTML of IPython code, with colours."""
    return clean(Highlight2HTML()(source))


def shown(output: NotebookNode) -> tuple[str, str]:
    """Return (kind, text) of what a page shows of an output: a name of KINDS, stdout or stderr."""
    if output.output_type == "stream":
        return output.name, strip_ansi(output.text)
    if output.output_type == "error":
        return "stderr", strip_ansi("\n".join(output.traceback))
    if "image/png" in output.data and (state := STATE.search(output.data.get("text/html", ""))):
        return "explorer", state[1]
    return next(((kind, output.data[kind]) for kind in KINDS if kind in output.data), ("", ""))


def caption(output: NotebookNode) -> str:
    """Return the text that stands for a picture."""
    text = output.data.get("text/plain", "")
    return "picture" if text.startswith("<") else text


def is_progress_bar(output: NotebookNode) -> bool:
    """Return whether an output is the widget of a progress bar."""
    data = output.get("data", {})
    return WIDGET in data and "%|" in data.get("text/plain", "")


def without_widgets(cell: NotebookNode) -> None:
    """Remove progress bars; of another widget keep its picture, else write NOTE."""
    cell.outputs = [output for output in cell.outputs if not is_progress_bar(output)]
    for data in (output.get("data", {}) for output in cell.outputs):
        if WIDGET in data and not any(kind in data for kind in KINDS[:-1]):
            data["text/plain"] = NOTE
    tidy_outputs(cell)


def page_of(notebook: NotebookNode, name: str) -> str:
    """Return the page of a notebook, which is changed. name: the title if it has no heading."""
    cells = leave_out_support(notebook).cells
    for cell in cells:
        if cell.cell_type == "code":
            without_widgets(cell)
    first = cells[0].source.splitlines() if cells else []
    title = first[0][2:] if first and first[0].startswith("# ") else name
    environment = Environment(autoescape=True)
    for function in (markdown, code, clean, shown, caption):
        environment.filters[function.__name__] = function
    css = Markup(CSS + HtmlFormatter().get_style_defs(".highlight"))
    script, allowed = "", "'none'"
    if any(shown(output)[0] == "explorer" for cell in cells for output in cell.get("outputs", [])):
        script = EXPLORER.read_text("utf-8")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        allowed = f"'sha256-{digest}'"
    return environment.from_string(TEMPLATE).render(
        title=title, cells=cells, css=css, script=Markup(script), allowed=Markup(allowed))


def write_page(path: Path, folder: Path) -> Path:
    """Write the page of a notebook into the folder, return its path. ValueError if it is none."""
    page = page_of(read_notebook(path), path.stem)
    return replace_text_file(folder / f"{path.stem}.html", page)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results",
                        help="folder with executed/; the pages are written to pages/ in it")
    results = parser.parse_args(arguments).results
    paths = [path for path in sorted(results.glob("executed/*/*.ipynb"))
             if not path.stem.endswith(".failed")]
    if not paths:
        sys.exit(f"pages: no executed notebook in {results / 'executed'}: run `make run` first")
    try:
        for path in paths:
            print(os.path.relpath(write_page(path, results / "pages" / path.parent.name)))
    except (OSError, ValueError) as error:
        sys.exit(f"pages: {error}")


if __name__ == "__main__":
    main()
