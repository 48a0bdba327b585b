"""The data: SQuAD v1.1.

Extractive question answering (Rajpurkar et al., 2016): given a question and a paragraph, the
answer is a span of the paragraph, stated as its text and the character where it starts. The
data may come from the embedded almanac, from a SQuAD JSON file or folder, or from the Hub; it
is checked and given the same types either way, because a label that points at the wrong
characters does not crash anything: it only makes the model worse.
"""

import gzip
import hashlib
import json
import lzma
import os
import zlib
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value, load_dataset

from smp.data.checks import check_squad_count, check_squad_rows, squad_field
from smp.data.packed import read_unpacked
from smp.data.synthetic import make_synthetic_squad

SQUAD_OPENERS = {".json": open, ".json.gz": gzip.open, ".json.xz": lzma.open}


def read_squad_file(path):
    """The parsed JSON of a .json, .json.gz or .json.xz file; ValueError if it is not JSON, or
    unpacks to more than `most_unpacked` allows."""
    path = Path(path)
    opener = next((o for end, o in SQUAD_OPENERS.items() if path.name.lower().endswith(end)), None)
    if opener is None:
        expected = ", ".join(SQUAD_OPENERS)
        raise ValueError(f"{path}: expected a file ending in {expected}; rename or convert it")
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path}: is no file; expected SQuAD v1.1 JSON")
    try:
        text = read_unpacked(opener, path).decode("utf-8-sig")
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
    except (ValueError, RecursionError) as error:  # of a number with thousands of digits, too
        raise ValueError(f"{path}: not JSON ({error}); expected SQuAD v1.1 JSON") from None


def squad_articles(document, source):
    """Rows (id, title, context, question, answers) of each article that asks something."""
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
                identity = squad_field(qa, "id", str, at_question)
                at_question += f" (id {identity!r})"
                if qa.get("is_impossible"):
                    raise ValueError(
                        f"{at_question} is marked impossible, which is SQuAD v2; use v1.1, or "
                        "leave such questions out"
                    )
                question = squad_field(qa, "question", str, at_question)
                answers = {"text": [], "answer_start": []}
                for n, answer in enumerate(squad_field(qa, "answers", list, at_question)):
                    for name, kind in (("text", str), ("answer_start", int)):
                        place = f"{at_question}, answer {n}"
                        answers[name].append(squad_field(answer, name, kind, place))
                rows.append(dict(id=identity, title=title, context=context, question=question,
                                 answers=answers))
        if rows:
            articles.append(rows)
    if not articles:
        raise ValueError(f"{source}: no questions in it; expected SQuAD v1.1 JSON with 'qas'")
    return articles

# Three kinds of source, one kind of result. A Hub name is tried last, so a file or folder of the
# same name wins.
SQUAD_FEATURES = Features({
    "id": Value("string"),
    "title": Value("string"),
    "context": Value("string"),
    "question": Value("string"),
    "answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))},
})


def squad_rows_of_file(path):
    articles = squad_articles(read_squad_file(path), path)
    return check_squad_rows([row for article in articles for row in article], path)


