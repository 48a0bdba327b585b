"""What is left of an executed notebook before it is committed."""

import nbformat
import pytest
from cut_executed import LEFT_OUT, TABLE_LEFT_OUT, cut

new = nbformat.v4


def ran(source, *texts):
    outputs = [new.new_output("stream", name="stdout", text=text) for text in texts]
    return new.new_code_cell(source, outputs=outputs)


def story():
    return new.new_notebook(cells=[
        new.new_markdown_cell("# 1. The data"),
        new.new_markdown_cell("## A module's prose"),
        ran("def show_examples(rows):\n    return rows"),
        new.new_markdown_cell("One example."),
        ran("show_examples(rows)", "a passage of the data set"),
        new.new_markdown_cell("The score."),
        ran("print(scores)", "EM 0.5"),
    ])


def test_only_what_shows_something_stays_and_no_text_of_the_data():
    cells = cut(story()).cells
    assert [cell.source for cell in cells] == [
        "# 1. The data", "One example.", "show_examples(rows)", "The score.", "print(scores)"]
    assert cells[2].outputs[0].text == LEFT_OUT
    assert cells[4].outputs[0].text == "EM 0.5"


@pytest.mark.parametrize("keep_data", [True, False])
def test_a_table_as_old_as_the_copy_is_left_out(keep_data):
    notebook = new.new_notebook(cells=[ran("show_summary(results)", "| Model | EM |")])
    (cell,) = cut(notebook, keep_data).cells
    assert cell.outputs[0].text == TABLE_LEFT_OUT


def test_the_projects_own_data_may_be_shown():
    cells = cut(story(), keep_data=True).cells
    assert cells[2].outputs[0].text == "a passage of the data set"
