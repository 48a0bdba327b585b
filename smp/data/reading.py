"""Read question answering data: synthetic, a SQuAD v1.1 file or folder, or a dataset on the Hub.

Each source is checked and returned with the same columns and types. An answer is its text and the
character of the context where it starts (Rajpurkar et al., 2016).
"""

import gzip
import hashlib
import json
import lzma
import os
import zlib
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value, load_dataset

from smp.data.checks import check_squad_count, check_squad_rows, squad_field
from smp.data.packed import read_unpacked
from smp.data.synthetic import make_synthetic_squad
from smp.hub import cached_if_offline

SQUAD_OPENERS: dict[str, Callable] = {".json": open, ".json.gz": gzip.open, ".json.xz": lzma.open}
SQUAD_FEATURES = Features({
    "id": Value("string"),
    "title": Value("string"),
    "context": Value("string"),
    "question": Value("string"),
    "answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))},
})


def read_squad_file(path: Path | str) -> Any:
    """Return the parsed JSON of a .json, .json.gz or .json.xz file.

    Raises FileNotFoundError, or ValueError when it is not JSON or unpacks to too much.
    """
    path = Path(path)
    ending = next((end for end in SQUAD_OPENERS if path.name.lower().endswith(end)), None)
    if ending is None:
        expected = ", ".join(SQUAD_OPENERS)
        raise ValueError(f"{path}: expected a file ending in {expected}; rename or convert it")
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise ValueError(f"{path}: is no file; expected SQuAD v1.1 JSON")
    try:
        text = read_unpacked(SQUAD_OPENERS[ending], path).decode("utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; check the path") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: cannot be unpacked to UTF-8 text ({error}); download or compress it again"
        ) from None
    if not text.strip():
        raise ValueError(f"{path}: the file is empty; expected SQuAD v1.1 JSON")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a too long number, too
        raise ValueError(f"{path}: not JSON ({error}); expected SQuAD v1.1 JSON") from None


def squad_articles(document: Any, source: Path | str) -> list[list[dict]]:
    """Return the rows (id, title, context, question, answers) of each article with questions.

    Raises ValueError, with the place in the document, when it is not SQuAD v1.1.
    """
    articles = []
    for a, article in enumerate(squad_field(document, "data", list, source)):
        at_article = f"{source}: article {a}"
        title = squad_field(article, "title", str, at_article)
        rows = []
        for p, paragraph in enumerate(squad_field(article, "paragraphs", list, at_article)):
            at_paragraph = f"{at_article} ({title[:40]!r}), paragraph {p}"
            context = squad_field(paragraph, "context", str, at_paragraph)
            for q, qa in enumerate(squad_field(paragraph, "qas", list, at_paragraph)):
                at_question = f"{at_paragraph}, question {q}"
                row = {"id": squad_field(qa, "id", str, at_question), "title": title,
                       "context": context}
                at_question += f" (id {row['id']!r})"
                if qa.get("is_impossible"):
                    raise ValueError(
                        f"{at_question} is marked impossible, which is SQuAD v2; use v1.1, or "
                        "leave such questions out"
                    )
                row["question"] = squad_field(qa, "question", str, at_question)
                texts, starts = [], []
                for n, answer in enumerate(squad_field(qa, "answers", list, at_question)):
                    at_answer = f"{at_question}, answer {n}"
                    texts.append(squad_field(answer, "text", str, at_answer))
                    starts.append(squad_field(answer, "answer_start", int, at_answer))
                rows.append(row | {"answers": {"text": texts, "answer_start": starts}})
        if rows:
            articles.append(rows)
    if not articles:
        raise ValueError(f"{source}: no questions in it; expected SQuAD v1.1 JSON with 'qas'")
    return articles


def squad_rows_of_file(path: Path | str) -> list[dict]:
    """Return the checked rows of a SQuAD v1.1 file."""
    return check_squad_rows([*chain(*squad_articles(read_squad_file(path), path))], path)


