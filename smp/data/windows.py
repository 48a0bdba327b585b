"""Split questions and contexts into windows of tokens with labels, and load them in batches."""

import hashlib
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import pyarrow.compute
import torch
from datasets import Dataset, Features, List, Value
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import LengthGroupedSampler

WINDOW_COLUMNS = {"input_ids": np.int32, "attention_mask": np.int8, "token_type_ids": np.int8}


def label_window(offsets: np.ndarray, answer_start: int, answer_end: int) -> tuple[int, int]:
    """Return the (start, end) tokens of the characters [answer_start, answer_end).

    offsets: (L, 2) first and last+1 character of each token, -1 for tokens that are not context.
    Returns (0, 0), the [CLS] token, if the window lacks a part of the answer.
    """
    offsets = np.asarray(offsets)
    context = np.flatnonzero(offsets[:, 0] >= 0)
    inside = np.flatnonzero((offsets[:, 0] < answer_end) & (offsets[:, 1] > answer_start))
    if len(inside) == 0 or not (
        offsets[context[0], 0] <= answer_start and answer_end <= offsets[context[-1], 1]
    ):
        return 0, 0
    return int(inside[0]), int(inside[-1])


def with_marks(spans: np.ndarray, text: str) -> np.ndarray:
    """Return token spans (L, 2) that end after the combining marks of their last letter.

    An uncased BERT drops accents, so the answer would otherwise end before the accent of a letter.
    """
    if text.isascii():
        return spans
    spans, following = spans.copy(), np.append(spans[1:, 0], len(text))
    for place, sign in enumerate(text):
        if sign > "\x7f" and unicodedata.category(sign)[0] == "M":
            spans[(spans[:, 1] == place) & (following > place), 1] += 1
    return spans


def visible_part(text: str) -> tuple[int, int]:
    """Return (first, last + 1) of the text without white space and invisible signs around it."""
    seen = [i for i, sign in enumerate(text) if unicodedata.category(sign)[0] not in "CZ"]
    return (seen[0], seen[-1] + 1) if seen else (0, 0)


def word_spans(words: list[int | None], spans: np.ndarray) -> np.ndarray:
    """Return for each token the span (L, 2) of its word; words: the number of each token's word."""
    numbers = np.array(words, object)
    first = np.append(True, numbers[1:] != numbers[:-1])[: len(spans)]
    word = np.cumsum(first) - 1
    return np.stack([spans[first, 0][word], spans[np.roll(first, -1), 1][word]], axis=1)


