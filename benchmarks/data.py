"""Windows, batches and answers, each compared with the usual way."""

import numpy as np

from benchmarks.measure import device, result, time_in_turns
from benchmarks.references import n_best_answers, padded_batches, tokenise_pairs, train_plainly
from benchmarks.workload import SMALL_ENCODER, bert, embedded_tokenizer, questions
from smp.data.answers import decode_answers
from smp.data.windows import featurise, make_loader

LENGTH, STRIDE, BATCH = 384, 128, 8
PARTS, ROUNDS = 12, 4  # parts of the training questions; each round uses another one


def windows(train, name):
    order = np.argsort(np.array(train["context"][:], dtype=object), kind="stable")
    parts = [train.select(part.tolist())  # nearly whole paragraphs
             for part in np.array_split(order, PARTS)[: 1 + ROUNDS]]
    examples, rows = iter(parts), iter([part[:] for part in parts])
    seconds = time_in_turns({
        "ours": lambda: featurise(next(examples), embedded_tokenizer(), LENGTH, STRIDE),
        "tokenizer": lambda: tokenise_pairs(next(rows), embedded_tokenizer(), LENGTH, STRIDE),
    }, ROUNDS)
    return result(
        f"Windows of {LENGTH} tokens, {name}", "the tokenizer alone on each pair",
        seconds["tokenizer"] / seconds["ours"],
        f"{PARTS * np.median(seconds['ours']):.0f} s for all {len(train):,} questions")


def batches(train, name):
    features = featurise(train.select(range(400)), embedded_tokenizer(), LENGTH, STRIDE)
    features = features.select(range(400))  # fifty batches, which the loader sorts together
    order = np.random.default_rng(0).permutation(len(features)).tolist()
    kinds = {
        "by length": list(make_loader(features, embedded_tokenizer(), BATCH, shuffle=True)),
        "padded": list(padded_batches(features, embedded_tokenizer(), BATCH, LENGTH, order)),
    }
    model, turn = bert(**SMALL_ENCODER), dict.fromkeys(kinds, 0)

    def some(kind):
        """Train on two batches far apart, in each round on others: they are sorted by length."""
        part = kinds[kind][(5 * turn[kind] + 2) % 25 :: 25]
        turn[kind] += 1
        train_plainly(model, [{k: v.to(device()) for k, v in batch.items()} for batch in part])

    seconds = time_in_turns({kind: lambda kind=kind: some(kind) for kind in kinds}, rounds=5)
    mean = np.mean([len(ids) for ids in features["input_ids"]])
    return result(
        f"Fine-tuning on batches of similar length, {name}", f"padding to {LENGTH} tokens",
        seconds["padded"] / seconds["by length"],
        f"small encoder, batches of {BATCH}, {mean:.0f} tokens per window on average")


def peaked_logits(features, seed=0):
    """Return start and end logits (n, 384) like a trained model's: noise and a peak."""
    rng = np.random.default_rng(seed)
    start, end = rng.normal(size=(2, len(features), LENGTH)).astype(np.float32)
    for logits, name in ((start, "start_positions"), (end, "end_positions")):
        labels = np.array(features[name][:])
        found = np.flatnonzero(labels)
        logits[found, labels[found]] += 9
    return start, end


def decoding(examples, name):
    features = featurise(examples, embedded_tokenizer(), LENGTH, STRIDE)
    logits, found = peaked_logits(features), {}

    def ours():
        found["ours"] = {one["id"]: one["prediction_text"]
                         for one in decode_answers(examples, features, *logits)}

    def loop():
        found["loop"] = n_best_answers(examples, features, *logits)

    seconds = time_in_turns({"ours": ours, "loop": loop}, rounds=3, warm_up=0)
    if found["ours"] != found["loop"]:
        raise AssertionError("both decodings must give equal answers, but they differ")
    return result(
        f"{len(examples):,} answers from logits, {name}", "the usual n-best loop",
        seconds["loop"] / seconds["ours"], f"{seconds['ours'].min():.2f} s; all answers are equal")


def measure():
    data, name = questions()
    return [windows(data["train"], name), batches(data["train"], name),
            decoding(data["eval"], name)]
