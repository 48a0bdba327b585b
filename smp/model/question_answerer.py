"""Answer questions about passages of any length, like the pipeline that transformers removed.

The score of an answer is the softmax over all spans of at most 30 tokens, each with the sum of its
two logits: the probability of the span if the passage contains the answer. The labels of a window
without the answer are `[CLS]`, so the two logits at `[CLS]` score "no answer". In SQuAD v1.1 every
question has an answer, so no_answer is a hint, not a calibrated probability.
"""

from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn

from smp.data.answers import normalize_answer, span_scores
from smp.data.squad_file import check_characters
from smp.data.windows import featurise
from smp.model.load import readable_tokens
from smp.model.predict import predict_logits


def rank_spans(start_logits: np.ndarray, end_logits: np.ndarray, offsets: np.ndarray,
               longest: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (score, first, last + 1), each (m,), of every possible answer span, best first.

    start_logits, end_logits: (n, L) of the passage's n windows; offsets: (n, L, 2), characters of
    each token, -1 outside the passage. A span in two windows occurs once, with the higher score.
    """
    length = start_logits.shape[1]
    by_length = span_scores(start_logits, end_logits, offsets[:, :, 0] >= 0, longest)
    score, first, end = map(np.concatenate, zip(*(
        (scores.ravel(), offsets[:, : length - k, 0].ravel(), offsets[:, k:, 1].ravel())
        for k, scores in enumerate(by_length)
    )))
    possible = np.flatnonzero(score > -np.inf)
    order = possible[np.lexsort((end[possible], first[possible], -score[possible]))]
    _, once = np.unique(np.stack([first[order], end[order]]), axis=1, return_index=True)
    order = order[np.sort(once)]
    return score[order], first[order], end[order]


def answer_spans(passage: str, start_logits: np.ndarray, end_logits: np.ndarray,
                 offsets: np.ndarray, n_best: int = 1) -> dict:
    """Return the answer from one passage's logits, see `QuestionAnswerer` and `rank_spans`."""
    score, first, end = rank_spans(start_logits, end_logits, offsets)
    if len(score) == 0:
        return {"answer": "", "score": 0.0, "start": 0, "end": 0, "no_answer": 1.0, "n_best": []}
    share = np.exp(score.astype(np.float64) - score[0])
    share /= share.sum()
    distinct: dict[str, dict] = {}
    for probability, a, b in zip(share.tolist(), first.tolist(), end.tolist()):
        if len(distinct) < n_best:
            answer = {"answer": passage[a:b], "score": probability, "start": a, "end": b}
            distinct.setdefault(normalize_answer(passage[a:b]), answer)
    spans = list(distinct.values())
    null = (start_logits[:, 0] + end_logits[:, 0]).min()  # the lowest "no answer" of all windows
    no_answer = 1 / (1 + np.exp(np.clip(score[0] - null, -500, 500)))
    return spans[0] | {"no_answer": float(no_answer), "n_best": spans}


def question_rows(questions: Any, passages: Any) -> Dataset:
    """Return SQuAD rows of the pairs; the passage's first word stands for the unknown answer.

    Raises ValueError if a text is empty or contains a lone surrogate.
    """
    for name, texts in (("question", questions), ("passage", passages)):
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"the {name} is empty: expected some text")
            check_characters(text, f"the {name}")
    words = [passage.split()[0] for passage in passages]
    return Dataset.from_list([
        {"id": str(number), "title": "", "context": passage, "question": question,
         "answers": {"text": [word], "answer_start": [passage.index(word)]}}
        for number, (question, passage, word) in enumerate(zip(questions, passages, words))])


class QuestionAnswerer:
    """Answer questions: `answerer(question, passage)` returns one dict per question.

    answer: a text of the passage; start, end: its characters; score: its probability among all
    spans; no_answer: sigmoid("no answer" minus the best span, in logits), above 0.5 if the score of
    [CLS] is higher; n_best: distinct answers as {"answer", "score", "start", "end"}.

    model: a stock question-answering model, also with a head of smp/model/student.py; max_length,
    stride: tokens of a window, and tokens that neighbouring windows share.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, max_length: int | None = None,
                 stride: int = 128, precision: str = "fp32"):
        self.model, self.tokenizer, self.precision = model, tokenizer, precision
        most = min(384, readable_tokens(model) or 384)
        self.max_length = most if max_length is None else max_length
        self.stride = min(stride, self.max_length // 3)

    def __call__(self, question: str | list[str], passage: str | list[str],
                 n_best: int = 1) -> Any:
        """Return the answer, or a list for a list of questions, which may share one passage.

        Raises ValueError if a text is empty or contains a lone surrogate.
        """
        questions = question if isinstance(question, list | tuple) else [question]
        passages = passage if isinstance(passage, list | tuple) else [passage] * len(questions)
        if len(questions) != len(passages):
            raise ValueError(f"{len(questions)} questions for {len(passages)} passages: expected "
                             "one passage, or one for each question")
        if not questions:
            return []
        answers = [answer_spans(passage, *found, n_best) for passage, found in
                   zip(passages, self.predict_rows(question_rows(questions, passages)))]
        return answers if questions is question else answers[0]

    def predict_rows(self, rows: Dataset) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return (start logits, end logits (windows, L), offsets (windows, L, 2)) of each row.

        offsets: first and last + 1 character of each token, -1 outside the passage.
        """
        windows = featurise(rows, self.tokenizer, self.max_length, self.stride)
        start, end = predict_logits(self.model, windows, self.tokenizer, self.precision)
        offsets = np.full((*start.shape, 2), -1)
        for row, spans in enumerate(windows["offsets"][:]):
            offsets[row, : len(spans)] = spans
        example = np.asarray(windows["example"][:])
        return [(start[own], end[own], offsets[own])
                for own in (example == number for number in range(len(rows)))]
