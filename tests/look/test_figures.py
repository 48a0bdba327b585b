"""Figures and HTML of data, training and answers: values shown, and no HTML from the data."""

import html.parser
import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

matplotlib.use("Agg")

from smp.look.figures import (
    plot_lengths,
    plot_training,
    running_mean,
    show_answers,
    show_example,
    spread_out,
)

NASTY = "<script>alert('&')</script>"


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    assert plt.get_fignums() == []  # an open figure would be shown a second time


def make_history(n=100, pruned=True):
    density = list(np.linspace(1, 0.1, n)) if pruned else [1.0] * n
    strength = list(np.linspace(0, 400, n)) if pruned else [0.0] * n
    return {"step": list(range(1, n + 1)), "loss": list(np.random.default_rng(0).random(n)),
            "density": density, "lambda": strength, "valid_step": [50, 100],
            "valid_em": [0.1, 0.3], "valid_f1": [0.2, 0.4]}


def draw(figure):
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


# Training and data


def test_plot_training_draws_what_the_history_has():
    history = make_history()
    figure = draw(plot_training(history))
    loss, density, valid = figure.axes
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), history["loss"])
    np.testing.assert_array_equal(density.lines[0].get_ydata(), history["density"])
    np.testing.assert_allclose(density.lines[1].get_ydata() * 400, history["lambda"])
    assert [list(line.get_ydata()) for line in valid.lines] == [[0.2, 0.4], [0.1, 0.3]]
    assert len(draw(plot_training(make_history(pruned=False))).axes) == 2
    unvalidated = make_history(pruned=False) | {"valid_step": [], "valid_em": [], "valid_f1": []}
    assert len(plot_training(unvalidated).axes) == 1
    one_step = {key: [1.0] for key in ("step", "loss", "density", "lambda")}
    assert len(draw(plot_training(unvalidated | one_step)).axes) == 2
    with pytest.raises(ValueError, match="holds no step"):
        plot_training(dict.fromkeys(history, []))


def test_running_mean_is_a_mean_at_the_edges_too():
    values = np.arange(10.0)
    np.testing.assert_allclose(running_mean(values, 3), [0.5, *range(1, 9), 8.5])
    np.testing.assert_allclose(running_mean(values, 1), values)
    np.testing.assert_allclose(running_mean([4.0], 25), [4.0])


def test_plot_lengths_counts_the_longer_ones():
    ax = draw(plot_lengths([100, 200, 384, 385, 500], 384)).axes[0]
    assert ax.get_title(loc="left") == "2 of 5 (40%) are longer than the window"
    assert sum(patch.get_height() for patch in ax.patches) == 5


def test_show_example_marks_the_answer_and_escapes():
    context = f"The ship {NASTY} sailed from <b>Oslo</b> in May."
    answer = "<b>Oslo</b>"
    example = {"question": NASTY, "context": context,
               "answers": {"text": [answer], "answer_start": [context.index(answer)]}}
    page = show_example(example).data
    assert "<script" not in page and page.count("&lt;script&gt;") == 2
    assert ">&lt;b&gt;Oslo&lt;/b&gt;</mark> in May." in page


# Answers


def make_answers(n=20):
    examples = [{"id": str(i), "question": f"{NASTY} {i}?", "context": "…",
                 "answers": {"text": [f"the {i}", f"the {i}", NASTY], "answer_start": [0, 0, 0]}}
                for i in range(n)]
    predictions = [{"id": str(i), "score": 1.0,
                    "prediction_text": f"{i}." if i % 4 == 0 else f"{NASTY} wrong {i}"}
                   for i in range(n)]
    return examples, predictions


def test_show_answers_compares_as_em_and_escapes():
    examples, predictions = make_answers()
    page = show_answers(examples, predictions, n_right=2, n_wrong=3).data
    assert "5 of 20 right, EM 0.250." in page
    assert page.count("✓ right") == 2 and page.count("✗ wrong") == 3
    assert "<script" not in page and page.count("<tr>") == 6
    others = [row | {"answers": {"text": ["no"]}} for row in examples]
    assert "0 of 20 right" in show_answers(others, predictions[::-1]).data
    assert "<i>nothing</i>" in show_answers(examples, [{"id": "1", "prediction_text": ""}]).data
    with pytest.raises(ValueError, match="'x' belongs to no example"):
        show_answers(examples, [{"id": "x", "prediction_text": ""}])


def test_spread_out_takes_items_evenly():
    assert spread_out(list(range(10)), 2) == [2, 7]
    assert spread_out([1, 2], 5) == [1, 2] and spread_out([], 3) == [] == spread_out([1], 0)


# HTML made from data


class Page(html.parser.HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add((tag, *(name for name, _ in attributes)))

    def handle_data(self, data):
        self.text += data


OURS = {("div", "style"), ("p",), ("b",), ("mark", "style"), ("table",), ("thead",), ("tbody",),
        ("tr",), ("th", "style"), ("td", "style"), ("span", "style"), ("i",)}
hostile = st.text(st.sampled_from("<>&\"'/=!-; abimgscript\u202e"), max_size=30).map(
    lambda text: text.replace("\0", ""))


@settings(deadline=None, max_examples=100)
@given(hostile, hostile, hostile.filter(bool), hostile)
def test_no_text_of_the_data_becomes_html(question, before, answer, after):
    example = {"id": "x", "question": question, "context": before + answer + after,
               "answers": {"text": [answer], "answer_start": [len(before)]}}
    page = Page(show_example(example).data)
    assert page.tags <= OURS and page.text == question + before + answer + after
    page = Page(show_answers([example], [{"id": "x", "prediction_text": after}]).data)
    assert page.tags <= OURS and question + (after or "nothing") + answer in page.text
