"""A card contains the texts of a record, but none of their Markdown, HTML or YAML."""

import re
from html import unescape

import hypothesis
import mistune
import pytest
import yaml
from hypothesis import strategies as st

from records import make_record
from smp.task.cards import escaped_markdown, format_card, mask_card, model_card, one_line

HOSTILE = [
    "a\n---\nlicense: evil", "# heading", "<script>alert(1)</script>", "[x](http://evil.example)",
    "![x](y)", "`code`", "```\nrm\n```", "a | b", "https://evil.example", "www.evil.example",
    "**bold** _it_", "&lt;b&gt;", "a\x00b\ud800\u202ec", "a: {b: [c", "\n\n\n- x", "$x$", "~~a~~",
    "\\`x\\`", "<!-- x", "name\r\n===", "'\"", "{base}", "*", "!", "", "&#60;b>",
]
SAFE = {"h1", "p", "ul", "li", "pre", "code", "em"}


def body_of(card):
    """Return (YAML of the card, its Markdown)."""
    _, block, body = card.split("---\n", 2)
    return yaml.safe_load(block), body


def check(card, *more):
    metadata, body = body_of(card)
    assert set(metadata) <= {"base_model", "datasets", "model_name", "pipeline_tag", "tags",
                             "model-index", *more}
    assert metadata["tags"] == ["static-model-pruning"]
    html = mistune.create_markdown(escape=False, plugins=["url", "strikethrough", "table"])(body)
    assert set(re.findall(r"<\s*(\w+)", html)) <= SAFE
    assert html.count("<h1") == 1 and html.count("<pre") == 1 and "href" not in html
    return metadata


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_have_no_effect_in_cards(text):
    record = make_record() | dict.fromkeys(
        ("name", "label", "model", "model_sha", "data", "data_sha", "train_sha", "data_note",
         "head", "method", "variant", "profile", "device", "precision", "commit"), text)
    record |= {"teacher": {"name": text, "em": 0.5}, "versions": {text: text}}
    about = {"format": "dense", "compact": True, "tokens": 128, "max_length": 96,
             "packages": ["torch"]}
    fields = {"name": text, "label": text, "base": text, "base_sha": text, "data": text,
              "data_sha": text, "head": text, "em": 0.5, "f1": 0.5, "n_eval": 4}
    task = {"task": text, "license": text, "metrics": {text: 0.5}, "labels": [text]}
    for card in (model_card(record), format_card(record, about), mask_card(fields, 9),
                 mask_card(fields | task, 9)):
        metadata = check(card, "license")
        if "license" in metadata:
            assert metadata["license"] == metadata["pipeline_tag"] == one_line(text)
        known = metadata.get("model-index", [{"name": metadata.get("model_name")}])
        assert known[0]["name"] == (one_line(text) or None)


@hypothesis.given(st.text(alphabet=st.sampled_from("a_*`<>[]()#|&!:/w.-\\\n\r~ \"'{}=1"),
                          max_size=30))
def test_escaped_text_is_rendered_as_it_is(text):
    html = mistune.create_markdown(escape=False, plugins=["url", "strikethrough"])(
        f"- x {escaped_markdown(text)} y\n")
    assert set(re.findall(r"<\s*/?(\w+)", html)) == {"ul", "li"}
    shown = unescape(re.sub(r"<[^>]*>", "", html))
    assert " ".join(shown.split()) == " ".join(f"x {one_line(text)} y".split())


@pytest.mark.parametrize("wrong", ["0.5", None, [1], {"a": 1}, float("nan")])
def test_wrong_numbers_are_left_out_of_cards(wrong):
    card = mask_card({"name": "n", "data": "d", "em": wrong, "f1": wrong, "n_eval": wrong,
                      "density": wrong}, 9)
    assert "Exact Match" not in card and "remaining" not in card
