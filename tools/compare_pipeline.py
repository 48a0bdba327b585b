"""Compare `smp.QuestionAnswerer` with the question-answering pipeline of transformers 4.

    python -m venv OTHER; OTHER/bin/pip install "transformers<5" torch==2.13.0
    python tools/compare_pipeline.py MODEL squad-dev-v1.1.json.xz OTHER/bin/python answers.json

Two processes with one thread each answer the questions in turns. The file contains their answers;
with - instead of OTHER/bin/python, it is only read. The output contains the shares of equal answers
and scores, each difference, and the ratio of the CPU times of the turns.
"""

import json
import lzma
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from unicodedata import combining

TURN, BATCH, TOLERANCE = 512, 8, 1e-4  # questions; windows; difference of scores


def read_pairs(path):
    """Return [{"question", "context"}] of a SQuAD file."""
    content = json.loads((lzma.open if path.endswith(".xz") else open)(path).read())["data"]
    return [{"question": one["question"], "context": part["context"]}
            for page in content for part in page["paragraphs"] for one in part["qas"]]


def work(model, pairs):
    """Answer the turns that standard input names; print a line of JSON for each."""
    import torch
    import transformers
    torch.set_num_threads(1)
    if transformers.__version__ < "5":
        answerer = transformers.pipeline("question-answering", model, device="cpu")
    else:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        answerer = __import__("smp").load_answerer(model)
    for line in sys.stdin:
        began, turn = time.process_time(), pairs[int(line) : int(line) + TURN]
        columns = {name: [pair[name] for pair in turn] for name in turn[0]}
        answers = answerer(**columns, batch_size=BATCH)
        print(json.dumps([time.process_time() - began, answers]), flush=True)


def take_turns(model, squad, python, into):
    """Write {"ratios": of the times of each turn, "answers": [question, ours, pipeline's]}."""
    found, ratios, pairs = [], [], read_pairs(squad)
    workers = [subprocess.Popen(
        [each, __file__, model, squad], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false"}) for each in (sys.executable, python)]
    for first in range(0, len(pairs), TURN):
        done = {}
        for number in (0, 1) if first // TURN % 2 else (1, 0):
            print(first, file=workers[number].stdin, flush=True)
            done[number] = json.loads(workers[number].stdout.readline())
        ratios.append(done[1][0] / done[0][0])
        found += zip(pairs[first:], done[0][1], done[1][1])
        Path(into).write_text(json.dumps({"ratios": ratios, "answers": found}))
    for worker in workers:
        worker.communicate()


def reason(ours, theirs):
    """Return why two answers differ, as far as the answers show it."""
    if any(map(combining, ours["answer"])):
        return "combining mark"
    return "tie" if abs(ours["score"] - theirs["score"]) < TOLERANCE else "other scores"


def report(ratios, answers):
    """Print the comparison."""
    spans = [all(a[part] == b[part] for part in ("start", "end", "answer")) for _, a, b in answers]
    scores = [abs(a["score"] - b["score"]) < TOLERANCE for _, a, b in answers]
    for equal, (pair, *both) in zip(map(min, spans, scores), answers):
        if not equal:
            print(f"{reason(*both)}: {pair['question']}\n  ours {both[0]}\n  pipeline {both[1]}")
    print(f"equal answers: {sum(spans):,} of {len(spans):,} ({sum(spans) / len(spans):.3%}); "
          f"scores within {TOLERANCE}: {sum(scores):,}; CPU time of the pipeline over ours: median "
          f"{median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} turns")


if __name__ == "__main__":
    if len(sys.argv) == 3:  # one of the two processes
        sys.exit(work(sys.argv[1], read_pairs(sys.argv[2])))
    if sys.argv[3] != "-":
        take_turns(*sys.argv[1:])
    report(**json.loads(Path(sys.argv[4]).read_text()))
