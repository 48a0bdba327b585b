"""Read files in the SQuAD v1.1 format (Rajpurkar et al., 2016): JSON, plain or compressed.

An answer is a text and the character of the context where it starts. Everything is checked, because
an answer at the wrong place raises nothing later: it only lowers EM.
"""

import gzip
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SQUAD_OPENERS: dict[str, Callable] = {".json": open, ".json.gz": gzip.open, ".json.xz": lzma.open}
ALWAYS_UNPACKED, NEVER_UNPACKED = 64 * 2**20, 4 * 2**30  # bytes


def most_unpacked(packed: int) -> int:
    """Return the bytes that `packed` bytes may unpack to: 100 times as many, 64 MiB to 4 GiB."""
    return min(max(100 * packed, ALWAYS_UNPACKED), NEVER_UNPACKED)


def read_unpacked(opener: Callable, path: Path | str) -> bytearray:
    """Return the content of a file that gzip.open, lzma.open or open opens.

    Raises ValueError above `most_unpacked`, before more than that is in memory.
    """
    most, content = most_unpacked(os.path.getsize(path)), bytearray()
    with opener(path, "rb") as file:
        while piece := file.read(2**18):
            if len(content) + len(piece) > most:
                raise ValueError(f"{path}: unpacks to more than {most:,} bytes, the limit for a "
                                 "file of its size; if you trust it, unpack it yourself")
            content += piece
    return content


def read_squad_file(path: Path | str) -> Any:
    """Return the parsed JSON of a .json, .json.gz or .json.xz file.

    Raises FileNotFoundError, or ValueError if it is not JSON or unpacks to too much.
    """
    path = Path(path)
    ending = next((end for end in SQUAD_OPENERS if path.name.lower().endswith(end)), None)
    if ending is None:
        expected = ", ".join(SQUAD_OPENERS)
        raise ValueError(f"{path}: expected a file ending in {expected}; rename or convert it")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    if not path.is_file():  # reading a pipe would block
        raise ValueError(f"{path}: not a file; expected SQuAD v1.1 JSON")
    try:
        text = read_unpacked(SQUAD_OPENERS[ending], path).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be unpacked to UTF-8 text ({error}); download or "
                         "compress it again") from None
    if not text.strip():
        raise ValueError(f"{path}: the file is empty; expected SQuAD v1.1 JSON")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for a number of 5,000 digits
        raise ValueError(f"{path}: not JSON ({error}); expected SQuAD v1.1 JSON") from None


def squad_field(node: Any, name: str, kind: type, where: Path | str) -> Any:
    """Return node[name]; raise ValueError unless it exists and has the type `kind`."""
    if not isinstance(node, dict):
        raise ValueError(f"{where}: expected a JSON object, found {type(node).__name__}; see the "
                         "SQuAD v1.1 format")
    if name not in node:
        raise ValueError(f"{where}: no field {name!r}; see the SQuAD v1.1 format")
    value = node[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        found = type(value).__name__
        raise ValueError(f"{where}: field {name!r} must be {kind.__name__}, found {found}")
    return value


def squad_items(node: Any, name: str, where: Path | str, label: str) -> Iterator[tuple[str, Any]]:
    """Yield (place, item) of the list node[name]; a place is `where`, the label and a number."""
    for number, item in enumerate(squad_field(node, name, list, where)):
        yield f"{where}{label} {number}", item


def squad_articles(document: Any, source: Path | str) -> list[list[dict]]:
    """Return the rows (id, title, context, question, answers) of each article with questions.

    Raises ValueError, with the place in the document, if it is not SQuAD v1.1.
    """
    articles = []
    for at_article, article in squad_items(document, "data", source, ": article"):
        title, rows = squad_field(article, "title", str, at_article), []
        label = f" ({title[:40]!r}), paragraph"
        for at_paragraph, paragraph in squad_items(article, "paragraphs", at_article, label):
            context = squad_field(paragraph, "context", str, at_paragraph)
            for at_question, qa in squad_items(paragraph, "qas", at_paragraph, ", question"):
                row = {"id": squad_field(qa, "id", str, at_question), "title": title,
                       "context": context}
                at_question += f" (id {row['id'][:60]!r})"
                if qa.get("is_impossible"):
                    raise ValueError(f"{at_question} is marked impossible, which is SQuAD v2; use "
                                     "v1.1, or remove such questions")
                row["question"] = squad_field(qa, "question", str, at_question)
                answers = [*squad_items(qa, "answers", at_question, ", answer")]
                row["answers"] = {name: [squad_field(answer, name, kind, at)
                                         for at, answer in answers]
                                  for name, kind in (("text", str), ("answer_start", int))}
                rows.append(row)
        articles += [rows] if rows else []
    if not articles:
        raise ValueError(f"{source}: no questions in it; expected SQuAD v1.1 JSON with 'qas'")
    return articles


def check_characters(text: str, where: str) -> None:
    """Raise ValueError for a lone surrogate, which JSON permits but Arrow and tokenizers do not."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} contains {text[error.start]!a}, which is not a character; "
                         "replace it") from None


def check_squad_rows(rows: list[dict], source: Path | str) -> list[dict]:
    """Return the rows; raise ValueError unless ids differ and every answer is where it starts."""
    seen = set()
    for row in rows:
        where = f"{source}: question {str(row['id'])[:60]!r}"
        answers = row["answers"] if isinstance(row["answers"], dict) else {}
        texts, starts = answers.get("text"), answers.get("answer_start")
        strings = [row["id"], row["title"], row["context"], row["question"]]
        if not (isinstance(texts, list) and all(isinstance(text, str) for text in strings + texts)
                and isinstance(starts, list) and all(type(start) is int for start in starts)):
            raise ValueError(f"{where} has a field of another type; expected rows as in SQuAD v1.1")
        if row["id"] in seen:
            raise ValueError(f"{where} occurs twice; give every question its own id")
        seen.add(row["id"])
        if len(texts) == 0 or len(texts) != len(starts):
            raise ValueError(f"{where} has {len(texts)} answers and {len(starts)} starts; expected "
                             "one or more pairs; remove unanswerable questions (SQuAD v2)")
        for text, start in zip(texts, starts):
            if not text.strip():
                raise ValueError(f"{where} has the empty answer {text[:60]!r}; remove it")
            found = row["context"][max(start, 0) : max(start, 0) + len(text)]
            if start < 0 or found != text:
                raise ValueError(f"{where}: expected the answer {text[:60]!r} at answer_start "
                                 f"{start} of its context, found {found[:60]!r}; correct it")
        check_characters("".join(strings), where)
    return rows
