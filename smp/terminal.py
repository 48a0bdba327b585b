# %% [markdown]
# ## On the terminal
#
# `python -m smp ask` and `python -m smp ship`: questions from the keyboard or a pipe, and what a
# trained run comes to when it is shipped.

# %%
import os
import sys
from pathlib import Path

# %%
from smp.reader import Reader

# %%
from smp.ship import ship, ship_markdown

# %%
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


def ask_verb(options):
    """Answers questions about one passage. -> exit code"""
    try:
        model = (options.model, options.masks) if options.masks else options.model
        passage = read_text(options.passage)
        reader = Reader.from_pretrained(model)
        asked = questions_of(options, sys.stdin)
        for question in asked:
            try:
                print(answer_text(reader(question, passage, options.n_best)), flush=True)
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


def ship_verb(options, results):
    """Ships a run of results/models/, or one in any folder, and prints the table. -> exit code"""
    folder = options.run if os.path.isdir(options.run) else results / "models" / options.run
    try:
        report = ship(folder, options.data, options.base, options.onnx, options.questions)
    except (OSError, ValueError) as error:
        print(f"ship: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    print(ship_markdown(report))
    return 0