def squad_rows_of_path(path: Path) -> tuple[list[dict], list[dict]]:
    """Return train and eval rows: a folder's two files, or a file's articles and its last ones."""
    if path.is_dir():
        names = sorted(f.name for f in path.iterdir() if f.name.lower().endswith((*SQUAD_OPENERS,)))
        train = [n for n in names if "train" in n.lower()]
        held_out = [n for n in names if any(w in n.lower() for w in ("dev", "valid", "test"))]
        if len(train) != 1 or len(held_out) != 1 or train == held_out:
            raise ValueError(
                f"{path}: expected one *train*.json* and one *dev*, *valid* or *test* file "
                f"(.json, .json.gz or .json.xz), found {', '.join(names) or 'none'}; leave just two"
            )
        return squad_rows_of_file(path / train[0]), squad_rows_of_file(path / held_out[0])
    articles = squad_articles(read_squad_file(path), path)
    if len(articles) < 2:
        raise ValueError(
            f"{path}: only one article with questions; expected two or more, because the last "
            "tenth of the articles is held out for evaluation"
        )
    rows = check_squad_rows([*chain(*articles)], path)
    n_train = sum(map(len, articles[: -max(1, len(articles) // 10)]))
    return rows[:n_train], rows[n_train:]


def squad_rows_of_hub(name: str) -> tuple[list[dict], ...]:
    """Return the train rows and the validation rows of a dataset on the Hub."""
    try:
        with cached_if_offline():
            splits = load_dataset(name)
    except Exception as error:  # the Hub's client, HTTP and data builders each raise their own
        cause = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"{name}: neither an existing file or folder nor a dataset that the Hub would give "
            f"({type(error).__name__}: {cause}); check the name and the connection, or give "
            "'synthetic' or the path of a SQuAD .json file"
        ) from None
    for split in ("train", "validation"):
        found = splits[split].column_names if split in splits else []
        missing = [column for column in SQUAD_FEATURES if column not in found]
        if missing:
            raise ValueError(
                f"{name}: its split {split!r} has no {', '.join(missing)} (splits: "
                f"{', '.join(splits)}); expected the columns of rajpurkar/squad"
            )
        if len(splits[split]) == 0:
            raise ValueError(f"{name}: its split {split!r} is empty; expected questions in it")
    return tuple(
        check_squad_rows(splits[s].select_columns([*SQUAD_FEATURES]).to_list(), f"{name} {s}")
        for s in ("train", "validation")
    )


def synthetic_rows(n_train: int, n_valid: int, n_eval: int) -> tuple[list[dict], ...]:
    """Return train, validation and eval rows, the same for every seed, so that seeds compare."""
    spare = 10 if n_valid else 0  # so that validation can start at a passage without train rows
    rows, held_out = ([*chain(*squad_articles(make_synthetic_squad(split, n), "synthetic"))]
                      for split, n in (("train", n_train + n_valid + spare), ("test", n_eval)))
    pages = {row["context"] for row in rows[:n_train]}
    later = sorted(rows[n_train:], key=lambda row: row["context"] in pages)
    return rows[:n_train], later[:n_valid], held_out


def split_off_validation(rows: list[dict], n_train: int | None, n_valid: int, seed: int) -> tuple:
    """Return (train, valid), disjoint, in random order, of different paragraphs while they last.

    Questions on one paragraph resemble each other, so validation takes whole paragraphs.
    n_train=None takes every question of the paragraphs that validation does not use.
    """
    check_squad_count("n_valid", n_valid, len(rows) - 1, at_least=0)
    if n_train is not None:
        check_squad_count("n_train", n_train, len(rows) - n_valid)
    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    by_paragraph: dict[str, list[dict]] = {}
    for row in shuffled:
        by_paragraph.setdefault(row["context"], []).append(row)
    valid = [*chain(*by_paragraph.values())][:n_valid]
    ids, pages = {row["id"] for row in valid}, {row["context"] for row in valid}
    apart = [row for row in shuffled if row["context"] not in pages]
    shared = [row for row in shuffled if row["context"] in pages and row["id"] not in ids]
    return (apart or shared) if n_train is None else (apart + shared)[:n_train], valid


def leave_out_longer(rows: list[dict], longest_passage: int) -> list[dict]:
    """Return the rows whose passage has at most longest_passage words; ValueError without any."""
    short = [row for row in rows if len(row["context"].split()) <= longest_passage]
    if not short:
        raise ValueError(
            f"longest_passage {longest_passage}: all {len(rows):,} questions are on longer passages"
        )
    return short


def load_squad(data: Path | str, n_train: int | None = None, n_valid: int = 0,
               n_eval: int | None = None, seed: int = 0,
               longest_passage: int | None = None) -> DatasetDict:
    """Return a DatasetDict with "train", "valid" (taken out of train) and "eval".

    Rows: id, title, context, question, answers = {"text": [..], "answer_start": [..]}.
    data: "synthetic" (embedded) | a SQuAD .json, .json.gz or .json.xz, whose last tenth
    of articles is "eval" | a folder with one *train* and one *dev*, *valid* or *test* file of that
    kind | a Hub dataset with splits train and validation, unless a file has its name.
    n_train, n_valid, n_eval: questions, sampled with `seed`; None means all ("eval" keeps the
    file's order), or 1,600 and 400 synthetic ones. longest_passage: words; synthetic passages are
    short and stay.
    Raises FileNotFoundError, or ValueError for data that is not SQuAD v1.1 or too small.
    """
    if not isinstance(data, (str, os.PathLike)) or not str(data):
        raise ValueError(f"data = {data!r}: expected 'synthetic', a path or a Hub dataset name")
    name, path = str(data), Path(os.path.expanduser(data))
    if name == "synthetic":
        n_train = 1600 if n_train is None else n_train
        n_eval = 400 if n_eval is None else n_eval
        for part, count, low in (("train", n_train, 1), ("valid", n_valid, 0), ("eval", n_eval, 1)):
            check_squad_count(f"n_{part}", count, 10**6, low)
        train, valid, held_out = synthetic_rows(n_train, n_valid, n_eval)
    else:
        if os.path.exists(path):  # unlike Path.exists, False for an impossible name
            rows, held_out = squad_rows_of_path(path)
        elif (isinstance(data, os.PathLike) or name.startswith((".", "~", os.sep))
              or name.count("/") > 1 or name.lower().endswith((*SQUAD_OPENERS,))):
            raise FileNotFoundError(f"{data}: no such file or folder; check the path")
        else:
            rows, held_out = squad_rows_of_hub(name)
        if longest_passage is not None:
            rows, held_out = (leave_out_longer(part, longest_passage) for part in (rows, held_out))
        train, valid = split_off_validation(rows, n_train, n_valid, seed)
        if n_eval is not None:
            check_squad_count("n_eval", n_eval, len(held_out))
            chosen = np.random.default_rng(seed).choice(len(held_out), n_eval, replace=False)
            held_out = [held_out[i] for i in sorted(chosen)]

    def dataset(rows):
        columns = {name: [row[name] for row in rows] for name in SQUAD_FEATURES}
        return Dataset.from_dict(columns, SQUAD_FEATURES)

    return DatasetDict(train=dataset(train), valid=dataset(valid), eval=dataset(held_out))


def data_fingerprint(examples: Dataset) -> str:
    """Return 12 hex digits of the ids, questions, contexts and answers in their order."""
    digest = hashlib.sha256()
    for batch in examples.with_format(None).iter(1000):
        for row in zip(batch["id"], batch["question"], batch["context"], batch["answers"]):
            answers = [row[3]["text"], list(row[3]["answer_start"])]
            digest.update(json.dumps([*row[:3], answers]).encode() + b"\n")
    return digest.hexdigest()[:12]
