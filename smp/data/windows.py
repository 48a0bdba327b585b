"""Split each question's context into windows of tokens, labelled with the answer's tokens."""

import hashlib
import unicodedata
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute
from datasets import Dataset, Features, List, Value

from smp.text import as_percent

WINDOW_COLUMNS = {"input_ids": np.int32, "attention_mask": np.int8, "token_type_ids": np.int8}


def label_window(offsets: np.ndarray, answer_start: int, answer_end: int) -> tuple[int, int]:
    """Return the (start, end) tokens of the characters [answer_start, answer_end).

    offsets: (L, 2) first and last+1 character of each token, -1 for tokens that are not context.
    Returns (0, 0), the [CLS] token, when the window lacks a part of them.
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
    """Return token spans (L, 2), their ends moved over combining marks that have no token.

    An uncased BERT drops accents; an answer would otherwise end before the accent of its letter.
    """
    marks = set() if text.isascii() else {
        i for i, sign in enumerate(text) if sign > "\x7f" and unicodedata.category(sign)[0] == "M"
    }
    if not marks or not len(spans):
        return spans
    spans = spans.copy()
    for row, following in enumerate([*spans[1:, 0], len(text)]):
        while spans[row, 1] < following and spans[row, 1] in marks:
            spans[row, 1] += 1
    return spans


def visible_part(text: str) -> tuple[int, int]:
    """Return (first, last + 1) of the text without white space and unseen signs around it."""
    seen = [i for i, sign in enumerate(text) if unicodedata.category(sign)[0] not in "CZ"]
    return (seen[0], seen[-1] + 1) if seen else (0, 0)


def tokenise(texts: list[str], tokenizer: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (ids (L,), spans (L, 2) in characters) of each text, without special tokens."""
    tokens: list[tuple[np.ndarray, np.ndarray]] = []
    for i in range(0, len(texts), 1000):
        found = tokenizer(texts[i : i + 1000], add_special_tokens=False,
                          return_offsets_mapping=True, verbose=False)
        tokens += [
            (np.array(ids, np.int32), with_marks(np.array(spans, np.int32).reshape(-1, 2), text))
            for text, ids, spans in zip(texts[i:], found["input_ids"], found["offset_mapping"])
        ]
    return tokens


def pair_layout(tokenizer: Any) -> dict[str, list[np.ndarray]]:
    """Return {column: [before, question, between, context, after]} of the pair "a", "b"."""
    pair = tokenizer("a", "b")
    part = pair.sequence_ids(0)  # None: special tokens, 0: the question, 1: the context
    cuts = [edge for n in (0, 1) for edge in (part.index(n), part.index(n) + part.count(n))]
    columns = {name: np.array(pair[name], kind) for name, kind in WINDOW_COLUMNS.items()
               if name in pair}
    columns["offsets"] = np.full((len(part), 2), -1, dtype=np.int32)
    return {name: np.split(values, cuts) for name, values in columns.items()}


def make_window(layout: dict[str, list[np.ndarray]], question: np.ndarray, context: np.ndarray,
                spans: np.ndarray) -> dict[str, np.ndarray]:
    """Return {column: (L, ...)} of the window with these tokens of a question and a context."""
    window = {}
    for name, (before, asked, between, told, after) in layout.items():
        asked = question if name == "input_ids" else asked[:1].repeat(len(question), axis=0)
        told = {"input_ids": context, "offsets": spans}.get(
            name, told[:1].repeat(len(context), axis=0))
        window[name] = np.concatenate([before, asked, between, told, after])
    return window


def list_column(arrays: list[np.ndarray]) -> pyarrow.ListArray:
    """Return arrays (L,) or (L, 2) as an Arrow column of lists."""
    bounds, values = np.cumsum([0, *map(len, arrays)]), np.concatenate(arrays)
    if values.ndim == 2:
        values = pyarrow.FixedSizeListArray.from_arrays(values.ravel(), 2)
    return pyarrow.ListArray.from_arrays(bounds.astype(np.int32), values)


