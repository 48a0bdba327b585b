"""Views of data, training and answers: pictures, captions with true numbers, escaped text."""

import html.parser

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
    show_examples,
    spread_out,
)
from smp.plotting import View, new_figure, png_bytes

NASTY = "<script>alert('&')</script>"


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    assert plt.get_fignums() == []  # an open figure would be displayed again


def make_history(n=100, pruned=True):
    density = list(np.linspace(1, 0.1, n)) if pruned else [1.0] * n
    strength = list(np.linspace(0, 400, n)) if pruned else [0.0] * n
    return {"step": list(range(1, n + 1)), "loss": list(np.random.default_rng(0).random(n)),
            "density": density, "lambda": strength, "valid_step": [50, 100],
            "valid_em": [0.1, 0.3], "valid_f1": [0.2, 0.4]}


def draw(view):
    """Draw the picture of a view; return its axes and its caption."""
    assert png_bytes(view.parts[0]).startswith(b"\x89PNG")
    return view.parts[0].axes, view.caption


def page_of(view):
    """Return the HTML of a view's tables and captions."""
    return "".join(bundle["text/html"] for bundle in view.bundles() if "text/html" in bundle)


# Views


def test_a_view_displays_pictures_captions_and_html(capsys):
    figure = new_figure(1, 1, 2, 1)[0]
    view = View(figure, "a < b", {"text/html": "<b>c</b>"}, "d")
    picture, first, table, last = view.bundles()
    assert picture["image/png"].startswith("iVBORw0KGgo") and table == {"text/html": "<b>c</b>"}
    assert first == {"text/html": "<p>a &lt; b</p>", "text/plain": "a < b"}
    assert view.caption == "a < b\nd" and last["text/plain"] == "d"
    view._ipython_display_()
    assert "a < b" in capsys.readouterr().out


# Training and data


def test_plot_training_draws_the_curves_of_the_history():
    history = make_history()
    (loss, density, valid), words = draw(plot_training(history))
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), history["loss"])
    np.testing.assert_array_equal(density.lines[0].get_ydata(), history["density"])
    np.testing.assert_allclose(density.lines[1].get_ydata() * 400, history["lambda"])
    assert [list(line.get_ydata()) for line in valid.lines] == [[0.2, 0.4], [0.1, 0.3]]
    assert f"{history['loss'][0]:.2f} at the first step" in words
    assert f"about {np.mean(history['loss'][-3:]):.2f} at the last" in words  # 1/25 of 100 steps
    assert "The density reaches 10% at step 100." in words
    assert "EM on held-out questions is 0.100 at step 50 and 0.300 at step 100." in words
    axes, words = draw(plot_training(make_history(pruned=False), tokens=80))
    assert len(axes) == 2 and "density" not in words and "over 80 tokens: ln 80 = 4.38." in words
    unvalidated = make_history(pruned=False) | {"valid_step": [], "valid_em": [], "valid_f1": []}
    assert len(draw(plot_training(unvalidated))[0]) == 1
    one_step = {key: [1.0] for key in ("step", "loss", "density", "lambda")}
    assert len(draw(plot_training(unvalidated | one_step))[0]) == 2
    with pytest.raises(ValueError, match="contains no step"):
        plot_training(dict.fromkeys(history, []))


def test_density_is_reached_at_its_first_step():
    history = make_history() | {"density": [1.0] * 60 + [0.25] * 40}
    assert "The density reaches 25% at step 61." in plot_training(history).caption


def test_running_mean_is_a_mean_at_the_edges_too():
    values = np.arange(10.0)
    np.testing.assert_allclose(running_mean(values, 3), [0.5, *range(1, 9), 8.5])
    np.testing.assert_allclose(running_mean(values, 1), values)
    np.testing.assert_allclose(running_mean([4.0], 25), [4.0])


def test_plot_lengths_counts_the_longer_ones():
    axes, words = draw(plot_lengths([100, 200, 384, 385, 500], 384))
    assert "have 100 to 500 tokens, on average 314. 2 of 5 (40%) exceed the 384 tokens" in words
    assert sum(patch.get_height() for patch in axes[0].patches) == 5


def test_show_examples_marks_the_answer_and_escapes():
    context = f"The ship {NASTY} sailed from <b>Oslo</b> in May."
    answer = "<b>Oslo</b>"
    example = {"question": NASTY, "context": context,
               "answers": {"text": [answer], "answer_start": [context.index(answer)]}}
    page = page_of(show_examples([example] * 5))
    assert "<script" not in page and page.count("&lt;script&gt;") == 6
    assert page.count("<mark>▸&lt;b&gt;Oslo&lt;/b&gt;◂</mark> in May.") == 3
    assert page_of(show_examples([example] * 5, n=1)).count("<mark>") == 1


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
    view = show_answers(examples, predictions, n_right=2, n_wrong=3)
    page = page_of(view)
    assert view.caption.startswith("5 of 20 answers are right: EM 0.250.")
    assert page.count("✓ right") == 2 and page.count("✗ wrong") == 3
    assert "<script" not in page and page.count("<tr>") == 6
    others = [row | {"answers": {"text": ["no"]}} for row in examples]
    assert "0 of 20 answers" in show_answers(others, predictions[::-1]).caption
    assert "(nothing)" in page_of(show_answers(examples, [{"id": "1", "prediction_text": ""}]))
    with pytest.raises(ValueError, match="'x' belongs to no example"):
        show_answers(examples, [{"id": "x", "prediction_text": ""}])


def test_spread_out_takes_items_evenly():
    assert spread_out(list(range(10)), 2) == [2, 7]
    assert spread_out([1, 2], 5) == [1, 2] and spread_out([], 3) == [] == spread_out([1], 0)


# HTML made from data


class Page(html.parser.HTMLParser):
    """Return the tags of a page with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add((tag, *(name for name, _ in attributes)))

    def handle_data(self, data):
        self.text += data


OURS = {("div", "style"), ("p",), ("b",), ("mark",), ("table",), ("tr",), ("th",), ("td",),
        ("span",)}
hostile = st.text(st.sampled_from("<>&\"'/=!-; abimgscript$\\\u202e"), max_size=30)


@settings(deadline=None, max_examples=100)
@given(hostile, hostile, hostile.filter(bool), hostile)
def test_no_text_of_the_data_becomes_html(question, before, answer, after):
    example = {"id": "x", "question": question, "context": before + answer + after,
               "answers": {"text": [answer], "answer_start": [len(before)]}}
    page = Page(page_of(show_examples([example])))
    assert page.tags <= OURS and page.text == f"{question}{before}▸{answer}◂{after}"
    page = Page(page_of(show_answers([example], [{"id": "x", "prediction_text": after}])))
    assert page.tags <= OURS and question + (after or "(nothing)") + answer in page.text


def test_dollar_signs_are_not_formulas():
    assert page_of(View("$5 and \\(6$")).count("<span>") == 3
