"""Ask your own question.

A reader takes a question and a passage of any length, and gives the answer with the characters
it stands at. Its score is a probability: the softmax over all spans of at most 30 tokens, each
with the sum of its two logits. That is how probable this span is *if* the answer is in the
passage. Whether it is, is another number: windows that lack the answer were trained to point at
`[CLS]`, so the two logits there say "not here". Where even the window that says so the least
prefers it to every span of the passage, the reader doubts that there is an answer. In SQuAD v1.1
every question has one, so take that as a hint, not as a measured probability.
"""

import numpy as np
from datasets import Dataset

from smp.data.answers import normalize_answer, span_scores
from smp.data.checks import check_characters
from smp.data.windows import featurise
from smp.model.load import readable_tokens
from smp.model.predict import predict_logits


def rank_spans(start_logits, end_logits, offsets, longest=30):
    """(score, first, last + 1), each (m,): every span of a passage that may be the answer, the best
    first, each once.

    start_logits, end_logits: (n, L) of the passage's n windows; offsets: (n, L, 2), characters of
    each token, -1 where it is not of the passage. A span in two windows has the higher score.
    """
    length = start_logits.shape[1]
    scores, firsts, ends = [], [], []
    of_passage = offsets[:, :, 0] >= 0
    for k, score in enumerate(span_scores(start_logits, end_logits, of_passage, longest)):
        scores.append(score.ravel())
        firsts.append(offsets[:, : length - k, 0].ravel())
        ends.append(offsets[:, k:, 1].ravel())
    score, first, end = map(np.concatenate, (scores, firsts, ends))
    there = np.flatnonzero(score > -np.inf)
    order = there[np.lexsort((end[there], first[there], -score[there]))]
    _, once = np.unique(np.stack([first[order], end[order]]), axis=1, return_index=True)
    order = order[np.sort(once)]
    return score[order], first[order], end[order]


def answer_spans(passage, start_logits, end_logits, offsets, n_best=1):
    """What a reader says of one passage: see `PassageReader`. Arrays as `rank_spans` takes them."""
    score, first, end = rank_spans(start_logits, end_logits, offsets)
    if len(score) == 0:
        return {"answer": "", "score": 0.0, "start": 0, "end": 0, "no_answer": 1.0, "n_best": []}
    share = np.exp(score.astype(np.float64) - score[0])
    share /= share.sum()
    spans, seen = [], set()
    for i in range(len(score)):
        text = passage[first[i] : end[i]]
        if len(spans) < n_best and normalize_answer(text) not in seen:
            seen.add(normalize_answer(text))
            spans.append({"answer": text, "score": float(share[i]), "start": int(first[i]),
                          "end": int(end[i])})
    not_here = float((start_logits[:, 0] + end_logits[:, 0]).min())  # in the surest window
    no_answer = 1 / (1 + np.exp(np.clip(score[0] - not_here, -500, 500)))
    return spans[0] | {"no_answer": float(no_answer), "n_best": spans}


class QuestionAnswerer:
    """reader(question, passage) -> {"answer", "score", "start", "end", "no_answer", "n_best"}.

    start, end: characters of the passage; score: the answer's probability among all spans;
    no_answer: sigmoid("not here" minus the best span, in logits), above 0.5 where the model would
    rather point at [CLS]; n_best: [{"answer", "score", "start", "end"}], none twice.

    model: a stock question-answering model, or one with a head of smp/head.py; max_length, stride:
    tokens of a window, and those that neighbours share.
    """

    def __init__(self, model, tokenizer, max_length=None, stride=128, precision="fp32"):
        most = readable_tokens(model) or 384
        self.model, self.tokenizer, self.precision = model, tokenizer, precision
        self.max_length = min(384, most) if max_length is None else max_length
        self.stride = min(stride, self.max_length // 3)

    def __call__(self, question, passage, n_best=1):
        """A dict as above; of lists of questions and passages a list. One passage serves all
        questions. Raises ValueError with one line for text that is empty or holds half a character.
        """
        many = isinstance(question, list | tuple)
        questions = list(question) if many else [question]
        passages = passage if isinstance(passage, list | tuple) else [passage] * len(questions)
        if len(questions) != len(passages):
            raise ValueError(
                f"{len(questions)} questions for {len(passages)} passages: expected one passage, "
                "or one for each question"
            )
        for name, text in (*(("question", q) for q in questions),
                           *(("passage", p) for p in passages)):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"the {name} is empty: expected some text")
            check_characters(text, f"the {name}")
        said = self.read(questions, passages, n_best) if questions else []
        return said if many else said[0]

    def read(self, questions, passages, n_best):
        rows = []
        for number, (question, passage) in enumerate(zip(questions, passages)):
            first = passage.split()[0]  # any label will do: nothing is trained on it
            label = {"text": [first], "answer_start": [passage.index(first)]}
            rows.append({"id": str(number), "title": "", "context": passage, "question": question,
                         "answers": label})
        windows = featurise(Dataset.from_list(rows), self.tokenizer, self.max_length, self.stride)
        start, end = predict_logits(self.model, windows, self.tokenizer, self.precision)
        of, spans = np.asarray(windows["example"][:]), windows["offsets"][:]
        offsets = np.full((*start.shape, 2), -1)
        for row, own in enumerate(spans):
            offsets[row, : len(own)] = own
        return [
            answer_spans(passage, start[of == number], end[of == number], offsets[of == number],
                         n_best)
            for number, passage in enumerate(passages)
        ]
