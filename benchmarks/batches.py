"""Training on batches of windows of similar length, compared with padding to one length."""

import numpy as np

from benchmarks.measure import device, result, time_in_turns
from benchmarks.references import padded_batches, train_plainly
from benchmarks.workload import SMALL_ENCODER, bert, embedded_tokenizer, questions
from smp.data.windows import featurise, make_loader

BATCH, LENGTH, ROUNDS = 8, 384, 5


def measure():
    data, name = questions()
    windows = featurise(data["train"].select(range(400)), embedded_tokenizer(), LENGTH, 128)
    windows = windows.select(range(400))  # fifty batches, which the loader sorts together
    order = np.random.default_rng(0).permutation(len(windows)).tolist()
    batches = {
        "by length": list(make_loader(windows, embedded_tokenizer(), BATCH, shuffle=True)),
        "padded": list(padded_batches(windows, embedded_tokenizer(), BATCH, LENGTH, order)),
    }
    model, turn = bert(**SMALL_ENCODER), dict.fromkeys(batches, 0)

    def some(kind):
        """Train on two batches far apart, in each round on others: they are sorted by length."""
        part = batches[kind][(5 * turn[kind] + 2) % 25 :: 25]
        turn[kind] += 1
        train_plainly(model, [{k: v.to(device()) for k, v in batch.items()} for batch in part])

    seconds = time_in_turns({kind: lambda kind=kind: some(kind) for kind in batches}, ROUNDS)
    mean = np.mean([len(ids) for ids in windows["input_ids"]])
    return [result(
        f"Batches of similar length, {name}", f"padding to {LENGTH} tokens",
        seconds["padded"] / seconds["by length"],
        f"fine-tuning, small encoder, batches of {BATCH}, {mean:.0f} tokens per window on average")]
