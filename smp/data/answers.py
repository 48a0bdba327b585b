"""Decode answers from start and end logits, and score them with Exact Match and F1.

The answer is a span of at most 30 context tokens. Of all windows of the context, it has the highest
sum of start and end logit. Its text is the span's characters of the context.
"""

import collections
import re
import string
import tempfile
from typing import Any

import evaluate
import numpy as np
from datasets import Dataset, Features, List, Value

NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def choosable(start_logits: np.ndarray, end_logits: np.ndarray,
              context_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits (n, L), with -inf outside the mask and for NaN."""
    kind = np.result_type(start_logits, end_logits, np.float32)
    start, end = (np.where(context_mask & (logits == logits), logits, -np.inf).astype(kind)
                  for logits in (start_logits, end_logits))
    return start, end


def best_spans(start_logits: np.ndarray, end_logits: np.ndarray, context_mask: np.ndarray,
               longest: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (score, start, end), each (n,): the best span of 1 to `longest` tokens.

    start_logits, end_logits: (n, L); context_mask: (n, L), where a span may start and end. Ties go
    to the lowest start, then the lowest end. The result for a row without a span is -inf at (0, 0).
    """
    # padded, so that every row has a start and every start has `longest` ends
    starts, ends = (np.pad(logits, ((0, 0), (0, more)), constant_values=-np.inf) for logits, more in
                    zip(choosable(start_logits, end_logits, context_mask), (1, longest)))
    rows, best_end, width = np.arange(len(starts)), ends, 1
    while width < longest:  # best_end: the highest of the `width` end logits from here on
        step = min(width, longest - width)
        best_end, width = np.maximum(best_end[:, :-step], best_end[:, step:]), width + step
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which fmax replaces
        start = np.fmax(starts + best_end, -np.inf).argmax(axis=1)
        of_start = ends[rows[:, None], start[:, None] + np.arange(longest)]  # (n, longest)
        scores = np.fmax(starts[rows, start, None] + of_start, -np.inf)
    more = scores.argmax(axis=1)
    return scores[rows, more], start, start + more


def window_offsets(features: Dataset) -> np.ndarray:
    """Return the offsets of windows (n, L, 2), padded with -1 to the longest of them."""
    column = features.with_format("arrow")[:]["offsets"].combine_chunks()
    lengths = np.diff(column.offsets.to_numpy())  # (n,)
    offsets = np.full((len(lengths), lengths.max(initial=0), 2), -1, np.int32)
    inside = np.arange(offsets.shape[1]) < lengths[:, None]  # (n, L) where a window has tokens
    offsets[inside] = column.flatten().flatten().to_numpy().reshape(-1, 2)
    return offsets


def decode_answers(examples: Dataset, features: Dataset, start_logits: np.ndarray,
                   end_logits: np.ndarray, longest: int = 30) -> list[dict]:
    """Return one {"id", "prediction_text", "score", "start", "end"} per example, in its order.

    features: the examples' windows (`featurise`); logits: (n_features, L), row i for window i;
    those beyond a window's tokens are ignored. start, end: characters of the context. An example
    without a span has "" at (0, 0) with score -inf. Raises ValueError for logits of another shape.
    """
    start_logits, end_logits = np.asarray(start_logits), np.asarray(end_logits)
    offsets = window_offsets(features)
    longest_window = offsets.shape[1]
    if start_logits.shape != end_logits.shape or start_logits.ndim != 2 or not (
        len(start_logits) == len(features) and start_logits.shape[1] >= longest_window
    ):
        raise ValueError(
            f"start and end logits have the shapes {start_logits.shape} and {end_logits.shape}; "
            f"expected ({len(features)}, {longest_window} or more), a row for each window: predict "
            "these features again"
        )
    start_logits, end_logits = (each[:, :longest_window] for each in (start_logits, end_logits))
    mask = offsets[:, :, 0] >= 0
    blocks = [slice(i, i + 256) for i in range(0, max(1, len(mask)), 256)]  # fit in the cache
    score, start, end = map(np.concatenate, zip(*(
        best_spans(start_logits[rows], end_logits[rows], mask[rows], longest) for rows in blocks)))
    owner = features.with_format(None)["example"][:]
    found: dict[int, dict] = {}  # {example: its best span, of the first window among equals}
    for i in np.argsort(-score, kind="stable"):
        if score[i] > -np.inf and owner[i] not in found:
            a, b = int(offsets[i, start[i], 0]), int(offsets[i, end[i], 1])
            found[owner[i]] = {"score": float(score[i]), "start": a, "end": b}
    answers = []
    names, contexts = (examples.with_format(None)[part][:] for part in ("id", "context"))
    for row, (name, context) in enumerate(zip(names, contexts)):
        span = found.get(row, {"score": -np.inf, "start": 0, "end": 0})
        text = context[span["start"] : span["end"]]
        answers.append({"id": name, "prediction_text": text} | span)
    return answers


def normalize_answer(text: str) -> str:
    """Return the text in lower case without punctuation, articles and extra white space."""
    text = text.lower().translate(NO_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def answer_f1(prediction: str, reference: str) -> float:
    """Return the F1 of the words that two normalised answers share."""
    ours, theirs = prediction.split(), reference.split()
    shared = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(ours), shared / len(theirs)
    return 2 * precision * recall / (precision + recall)


class SquadMetric(evaluate.Metric):
    """SQuAD v1.1 Exact Match and F1 as fractions, by the definition of evaluate-v1.1.py."""

    def __init__(self) -> None:
        # evaluate makes a folder even for a metric in memory, by default in the user's home
        with tempfile.TemporaryDirectory(prefix="squad-metric-") as folder:
            super().__init__(keep_in_memory=True, cache_dir=folder)

    def _info(self):
        text = Value("string")
        answers = {"text": List(text), "answer_start": List(Value("int32"))}
        return evaluate.MetricInfo(
            description="SQuAD v1.1 Exact Match and F1, fractions between 0 and 1.",
            citation="Rajpurkar et al., 2016, https://arxiv.org/abs/1606.05250",
            features=Features(predictions={"id": text, "prediction_text": text},
                              references={"id": text, "answers": answers}),
        )

    def compute(self, *, predictions: list[dict], references: list[dict]) -> dict[str, Any]:
        """Return {"em", "f1", "exact_matches"}, with the best reference answer of each question.

        predictions: [{"id", "prediction_text"}]; references: [{"id", "answers"}] with answers =
        {"text": [..], "answer_start": [..]}; paired by id, other fields are ignored. exact_matches
        has a bit for each reference, in their order, as hexadecimal digits.
        Raises ValueError unless there is one prediction for each reference.
        """
        if not references:
            raise ValueError("no references to score against; use at least one question")
        ids, wanted = [row["id"] for row in predictions], [row["id"] for row in references]
        if len(ids) != len(wanted) or len(set(ids)) != len(ids) or set(ids) != set(wanted):
            raise ValueError(
                f"{len(ids)} predictions for {len(wanted)} references, {len({*ids} & {*wanted})} "
                "ids in common; expected one prediction for each reference"
            )
        return super().compute(
            predictions=[{k: row[k] for k in ("id", "prediction_text")} for row in predictions],
            references=[{k: row[k] for k in ("id", "answers")} for row in references])

    def _compute(self, predictions, references):
        answer = {row["id"]: normalize_answer(row["prediction_text"]) for row in predictions}
        exact, f1 = [], 0.0
        for row in references:
            ours, allowed = answer[row["id"]], {*map(normalize_answer, row["answers"]["text"])}
            exact.append(ours in allowed)
            f1 += max((answer_f1(ours, theirs) for theirs in allowed), default=0.0)
        return {"em": sum(exact) / len(exact), "f1": f1 / len(exact),
                "exact_matches": np.packbits(exact).tobytes().hex()}
