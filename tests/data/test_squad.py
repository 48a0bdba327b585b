"""Tests of sources, invalid input, sampling, labels of windows, and batches."""

import copy
import gzip
import hashlib
import io
import json
import logging
import lzma
import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast, RobertaTokenizerFast

from helpers import SQUAD, needs_squad
from smp.data.reading import SQUAD_FEATURES, data_fingerprint, load_squad
from smp.data.squad_file import check_squad_rows, read_unpacked
from smp.data.windows import (
    endless_batches,
    featurise,
    fit_windows,
    label_window,
    make_loader,
    make_window,
    pair_template,
    tokenise,
    tokenise_pairs,
    visible_part,
    window_length,
    windows_fingerprint,
    with_marks,
)

REPOSITORY = Path(__file__).parents[2]

PAGES = [
    "The Gault Ice Shelf was crossed in 1911 by Ada Brenn and, in 1934, by a party of seven.",
    "Zoë Łuczak's café in 東京 opened on 3 May 1998; naïve visitors still ask for «pierogi».",
    "  In spring 0.5 million salmon (not 0.7) return to the river Ysk, the county's longest.  ",
    "A bridge of forty-two arches, 1,024 m long, was finished in 1877 and widened in 1903.",
]
ASKED = [
    ["Ada Brenn", "1911", "seven"],
    ["東京", "naïve visitors", "Łuczak"],
    ["0.5 million", "the river Ysk", "0.7"],
    ["forty-two", "1877", "1,024 m"],
]


def document(articles=4, repeat=1):
    """Return a SQuAD v1.1 document; an article has a page, repeated, and three questions."""
    data = []
    for a in range(articles):
        page, found = " ".join([PAGES[a % 4]] * repeat) + f" Page {a}.", ASKED[a % 4]
        qas = [
            {
                "id": f"{a}-{n}",
                "question": f"  What is number {n} of page {a}?",
                "answers": [
                    {"text": text, "answer_start": page.rindex(text)},
                    {"text": "Page", "answer_start": page.rindex("Page")},
                ],
            }
            for n, text in enumerate(found)
        ]
        data.append({"title": f"Page {a}", "paragraphs": [{"context": page, "qas": qas}]})
    return {"version": "1.1", "data": data}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """Return a byte-level tokenizer with RoBERTa's own form of a pair, trained on the pages."""
    from tokenizers import ByteLevelBPETokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(PAGES, vocab_size=350, special_tokens=special, show_progress=False)
    folder = tmp_path_factory.mktemp("roberta")
    trained.save_model(str(folder))
    write(folder / "config.json", {"model_type": "roberta"})
    return RobertaTokenizerFast.from_pretrained(folder)