def tokenise(texts: list[str], tokenizer: Any,
             whole_words: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (ids (L,), spans (L, 2) in characters) of each text, without special tokens.

    whole_words: return the span of each token's word.
    """
    tokens: list[tuple[np.ndarray, np.ndarray]] = []
    for i in range(0, len(texts), 1000):
        found = tokenizer(texts[i : i + 1000], add_special_tokens=False,
                          return_offsets_mapping=True, verbose=False)
        for row, text in enumerate(texts[i : i + 1000]):
            ids, spans = np.array(found["input_ids"][row], np.int32), found["offset_mapping"][row]
            spans = with_marks(np.array(spans, np.int32).reshape(-1, 2), text)
            tokens.append((ids, word_spans(found.word_ids(row), spans) if whole_words else spans))
    return tokens


def tokenise_pairs(rows: dict[str, list], tokenizer: Any,
                   whole_words: bool = False) -> list[tuple[np.ndarray, ...]]:
    """Return (question ids (Q,), context ids (C,), context spans (C, 2)) of each row."""
    contexts = list(dict.fromkeys(rows["context"]))  # SQuAD has five questions on each
    tokens = dict(zip(contexts, tokenise(contexts, tokenizer, whole_words)))
    questions = tokenise([question.lstrip() for question in rows["question"]], tokenizer)
    return [(ids, *tokens[context]) for (ids, _), context in zip(questions, rows["context"])]


def pair_template(tokenizer: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return (part (T,), {column: values (T,)}) of a pair of one question and one context token.

    part: 0 for the question, 1 for the context, -1 for special tokens.
    """
    pair = tokenizer("a", "b")
    part = np.array([-1 if n is None else n for n in pair.sequence_ids(0)])
    once = (part < 0) | np.append(True, np.diff(part) != 0)  # one token of "a", one of "b"
    columns = {name: np.array(pair[name], kind)[once] for name, kind in WINDOW_COLUMNS.items()
               if name in pair}
    return part[once], columns


def make_window(template: tuple[np.ndarray, dict[str, np.ndarray]], question: np.ndarray,
                context: np.ndarray, spans: np.ndarray) -> dict[str, np.ndarray]:
    """Return {column: (L, ...)} of the window with these tokens of a question and a context."""
    part, columns = template
    counts = (len(question), len(context), 1)
    place = np.repeat(np.arange(len(part)), [counts[n] for n in part])
    window = {name: values[place] for name, values in columns.items()}
    window["offsets"] = np.full((len(place), 2), -1, np.int32)
    window["input_ids"][part[place] == 0] = question
    window["input_ids"][part[place] == 1] = context
    window["offsets"][part[place] == 1] = spans
    return window


def list_column(arrays: list[np.ndarray]) -> pyarrow.ListArray:
    """Return arrays (L,) or (L, 2) as an Arrow column of lists."""
    bounds, values = np.cumsum([0, *map(len, arrays)]), np.concatenate(arrays)
    if values.ndim == 2:
        values = pyarrow.FixedSizeListArray.from_arrays(values.ravel(), 2)
    return pyarrow.ListArray.from_arrays(bounds.astype(np.int32), values)


def featurise(examples: Dataset, tokenizer: Any, max_length: int, stride: int,
              max_question_len: int | None = None, whole_words: bool = False) -> Dataset:
    """Return windows of at most max_length tokens; neighbours share `stride` context tokens.

    Columns, unpadded: input_ids, attention_mask, token_type_ids (if the tokenizer has them),
    start_positions, end_positions (of the first reference answer; 0, 0 if the window lacks part of
    it), example (row in `examples`), offsets (L, 2: characters of the context, -1 for tokens that
    are not context). Raises ValueError if windows cannot be made.
    Source: Devlin et al., 2019, section 4.2, and Hugging Face's question answering example.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} does not return the characters of tokens; "
                         "expected a fast tokenizer: load it with AutoTokenizer")
    if not 0 <= stride < max_length:
        raise ValueError(f"stride {stride}: expected 0 or more, and less than max_length "
                         f"{max_length}")
    rows = examples.with_format(None)[:]
    template, special = pair_template(tokenizer), tokenizer.num_special_tokens_to_add(pair=True)
    kinds = {name: List(Value(np.dtype(kind).name)) for name, kind in WINDOW_COLUMNS.items()
             if name in template[1]} | {"offsets": List(List(Value("int32"), length=2))}
    numbers = ("start_positions", "end_positions", "example")  # one of each per window
    columns: dict[str, Any] = {name: [] for name in (*kinds, *numbers)}
    for row, (question, context, spans) in enumerate(
            tokenise_pairs(rows, tokenizer, whole_words)):
        question = question[:max_question_len]
        room = max_length - special - len(question)
        if room <= stride and len(context) > room:
            raise ValueError(
                f"question {rows['id'][row]!r} has {len(question)} tokens and leaves "
                f"{max(room, 0)} of max_length {max_length} to its context, expected more than the "
                f"stride {stride}; raise max_length, lower the stride, or remove the question"
            )
        answers = rows["answers"][row]
        first, last = (answers["answer_start"][0] + at for at in visible_part(answers["text"][0]))
        for start in range(0, max(1, len(context) - stride), max(1, room - stride)):
            here = slice(start, start + room)
            window = make_window(template, question, context[here], spans[here])
            labels = label_window(window["offsets"], first, last)
            for name, value in (*window.items(), *zip(numbers, (*labels, row))):
                columns[name].append(value)
    if rows["id"]:
        columns |= {name: list_column(columns[name]) for name in kinds}
    return Dataset.from_dict(columns, Features(kinds | dict.fromkeys(numbers, Value("int32"))))


def window_length(examples: Dataset, tokenizer: Any, most: int = 384) -> int:
    """Return the smallest multiple of 32 tokens that 99% of the questions and their contexts need.

    It is at least 64, and at most the lower of `most` and the tokenizer's limit. It is computed
    from at most 1,000 questions, evenly spaced.
    """
    some = np.unique(np.linspace(0, len(examples) - 1, 1000).astype(int))
    rows = examples.with_format(None).select_columns(["question", "context"])[some]
    special = tokenizer.num_special_tokens_to_add(pair=True)
    lengths = [special + len(question) + len(context)
               for question, context, _ in tokenise_pairs(rows, tokenizer)]
    needed = np.quantile(lengths, 0.99, method="inverted_cdf")
    return min(max(64, -(-int(needed) // 32) * 32), most, tokenizer.model_max_length)


def fit_windows(settings: Any, examples: Dataset, tokenizer: Any, limit: int | None) -> Any:
    """Return the settings, a dataclass; if max_length is None, it is chosen from the questions.

    limit: the most tokens that the model reads, None without a limit. The stride is at most half
    of a chosen length.
    """
    if settings.max_length is not None:
        return settings
    length = window_length(examples, tokenizer, min(384, limit or 384))
    return replace(settings, max_length=length, stride=min(settings.stride, length // 2))


def windows_fingerprint(features: Dataset) -> str:
    """Return 12 hex digits that depend on the windows' tokens and labels and their order."""
    columns = features.with_format("arrow")[:]
    tokens = pyarrow.compute.list_flatten(columns["input_ids"])
    parts = (tokens, columns["start_positions"], columns["end_positions"])
    return hashlib.blake2b(b"".join(p.to_numpy().tobytes() for p in parts)).hexdigest()[:12]


def make_loader(features: Dataset, tokenizer: Any, batch_size: int, shuffle: bool,
                seed: int = 0) -> DataLoader:
    """Return a loader of dicts of int64 tensors (B, longest window), and "row" (B,) in features.

    Shuffled: batches of windows of similar length, in another order at each iteration; `seed`
    fixes all orders, and their state is `loader.sampler.generator`. Not shuffled: longest first.
    Raises ValueError if there are no features.
    """
    if len(features) == 0:
        raise ValueError("no features to load batches from; use at least one question")
    columns = features.with_format("arrow")[:]
    lengths = pyarrow.compute.list_value_length(columns["input_ids"]).to_numpy()
    first = np.cumsum(lengths) - lengths  # (n,) start of each window in `tokens`
    padding = {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0,
               "token_type_ids": tokenizer.pad_token_type_id}
    tokens = {name: pyarrow.compute.list_flatten(columns[name]).to_numpy()
              for name in padding if name in features.column_names}
    labels = {name: columns[name].to_numpy() for name in ("start_positions", "end_positions")
              if name in features.column_names}
    if shuffle:
        order = torch.Generator().manual_seed(seed)
        sampler = LengthGroupedSampler(batch_size, lengths=lengths.tolist(), generator=order)
    else:
        sampler = np.argsort(-lengths, kind="stable").tolist()

    def collate(rows):
        # padded on the right for every tokenizer, so that token i has offset i
        place = np.arange(lengths[rows].max())
        inside = place < lengths[rows, None]  # (B, longest)
        where = np.where(inside, first[rows, None] + place, 0)
        batch = {"row": np.array(rows)} | {name: values[rows] for name, values in labels.items()}
        for name, values in tokens.items():
            batch[name] = np.where(inside, values[where], padding[name])
        return {name: torch.from_numpy(values.astype(np.int64)) for name, values in batch.items()}

    # a generator of its own, because the default draws from torch's global one in each epoch
    return DataLoader(range(len(features)), batch_size, sampler=sampler, collate_fn=collate,
                      generator=torch.Generator())


def endless_batches(loader: DataLoader, done: int) -> Iterator[dict]:
    """Yield the batches of epoch after epoch, each in a new order, without the first `done`."""
    return islice(chain.from_iterable(repeat(loader)), done, None)
