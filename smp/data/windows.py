"""The data: SQuAD v1.1.

Extractive question answering (Rajpurkar et al., 2016): given a question and a paragraph, the
answer is a span of the paragraph, stated as its text and the character where it starts. The
data may come from the embedded almanac, from a SQuAD JSON file or folder, or from the Hub; it
is checked and given the same types either way, because a label that points at the wrong
characters does not crash anything: it only makes the model worse.
"""

import hashlib
import unicodedata

import numpy as np
import pyarrow.compute
from datasets import Dataset, Features, List, Value


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


# Not every character has a token. An uncased BERT drops accents, also those that Unicode writes as
# characters of their own after the letter: they are counted to the token before, so that no answer
# ends within a letter. Signs that are not seen, such as those that turn the direction of writing,
# may stand at the ends of an answer: they are not looked for.
def combining_marks(text):
    """Where in the text a character belongs to the one before it: accents and vowel signs."""
    if text.isascii():
        return set()
    return {
        i for i, sign in enumerate(text) if sign > "\x7f" and unicodedata.category(sign)[0] == "M"
    }


def with_marks(spans, text):
    """The spans (L, 2) of a text's tokens, their ends moved over marks that belong to no token."""
    marks = combining_marks(text)
    if not marks or not len(spans):
        return spans
    spans = spans.copy()
    for row, following in enumerate([*spans[1:, 0], len(text)]):
        while spans[row, 1] < following and spans[row, 1] in marks:
            spans[row, 1] += 1
    return spans


def visible_part(text):
    """(first, last + 1) of what is neither white space nor an unseen sign; (0, 0) of nothing."""
    seen = [i for i, sign in enumerate(text) if unicodedata.category(sign)[0] not in "CZ"]
    return (seen[0], seen[-1] + 1) if seen else (0, 0)


# Each question and each paragraph is tokenised once, however many windows it comes to stand in
# (a paragraph of SQuAD has five questions), and the windows are put together from them.
def tokenise(texts, tokenizer, at_once=1000):
    """[(ids (L,), spans (L, 2): characters of each token)] of texts, without special tokens."""
    tokens = []
    for i in range(0, len(texts), at_once):
        found = tokenizer(
            texts[i : i + at_once], add_special_tokens=False, return_offsets_mapping=True,
            verbose=False,
        )
        tokens += [
            (np.array(ids, np.int32), with_marks(np.array(spans, np.int32).reshape(-1, 2), text))
            for text, ids, spans in zip(texts[i:], found["input_ids"], found["offset_mapping"])
        ]
    return tokens

WINDOW_COLUMNS = {"input_ids": np.int32, "attention_mask": np.int8, "token_type_ids": np.int8}


def pair_layout(tokenizer):
    """{column: five arrays, what stands before, at each token of, between, at each token of and
    after the two parts of a pair}, read off the pair "a", "b"."""
    pair = tokenizer("a", "b")
    part = pair.sequence_ids(0)  # None: special tokens, 0: the question, 1: the context
    cuts = [edge for n in (0, 1) for edge in (part.index(n), part.index(n) + part.count(n))]
    columns = {
        name: np.array(pair[name], dtype=kind) for name, kind in WINDOW_COLUMNS.items()
        if name in pair
    }
    columns["offsets"] = np.full((len(part), 2), -1, dtype=np.int32)
    layout = {name: np.split(values, cuts) for name, values in columns.items()}
    return {
        name: (before, question[:1], between, context[:1], after)
        for name, (before, question, between, context, after) in layout.items()
    }


def make_window(layout, question, context, spans):
    """{column: (L, ...)} of the window that these tokens of a question and a context make."""
    window = {}
    for name, (before, asked, between, told, after) in layout.items():
        asked = question if name == "input_ids" else asked.repeat(len(question), axis=0)
        told = {"input_ids": context, "offsets": spans}.get(name, told.repeat(len(context), axis=0))
        window[name] = np.concatenate([before, asked, between, told, after])
    return window


def check_room(identity, question, context, room, max_length, stride):
    """ValueError where a question leaves a window no more room than two windows share."""
    if room <= stride and len(context) > room:
        raise ValueError(
            f"question {identity!r} has {len(question)} tokens and leaves {max(room, 0)} of "
            f"max_length {max_length} to its context, not more than the stride {stride}; raise "
            "max_length, lower the stride, or leave the question out"
        )


def list_column(arrays):
    """The Arrow column of lists with what the arrays (L,) or (L, 2) hold."""
    bounds, values = np.cumsum([0, *map(len, arrays)]), np.concatenate(arrays)
    if values.ndim == 2:
        values = pyarrow.FixedSizeListArray.from_arrays(values.ravel(), 2)
    return pyarrow.ListArray.from_arrays(bounds.astype(np.int32), values)


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
    asked = examples.with_format(None)[:]
    contexts = list(dict.fromkeys(asked["context"]))
    passages = dict(zip(contexts, tokenise(contexts, tokenizer)))
    questions = tokenise([question.lstrip() for question in asked["question"]], tokenizer)
    layout = pair_layout(tokenizer)
    special = tokenizer.num_special_tokens_to_add(pair=True)
    whole = ("start_positions", "end_positions", "example")  # one number a window
    columns = {name: [] for name in (*layout, *whole)}
    for row, (question, _) in enumerate(questions):
        (context, spans), answers = passages[asked["context"][row]], asked["answers"][row]
        room = max_length - special - len(question)
        check_room(asked["id"][row], question, context, room, max_length, stride)
        first, last = (answers["answer_start"][0] + at for at in visible_part(answers["text"][0]))
        for start in range(0, max(1, len(context) - stride), max(1, room - stride)):
            here = slice(start, start + room)
            window = make_window(layout, question, context[here], spans[here])
            labels = label_window(window["offsets"], first, last)
            for name, value in (*window.items(), *zip(whole, (*labels, row))):
                columns[name].append(value)
    kinds = {
        name: List(Value(np.dtype(kind).name)) for name, kind in WINDOW_COLUMNS.items()
        if name in layout
    }
    kinds["offsets"] = List(List(Value("int32"), length=2))
    kinds |= {name: Value("int32") for name in whole}
    if questions:
        columns |= {name: list_column(columns[name]) for name in layout}
    return Dataset.from_dict(columns, Features(kinds))


# What decides how a run goes on: its settings, its windows in their order, what the caller adds,
# and the versions of the packages. With other settings or data it is another run, and refused; a
# package that was updated in between is told, because the bits may differ then.
def windows_fingerprint(features):
    """12 hex digits over tokens and labels of the windows, in their order."""
    digest = hashlib.blake2b()
    plain = features.flatten_indices() if features._indices is not None else features
    for name in ("input_ids", "start_positions", "end_positions"):
        for chunk in plain.data.column(name).chunks:
            values = chunk.flatten() if hasattr(chunk, "flatten") and name == "input_ids" else chunk
            digest.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).tobytes())
        digest.update(str(len(plain)).encode())
    return digest.hexdigest()[:12]
