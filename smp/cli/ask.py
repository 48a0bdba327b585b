"""`smp ask`: answer questions about a text, from the terminal or a pipe."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from smp.task.answerer import load_answerer


def read_text(path: Path | str) -> str:
    """Return the text of a UTF-8 file; raise FileNotFoundError or ValueError with one line."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; expected a text file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as UTF-8 text ({error})") from None


def answer_text(answerer: Any, question: str, passage: str, top_k: int) -> str:
    """Return the top_k answers of a `QuestionAnswerer` as lines for a terminal."""
    found = answerer(question, passage, top_k=top_k + 1, handle_impossible_answer=True)
    answers = found if isinstance(found, list) else [found]
    lines = [f"{one['score']:5.0%}  {one['answer']}  [{one['start']}:{one['end']}]"
             for one in answers if one["answer"]][:top_k]
    if not answers[0]["answer"]:
        lines.insert(0, f"probably no answer here ({answers[0]['score']:.0%}); best spans:")
    return "\n".join(lines)


def read_questions(given: Sequence[str], stream: TextIO) -> Iterator[str]:
    """Yield the given questions, or without any the lines of the terminal or pipe."""
    if given:
        yield from given
        return
    prompt = "question (Ctrl-D ends): " if stream.isatty() else ""
    while True:
        print(prompt, end="", flush=True)
        line = stream.readline()
        if not line:
            break
        if line.strip():
            yield line.strip()
    if prompt:
        print()


def ask(options: Any) -> int:
    """Print answers to questions about one passage; return the exit code."""
    passage = read_text(options.passage)
    answerer = load_answerer(options.model, options.masks)
    for question in read_questions(options.question, sys.stdin):
        try:
            print(answer_text(answerer, question, passage, options.top_k), flush=True)
        except ValueError as error:
            if options.question or not sys.stdin.isatty():
                raise
            print(f"ask: {error}", file=sys.stderr)  # the terminal stays open for the next question
    return 0
