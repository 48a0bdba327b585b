"""The data: SQuAD v1.1.

Extractive question answering (Rajpurkar et al., 2016): given a question and a paragraph, the
answer is a span of the paragraph, stated as its text and the character where it starts. The
data may come from the embedded almanac, from a SQuAD JSON file or folder, or from the Hub; it
is checked and given the same types either way, because a label that points at the wrong
characters does not crash anything: it only makes the model worse.
"""

import numpy as np


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


# Questions on one paragraph resemble each other, so the validation questions, on which nothing
# is trained, are taken by whole paragraphs.
def check_squad_count(name, count, at_most, at_least=1):
    """ValueError unless count is a whole number between at_least and at_most."""
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < at_least:
        raise ValueError(f"{name} = {count!r}: expected a whole number, {at_least} or more")
    if count > at_most:
        raise ValueError(f"{name} = {count}: the data has only {at_most} for it; ask for fewer")
