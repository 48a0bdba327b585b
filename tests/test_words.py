"""Plain technical English: length of sentences, words, first lines of docstrings, test names."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_YET = ()
FOLDERS = ("benchmarks", "docs", "examples", "experiments", "notebooks", "results/reference", "smp",
           "tests", "tools")
COMPUTED = re.compile(r"(summary|methods)\.md$|results/reference/masks/.+/README\.md$")
LONGEST = 25  # words of a sentence
WORDS = re.compile(r"""\b(
    besides? | for\ want\ of | likewise | anew | but\ for | comes?\ to | reads?\ along |
    says | tells | hears | listens | asks | listen(ed|ing)?\ to | (is|was|are|were)\ (asked|told) |
    almanac | bak(e|es|ed|ing) | bears | shipp(ed|ing) | soak | sights |
    own_rows | take_head | ask_teacher | HeadNotThere
)\b""", re.VERBOSE | re.IGNORECASE)
ALLOWED = {  # text of synthetic passages, and names of the first edition in files and seeds
    "smp/data/words.py": {"besides", "says"}, "smp/data/synthetic.py": {"almanac"},
    "tests/data/test_synthetic.py": {"almanac"},
}


def files(ending):
    """Return the names of the checked files with this ending."""
    found = [*ROOT.glob(f"*{ending}"), ROOT / f"results/README{ending}"]
    found += [path for folder in FOLDERS for path in (ROOT / folder).rglob(f"*{ending}")]
    names = sorted(path.relative_to(ROOT).as_posix() for path in found if path.is_file())
    return [name for name in names if name != "tests/test_words.py"
            and not name.startswith(NOT_YET) and not COMPUTED.search(name)]


PYTHON, PAGES = files(".py"), files(".md")


def read(name):
    return (ROOT / name).read_text("utf-8")


def sentences(page):
    """Yield the sentences of a page without code blocks, tables, headings and link targets."""
    page = re.sub(r"```.*?```|<!-- results -->.*?<!-- /results -->", "\n\n", page, flags=re.S)
    page = re.sub(r"^(\||#).*$", "\n", page, flags=re.M)
    page = re.sub(r"`[^`]+`", "code", re.sub(r"\]\([^)]*\)", "]", page))
    for paragraph in re.split(r"\n\s*\n|\n *(?:-|\d+\.) ", page):
        text = " ".join(paragraph.split())
        yield from re.split(r"(?<=[.?!])[*)]*\s+(?=[A-Z`*\[(±λ]|code\b)", text)


def prose(name):
    """Return the docstrings, strings, comments and test names of a Python file, or a page."""
    text = read(name)
    if name.endswith(".md"):
        return text
    found = [node.value for node in ast.walk(ast.parse(text))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    found += [token.string for token in tokenize.generate_tokens(io.StringIO(text).readline)
              if token.type == tokenize.COMMENT]
    found += [test.replace("_", " ") for test in re.findall(r"^\s*def (test_\w+)", text, re.M)]
    return "\n".join(found)


def public_docstrings(tree):
    """Yield (name, is a function, docstring) of public functions, classes and their methods."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield node.name, isinstance(node, ast.FunctionDef), ast.get_docstring(node) or ""
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, ast.FunctionDef) and ast.get_docstring(inner):
                yield f"{node.name}.{inner.name}", True, ast.get_docstring(inner)


def test_the_readme_has_at_most_150_lines():
    assert len(read("README.md").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_a_sentence_has_at_most_25_words(page):
    long = [one for one in sentences(read(page)) if len(one.split()) > LONGEST]
    assert not long, f"{page}: {long}"


@pytest.mark.parametrize("name", PYTHON + PAGES)
def test_prose_contains_no_listed_word(name):
    found = {match[1].lower() for match in WORDS.finditer(prose(name))} - ALLOWED.get(name, set())
    assert not found, f"{name}: replace {', '.join(sorted(found))} by a plain verb or conjunction"


@pytest.mark.parametrize("name", [name for name in PYTHON if name.startswith("smp/")])
def test_a_public_docstring_begins_with_an_imperative(name):
    wrong = []
    for label, is_function, text in public_docstrings(ast.parse(read(name))):
        line = text.split("\n")[0]
        first = re.match(r"[A-Z][\w'-]*", line)
        third_person = is_function and first and re.search(r"[^s]s$", first[0])
        if not first or not line.endswith(".") or third_person:
            wrong.append(f"{label}: {line!r}")
    assert not wrong, f"{name}: expected one line like 'Return the masks.', found {wrong}"


@pytest.mark.parametrize("name", [name for name in PYTHON if name.startswith("tests/")])
def test_a_test_name_has_at_most_60_characters(name):
    tests = re.findall(r"^\s*def (test\S*?)\(", read(name), re.M)
    assert all(re.fullmatch(r"[A-Za-z0-9_]{1,60}", test) for test in tests), tests
