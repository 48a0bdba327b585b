"""Answer questions about passages of any length, like the pipeline that transformers removed.

A passage is split into windows of at most 384 tokens. In each window, the start logits and the end
logits of the passage and of `[CLS]`, which stands for "no answer", become probabilities. The score
of a span is the product of its two. Spans with the same text are one answer, with the sum of their
scores. Source: transformers 4.57, pipelines/question_answering.py. docs/pipeline.md lists the
differences.
"""

from typing import Any

import numpy as np
from datasets import Dataset
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn

from smp.data.answers import choosable, window_offsets
from smp.data.squad_file import check_characters
from smp.data.windows import featurise
from smp.model.load import check_max_length, readable_tokens
from smp.model.predict import predict_logits

PAIR = ("question", "context")


def window_scores(start_logits: np.ndarray, end_logits: np.ndarray, inside: np.ndarray,
                  longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (scores (n, L, longest), scores of "no answer" (n,)) of n windows.

    Entry (i, k) of a window is the score of the tokens i to i + k, 0 if they are not `inside`.
    start_logits, end_logits, inside: (n, L); inside: whether a token belongs to the passage.
    """
    kept = inside | (np.arange(inside.shape[1]) == 0)
    start, end = choosable(start_logits.astype(float), end_logits.astype(float), kept)
    with np.errstate(invalid="ignore"):  # -inf - -inf is NaN
        for side in (start, end):
            np.exp(side - side.max(axis=1, keepdims=True), out=side)
            side /= side.sum(axis=1, keepdims=True)
    null = start[:, 0] * end[:, 0]
    ends = np.pad(end * inside, ((0, 0), (0, longest - 1)))
    return (start * inside)[:, :, None] * sliding_window_view(ends, longest, axis=1), null


def answer_spans(passage: str, start_logits: np.ndarray, end_logits: np.ndarray,
                 offsets: np.ndarray, top_k: int = 1, max_answer_len: int = 15,
                 handle_impossible_answer: bool = False, align_to_words: bool = True) -> list[dict]:
    """Return at most top_k answers {"score", "start", "end", "answer"}, best first, at least one.

    start_logits, end_logits: (n, L) of the passage's n windows; offsets: (n, L, 2), characters of
    each token or of its word, -1 outside the passage. Other arguments: see `QuestionAnswerer`.
    """
    for name, value in (("top_k", top_k), ("max_answer_len", max_answer_len)):
        if value < 1:
            raise ValueError(f"{name} is {value}: expected 1 or more")
    longest = min(max_answer_len, offsets.shape[1])
    scores, null = window_scores(start_logits, end_logits, offsets[:, :, 0] >= 0, longest)
    most = 2 * top_k + 10 if align_to_words else top_k  # several spans may have the same words
    found: dict[str, dict] = {}  # {text in lower case: its answer}
    for window, score in zip(offsets.tolist(), scores.reshape(len(scores), -1)):
        best = np.argsort(-score, kind="stable")[:most]
        for place in best[score[best] > 0].tolist():
            first, more = divmod(place, longest)
            start, end = window[first][0], window[first + more][1]
            answer = {"score": 0.0, "start": start, "end": end, "answer": passage[start:end]}
            found.setdefault(passage[start:end].lower(), answer)["score"] += float(score[place])
    if handle_impossible_answer or not found:
        lowest = float(null.min()) if handle_impossible_answer else 0.0
        found[""] = {"score": lowest, "start": 0, "end": 0, "answer": ""}
    return sorted(found.values(), key=lambda answer: -answer["score"])[:top_k]


def question_rows(question: Any, context: Any = None) -> Dataset:
    """Return rows for `featurise`; the answers in them are placeholders.

    question, context: see `QuestionAnswerer`. Raises ValueError if a text is empty or contains a
    lone surrogate, or if there is not a context for each question.
    """
    questions = [question] if isinstance(question, str | dict) else [*question]
    contexts = [context] * len(questions) if isinstance(context, str | None) else [*context]
    if len(questions) != len(contexts):
        raise ValueError(f"{len(questions)} questions for {len(contexts)} contexts: expected one "
                         "context, or one for each question")
    pairs = [one if isinstance(one, dict) else {"question": one, "context": text}
             for one, text in zip(questions, contexts)]
    for name, text in ((name, pair.get(name)) for pair in pairs for name in PAIR):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"the {name} is {text!r}: expected some text")
        check_characters(text, f"the {name}")
    unknown = {"text": ["?"], "answer_start": [0]}
    return Dataset.from_list([{"id": pair["question"], "answers": unknown}
                              | {name: pair[name] for name in PAIR} for pair in pairs])


class QuestionAnswerer:
    """Answer questions: `answerer(question=..., context=...)` returns what the pipeline returned.

    An answer is {"score", "start", "end", "answer"}: start and end are characters of the context.

    model: a stock question-answering model, also with a head of smp/model/student.py, or an
    exported one; max_seq_len, doc_stride: tokens of a window, and tokens that neighbouring windows
    share, by default at most 384 and 128.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, max_seq_len: int | None = None,
                 doc_stride: int | None = None, precision: str = "fp32"):
        self.model, self.tokenizer, self.precision = model, tokenizer, precision
        self.max_seq_len, self.doc_stride = max_seq_len, doc_stride

    def __call__(self, question: Any, context: Any = None, top_k: int = 1,
                 max_answer_len: int = 15, handle_impossible_answer: bool = False,
                 align_to_words: bool = True, **windows: Any) -> Any:
        """Return one answer or a list of the top_k answers; for several questions, a list of these.

        question, context: texts, or lists of texts, which may share one context; alternatively
        question is a dictionary {"question", "context"}, or a list of them. As in the pipeline, a
        list with one question or with one answer is replaced by its only entry.
        max_answer_len: tokens; handle_impossible_answer: also return "" with the score of "no
        answer"; align_to_words: extend answers to whole words; windows: as in `predict_rows`.
        Raises ValueError for invalid arguments.
        """
        rows = question_rows(question, context)
        found = self.predict_rows(rows, align_to_words, **windows) if len(rows) else []
        answers: list[Any] = [answer_spans(
            row["context"], *logits, top_k, max_answer_len, handle_impossible_answer,
            align_to_words) for row, logits in zip(rows, found)]
        answers = [each[0] if len(each) == 1 else each for each in answers]
        return answers[0] if len(answers) == 1 else answers

    def predict_rows(self, rows: Dataset, align_to_words: bool = True,
                     max_seq_len: int | None = None, doc_stride: int | None = None,
                     max_question_len: int = 64, batch_size: int = 8
                     ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return (start logits, end logits (windows, L), offsets (windows, L, 2)) of each row.

        offsets: first and last + 1 character of each token, or of its word, -1 outside the context.
        max_question_len: tokens that are kept of a question; batch_size: windows in a batch.
        """
        length = max_seq_len or self.max_seq_len or min(
            384, self.tokenizer.model_max_length, readable_tokens(self.model) or 384)
        check_max_length(type(self.model).__name__, self.model, length)
        stride = self.doc_stride if doc_stride is None else doc_stride
        stride = min(length // 2, 128) if stride is None else stride
        windows = featurise(rows, self.tokenizer, length, stride, max_question_len, align_to_words)
        start, end = predict_logits(self.model, windows, self.tokenizer, self.precision, batch_size)
        cuts = np.flatnonzero(np.diff(windows["example"][:])) + 1
        return [*zip(*(np.split(part, cuts) for part in (start, end, window_offsets(windows))))]