@pytest.fixture(params=["bert", "roberta"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def examples(tmp_path):
    return load_squad(write(tmp_path / "pages.json", document(9, repeat=3)))["train"]


# -- sources ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ending, opener", [("", open), (".gz", gzip.open), (".xz", lzma.open)])
def test_the_last_tenth_of_articles_is_eval(tmp_path, ending, opener):
    path = tmp_path / f"pages.json{ending}"
    with opener(path, "wt", encoding="utf-8") as file:
        json.dump(document(21), file)
    data = load_squad(str(path))
    assert {name: len(part) for name, part in data.items()} == {"train": 57, "valid": 0, "eval": 6}
    assert data["eval"]["title"][:] == ["Page 19"] * 3 + ["Page 20"] * 3
    assert all(part.features == SQUAD_FEATURES for part in data.values())
    row = data["eval"][0]
    assert row["id"] == "19-0" and row["answers"]["text"] == ["forty-two", "Page"]
    assert all(
        row["context"].startswith(text, start)
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"])
    )


def test_two_articles_are_enough_for_one_file(tmp_path):
    data = load_squad(write(tmp_path / "pages.json", document(2)))
    assert len(data["train"]) == len(data["eval"]) == 3


@pytest.mark.parametrize("held_out", ["dev-v1.1.json", "my_VALID.json", "test.json"])
def test_a_folder_has_one_train_and_one_eval_file(tmp_path, held_out):
    write(tmp_path / "squad" / "train-v1.1.json", document(4))
    write(tmp_path / "squad" / held_out, document(2))
    write(tmp_path / "squad" / "README.md", "not data")
    data = load_squad(tmp_path / "squad")
    assert len(data["train"]) == 12 and data["eval"]["id"][:] == [
        f"{a}-{n}" for a in (0, 1) for n in range(3)
    ]


def test_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "pages.json", document())
    assert len(load_squad("~/pages.json")["eval"]) == 3


def test_synthetic_data_has_1600_train_and_400_eval_rows(tmp_path):
    data = load_squad("synthetic", n_valid=40)
    assert {name: len(part) for name, part in data.items()} == {
        "train": 1600,
        "valid": 40,
        "eval": 400,
    }
    assert all(part.features == SQUAD_FEATURES for part in data.values())
    few = load_squad("synthetic", n_train=30, n_valid=7, n_eval=5, seed=3)
    assert [len(few[name]) for name in ("train", "valid", "eval")] == [30, 7, 5]
    assert few["train"]["id"][:] == data["train"]["id"][:30], "the same for every seed"
    for part in (data, few):
        assert not set(part["train"]["context"]) & set(part["valid"]["context"])


def test_columns_are_texts_and_places_of_32_bits():
    text = Value("string")
    assert SQUAD_FEATURES == Features({
        "id": text, "title": text, "context": text, "question": text,
        "answers": {"text": List(text), "answer_start": List(Value("int32"))}})


def as_hub(rows):
    return Dataset.from_dict({name: [row[name] for row in rows] for name in rows[0]})


def test_a_hub_dataset_has_the_same_columns_and_checks(monkeypatch, tmp_path):
    rows = load_squad(write(tmp_path / "pages.json", document(12)))
    hub = DatasetDict(
        train=as_hub(rows["train"].to_list()), validation=as_hub(rows["eval"].to_list())
    )
    monkeypatch.setattr("smp.data.reading.load_dataset", {"owner/squad": hub}.__getitem__)
    data = load_squad("owner/squad", n_valid=6)
    assert [len(data[name]) for name in ("train", "valid", "eval")] == [27, 6, 3]
    assert all(part.features == SQUAD_FEATURES for part in data.values())
    assert data_fingerprint(data["eval"]) == data_fingerprint(rows["eval"])

    only_train = DatasetDict(train=hub["train"])
    monkeypatch.setattr("smp.data.reading.load_dataset", lambda name: only_train)
    with pytest.raises(ValueError, match="'validation' has 0 rows with the columns none; expected"):
        load_squad("owner/squad")
    v2 = [
        *rows["eval"].to_list(),
        {**rows["eval"][0], "id": "v2", "answers": {"text": [], "answer_start": []}},
    ]
    parts = {"train": hub["train"], "validation": as_hub(v2)}
    monkeypatch.setattr("smp.data.reading.load_dataset", lambda name: parts)
    with pytest.raises(ValueError, match="question 'v2' has 0 answers.*SQuAD v2"):
        load_squad("owner/squad")


@pytest.mark.parametrize("name", ["no-such-owner/no-such-data", "not a name"])
def test_an_unreachable_hub_name_raises(name):
    with pytest.raises(FileNotFoundError, match="check the name and the connection") as error:
        load_squad(name)
    start = f"{name}: not an existing file or folder, and not loaded from the Hub"
    assert one_line(error).startswith(start)


# -- invalid input --------------------------------------------------------------------------------


def changed(change):
    """Return the JSON of a document after change(first question, its paragraph, the document)."""
    result = document()
    paragraph = result["data"][0]["paragraphs"][0]
    change(paragraph["qas"][0], paragraph, result)
    return json.dumps(result)


WHERE = r"pages.json: article 0 \('Page 0'\), paragraph 0"
INVALID = {
    "empty": ("", "the file is empty"),
    "blank": (" \n", "the file is empty"),
    "not JSON": ('{"data": [', "not JSON .*line 1 column 11"),
    "too deep": ("[" * 200_000, "not JSON .*recursion"),
    "a list": ("[]", "expected a JSON object, found list"),
    "no data": ("{}", "no field 'data'"),
    "data is text": ('{"data": "x"}', "field 'data' must be list, found str"),
    "no articles": ('{"data": []}', "no questions in it"),
    "no questions": (
        changed(lambda q, p, d: d.update(data=[{"title": "t", "paragraphs": []}] * 2)),
        "no questions",
    ),
    "no title": (
        changed(lambda q, p, d: d["data"][0].pop("title")),
        "pages.json: article 0: no field 'title'",
    ),
    "no context": (changed(lambda q, p, d: p.pop("context")), WHERE + ": no field 'context'"),
    "context is null": (
        changed(lambda q, p, d: p.update(context=None)),
        WHERE + ": field 'context' must be str, found None",
    ),
    "question is a list": (
        changed(lambda q, p, d: p["qas"].append([])),
        WHERE + ", question 3: expected a JSON object",
    ),
    "no id": (changed(lambda q, p, d: q.pop("id")), WHERE + ", question 0: no field 'id'"),
    "id is a number": (
        changed(lambda q, p, d: q.update(id=7)),
        WHERE + ", question 0: field 'id' must be str, found int",
    ),
    "no question": (
        changed(lambda q, p, d: q.pop("question")),
        WHERE + r", question 0 \(id '0-0'\): no field 'question'",
    ),
    "no answers field": (
        changed(lambda q, p, d: q.pop("answers")),
        r"question 0 \(id '0-0'\): no field 'answers'",
    ),
    "no answers": (changed(lambda q, p, d: q.update(answers=[])), "question '0-0' has 0 answers"),
    "impossible": (
        changed(lambda q, p, d: q.update(is_impossible=True, answers=[])),
        r"\(id '0-0'\) is marked impossible, .*SQuAD v2",
    ),
    "no text": (
        changed(lambda q, p, d: q["answers"][1].pop("text")),
        r"\(id '0-0'\), answer 1: no field 'text'",
    ),
    "start is text": (
        changed(lambda q, p, d: q["answers"][0].update(answer_start="3")),
        "answer 0: field 'answer_start' must be int, found str",
    ),
    "start is true": (
        changed(lambda q, p, d: q["answers"][0].update(answer_start=True)),
        "must be int, found bool",
    ),
    "answer at another place": (
        changed(lambda q, p, d: q["answers"][0].update(answer_start=4)),
        "question '0-0': expected the answer 'Ada Brenn' at answer_start 4 of its context, "
        "found 'Gault Ice'",
    ),
    "before the context": (
        changed(lambda q, p, d: q["answers"][0].update(answer_start=-1)),
        "answer_start -1 of its context",
    ),
    "beyond the context": (
        changed(lambda q, p, d: q["answers"][0].update(answer_start=10**30)),
        "expected the answer .* at answer_start 1000",
    ),
    "empty answer": (
        changed(lambda q, p, d: q["answers"][0].update(text="")),
        "question '0-0' has the empty answer ''",
    ),
    "ids twice": (changed(lambda q, p, d: q.update(id="3-2")), "question '3-2' occurs twice"),
    "lone surrogate": (
        changed(lambda q, p, d: q.update(question="\ud800?")),
        r"question '0-0' contains '\\ud800', which is not a character",
    ),
    "one article": (
        changed(lambda q, p, d: d.update(data=d["data"][:1])),
        "only one article with questions",
    ),
}


def one_line(error):
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    return str(error.value)


@pytest.mark.parametrize("content, message", INVALID.values(), ids=INVALID)
def test_invalid_files_raise_one_line(tmp_path, content, message):
    path = write(tmp_path / "pages.json", content)
    with pytest.raises(ValueError, match=message) as error:
        load_squad(path)
    assert one_line(error).startswith(path)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("pages.json.gz", b"{}", "cannot be unpacked to UTF-8 text"),
        ("pages.json.xz", b"{}", "cannot be unpacked to UTF-8 text"),
        ("pages.json.xz", lzma.compress(b"{}")[:-9], "cannot be unpacked to UTF-8 text"),
        ("pages.json.gz", gzip.compress(b"{}" * 9, mtime=0)[:-9], "cannot be unpacked to UTF-8"),
        ("pages.json", b"\xff{}", "cannot be unpacked to UTF-8 text"),
        ("pages.txt", b"{}", "expected a file ending in .json, .json.gz, .json.xz"),
    ],
)
def test_unreadable_files_raise_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_squad(str(tmp_path / name))
    one_line(error)


