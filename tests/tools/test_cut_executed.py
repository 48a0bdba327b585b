"""Executed copies for GitHub: without support cells, without other people's text, and small."""

import base64
import io
import random

import nbformat
import pytest
from PIL import Image

from cut_executed import LEFT_OUT, cut, folded_sections, leave_out_support, main, small_png

new = nbformat.v4
FOLDED = {"jp-MarkdownHeadingCollapsed": True}
FILE = {"tags": ["support"], "jupyter": {"source_hidden": True}}


def ran(source, *texts, **metadata):
    outputs = [new.new_output("stream", name="stdout", text=text) for text in texts]
    return new.new_code_cell(source, outputs=outputs, metadata=metadata)


def story():
    """Return a notebook of three parts: the method, the folded support code, the experiment."""
    return new.new_notebook(cells=[
        new.new_markdown_cell("# A title"),
        new.new_markdown_cell("## 1 The method"),
        ran("def keep_top(scores, k):\n    return scores.topk(k)"),
        new.new_markdown_cell("## 2 Support code\n\nEach cell writes one file.", metadata=FOLDED),
        ran("import sys", **FILE),
        new.new_markdown_cell("### A room"),
        ran("%%carry smp/a.py\nx = 1", "smp/a.py", **FILE),
        ran("%%carry smp/b.py\ny = 2", **FILE),
        new.new_markdown_cell("## 3 The experiment"),
        ran("show_examples(data, n=3)", "a passage of the data set"),
        ran("print(scores)", "EM 0.5", execution={"iopub.execute_input": "2026-11-30"}),
        ran("z = 1", **FILE),
    ])


def picture(side=300, seed=0):
    """Return a PNG of random colours, base64."""
    noise = random.Random(seed).randbytes(3 * side * side)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), noise).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def shows(png):
    return new.new_code_cell("draw()", outputs=[new.new_output("display_data", {"image/png": png})])


def test_the_folded_section_becomes_one_line():
    cells = cut(story()).cells
    assert [cell.source for cell in cells] == [
        "# A title", "## 1 The method", "def keep_top(scores, k):\n    return scores.topk(k)",
        "**2 Support code**: 2 files, folded in the notebook",
        "## 3 The experiment", "show_examples(data, n=3)", "print(scores)"]
    assert cells[-1].outputs[0].text == "EM 0.5" and "execution" not in cells[-1].metadata


def test_a_folded_section_without_files_has_no_number():
    notebook = new.new_notebook(cells=[
        new.new_markdown_cell("## The mask", metadata=FOLDED), ran("x = 1"),
        new.new_markdown_cell("# Next")])
    assert [cell.source for cell in leave_out_support(notebook).cells] == [
        "**The mask**: folded in the notebook", "# Next"]


@pytest.mark.parametrize("heading, end", [("## Next", 3), ("# Next", 3), ("### Part", 4)])
def test_a_folded_section_ends_at_a_heading_of_its_level(heading, end):
    cells = [new.new_markdown_cell("# Title"), new.new_markdown_cell("## Folded", metadata=FOLDED),
             ran("# a comment"), new.new_markdown_cell(heading)]
    assert folded_sections(cells) == [range(1, end)]


def test_cutting_a_cut_notebook_changes_nothing():
    once = cut(story())
    nbformat.validate(once)
    assert nbformat.writes(cut(nbformat.from_dict(once))) == nbformat.writes(once)


@pytest.mark.parametrize("source", ["show_examples(data)", "show_example(data)", "show_broken(x)",
                                    "print(tokenizer.convert_ids_to_tokens(ids))"])
def test_text_of_a_data_set_is_removed(source):
    def text(**options):
        notebook = new.new_notebook(cells=[ran(source, "a passage")])
        return cut(notebook, **options).cells[0].outputs[0].text

    assert text() == LEFT_OUT
    assert text(keep_data=True) == "a passage"


def test_a_definition_that_prints_keeps_its_output():
    notebook = new.new_notebook(cells=[ran("def show_answers(x):\n    pass\nprint(1)", "1")])
    assert cut(notebook).cells[0].outputs[0].text == "1"


def test_pictures_keep_their_size_and_lose_bytes():
    before = picture()
    after = small_png(before)
    assert len(after) < 0.5 * len(before)
    assert Image.open(io.BytesIO(base64.b64decode(after))).size == (300, 300)
    assert small_png(after) == after
    notebook = cut(new.new_notebook(cells=[shows(before)]))
    assert notebook.cells[0].outputs[0].data["image/png"] == after


def test_transparent_pixels_become_white():
    buffer = io.BytesIO()
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(buffer, "PNG", compress_level=0)
    after = small_png(base64.b64encode(buffer.getvalue()).decode())
    picture = Image.open(io.BytesIO(base64.b64decode(after))).convert("RGB")
    assert picture.getpixel((3, 3)) == (255, 255, 255)


def test_a_copy_over_600_kb_raises_and_stays_unchanged(tmp_path):
    path = tmp_path / "quick" / "A.ipynb"
    path.parent.mkdir()
    nbformat.write(new.new_notebook(cells=[shows(picture(side=900))]), path)
    before = path.read_bytes()
    with pytest.raises(SystemExit, match=r"A.ipynb: [\d,]+ KB after the cut, expected at most"):
        main([str(path)])
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_ten_copies_raise_one_line(tmp_path):
    for number in range(10):
        path = tmp_path / "quick" / f"{number}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(story(), path)
    with pytest.raises(SystemExit, match="has 10 executed copies, expected at most 9"):
        main([str(path)])
    path.unlink()
    kept = tmp_path / "quick" / "8.ipynb"
    main([str(kept)])
    assert len(nbformat.read(kept, as_version=4).cells) == 7


@pytest.mark.parametrize("text", [None, "{", '{"cells": 1}'])
def test_a_file_that_is_not_a_notebook_raises_one_line(tmp_path, text):
    path = tmp_path / "A.ipynb"
    if text:
        path.write_text(text)
    with pytest.raises(SystemExit, match="^cut_executed: ") as error:
        main([str(path)])
    assert "\n" not in str(error.value)
