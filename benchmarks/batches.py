"""d: windows per second with batches of similar length, compared with padding to 384 tokens."""

import numpy as np

from benchmarks.measure import device, ratio, result, time_in_turns
from benchmarks.references import padded_batches, train_plainly
from benchmarks.workload import bert, embedded_tokenizer, questions
from smp.data.windows import featurise, make_loader

BATCH, ROUNDS = 8, 3
MINI = dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)


def measure():
    data, name = questions()
    windows = featurise(data["train"].select(range(400)), embedded_tokenizer(), 384, 128)
    windows = windows.select(range(400))  # fifty batches, which the loader sorts together
    by_length = list(make_loader(windows, embedded_tokenizer(), BATCH, shuffle=True))
    order = np.random.default_rng(0).permutation(len(windows)).tolist()
    padded = list(padded_batches(windows, embedded_tokenizer(), BATCH, 384, order))
    model, turn = bert(**MINI), {"ours": 0, "padded": 0}

    def some(name, batches):
        """Train on two batches far apart, in each round on others: they are sorted by length."""
        part = batches[(5 * turn[name] + 2) % 25 :: 25]
        turn[name] += 1
        train_plainly(model, [{k: v.to(device()) for k, v in batch.items()} for batch in part])

    seconds = time_in_turns({
        "ours": lambda: some("ours", by_length), "padded": lambda: some("padded", padded)
    }, rounds=ROUNDS)
    mean = np.mean([len(ids) for ids in windows["input_ids"]])
    squad = "squad" in name.lower()
    return [result(
        f"d: windows per second, batches by length / padded to 384, {name}",
        *ratio(seconds["padded"], seconds["ours"]), ">= 1.8" if squad else None,
        f"encoder of six layers, batches of {BATCH}, {mean:.0f} tokens per window on average"
        + ("" if squad else "; the goal is for SQuAD"),
    )]