@pytest.mark.parametrize(
    "names, found",
    [
        ([], "found none"),
        (["train.json"], "found train.json"),
        (["train-dev.json"], "found train-dev.json"),
        (["dev.json", "test.json", "train.json"], "found dev.json, test.json, train.json"),
        (
            ["dev.json", "train-1.json.xz", "train-2.json.gz"],
            "found dev.json, train-1.json.xz, train-2",
        ),
    ],
)
def test_a_folder_with_other_files_raises(tmp_path, names, found):
    for name in names:
        write(tmp_path / name, "{}")
    with pytest.raises(ValueError, match=found) as error:
        load_squad(str(tmp_path))
    one_line(error)


@pytest.mark.parametrize(
    "path",
    [
        "nothing.json",
        "nothing.JSON.xz",
        "./nothing",
        "~/nothing",
        "/nothing/here",
        "a/b/c",
        "nothing.json.gz",
        Path("nothing"),
    ],
)
def test_missing_paths_raise(path):
    with pytest.raises(FileNotFoundError, match="no such file or folder; check the path") as error:
        load_squad(path)
    assert one_line(error).startswith(str(path))


@pytest.mark.parametrize("data", [None, "", 3, ["synthetic"]])
def test_data_of_another_type_raises(data):
    with pytest.raises(ValueError, match="expected 'synthetic', a path or a Hub dataset name"):
        load_squad(data)


def test_errors_of_a_folder_name_the_file(tmp_path):
    write(tmp_path / "train.json", document())
    for content, message in ((changed(lambda q, p, d: q.pop("id")), ": article 0 "),
                             (changed(lambda q, p, d: q.update(id="3-2")), ": question '3-2' occ")):
        path = write(tmp_path / "dev.json", content)
        with pytest.raises(ValueError) as error:
            load_squad(tmp_path)
        assert one_line(error).startswith(path + message)


def test_an_empty_split_or_a_wrong_row_of_the_hub_raises(monkeypatch, tmp_path):
    rows = load_squad(write(tmp_path / "pages.json", document(12)))
    parts = {"train": as_hub(rows["train"].to_list()), "validation": as_hub([rows["eval"][0]])}
    monkeypatch.setattr("smp.data.reading.load_dataset", lambda name: parts)
    assert load_squad("owner/squad")["eval"]["id"][:] == [rows["eval"][0]["id"]]
    parts["validation"] = rows["valid"]
    with pytest.raises(ValueError, match="'validation' has 0 rows with the columns id, title, con"):
        load_squad("owner/squad")
    parts["validation"] = as_hub([rows["eval"][0] | {"context": "another"}])
    with pytest.raises(ValueError, match="^owner/squad validation: question '11-0': expected the"):
        load_squad("owner/squad")


def test_the_fingerprint_has_a_known_value():
    rows = [{"id": "a", "question": "Who?", "context": "Ada.", "title": "A",
             "answers": {"text": ["Ada"], "answer_start": [0]}}]
    rows.append(rows[0] | {"id": "b"})
    lines = ['["a", "Who?", "Ada.", [["Ada"], [0]]]', '["b", "Who?", "Ada.", [["Ada"], [0]]]']
    digest = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    assert data_fingerprint(Dataset.from_list(rows, SQUAD_FEATURES)) == digest[:12]


ROW = {"id": "a", "title": "A", "context": "Ada wrote.", "question": "Who?",
       "answers": {"text": ["Ada"], "answer_start": [0]}}


@pytest.mark.parametrize("changes", [
    {"id": 7}, {"title": None}, {"context": ["Ada wrote."]}, {"question": 1.5},
    {"answers": None}, {"answers": ["Ada"]}, {"answers": {}},
    {"answers": {"text": "Ada", "answer_start": [0]}},
    {"answers": {"text": [7], "answer_start": [0]}},
    {"answers": {"text": ["Ada"], "answer_start": 0}},
    {"answers": {"text": ["Ada"], "answer_start": [0.0]}},
    {"answers": {"text": ["Ada"], "answer_start": [False]}},
], ids=str)
def test_rows_with_a_field_of_another_type_raise(changes):
    assert check_squad_rows([ROW], "here") == [ROW]
    with pytest.raises(ValueError, match="^here: question .* has a field of another type; expec"):
        check_squad_rows([ROW | changes], "here")


@pytest.mark.parametrize("start, found", [(-1, "Ada"), (1, "da "), (8, "e."), (99, "")])
def test_an_answer_at_another_place_raises_with_the_text_there(start, found):
    row = ROW | {"answers": {"text": ["Ada"], "answer_start": [start]}}
    with pytest.raises(ValueError) as error:
        check_squad_rows([row], "here")
    assert str(error.value) == (f"here: question 'a': expected the answer 'Ada' at answer_start "
                                f"{start} of its context, found {found!r}; correct it")


