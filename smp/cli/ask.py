"""`smp ask`: answer questions about a text, from the terminal or a pipe."""

import sys
from pathlib import Path

from smp.task.task import load_answerer


def read_text(path):
    """A UTF-8 file's text. FileNotFoundError or ValueError with one line for anything else."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; name a passage as text") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as UTF-8 text ({error})") from None


def answer_text(said):
    """What a reader said, for a terminal: the best answer, doubt where there is any, the others."""
    spans = [f"{span['score']:5.0%}  {span['answer']}  [{span['start']}:{span['end']}]"
             for span in said["n_best"]]
    doubt = [f"no answer within the passage, says the model at {said['no_answer']:.0%}; if it is "
             "there:"] if said["no_answer"] > 0.5 else []
    return "\n".join(doubt + spans)


def questions_of(options, stream):
    """The questions given, else those of the terminal or the pipe, a line each, to their end."""
    if options.question:
        yield from options.question
        return
    shown = stream.isatty()
    while True:
        if shown:
            print("question (Ctrl-D ends): ", end="", flush=True)
        line = stream.readline()
        if not line:
            break
        if line.strip():
            yield line.strip()
    if shown:
        print()


def ask(options):
    """Answers questions about one passage. -> exit code"""
    try:
        passage = read_text(options.passage)
        answerer = load_answerer(options.model, options.masks)
        asked = questions_of(options, sys.stdin)
        for question in asked:
            try:
                print(answer_text(answerer(question, passage, options.n_best)), flush=True)
            except ValueError as error:
                if options.question or not sys.stdin.isatty():
                    raise
                print(f"ask: {error}", file=sys.stderr)  # whoever types may try again
    except (OSError, ValueError) as error:
        print(f"ask: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    return 0
