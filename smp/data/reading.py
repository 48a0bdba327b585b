"""Load question answering data: synthetic, a SQuAD v1.1 file or folder, or a dataset on the Hub.

Every source is checked and returned with the same columns and types.
"""

import hashlib
import json
import os
from itertools import chain
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value, load_dataset

from smp.data.squad_file import SQUAD_OPENERS, check_squad_rows, read_squad_file, squad_articles
from smp.data.synthetic import make_synthetic_squad
from smp.files import cached_if_offline
from smp.text import first_line

SQUAD_FEATURES = Features({
    "id": Value("string"),
    "title": Value("string"),
    "context": Value("string"),
    "question": Value("string"),
    "answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))},
})


def squad_rows_of_file(path: Path | str) -> list[dict]:
    """Return the checked rows of a SQuAD v1.1 file."""
    return check_squad_rows([*chain(*squad_articles(read_squad_file(path), path))], path)


def squad_rows_of_path(path: Path) -> tuple[list[dict], list[dict]]:
    """Return (train, eval) rows: a folder's two files, or a file's first and last articles."""
    if path.is_dir():
        names = sorted(f.name for f in path.iterdir() if f.name.lower().endswith((*SQUAD_OPENERS,)))
        train = [n for n in names if "train" in n.lower()]
        held_out = [n for n in names if any(w in n.lower() for w in ("dev", "valid", "test"))]
        if len(train) != 1 or len(held_out) != 1 or train == held_out:
            raise ValueError(
                f"{path}: expected one *train* file and one *dev*, *valid* or *test* file (.json, "
                f".json.gz or .json.xz), found {', '.join(names) or 'none'}; remove the others"
            )
        return squad_rows_of_file(path / train[0]), squad_rows_of_file(path / held_out[0])
    articles = squad_articles(read_squad_file(path), path)
    if len(articles) < 2:
        raise ValueError(f"{path}: only one article with questions; expected two or more, because "
                         "the last tenth of the articles is held out for evaluation")
    rows = check_squad_rows([*chain(*articles)], path)
    n_train = sum(map(len, articles[: -max(1, len(articles) // 10)]))
    return rows[:n_train], rows[n_train:]


def squad_rows_of_hub(name: str) -> list[list[dict]]:
    """Return the train rows and the validation rows of a dataset on the Hub."""
    try:
        with cached_if_offline():
            splits = load_dataset(name)
    except Exception as error:  # the Hub's client, HTTP and data builders raise many types
        raise FileNotFoundError(
            f"{name}: not an existing file or folder, and not loaded from the Hub "
            f"({type(error).__name__}: {first_line(error)}); check the name and the connection, or "
            "use 'synthetic' or the path of a SQuAD .json file"
        ) from None
    parts = []
    for split in ("train", "validation"):
        rows = splits[split] if split in splits else Dataset.from_dict({})
        if len(rows) == 0 or not {*SQUAD_FEATURES} <= {*rows.column_names}:
            raise ValueError(
                f"{name}: its split {split!r} has {len(rows)} rows with the columns "
                f"{', '.join(rows.column_names) or 'none'}; expected rows with the columns "
                f"{', '.join(SQUAD_FEATURES)}"
            )
        rows = rows.select_columns([*SQUAD_FEATURES]).to_list()
        parts.append(check_squad_rows(rows, f"{name} {split}"))
    return parts


def synthetic_rows(n_train: int, n_valid: int, n_eval: int) -> tuple[list[dict], ...]:
    """Return train, valid and eval rows, the same for every seed, so that seeds compare."""
    spare = 10 if n_valid else 0  # so that valid can start at a passage that train does not use
    rows, held_out = ([*chain(*squad_articles(make_synthetic_squad(split, n), "synthetic"))]
                      for split, n in (("train", n_train + n_valid + spare), ("test", n_eval)))
    passages = {row["context"] for row in rows[:n_train]}
    later = sorted(rows[n_train:], key=lambda row: row["context"] in passages)
    return rows[:n_train], later[:n_valid], held_out


def check_squad_count(name: str, count: int, at_most: int, at_least: int = 1) -> None:
    """Raise ValueError unless count is a whole number from at_least to at_most."""
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < at_least:
        raise ValueError(f"{name} = {count!r}: expected a whole number, {at_least} or more")
    if count > at_most:
        raise ValueError(f"{name} = {count}: the data has only {at_most}; use at most {at_most}")


def split_off_validation(rows: list[dict], n_train: int | None, n_valid: int, seed: int) -> tuple:
    """Return disjoint (train, valid) in random order.

    Questions on one paragraph resemble each other, so valid takes whole paragraphs, and train uses
    them only if it needs more questions. n_train=None takes all questions of other paragraphs.
    """
    check_squad_count("n_valid", n_valid, len(rows) - 1, at_least=0)
    if n_train is not None:
        check_squad_count("n_train", n_train, len(rows) - n_valid)
    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    number: dict[str, int] = {}  # of each paragraph, in the order of its first question
    valid = sorted(shuffled, key=lambda row: number.setdefault(row["context"], len(number)))
    valid = valid[:n_valid]
    ids, shared = {row["id"] for row in valid}, {row["context"] for row in valid}
    others = sorted((row for row in shuffled if row["id"] not in ids),
                    key=lambda row: row["context"] in shared)
    if n_train is None:
        n_train = sum(row["context"] not in shared for row in others) or len(others)
    return others[:n_train], valid


def remove_longer(rows: list[dict], longest_passage: int) -> list[dict]:
    """Return the rows whose passage has at most longest_passage words; ValueError without any."""
    short = [row for row in rows if len(row["context"].split()) <= longest_passage]
    if not short:
        raise ValueError(f"longest_passage {longest_passage}: all {len(rows):,} questions are on "
                         "longer passages; raise it")
    return short


def load_squad(data: Path | str, n_train: int | None = None, n_valid: int = 0,
               n_eval: int | None = None, seed: int = 0,
               longest_passage: int | None = None) -> DatasetDict:
    """Return a DatasetDict with "train", "valid" (taken out of train) and "eval".

    Rows: id, title, context, question, answers = {"text": [..], "answer_start": [..]}.
    data: "synthetic" (embedded) | a SQuAD .json, .json.gz or .json.xz file, whose last tenth of
    articles is "eval" | a folder with one *train* and one *dev*, *valid* or *test* file of this
    kind | a Hub dataset with the splits train and validation, if no file has its name.
    n_train, n_valid, n_eval: questions, sampled with `seed`. None takes all ("eval" keeps the
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
            rows, held_out = (remove_longer(part, longest_passage) for part in (rows, held_out))
        train, valid = split_off_validation(rows, n_train, n_valid, seed)
        if n_eval is not None:
            check_squad_count("n_eval", n_eval, len(held_out))
            chosen = np.random.default_rng(seed).choice(len(held_out), n_eval, replace=False)
            held_out = [held_out[i] for i in sorted(chosen)]
    return DatasetDict({
        part: Dataset.from_dict({name: [row[name] for row in rows] for name in SQUAD_FEATURES},
                                SQUAD_FEATURES)
        for part, rows in (("train", train), ("valid", valid), ("eval", held_out))
    })


def data_fingerprint(examples: Dataset) -> str:
    """Return 12 hex digits that depend on the ids, questions, contexts, answers and their order."""
    digest = hashlib.sha256()
    for batch in examples.with_format(None).iter(1000):
        for *texts, answers in zip(*(batch[n] for n in ("id", "question", "context", "answers"))):
            row = [*texts, [answers["text"], answers["answer_start"]]]
            digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()[:12]