def test_an_endless_file_raises_at_its_limit(tmp_path, monkeypatch):
    """The file unpacks without end; it is read in pieces until the limit, here 1 MiB."""
    class Endless(io.BytesIO):
        given = 0

        def read(self, size):
            self.given += size
            return bytes(size)

    monkeypatch.setattr("smp.data.squad_file.ALWAYS_UNPACKED", 2**20)
    path, stream = tmp_path / "small.json.gz", Endless()
    path.write_bytes(b"small")
    with pytest.raises(ValueError, match="small.json.gz: unpacks to more than 1,048,576 bytes"):
        read_unpacked(lambda *_: stream, path)
    assert 2**20 < stream.given <= 2**20 + 2**18
    path.write_bytes(bytes(2**20))  # as many as allowed
    assert read_unpacked(open, path) == bytes(2**20)


# -- sampling --------------------------------------------------------------------------------


@pytest.fixture
def pages(tmp_path):
    write(tmp_path / "squad" / "train.json", document(40))
    write(tmp_path / "squad" / "dev.json", document(10))
    return tmp_path / "squad"


@pytest.mark.parametrize(
    "counts, message",
    [
        (dict(n_train=121), "n_train = 121: the data has only 120; use"),
        (dict(n_train=111, n_valid=10), "n_train = 111: the data has only 110; use"),
        (dict(n_valid=120), "n_valid = 120: the data has only 119; use"),
        (dict(n_eval=31), "n_eval = 31: the data has only 30; use"),
        (dict(n_train=0), "n_train = 0: expected a whole number, 1 or more"),
        (dict(n_eval=0), "n_eval = 0: expected a whole number, 1 or more"),
        (dict(n_valid=-1), "n_valid = -1: expected a whole number, 0 or more"),
        (dict(n_valid=None), "n_valid = None: expected a whole number"),
        (dict(n_train=9.0), "n_train = 9.0: expected a whole number"),
        (dict(n_train=True), "n_train = True: expected a whole number"),
    ],
)
def test_impossible_counts_raise(pages, counts, message):
    with pytest.raises(ValueError, match=message) as error:
        load_squad(pages, **counts)
    one_line(error)
    if message.endswith(("or more", "number")):
        with pytest.raises(ValueError, match=message):
            load_squad("synthetic", **counts)