def squad_rows_of_path(path):
    """Train rows and eval rows of a folder (two files), or of one file (its last articles)."""
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
    rows = check_squad_rows([row for article in articles for row in article], path)
    held_out = sum(len(article) for article in articles[-max(1, len(articles) // 10) :])
    return rows[:-held_out], rows[-held_out:]


def squad_rows_of_hub(name):
    """Train rows and validation rows of a dataset on the Hub."""
    try:
        splits = load_dataset(name)
    except Exception as error:  # the Hub's client, HTTP and data builders each raise their own
        cause = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"{name}: neither an existing file or folder nor a dataset that the Hub would give "
            f"({type(error).__name__}: {cause}); check the name and the connection, or give "
            "'almanac' or the path of a SQuAD .json file"
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


def synthetic_rows(n_train, n_valid, n_eval):
    """Embedded rows: the same world for every seed, so that scores of two seeds compare."""
    spare = 10  # so that validation can begin on a fresh page where there are enough
    worlds = (("train", n_train + (n_valid + spare if n_valid else 0)), ("test", n_eval))
    rows, held_out = (
        check_squad_rows([r for a in squad_articles(make_synthetic_squad(split, n), "almanac") for r in a],
                         f"almanac {split}")
        for split, n in worlds
    )
    pages = {row["context"] for row in rows[:n_train]}
    later = sorted(rows[n_train:], key=lambda row: row["context"] in pages)
    return rows[:n_train], later[:n_valid], held_out


def split_off_validation(rows, n_train, n_valid, seed):
    """(train, valid), disjoint, in random order; other paragraphs in each as far as they last.

    n_train=None takes every question of the paragraphs that validation does not use.
    """
    check_squad_count("n_valid", n_valid, len(rows) - 1, at_least=0)
    if n_train is not None:
        check_squad_count("n_train", n_train, len(rows) - n_valid)
    rng = np.random.default_rng(seed)
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    turn = {}  # paragraphs, in the order of their first question
    for row in shuffled:
        turn.setdefault(row["context"], len(turn))
    by_paragraph = sorted(shuffled, key=lambda row: turn[row["context"]])
    valid = by_paragraph[:n_valid]
    ids, pages = {row["id"] for row in valid}, {row["context"] for row in valid}
    apart = [row for row in shuffled if row["context"] not in pages]
    shared = [row for row in shuffled if row["context"] in pages and row["id"] not in ids]
    if n_train is None:
        return apart or shared, valid
    return (apart + shared)[:n_train], valid


def leave_out_longer(rows, longest_passage):
    """The rows whose passage has at most so many words; ValueError where none has."""
    short = [row for row in rows if len(row["context"].split()) <= longest_passage]
    if not short:
        raise ValueError(
            f"LONGEST_PASSAGE={longest_passage}: all {len(rows):,} questions are on longer passages"
        )
    return short


def load_squad(data, n_train=None, n_valid=0, n_eval=None, seed=0, longest_passage=None):
    """DatasetDict with "train", "valid" (taken out of train) and "eval".

    Rows: id, title, context, question, answers = {"text": [..], "answer_start": [..]}.
    data: "almanac" (embedded) | a SQuAD .json, .json.gz or .json.xz | a folder holding one
    *train* and one *dev*, *valid* or *test* file of that kind | a dataset name on the Hub, with
    splits train and validation. Of a single file, the last tenth of the articles is "eval".
    n_train, n_valid, n_eval: questions, sampled with `seed`; None means all ("eval" then keeps
    the file's order), for the almanac 1,600 and 400. longest_passage: in words, of train and eval;
    the almanac's are all short and stay.
    Raises FileNotFoundError where there is no such data, ValueError where it is not SQuAD v1.1
    or has fewer questions than asked for; each in one line.
    """
    if not isinstance(data, (str, os.PathLike)) or not str(data):
        raise ValueError(f"data = {data!r}: expected 'almanac', a path or a Hub dataset name")
    path = Path(os.path.expanduser(data))
    if str(data) == "almanac":
        n_train = 1600 if n_train is None else n_train
        n_eval = 400 if n_eval is None else n_eval
        for name, count, low in (("n_train", n_train, 1), ("n_valid", n_valid, 0),
                                 ("n_eval", n_eval, 1)):
            check_squad_count(name, count, 10**6, low)
        train, valid, held_out = synthetic_rows(n_train, n_valid, n_eval)
    else:
        if os.path.exists(path):  # False of a name that no file can have
            rows, held_out = squad_rows_of_path(path)
        elif str(data).lower().endswith((*SQUAD_OPENERS,)) or str(data).count("/") > 1 or (
            str(data).startswith((".", "~", os.sep)) or isinstance(data, os.PathLike)
        ):
            raise FileNotFoundError(f"{data}: no such file or folder; check the path")
        else:
            rows, held_out = squad_rows_of_hub(data)
        if longest_passage is not None:
            rows, held_out = (leave_out_longer(part, longest_passage) for part in (rows, held_out))
        train, valid = split_off_validation(rows, n_train, n_valid, seed)
        if n_eval is not None:
            check_squad_count("n_eval", n_eval, len(held_out))
            chosen = np.random.default_rng(seed).choice(len(held_out), n_eval, replace=False)
            held_out = [held_out[i] for i in sorted(chosen)]
    parts = {"train": train, "valid": valid, "eval": held_out}
    return DatasetDict({
        name: Dataset.from_dict(
            {column: [row[column] for row in rows] for column in SQUAD_FEATURES}, SQUAD_FEATURES
        )
        for name, rows in parts.items()
    })


def data_fingerprint(examples):
    """12 hex digits that change with any id, question, context or answer, or their order."""
    digest = hashlib.sha256()
    for batch in examples.with_format(None).iter(1000):
        for row in zip(batch["id"], batch["question"], batch["context"], batch["answers"]):
            answers = [row[3]["text"], list(row[3]["answer_start"])]
            digest.update(json.dumps([*row[:3], answers]).encode() + b"\n")
    return digest.hexdigest()[:12]
