"""Windows of the training questions, compared with the tokenizer alone on the same pairs."""

import numpy as np

from benchmarks.measure import result, seconds_of
from benchmarks.workload import embedded_tokenizer, questions
from smp.data.windows import featurise

PARTS, TIMED = 12, 3  # number of parts of the questions, and of timed parts


def tokenise_pairs(rows, tokenizer):
    for first in range(0, len(rows["question"]), 1000):
        some = slice(first, first + 1000)
        tokenizer(
            rows["question"][some], rows["context"][some], truncation="only_second",
            max_length=384, stride=128, return_overflowing_tokens=True, return_offsets_mapping=True,
        )


def measure():
    data, name = questions()
    train, tokenizer = data["train"], embedded_tokenizer()
    order = np.argsort(np.array(train["context"][:], dtype=object), kind="stable")
    ours, alone = [], []
    parts = np.array_split(order, PARTS)[:: PARTS // TIMED]  # nearly whole paragraphs
    for part in parts:
        some = train.select(part.tolist())
        rows = some[:]
        alone.append(seconds_of(lambda rows=rows: tokenise_pairs(rows, tokenizer)))
        ours.append(seconds_of(lambda some=some: featurise(some, tokenizer, 384, 128)))
    count = sum(map(len, parts))
    return [result(
        f"Windows of 384 tokens, {name}", "the tokenizer alone on each pair",
        np.divide(alone, ours), f"{count:,} questions in {TIMED} parts: {sum(ours):.1f} s; at this "
        f"rate all {len(train):,} take {sum(ours) * len(train) / count:.0f} s",
    )]