@pytest.mark.parametrize("n_valid", [0, 1, 10, 60])
def test_valid_is_taken_out_of_train(pages, n_valid):
    data = load_squad(pages, n_valid=n_valid, seed=5)
    train, valid = data["train"], data["valid"]
    assert len(valid) == n_valid
    assert not set(train["context"]) & set(valid["context"])
    assert len(train) == 120 - 3 * -(-n_valid // 3), "whole paragraphs, three questions each"
    all_others = load_squad(pages, n_train=120 - n_valid, n_valid=n_valid, seed=5)
    assert all_others["valid"]["id"][:] == valid["id"][:]
    assert sorted([*all_others["train"]["id"], *valid["id"]]) == sorted(
        load_squad(pages)["train"]["id"]
    )


def test_longest_passage_removes_longer_passages(pages):
    def words(data, part):
        return [len(context.split()) for context in data[part]["context"]]

    whole = load_squad(pages)
    lengths = sorted(set(words(whole, "train") + words(whole, "eval")))
    assert len(lengths) > 1
    for most in (lengths[0], lengths[-2], lengths[-1]):
        short = load_squad(pages, longest_passage=most)
        for part in ("train", "eval"):
            assert short[part]["id"][:] and len(short[part]) == sum(
                n <= most for n in words(whole, part))
            assert max(words(short, part)) <= most
    with pytest.raises(ValueError, match="longest_passage 1: all 120 questions are on longer"):
        load_squad(pages, longest_passage=1)


def test_samples_are_fixed_by_the_seed(pages):
    def ids(name, **counts):
        return load_squad(pages, **counts)[name]["id"][:]

    assert ids("train", n_train=50, seed=1) == ids("train", n_train=50, seed=1)
    assert ids("train", n_train=50, seed=1) != ids("train", n_train=50, seed=2)
    assert ids("train", n_train=50, seed=1) == ids("train", n_train=60, seed=1)[:50]
    assert ids("eval", n_eval=9, seed=1) == ids("eval", n_eval=9, seed=1)
    assert ids("eval", n_eval=9, seed=1) != ids("eval", n_eval=9, seed=2)
    assert ids("eval") == ids("eval", n_eval=30, seed=4), "all rows: in the file's order"
    assert ids("valid", n_valid=9, seed=1) != ids("valid", n_valid=9, seed=2)


def test_the_seed_of_samples_is_0_and_all_counts_are_optional(pages):
    plain, zero = load_squad(pages), load_squad(pages, None, 0, None, 0, None)
    assert [plain[part]["id"][:] for part in plain] == [zero[part]["id"][:] for part in zero]
    assert [len(part) for part in plain.values()] == [120, 0, 30]
    assert load_squad(pages, seed=1)["train"]["id"][:] != plain["train"]["id"][:]


@pytest.mark.parametrize("name", ["n_train", "n_valid", "n_eval"])
def test_synthetic_data_has_at_most_a_million_questions(name):
    with pytest.raises(ValueError, match=f"^{name} = 1000001: the data has only 1000000; use at"):
        load_squad("synthetic", **{"n_train": 1, "n_eval": 1} | {name: 10**6 + 1})


def test_train_and_valid_share_a_paragraph_if_needed(tmp_path):
    data = load_squad(write(tmp_path / "pages.json", document(2)), n_valid=2)
    assert len(data["train"]) == 1 and len(data["valid"]) == 2
    assert not set(data["train"]["id"]) & set(data["valid"]["id"])


def test_fingerprint_changes_with_any_field(pages):
    examples = load_squad(pages)["eval"]
    mark = data_fingerprint(examples)
    assert len(mark) == 12 and int(mark, 16) >= 0
    assert mark == data_fingerprint(load_squad(pages)["eval"])
    assert mark == data_fingerprint(examples.with_format("numpy"))
    rows = examples.to_list()
    for change in (
        dict(id="x"),
        dict(question="x"),
        dict(context=rows[4]["context"] + " "),
        dict(answers={"text": ["Page"], "answer_start": [0]}),
        dict(answers=rows[4]["answers"] | {"answer_start": [9]}),
    ):
        other = Dataset.from_list([*rows[:4], rows[4] | change, *rows[5:]])
        assert data_fingerprint(other) != mark
    assert data_fingerprint(examples.select(range(29))) != mark
    assert data_fingerprint(examples.select(range(len(examples))[::-1])) != mark


# -- windows ---------------------------------------------------------------------------------


def check_windows(examples, features, tokenizer, max_length, stride):
    """Check shapes, labels and characters of the windows; return the rows with a label."""
    covered = set()
    for window in features:
        row = examples[window["example"]]
        length = len(window["input_ids"])
        offsets = np.array(window["offsets"])  # (L, 2)
        assert length == len(window["attention_mask"]) == len(offsets) <= max_length
        of_context = np.flatnonzero(offsets[:, 0] >= 0)
        assert (np.diff(of_context) == 1).all() and (
            offsets[of_context, 1] <= len(row["context"])
        ).all()
        assert (offsets[offsets[:, 0] < 0] == -1).all()
        head = tokenizer(row["question"].lstrip())["input_ids"]
        assert window["input_ids"][: len(head)] == head

        answer, first = row["answers"]["text"][0], row["answers"]["answer_start"][0]
        last = first + len(answer) - 1
        inside = (
            len(of_context)
            and offsets[of_context[0], 0] <= first
            and last < offsets[of_context[-1], 1]
        )
        start, end = window["start_positions"], window["end_positions"]
        if not inside:
            assert (start, end) == (0, 0)
            continue
        covered.add(window["example"])
        assert 0 < start <= end
        assert offsets[start, 0] <= first < offsets[start, 1]
        assert offsets[end, 0] <= last < offsets[end, 1]
        assert (
            start == of_context[0]
            or offsets[start - 1, 1] <= first
            or (offsets[start - 1] != offsets[start]).any()
        )
        if tokenizer.cls_token == "[CLS]":
            said = tokenizer.decode(window["input_ids"][start : end + 1]).replace(" ", "")
            known = tokenizer.decode(
                tokenizer(answer, add_special_tokens=False)["input_ids"]
            ).replace(" ", "")
            assert known in said or "[UNK]" in said + known or "##" in said + known
    return covered


@pytest.mark.parametrize("max_length, stride", [(384, 128), (64, 24), (64, 0), (40, 8)])
def test_labels_are_the_answer_or_cls(examples, tokenizer, max_length, stride):
    features = featurise(examples, tokenizer, max_length, stride)
    covered = check_windows(examples, features, tokenizer, max_length, stride)
    assert sorted(set(features["example"])) == list(range(len(examples)))
    for i, row in enumerate(examples):
        tokens = len(tokenizer(row["answers"]["text"][0], add_special_tokens=False)["input_ids"])
        if tokens + 2 <= stride:  # one of two neighbours contains all of such an answer
            assert i in covered
    expected = {
        "input_ids",
        "attention_mask",
        "start_positions",
        "end_positions",
        "example",
        "offsets",
    }
    expected |= {"token_type_ids"} & set(tokenizer("a", "b"))
    assert set(features.column_names) == expected
    assert not features.cache_files, "kept in memory"
    assert features[0]["offsets"][0] == [-1, -1]


@pytest.mark.parametrize("max_length, stride", [(64, 24), (40, 0), (40, 8), (40, 9)])
def test_neighbouring_windows_share_exactly_stride_tokens(examples, tokenizer, max_length, stride):
    features = featurise(examples, tokenizer, max_length, stride)
    tokens: dict[int, list] = {}  # {example: [(context spans, length) of each window]}
    for window in features:
        context = [tuple(span) for span in window["offsets"] if span[0] >= 0]
        tokens.setdefault(window["example"], []).append((context, len(window["input_ids"])))
    assert max(map(len, tokens.values())) > 2
    for row, parts in tokens.items():
        whole, *later = [context for context, _ in parts]
        for context in later:
            assert whole[len(whole) - stride :] == context[:stride]
            whole = whole + context[stride:]
        spans = tokenizer(examples[row]["context"], add_special_tokens=False,
                          return_offsets_mapping=True)["offset_mapping"]
        assert len(whole) == len(spans), "no token is missing and none comes twice"
        assert all(length == max_length for _, length in parts[:-1]), "only the last is shorter"
        assert len(parts) == 1 or len(parts[-1][0]) > stride, "every window adds a token"


def questions_of_lengths(*lengths):
    """Return questions of one token and passages; a pair with special tokens has a given length."""
    return Dataset.from_list([
        {"question": "who", "context": "a " * (length - 4)} for length in lengths])


@pytest.mark.parametrize("lengths, expected", [
    ([10], 64), ([64] * 9, 64), ([65], 96), ([100] * 99 + [300], 128),
    ([100] * 98 + [300] * 2, 320), ([100] * 2000 + [384] * 30, 384), ([900], 384),
])
def test_window_length_holds_99_percent_of_the_questions(bert, lengths, expected):
    assert window_length(questions_of_lengths(*lengths), bert) == expected


def test_window_length_equals_that_of_uncut_windows(examples, bert):
    lengths = sorted(len(ids) for ids in featurise(examples, bert, 512, 16)["input_ids"])
    assert len(lengths) == len(examples) < 100, "no context is split; 99% means all"
    assert window_length(examples, bert) == max(64, 32 * -(-lengths[-1] // 32))


def test_window_length_reads_at_most_1000_questions(bert, monkeypatch):
    read = []

    def counted(rows, tokenizer):
        read.append(len(rows["question"]))
        return tokenise_pairs(rows, tokenizer)

    monkeypatch.setattr("smp.data.windows.tokenise_pairs", counted)
    for n in (7, 1500):
        window_length(questions_of_lengths(*[9] * n), bert)
    assert read == [7, 1000]


def test_one_long_question_in_50_counts_towards_99_percent(bert):
    """99% of 50 questions are all of them; a quantile between two lengths would be 202."""
    assert window_length(questions_of_lengths(*[100] * 49, 300), bert) == 320


@dataclass(frozen=True)
class Windows:
    """The settings that `fit_windows` reads, and one that it leaves alone."""

    max_length: int | None
    stride: int
    seed: int = 7


@pytest.mark.parametrize("length, stride, limit, expected", [
    (100, 128, None, (128, 64)), (100, 20, None, (128, 20)), (900, 128, 512, (384, 128)),
    (900, 400, None, (384, 192)), (900, 128, 80, (80, 40)),
])
def test_windows_fit_the_questions_and_the_model(bert, length, stride, limit, expected):
    found = fit_windows(Windows(None, stride), questions_of_lengths(length), bert, limit)
    assert (found.max_length, found.stride, found.seed) == (*expected, 7)
    assert type(found.max_length) is type(found.stride) is int
    chosen = Windows(50, 40)
    assert fit_windows(chosen, questions_of_lengths(length), bert, limit) is chosen


def test_window_length_is_at_most_the_limits(bert):
    long = questions_of_lengths(900)
    assert window_length(long, bert, most=1000) == bert.model_max_length == 512
    assert window_length(long, bert, most=40) == 40


def test_label_window_by_hand(bert):
    context = "Ada Brenn crossed it in 1911."
    encoded = bert("Who?", context, return_offsets_mapping=True)
    tokens = encoded.tokens()
    assert tokens == [
        "[CLS]",
        "who",
        "?",
        "[SEP]",
        "ada",
        "br",
        "##en",
        "##n",
        "crossed",
        "it",
        "in",
        "1911",
        ".",
        "[SEP]",
    ]
    offsets = [
        o if i == 1 else (-1, -1) for o, i in zip(encoded["offset_mapping"], encoded.sequence_ids())
    ]
    assert label_window(offsets, 0, 9) == (4, 7)
    assert label_window(offsets, 24, 28) == (11, 11)
    assert label_window(offsets, 5, 6) == (5, 5), "inside a token: that token"
    assert label_window(offsets, 0, 40) == (0, 0), "beyond the window"
    assert label_window(offsets[:4] + offsets[5:], 0, 9) == (0, 0), "its first token is missing"
    assert label_window(offsets[:4], 0, 9) == (0, 0), "no context at all"


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), min_size=1, max_size=12), st.data()
)
def test_label_window_equals_a_plain_search(steps, data):
    """Tokens have 1 to 4 characters and gaps of 0 to 2; labels contain the first and the last."""
    offsets, at = [(-1, -1)], 0
    for gap, size in steps:
        offsets.append((at + gap, at + gap + size))
        at += gap + size
    offsets.append((-1, -1))
    covered = [c for c in range(at) if any(a <= c < b for a, b in offsets)]
    first = data.draw(st.sampled_from(covered))
    last = data.draw(st.sampled_from([c for c in covered if c >= first]))
    start, end = (next(i for i, (a, b) in enumerate(offsets) if a <= c < b) for c in (first, last))
    assert label_window(offsets, first, last + 1) == (start, end)