def featurise(examples: Dataset, tokenizer: Any, max_length: int, stride: int) -> Dataset:
    """Return windows of at most max_length tokens; neighbours share `stride` context tokens.

    Columns, unpadded: input_ids, attention_mask, token_type_ids (if the tokenizer has them),
    start_positions, end_positions (of the first reference answer; 0, 0 when the window lacks
    part of it), example (row in `examples`), offsets (L, 2: characters of the context, -1 for
    tokens that are not context). Raises ValueError when windows cannot be made.
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
    asked = examples.with_format(None)[:]
    contexts = list(dict.fromkeys(asked["context"]))  # SQuAD asks five questions on each
    passages = dict(zip(contexts, tokenise(contexts, tokenizer)))
    questions = tokenise([question.lstrip() for question in asked["question"]], tokenizer)
    layout = pair_layout(tokenizer)
    special = tokenizer.num_special_tokens_to_add(pair=True)
    whole = ("start_positions", "end_positions", "example")  # one number a window
    columns: dict[str, Any] = {name: [] for name in (*layout, *whole)}
    for row, (question, _) in enumerate(questions):
        (context, spans), answers = passages[asked["context"][row]], asked["answers"][row]
        room = max_length - special - len(question)
        if room <= stride and len(context) > room:
            raise ValueError(
                f"question {asked['id'][row]!r} has {len(question)} tokens and leaves "
                f"{max(room, 0)} of max_length {max_length} to its context, not more than the "
                f"stride {stride}; raise max_length, lower the stride, or leave the question out"
            )
        first, last = (answers["answer_start"][0] + at for at in visible_part(answers["text"][0]))
        for start in range(0, max(1, len(context) - stride), max(1, room - stride)):
            here = slice(start, start + room)
            window = make_window(layout, question, context[here], spans[here])
            labels = label_window(window["offsets"], first, last)
            for name, value in (*window.items(), *zip(whole, (*labels, row))):
                columns[name].append(value)
    kinds = {name: List(Value(np.dtype(kind).name)) for name, kind in WINDOW_COLUMNS.items()
             if name in layout}
    kinds["offsets"] = List(List(Value("int32"), length=2))
    kinds |= {name: Value("int32") for name in whole}
    if questions:
        columns |= {name: list_column(columns[name]) for name in layout}
    return Dataset.from_dict(columns, Features(kinds))


def pair_lengths(examples: Dataset, tokenizer: Any, most: int = 1000) -> np.ndarray:
    """Return the tokens (n,) of question, passage and special tokens of n <= most questions.

    They are spread evenly over the examples, which must not be empty.
    """
    rows = np.unique(np.linspace(0, len(examples) - 1, most).astype(int))
    asked = examples.with_format(None).select_columns(["question", "context"])[rows]
    contexts = list(dict.fromkeys(asked["context"]))
    passages = dict(zip(contexts, tokenise(contexts, tokenizer)))
    questions = tokenise([question.lstrip() for question in asked["question"]], tokenizer)
    special = tokenizer.num_special_tokens_to_add(pair=True)
    return np.array([special + len(question) + len(passages[context][0])
                     for (question, _), context in zip(questions, asked["context"])])


def window_length(examples: Dataset, tokenizer: Any, most: int = 384) -> int:
    """Return the smallest multiple of 32 tokens that holds 99% of the questions and their passages.

    It is at least 64, and at most the lower of `most` and the tokenizer's limit; `most` is the
    model's limit or less. Looks at 1,000 questions or fewer, see `pair_lengths`.
    """
    needed = np.quantile(pair_lengths(examples, tokenizer), 0.99, method="inverted_cdf")
    return min(max(64, -(-int(needed) // 32) * 32), most, tokenizer.model_max_length)


def fit_windows(settings: Any, examples: Dataset, tokenizer: Any, limit: int | None) -> Any:
    """Return the settings, a dataclass, with max_length chosen from the questions if it is None.

    limit: tokens that the model reads at once, None without a limit. The stride is at most half of
    a chosen length.
    """
    if settings.max_length is not None:
        return settings
    length = window_length(examples, tokenizer, min(384, limit or 384))
    return replace(settings, max_length=length, stride=min(settings.stride, length // 2))


def split_passages(examples: Dataset, tokenizer: Any, max_length: int) -> str:
    """Return a line with the share of questions whose passage needs several windows."""
    lengths = pair_lengths(examples, tokenizer)
    return (f"{as_percent((lengths > max_length).mean())} of {len(lengths):,} questions have a "
            f"passage that needs more than one window of {max_length} tokens")


def windows_fingerprint(features: Dataset) -> str:
    """Return 12 hex digits of the windows' tokens and labels in their order."""
    digest = hashlib.blake2b()
    columns = features.with_format("arrow")[:]
    tokens = pyarrow.compute.list_flatten(columns["input_ids"])
    for values in (tokens, columns["start_positions"], columns["end_positions"]):
        digest.update(values.to_numpy().tobytes())
        digest.update(str(len(features)).encode())
    return digest.hexdigest()[:12]
