"""Checks of SQuAD v1.1 data; each raises a one-line ValueError that names the place.

A label that points at the wrong characters raises nothing later: it only lowers EM.
"""

from pathlib import Path
from typing import Any

import numpy as np


def squad_field(node: Any, name: str, kind: type, where: Path | str) -> Any:
    """Return node[name]; raise ValueError unless it exists and has the type `kind`."""
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


def check_characters(text: str, where: str) -> None:
    """Raise ValueError for a lone surrogate, which JSON permits but Arrow and tokenizers do not."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        bad = text[error.start]
        raise ValueError(f"{where} holds {bad!a}, which is not a character; mend it") from None


def check_squad_rows(rows: list[dict], source: Path | str) -> list[dict]:
    """Return the rows; raise ValueError unless ids differ and every answer is where it starts."""
    seen = set()
    for row in rows:
        where = f"{source}: question {row['id']!r}"
        answers = row["answers"] if isinstance(row["answers"], dict) else {}
        texts, starts = answers.get("text"), answers.get("answer_start")
        if not (
            all(isinstance(row[name], str) for name in ("id", "title", "context", "question"))
            and isinstance(texts, list) and all(isinstance(text, str) for text in texts)
            and isinstance(starts, list) and all(type(start) is int for start in starts)
        ):
            raise ValueError(f"{where} lacks a text or its answers; expected rows as in SQuAD v1.1")
        if row["id"] in seen:
            raise ValueError(f"{where} occurs twice; give every question its own id")
        seen.add(row["id"])
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


def check_squad_count(name: str, count: int, at_most: int, at_least: int = 1) -> None:
    """Raise ValueError unless count is a whole number from at_least to at_most."""
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < at_least:
        raise ValueError(f"{name} = {count!r}: expected a whole number, {at_least} or more")
    if count > at_most:
        raise ValueError(f"{name} = {count}: the data has only {at_most} for it; ask for fewer")