def test_labels_ignore_white_space_around_an_answer(bert):
    context = "Who? The crew of  seven  did."
    examples = Dataset.from_list(
        [
            dict(
                id="a",
                title="",
                context=context,
                question="How many?",
                answers={"text": ["  seven  "], "answer_start": [16]},
            )
        ],
        SQUAD_FEATURES,
    )
    (window,) = featurise(examples, bert, 64, 16)
    assert window["start_positions"] == window["end_positions"]
    assert bert.decode(window["input_ids"][window["start_positions"]]) == "seven"


def test_more_than_1000_texts_are_tokenised_as_each_alone(bert):
    texts = [f"text {n}" for n in range(2002)]
    found = tokenise(texts, bert)
    assert len(found) == 2002
    for n in (0, 999, 1000, 1001, 1999, 2000, 2001):
        ids, spans = found[n]
        alone = bert(texts[n], add_special_tokens=False, return_offsets_mapping=True)
        assert ids.tolist() == alone["input_ids"]
        assert [tuple(span) for span in spans.tolist()] == alone["offset_mapping"]
        assert ids.dtype == spans.dtype == np.int32
    assert tokenise([], bert) == [] and tokenise([""], bert)[0][1].shape == (0, 2)


def test_a_long_text_is_tokenised_without_a_warning(bert):
    """transformers warns of a text above the tokenizer's limit; windows split it later."""
    records, handler = [], logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        fresh = copy.deepcopy(bert)
        fresh.deprecation_warnings.clear()  # each tokenizer warns once
        (found,) = tokenise(["word " * 600], fresh)
    finally:
        logger.removeHandler(handler)
    assert len(found[0]) == 600 > bert.model_max_length and records == []


