# %% [markdown]
# ## The data: SQuAD v1.1
#
# Extractive question answering (Rajpurkar et al., 2016): given a question and a paragraph, the
# answer is a span of the paragraph, stated as its text and the character where it starts. The
# data may come from the embedded almanac, from a SQuAD JSON file or folder, or from the Hub; it
# is checked and given the same types either way, because a label that points at the wrong
# characters does not crash anything: it only makes the model worse.

# %%
import gzip
import hashlib
import json
import lzma
import os
import unicodedata
import uuid
import zlib
from pathlib import Path

import datasets
import numpy as np
import pyarrow.compute
import torch
from datasets import Dataset, DatasetDict, Features, List, Value, load_dataset
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import LengthGroupedSampler

# %%
from smp.almanac import make_almanac

# %%
from smp.unpack import read_unpacked

# %% [markdown]
# A file is read article by article. Whatever is missing or misplaced is named by article,
# paragraph and question, in one line.

# %%
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


def squad_field(node, name, kind, where):
    """node[name], of the wanted type, or a ValueError that says where it was looked for."""
    if not isinstance(node, dict):
        found = type(node).__name__
        raise ValueError(f"{where}: expected a JSON object, found {found}; see the SQuAD v1.1 form")
    if name not in node:
        raise ValueError(f"{where}: no field {name!r}; add it, or see the SQuAD v1.1 form")
    value = node[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        found = type(value).__name__
        raise ValueError(f"{where}: field {name!r} must be {kind.__name__}, found {found}")
    return value


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


def check_characters(text, where):
    """ValueError where the text holds half a character: JSON can spell one, which neither Arrow nor
    a tokenizer can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        bad = text[error.start]
        raise ValueError(f"{where} holds {bad!a}, which is not a character; mend it") from None


def is_squad_row(row):
    """Whether the row's fields are of the types of SQUAD_FEATURES."""
    answers = row["answers"] if isinstance(row["answers"], dict) else {}
    texts, starts = answers.get("text"), answers.get("answer_start")
    return (
        all(isinstance(row[name], str) for name in ("id", "title", "context", "question"))
        and isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        and isinstance(starts, list) and all(type(start) is int for start in starts)
    )


def check_squad_rows(rows, source):
    """The rows, unchanged, if ids differ and every answer stands where it says; ValueError."""
    seen = set()
    for row in rows:
        where = f"{source}: question {row['id']!r}"
        if not is_squad_row(row):
            raise ValueError(f"{where} lacks a text or its answers; expected rows as in SQuAD v1.1")
        if row["id"] in seen:
            raise ValueError(f"{where} occurs twice; give every question its own id")
        seen.add(row["id"])
        texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
        if len(texts) == 0 or len(texts) != len(starts):
            raise ValueError(
                f"{where} has {len(texts)} answers and {len(starts)} starts; expected one or more "
                "pairs: leave unanswerable questions (SQuAD v2) out"
            )
        for text, start in zip(texts, starts):
            if not text.strip():
                raise ValueError(f"{where} has the empty answer {text!r}; leave it out")
            found = row["context"][max(start, 0) : max(start, 0) + len(text)]
            if start < 0 or found != text:
                raise ValueError(
                    f"{where}: the answer {text[:60]!r} does not stand at answer_start {start} of "
                    f"its context, {found[:60]!r} does; correct the number"
                )
        check_characters("".join([row["id"], row["title"], row["context"], row["question"]]), where)
    return rows

# %% [markdown]
# Three kinds of source, one kind of result. A Hub name is tried last, so a file or folder of the
# same name wins.

# %%
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


def squad_rows_of_almanac(n_train, n_valid, n_eval):
    """Embedded rows: the same world for every seed, so that scores of two seeds compare."""
    spare = 10  # so that validation can begin on a fresh page where there are enough
    worlds = (("train", n_train + (n_valid + spare if n_valid else 0)), ("test", n_eval))
    rows, held_out = (
        check_squad_rows([r for a in squad_articles(make_almanac(split, n), "almanac") for r in a],
                         f"almanac {split}")
        for split, n in worlds
    )
    pages = {row["context"] for row in rows[:n_train]}
    later = sorted(rows[n_train:], key=lambda row: row["context"] in pages)
    return rows[:n_train], later[:n_valid], held_out

# %% [markdown]
# Questions on one paragraph resemble each other, so the validation questions, on which nothing
# is trained, are taken by whole paragraphs.

# %%
def check_squad_count(name, count, at_most, at_least=1):
    """ValueError unless count is a whole number between at_least and at_most."""
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < at_least:
        raise ValueError(f"{name} = {count!r}: expected a whole number, {at_least} or more")
    if count > at_most:
        raise ValueError(f"{name} = {count}: the data has only {at_most} for it; ask for fewer")


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
        train, valid, held_out = squad_rows_of_almanac(n_train, n_valid, n_eval)
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

# %% [markdown]
# ## Features: windows with a stride
#
# The encoder reads question and context together, `[CLS] question [SEP] context [SEP]`, and at
# most `max_length` tokens at once. A longer context is read in several windows, each sharing
# `stride` tokens with the one before. A window's labels are the tokens of the answer's first and
# last character; a window that lacks part of the answer points at `[CLS]`, its way of saying
# "not here".

# %%
def label_window(offsets, answer_start, answer_end):
    """(start, end) tokens of the characters [answer_start, answer_end), or (0, 0): not inside.

    offsets: (L, 2) first and last+1 character of each token, -1 where it is not context.
    """
    offsets = np.asarray(offsets)  # (L, 2)
    context = np.flatnonzero(offsets[:, 0] >= 0)
    inside = np.flatnonzero((offsets[:, 0] < answer_end) & (offsets[:, 1] > answer_start))
    if len(inside) == 0 or offsets[context[0], 0] > answer_start:
        return 0, 0
    if offsets[context[-1], 1] < answer_end:
        return 0, 0
    return int(inside[0]), int(inside[-1])


# %% [markdown]
# Not every character has a token. An uncased BERT drops accents, also those that Unicode writes as
# characters of their own after the letter: they are counted to the token before, so that no answer
# ends within a letter. Signs that are not seen, such as those that turn the direction of writing,
# may stand at the ends of an answer: they are not looked for.

# %%
def combining_marks(text):
    """Where in the text a character belongs to the one before it: accents and vowel signs."""
    if text.isascii():
        return set()
    return {i for i, sign in enumerate(text) if unicodedata.category(sign)[0] == "M"}


def with_marks(spans, marks, end):
    """The spans (L, 2) of tokens, their ends moved over marks that belong to no token.

    marks: of the context (`combining_marks`), which is `end` characters long.
    """
    if not marks:
        return spans
    rows, spans = np.flatnonzero(spans[:, 0] >= 0), spans.copy()
    for row, following in zip(rows, [*spans[rows[1:], 0], end]):
        while spans[row, 1] < following and spans[row, 1] in marks:
            spans[row, 1] += 1
    return spans


def seen_part(text):
    """(first, last + 1) of what is neither white space nor an unseen sign; (0, 0) of nothing."""
    seen = [i for i, sign in enumerate(text) if unicodedata.category(sign)[0] not in "CZ"]
    return (seen[0], seen[-1] + 1) if seen else (0, 0)


def check_question_fits(ids, questions, contexts, tokenizer, max_length, stride):
    """ValueError where a question leaves a window no more room than two windows share."""
    special = tokenizer.num_special_tokens_to_add(pair=True)
    lengths = [len(q) for q in tokenizer(questions, add_special_tokens=False)["input_ids"]]
    for i, length in enumerate(lengths):
        room = max_length - special - length
        if room > stride:
            continue
        context = tokenizer(contexts[i], add_special_tokens=False, verbose=False)["input_ids"]
        if len(context) > room:
            raise ValueError(
                f"question {ids[i]!r} has {length} tokens and leaves {max(room, 0)} of max_length "
                f"{max_length} to its context, not more than the stride {stride}; raise "
                "max_length, lower the stride, or leave the question out"
            )


def featurise_batch(batch, indices, tokenizer, max_length, stride):
    questions = [question.lstrip() for question in batch["question"]]
    check_question_fits(batch["id"], questions, batch["context"], tokenizer, max_length, stride)
    windows = tokenizer(
        questions,
        batch["context"],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    sample, offsets = windows.pop("overflow_to_sample_mapping"), windows.pop("offset_mapping")
    columns = {name: windows[name] for name in windows}
    columns |= {name: [] for name in ("start_positions", "end_positions", "example", "offsets")}
    marks = [combining_marks(context) for context in batch["context"]]
    for i, one in enumerate(sample):
        # None stands for special tokens, 0 for the question, 1 for the context
        of_context = np.array(windows.sequence_ids(i), dtype=float) == 1  # (L,)
        spans = np.where(of_context[:, None], np.array(offsets[i]), -1)  # (L, 2)
        spans = with_marks(spans, marks[one], len(batch["context"][one]))
        answers = batch["answers"][one]
        first, last = (answers["answer_start"][0] + at for at in seen_part(answers["text"][0]))
        start, end = label_window(spans, first, last)
        columns["start_positions"].append(start)
        columns["end_positions"].append(end)
        columns["example"].append(indices[one])
        columns["offsets"].append(spans)
    return columns


def featurise(examples, tokenizer, max_length, stride):
    """Windows of at most max_length tokens, `stride` of them shared with the one before.

    Columns, unpadded: input_ids, attention_mask, token_type_ids (if the tokenizer makes them),
    start_positions, end_positions (of the first reference answer; 0, 0 where the window lacks
    part of it), example (row in `examples`), offsets (L, 2: characters of the context, -1 for
    tokens that are not context). Raises ValueError where windows cannot be made.
    Source: Devlin et al., 2019, section 4.2, and Hugging Face's question answering example.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} does not say which characters its tokens stand for; "
            "expected a fast tokenizer: load it with AutoTokenizer"
        )
    if not 0 <= stride < max_length:
        raise ValueError(
            f"stride {stride}: expected 0 or more, and less than max_length {max_length}"
        )
    inputs = {"input_ids": "int32", "attention_mask": "int8", "token_type_ids": "int8"}
    columns = {
        name: List(Value(kind)) for name, kind in inputs.items()
        if name in tokenizer("a", "b")
    }
    columns |= {n: Value("int32") for n in ("start_positions", "end_positions", "example")}
    columns["offsets"] = List(List(Value("int32"), length=2))
    if len(examples) == 0:  # map would return no columns at all
        return Dataset.from_dict({name: [] for name in columns}, Features(columns))
    brief = len(examples) < 10_000 and not datasets.are_progress_bars_disabled()
    if brief:  # over in seconds: no bar
        datasets.disable_progress_bars()
    try:
        return examples.with_format(None).map(
            featurise_batch,
            batched=True,
            with_indices=True,
            remove_columns=examples.column_names,
            features=Features(columns),
            fn_kwargs=dict(tokenizer=tokenizer, max_length=max_length, stride=stride),
            keep_in_memory=True,
            load_from_cache_file=False,
            new_fingerprint=uuid.uuid4().hex,  # to hash the tokenizer takes longer than to use it
            desc="featurising",
        )
    finally:
        if brief:
            datasets.enable_progress_bars()

# %% [markdown]
# Padding is work for nothing. Windows are shuffled and then sorted by length within stretches of
# at most fifty batches, so that a batch holds windows of similar length; each epoch has its own
# order, and the seed fixes them all.

# %%
def make_loader(features, tokenizer, batch_size, shuffle, seed=0):
    """DataLoader of dicts of int64 tensors (B, longest in batch), with "row": (B,) in features.

    Shuffled: batches of similar length, another order at each iteration, all fixed by `seed`
    (the order's state is `loader.sampler.generator`). Not shuffled: longest first, always alike.
    """
    if len(features) == 0:
        raise ValueError("no features to load batches from; give at least one question")
    wanted = ("input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions")
    windows = features.with_format("arrow")[:]
    lengths = pyarrow.compute.list_value_length(windows["input_ids"]).to_pylist()
    columns = [name for name in features.column_names if name in wanted]
    rows = features.with_format(None).select_columns(columns)
    rows = rows.add_column("row", np.arange(len(features)))
    if shuffle:
        order = torch.Generator().manual_seed(seed)
        sampler = LengthGroupedSampler(batch_size, lengths=lengths, generator=order)
    else:
        sampler = sorted(range(len(lengths)), key=lambda row: -lengths[row])

    def collate(batch):
        # padded on the right whatever the tokenizer prefers, so that token i is offset i
        return dict(tokenizer.pad(batch, padding_side="right", return_tensors="pt"))

    # its own generator: otherwise each epoch would draw a number from torch's global one
    return DataLoader(
        rows, batch_size, sampler=sampler, collate_fn=collate, generator=torch.Generator()
    )
