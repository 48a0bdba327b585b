"""From logits to an answer, and its score.

The model gives every token two logits: how well an answer would start there, and how well it
would end there. The answer is the span of the context, at most 30 tokens long, whose two logits
have the highest sum; of a context read in several windows, the best window's span. It is then
cut out of the paragraph by character, so nothing of case or spacing is lost in tokens.
"""

import collections
import re
import string
import tempfile

import evaluate
import numpy as np
from datasets import Features, List, Value


def choosable(start_logits, end_logits, context_mask):
    """The logits (n, L), -inf where none may be chosen: outside the mask, and where nan."""
    kind = np.result_type(start_logits, end_logits, np.float32)
    return tuple(
        np.where(context_mask & (logits == logits), logits, -np.inf).astype(kind)
        for logits in (start_logits, end_logits)
    )


def span_scores(start_logits, end_logits, context_mask, longest=30):
    """For k = 0 to longest - 1, the scores (n, L - k) of the spans that end k tokens after their
    first: the sum of its two logits, -inf where a span may not start or end.

    start_logits, end_logits: (n, L); context_mask: (n, L), where a span may start and end.
    """
    start_logits, end_logits = choosable(start_logits, end_logits, context_mask)
    length = start_logits.shape[1]
    for k in range(min(longest, length)):
        with np.errstate(invalid="ignore"):  # inf - inf is nan
            yield start_logits[:, : length - k] + end_logits[:, k:]


def best_spans(start_logits, end_logits, context_mask, longest=30):
    """(score, start, end), each (n,): the span of 1 to `longest` tokens with the highest sum.

    Arguments as `span_scores` takes them. Of equals, the lowest start, then the lowest end. A row
    without a span scores -inf, at (0, 0).
    """
    kind = np.result_type(start_logits, end_logits, np.float32)
    n, length = start_logits.shape
    if length == 0:
        return np.full(n, -np.inf, kind), np.zeros(n, np.int64), np.zeros(n, np.int64)
    start_logits, end_logits = choosable(start_logits, end_logits, context_mask)
    best_end, width = end_logits.copy(), 1  # the highest of the `width` end logits from here on
    while width < longest:
        further = min(width, longest - width)
        best_end[:, :-further] = np.maximum(best_end[:, :-further], best_end[:, further:])
        width += further
    rows, none = np.arange(n), kind.type(-np.inf)
    with np.errstate(invalid="ignore"):  # inf - inf is nan, which fmax passes over
        start = np.fmax(start_logits + best_end, none).argmax(axis=1)
        ends = np.minimum(start[:, None] + np.arange(longest), length - 1)  # (n, longest)
        scores = np.fmax(start_logits[rows, start, None] + end_logits[rows[:, None], ends], none)
    end = scores.argmax(axis=1)
    return scores[rows, end], start, ends[rows, end]


def decode_answers(examples, features, start_logits, end_logits, longest=30):
    """One {"id", "prediction_text", "score", "start", "end"} per example, in its order.

    features: the examples' windows (`featurise`); logits: (n_features, L), row i for window i;
    what stands beyond a window's own tokens is not looked at. start, end: characters of the
    context. Without any span to choose: "" at (0, 0), score -inf. Raises ValueError where the
    logits are too few or too short.
    """
    start_logits, end_logits = np.asarray(start_logits), np.asarray(end_logits)
    offsets = features.with_format("arrow")[:]["offsets"].combine_chunks()
    lengths = np.diff(offsets.offsets.to_numpy())  # (n,)
    spans = offsets.flatten().flatten().to_numpy().reshape(-1, 2)  # every window's, end to end
    first = np.cumsum(lengths) - lengths  # (n,) where each window's spans begin
    needed = (len(features), int(lengths.max(initial=0)))
    if start_logits.shape != end_logits.shape or start_logits.ndim != 2 or not (
        len(start_logits) == needed[0] and start_logits.shape[1] >= needed[1]
    ):
        raise ValueError(
            f"start and end logits have shapes {start_logits.shape} and {end_logits.shape}; "
            f"expected ({needed[0]}, {needed[1]} or more), a row for each window: predict these "
            "features again"
        )
    mask = np.arange(start_logits.shape[1]) < lengths[:, None]  # (n, L) where a window has tokens
    mask[mask] = spans[:, 0] >= 0
    blocks = [slice(i, i + 256) for i in range(0, max(1, len(mask)), 256)]  # they fit in the cache
    score, start, end = (
        np.concatenate(part) for part in zip(*(
            best_spans(start_logits[rows], end_logits[rows], mask[rows], longest) for rows in blocks
        ))
    )

    example = np.asarray(features.with_format(None)["example"][:], dtype=np.int64)
    order = np.lexsort((-score, example))  # stable: of equal windows, the first
    found, place = np.unique(example[order], return_index=True)
    chosen = dict(zip(found.tolist(), order[place].tolist()))
    answers = []
    names, contexts = (examples.with_format(None)[part][:] for part in ("id", "context"))
    for i, (name, context) in enumerate(zip(names, contexts)):
        answer = {"id": name, "prediction_text": "", "score": -np.inf, "start": 0, "end": 0}
        best = chosen.get(i)
        if best is not None and score[best] > -np.inf:
            a, b = int(spans[first[best] + start[best], 0]), int(spans[first[best] + end[best], 1])
            answer |= {"prediction_text": context[a:b], "score": float(score[best]),
                       "start": a, "end": b}
        answers.append(answer)
    return answers