@pytest.mark.parametrize("text, spans, expected", [
    ("cafe\u0301 x", [[0, 4], [6, 7]], [[0, 5], [6, 7]]),
    ("x e\u0301", [[0, 1], [2, 3]], [[0, 1], [2, 4]]),  # the last token
    ("e\u0301\u0323x", [[0, 1], [3, 4]], [[0, 3], [3, 4]]),  # two marks
    ("e\u0301x", [[0, 1], [1, 3]], [[0, 1], [1, 3]]),  # the mark belongs to the next token
    ("a東b", [[0, 1], [2, 3]], [[0, 1], [2, 3]]),  # a letter that is no mark
    ("e\u0301 e\u0301", [[0, 1], [3, 4]], [[0, 2], [3, 5]]),
    ("abc", [[0, 1], [2, 3]], [[0, 1], [2, 3]]), ("é", [], []),
])
def test_tokens_end_after_the_marks_of_their_last_letter(text, spans, expected):
    given_spans = np.array(spans, np.int32).reshape(-1, 2)
    assert with_marks(given_spans, text).tolist() == expected
    assert given_spans.tolist() == spans, "the argument is unchanged"


@pytest.mark.parametrize("text, part", [
    ("seven", (0, 5)), ("  seven ", (2, 7)), ("\u200bseven\xa0\t", (1, 6)), ("a b", (0, 3)),
    ("\xadé!\u2028", (1, 3)), ("$5 ", (0, 2)), ("\u3000東京", (1, 3)), (" \n\u200b", (0, 0)),
    ("", (0, 0)), ("_x_", (0, 3)),
])
def test_the_visible_part_has_no_white_space_around_it(text, part):
    assert visible_part(text) == part


def test_the_fingerprint_of_windows_is_that_of_tokens_and_labels(examples, bert):
    windows = featurise(examples, bert, 64, 24)
    parts = (np.concatenate(windows["input_ids"]), windows["start_positions"][:],
             windows["end_positions"][:])
    content = b"".join(np.asarray(part, np.int32).tobytes() for part in parts)
    assert windows_fingerprint(windows) == hashlib.blake2b(content).hexdigest()[:12]


def test_no_examples_make_no_windows(examples, bert):
    empty = featurise(examples.select([]), bert, 64, 16)
    assert len(empty) == 0 and empty.features == featurise(examples, bert, 64, 16).features
    with pytest.raises(ValueError, match="no features to load batches from"):
        make_loader(empty, bert, 4, shuffle=True)


def test_a_question_too_long_for_a_window_raises(examples, tokenizer):
    long = examples.select([0, 1]).to_list()
    long[1]["question"] = "why " * 60
    long = Dataset.from_list(long, SQUAD_FEATURES)
    with pytest.raises(
        ValueError, match=f"question '{long[1]['id']}' has [0-9]+ tokens and leaves"
    ) as error:
        featurise(long, tokenizer, 64, 16)
    one_line(error)
    room = [dict(long[1], context="Page 1.", answers={"text": ["Page"], "answer_start": [0]})]
    (window,) = featurise(Dataset.from_list(room, SQUAD_FEATURES), tokenizer, 384, 370)
    assert window["start_positions"] > 0, "little room is enough for little context"


@pytest.mark.parametrize("context, room, stride, windows", [
    (8, 8, 8, 1), (9, 8, 8, None), (9, 8, 9, None), (8, 8, 20, 1), (9, 8, 7, 2), (9, 0, 0, None),
    (0, 0, 0, 1),
])
def test_a_split_context_needs_more_room_than_the_stride(bert, context, room, stride, windows):
    """`room` is what the question and 3 special tokens leave of 32 tokens."""
    row = {"id": "x", "title": "", "question": "why " * (32 - 3 - room), "context": "a " * context,
           "answers": {"text": ["a"], "answer_start": [0]}}
    examples = Dataset.from_list([row], SQUAD_FEATURES)
    if windows is None:
        with pytest.raises(ValueError, match=f"has {29 - room} tokens and leaves {room} of"):
            featurise(examples, bert, 32, stride)
    else:
        assert len(featurise(examples, bert, 32, stride)) == windows


