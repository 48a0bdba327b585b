"""Answers from logits, compared with the usual n-best loop; the answers are equal."""

import numpy as np

from benchmarks.measure import result, time_in_turns
from benchmarks.references import n_best_answers
from benchmarks.workload import embedded_tokenizer, questions
from smp.data.answers import decode_answers
from smp.data.windows import featurise


def peaked_logits(features, seed=0):
    """Return start and end logits (n, 384) like a trained model's: noise and a peak."""
    rng = np.random.default_rng(seed)
    start, end = rng.normal(size=(2, len(features), 384)).astype(np.float32)
    for logits, name in ((start, "start_positions"), (end, "end_positions")):
        labels = np.array(features[name][:])
        found = np.flatnonzero(labels)
        logits[found, labels[found]] += 9
    return start, end


def measure():
    data, name = questions()
    examples = data["eval"]
    features = featurise(examples, embedded_tokenizer(), 384, 128)
    logits = peaked_logits(features)
    answers = {}

    def ours():
        answers["ours"] = {one["id"]: one["prediction_text"]
                           for one in decode_answers(examples, features, *logits)}

    def loop():
        answers["loop"] = n_best_answers(examples, features, *logits)

    seconds = time_in_turns({"ours": ours, "loop": loop}, rounds=3, warm_up=0)
    if answers["ours"] != answers["loop"]:
        raise AssertionError("both decodings must give equal answers, but they differ")
    return [result(
        f"{len(examples):,} answers, {name}", "the usual n-best loop",
        seconds["loop"] / seconds["ours"], f"{seconds['ours'].min():.2f} s; all answers are equal",
    )]