# *Exact Match* is the share of questions whose answer equals one of the reference answers, once
# capitals, punctuation, articles and spacing are set aside. *F1* is kinder: it counts the words
# that answer and reference have in common. This is the definition of the official SQuAD v1.1
# script, as an `evaluate` metric that needs no download.
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text):
    """Lower case, without punctuation, articles (a, an, the) or extra white space."""
    text = text.lower().translate(NO_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def answer_f1(prediction, reference):
    """F1 of the words that two normalised answers have in common, 0 where they share none."""
    ours, theirs = prediction.split(), reference.split()
    shared = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(ours), shared / len(theirs)
    return 2 * precision * recall / (precision + recall)


class SquadMetric(evaluate.Metric):
    """SQuAD v1.1 Exact Match and F1 as fractions: compute() gives {"em": x, "f1": y}.

    predictions: [{"id", "prediction_text"}]; references: [{"id", "answers"}] with answers =
    {"text": [..], "answer_start": [..]}; paired by id, the best of the references counts.
    Raises ValueError unless there is one prediction for each reference.
    Source: Rajpurkar et al., 2016, section 6.1, and evaluate-v1.1.py.
    """

    def __init__(self):
        # evaluate makes a folder even for a metric in memory, by default in the user's home
        with tempfile.TemporaryDirectory(prefix="squad-metric-") as folder:
            super().__init__(keep_in_memory=True, cache_dir=folder)

    def _info(self):
        answers = {"text": List(Value("string")), "answer_start": List(Value("int32"))}
        return evaluate.MetricInfo(
            description="SQuAD v1.1 Exact Match and F1, fractions between 0 and 1.",
            citation="Rajpurkar et al., 2016, https://arxiv.org/abs/1606.05250",
            features=Features({
                "predictions": {"id": Value("string"), "prediction_text": Value("string")},
                "references": {"id": Value("string"), "answers": answers},
            }),
        )

    def compute(self, *, predictions, references):
        """{"em", "f1"}; other fields of the rows, such as a score, are left aside."""
        if not references:
            raise ValueError("no references to score against; give at least one question")
        ids, wanted = [row["id"] for row in predictions], [row["id"] for row in references]
        if len(ids) != len(wanted) or len(set(ids)) != len(ids) or set(ids) != set(wanted):
            raise ValueError(
                f"{len(ids)} predictions for {len(wanted)} references, "
                f"{len({*ids} & {*wanted})} ids in common; expected exactly one prediction for "
                "each reference"
            )
        said = [{"id": row["id"], "prediction_text": row["prediction_text"]} for row in predictions]
        known = [{"id": row["id"], "answers": row["answers"]} for row in references]
        return super().compute(predictions=said, references=known)

    def _compute(self, predictions, references):
        text = {row["id"]: normalize_answer(row["prediction_text"]) for row in predictions}
        em = f1 = 0.0
        for row in references:
            ours, allowed = text[row["id"]], {normalize_answer(t) for t in row["answers"]["text"]}
            em += ours in allowed
            f1 += max((answer_f1(ours, theirs) for theirs in allowed), default=0.0)
        return {"em": em / len(references), "f1": f1 / len(references)}