def test_columns_of_windows_have_32_and_8_bits(examples, bert):
    kinds = featurise(examples, bert, 64, 24).features
    numbers = dict.fromkeys(["start_positions", "end_positions", "example"], Value("int32"))
    assert kinds == Features({
        "input_ids": List(Value("int32")), "attention_mask": List(Value("int8")),
        "token_type_ids": List(Value("int8")), "offsets": List(List(Value("int32"), length=2)),
    } | numbers)
    part, columns = pair_template(bert)
    assert {name: values.dtype for name, values in columns.items()} == {
        "input_ids": np.int32, "attention_mask": np.int8, "token_type_ids": np.int8}
    window = make_window((part, columns), np.array([7, 8]), np.array([9]), np.array([[4, 6]]))
    assert window["offsets"].dtype == np.int32
    assert window["offsets"].tolist() == [[-1, -1]] * 4 + [[4, 6], [-1, -1]]
    assert window["input_ids"].tolist() == [101, 7, 8, 102, 9, 102]
    assert window["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("pair, part", [
    ("[CLS] $A [SEP] $B:1 [SEP]:1", [-1, 0, -1, 1, -1]), ("$A [SEP] $B:1", [0, -1, 1]),
    ("$A [SEP] $B [SEP] [CLS]", [0, -1, 1, -1, -1]),  # the order of XLNet
])
def test_a_template_has_one_token_of_each_text(pair, part):
    """This tokenizer makes two tokens of each letter."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "x": 4, "##y": 5}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.Sequence([
        normalizers.Replace("a", "xy"), normalizers.Replace("b", "xy")])
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="$A", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    found, columns = pair_template(tokenizer)
    assert found.tolist() == part
    ids = {"[CLS]": 2, "[SEP]": 3, "$A": 4, "$B": 4}
    assert columns["input_ids"].tolist() == [ids[one.split(":")[0]] for one in pair.split()]


@pytest.mark.parametrize("max_length, stride", [(64, 64), (64, -1), (0, 0)])
def test_invalid_strides_raise(examples, bert, max_length, stride):
    with pytest.raises(ValueError, match="expected 0 or more, and less than max_length"):
        featurise(examples, bert, max_length, stride)


def test_a_slow_tokenizer_raises(examples):
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow does not return the characters.*AutoTokenizer"):
        featurise(examples, Slow(), 64, 16)


@needs_squad
def test_99_percent_of_squad_answers_are_labelled(bert, roberta):
    data = load_squad(str(SQUAD), n_train=400, n_valid=50, seed=1)
    assert len(data["eval"]) == 10570 and data["eval"]["id"][0] == "56be4db0acb8001400a502ec"
    assert not set(data["train"]["context"]) & set(data["valid"]["context"])
    for tokenizer, max_length, stride in ((bert, 384, 128), (bert, 128, 48), (roberta, 384, 128)):
        features = featurise(data["train"], tokenizer, max_length, stride)
        covered = check_windows(data["train"], features, tokenizer, max_length, stride)
        assert len(covered) >= 0.99 * 400, "only answers longer than the stride may lack a label"


# -- batches ---------------------------------------------------------------------------------


def order(loader):
    return [row for batch in loader for row in batch["row"].tolist()]


def test_batches_contain_each_window_once(examples, tokenizer):
    features = featurise(examples, tokenizer, 64, 24)
    for shuffle in (True, False):
        loader = make_loader(features, tokenizer, 4, shuffle)
        assert sorted(order(loader)) == list(range(len(features)))
        assert len(loader) == -(-len(features) // 4)
        for batch in loader:
            wanted = set(features.column_names) - {"example", "offsets"} | {"row"}
            assert set(batch) == wanted
            assert all(t.dtype == torch.int64 for t in batch.values())
            longest = int(batch["attention_mask"].sum(1).max())
            assert batch["input_ids"].shape == (len(batch["row"]), longest)
            for i, row in enumerate(batch["row"].tolist()):
                window = features[row]
                length = len(window["input_ids"])
                for name in wanted - {"row"}:
                    if isinstance(window[name], list):
                        assert batch[name][i, :length].tolist() == window[name]
                    else:
                        assert batch[name][i] == window[name]
                assert (batch["input_ids"][i, length:] == tokenizer.pad_token_id).all()
                assert (batch["attention_mask"][i, length:] == 0).all()


def test_the_seed_fixes_the_order_of_every_epoch(examples, bert):
    features = featurise(examples, bert, 64, 24)
    one, two, other = (make_loader(features, bert, 4, True, seed) for seed in (7, 7, 8))
    epochs = [order(one), order(one), order(one)]
    assert len(set(map(tuple, epochs))) == 3
    torch.manual_seed(0)
    assert [order(two), order(two), order(two)] == epochs
    drawn = torch.rand(1)
    assert torch.manual_seed(0) and torch.rand(1) == drawn, (
        "torch's global random state is unchanged"
    )
    assert order(other) != epochs[0]
    still = make_loader(features, bert, 4, False)
    assert order(still) == order(still)
    lengths = [len(features[row]["input_ids"]) for row in order(still)]
    assert lengths == sorted(lengths, reverse=True)


def test_the_seed_is_0_and_equal_lengths_keep_their_order(examples, bert):
    features = featurise(examples, bert, 64, 24)
    plain, zero, one = (make_loader(features, bert, 4, True, *seed) for seed in ([], [0], [1]))
    assert order(plain) == order(zero) != order(one)
    lengths = [len(ids) for ids in features["input_ids"]]
    assert len(set(lengths)) < len(lengths) > 40
    assert order(make_loader(features, bert, 4, False)) == sorted(
        range(len(lengths)), key=lambda row: (-lengths[row], row))


@pytest.mark.parametrize("done", [0, 1, 5, 12, 15, 28])
def test_endless_batches_skip_the_first_ones(examples, bert, done):
    features = featurise(examples, bert, 512, 24)

    def rows(done, last=30):
        loader = make_loader(features, bert, 2, True, seed=3)
        assert len(loader) == 12
        batches = islice(endless_batches(loader, done), last - done)
        return [batch["row"].tolist() for batch in batches]

    assert rows(done) == rows(0)[done:]


def test_95_percent_of_batched_tokens_are_not_padding(bert):
    features = featurise(load_squad("synthetic", n_train=600, n_eval=1)["train"], bert, 256, 64)
    used = sum(map(len, features["input_ids"]))
    sizes = [batch["input_ids"].numel() for batch in make_loader(features, bert, 16, True)]
    assert used / sum(sizes) > 0.95


def test_padding_is_on_the_right_for_any_tokenizer(examples, bert, caplog):
    features = featurise(examples, bert, 64, 24)
    side, bert.padding_side = bert.padding_side, "left"
    try:
        batches = list(make_loader(features, bert, 4, False))
    finally:
        bert.padding_side = side
    assert all((batch["input_ids"][:, 0] == bert.cls_token_id).all() for batch in batches)
    assert not caplog.records


def test_loading_writes_no_file(tmp_path, bert):
    """Loading, windows and batches write no file, in the working folder and at home."""
    code = (
        "from smp.data.reading import load_squad\n"
        "from smp.data.windows import featurise, make_loader\n"
        "from transformers import AutoTokenizer\n"
        f"t = AutoTokenizer.from_pretrained({bert.name_or_path!r})\n"
        "f = featurise(load_squad('synthetic', 20, 0, 5)['train'], t, 64, 16)\n"
        "list(make_loader(f, t, 4, True))"
    )
    env = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
