"""Links and make targets in the pages of this repository exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md", "SECURITY.md", "results/README.md", "results/reference/README.md",
    "experiments/README.md", "benchmarks/README.md", "docs/contributing.md", "docs/notebooks.md",
    "docs/settings.md", "docs/pipeline.md", "docs/reliability.md", "docs/use.md",
)


def headings(page):
    """Return the anchors of a Markdown page, as GitHub computes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page, flags=re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_each_relative_link_and_anchor_exists(page):
    text = (ROOT / page).read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text)
    assert links
    for path, anchor in links:
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        if anchor:
            assert anchor in headings(target.read_text("utf-8")), anchor


@pytest.mark.parametrize("page", PAGES)
def test_each_named_make_target_exists(page):
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / page).read_text("utf-8"), flags=re.M))
    assert named <= known
