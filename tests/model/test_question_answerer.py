"""Question answerer: its answers equal a plain implementation of the rules of the pipeline."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import BertForQuestionAnswering

from helpers import tiny_config
from smp.data.windows import tokenise
from smp.model.question_answerer import QuestionAnswerer, answer_spans

LONG = "Ada Lovelace, born in London in 1815, wrote the first program. " * 12
TEXT = "aB cD ef aB gh "  # two words occur twice, one in another place

def merged(windows, passage, most, top_k, impossible):
    """Return the answers of [(score of no answer, [(score, start, end)] in token order)]."""
    answers = []
    for _, spans in windows:
        for score, start, end in sorted(spans, key=lambda span: -span[0])[:most]:
            text = passage[start:end]
            same = [one for one in answers if one["answer"].lower() == text.lower()]
            if same:
                same[0]["score"] += score
            else:
                answers.append({"score": score, "start": start, "end": end, "answer": text})
    if impossible:
        lowest = min(null for null, _ in windows)
        answers.append({"score": lowest, "start": 0, "end": 0, "answer": ""})
    return sorted(answers, key=lambda one: -one["score"])[:top_k]

def softmax(logits, tokens):
    """Return {token: probability among these tokens}."""
    odds = {token: np.exp(float(logits[token]) - float(max(logits[t] for t in tokens)))
            for token in tokens}
    return {token: odd / sum(odds.values()) for token, odd in odds.items()}

def plain_pipeline(model, tokenizer, question, context, top_k=1, max_answer_len=15,
                   handle_impossible_answer=False, align_to_words=True, max_seq_len=128,
                   doc_stride=64):
    """Return the answers, window by window, span by span, with the tokenizer's own truncation."""
    pairs = tokenizer(question, context, truncation="only_second", max_length=max_seq_len,
                      stride=doc_stride, return_overflowing_tokens=True,
                      return_offsets_mapping=True)
    whole, windows = tokenizer(context, add_special_tokens=False), []
    for row, ids in enumerate(pairs["input_ids"]):
        with torch.no_grad():
            out = model(torch.tensor([ids]),
                        token_type_ids=torch.tensor([pairs["token_type_ids"][row]]))
        inside = [i for i, part in enumerate(pairs.sequence_ids(row)) if part == 1]
        start, end = (softmax(logits[0].numpy(), [0, *inside])
                      for logits in (out.start_logits, out.end_logits))
        spans = []
        for i in inside:
            for j in inside:
                if 0 <= j - i < max_answer_len:
                    a, b = pairs["offset_mapping"][row][i][0], pairs["offset_mapping"][row][j][1]
                    if align_to_words:
                        words = pairs.word_ids(row)
                        a, b = whole.word_to_chars(words[i])[0], whole.word_to_chars(words[j])[1]
                    spans.append((start[i] * end[j], a, b))
        windows.append((start[0] * end[0], spans))
    most = 2 * top_k + 10 if align_to_words else top_k
    return merged(windows, context, most, top_k, handle_impossible_answer)

OPTIONS = st.fixed_dictionaries({
    "top_k": st.integers(1, 4), "max_answer_len": st.integers(1, 20),
    "handle_impossible_answer": st.booleans(), "align_to_words": st.booleans(),
    "max_seq_len": st.sampled_from([32, 40, 64, 128]), "doc_stride": st.sampled_from([0, 5, 12])})

@settings(deadline=None, max_examples=60)
@given(st.integers(0, 15), OPTIONS)
def test_answers_equal_the_rules_window_by_window(answering, synthetic, row, options):
    """The options make one window or several of passages with words of several tokens."""
    answerer, row = answering, synthetic["eval"][row]
    context = row["context"] + " Antidisestablishmentarianism, Skåne's façade: 1,234.5 km."
    wanted = plain_pipeline(answerer.model, answerer.tokenizer, row["question"], context, **options)
    found = answerer(row["question"], context, **options)
    found = found if isinstance(found, list) else [found]
    assert [{**one, "score": 0} for one in found] == [{**one, "score": 0} for one in wanted]
    np.testing.assert_allclose([one["score"] for one in found],
                               [one["score"] for one in wanted], rtol=1e-4)

@pytest.fixture(scope="module")
def answering(tokenizer):
    """Return the answerer of a tiny random model with logits that differ."""
    torch.manual_seed(0)
    model = BertForQuestionAnswering(tiny_config()).eval()
    torch.nn.init.normal_(model.qa_outputs.weight)
    return QuestionAnswerer(model, tokenizer)

@st.composite
def passages(draw):
    """Return (start, end, offsets) of windows of TEXT, in words of two letters."""
    words, longest = draw(st.integers(0, 5)), draw(st.integers(4, 7))
    windows = range(0, max(words - 1, 1), max(1, longest - 3))
    offsets = np.full((len(windows), longest, 2), -1)
    for row, first in enumerate(windows):
        for token in range(1, longest):  # 0 is [CLS]
            if first + token - 1 < words:
                offsets[row, token] = 3 * (first + token - 1), 3 * (first + token - 1) + 2
    few = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0])  # ties are frequent
    start, end = (draw(arrays(np.float32, offsets.shape[:2], elements=few)) for _ in range(2))
    return start, end, offsets

@settings(deadline=None, max_examples=200)
@given(passages(), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.booleans())
def test_ties_and_equal_texts_follow_the_rules(passage, top_k, longest, impossible, align):
    windows, offsets = [], passage[2]
    for start, end, spans in zip(*passage):
        inside = np.flatnonzero(spans[:, 0] >= 0).tolist()
        starts, ends = (softmax(logits, [0, *inside]) for logits in (start, end))
        windows.append((starts[0] * ends[0], [
            (starts[i] * ends[j], int(spans[i, 0]), int(spans[j, 1]))
            for i in inside for j in inside if 0 <= j - i < longest]))
    most = 2 * top_k + 10 if align else top_k
    wanted = merged(windows, TEXT, most, top_k, impossible)
    found = answer_spans(TEXT, *passage, top_k, longest, impossible, align)
    if not (offsets >= 0).any() and not impossible:
        wanted = [{"score": 0.0, "start": 0, "end": 0, "answer": ""}]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in wanted])
    assert len({one["answer"].lower() for one in found}) == len(found) <= top_k
    scores = [round(one["score"], 9) for one in wanted]
    if len({*scores}) == len(scores):  # rounding may reorder equal scores
        assert [one["answer"] for one in found] == [one["answer"] for one in wanted]
    for one in found:
        assert TEXT[one["start"] : one["end"]] == one["answer"]

def test_nan_logits_give_the_empty_answer():
    nothing = np.full((1, 4), np.nan, np.float32)
    offsets = np.array([[[-1, -1], [0, 2], [3, 5], [-1, -1]]])
    assert answer_spans(TEXT, nothing, nothing, offsets) == [
        {"score": 0.0, "start": 0, "end": 0, "answer": ""}]

def test_forms_of_the_arguments_give_the_same_answers(tiny_qa, tokenizer):
    pair = {"question": "Who?", "context": LONG}
    answerer = QuestionAnswerer(tiny_qa, tokenizer, 32, 8)
    one = answerer(**pair)
    assert LONG[one["start"] : one["end"]] == one["answer"] != ""
    for same in (answerer("Who?", LONG), answerer(pair), answerer([pair]), answerer(["Who?"], LONG),
                 answerer(["Who?"], [LONG]), answerer(pair | {"id": "1"})):
        assert same == one
    two = answerer(["Who?", "Where?"], LONG, batch_size=1)
    assert [each["answer"] for each in two] == [
        each["answer"] for each in answerer([pair, pair | {"question": "Where?"}])]
    assert two[0] == pytest.approx(one) and answerer([], LONG) == answerer([]) == []
    best = answerer(**pair, top_k=3)
    assert len(best) == 3 and best[0] == one
    assert answerer("Who?", "Ada", top_k=3) == answerer("Who?", "Ada")  # one answer, no list

def test_long_questions_are_cut(tiny_qa, tokenizer):
    answerer = QuestionAnswerer(tiny_qa, tokenizer, 32, 8)
    cut = answerer("who " * 5, LONG)
    assert answerer("who " * 50, LONG, max_question_len=5) == cut != answerer("who " * 6, LONG)
    with pytest.raises(ValueError, match="has 50 tokens and leaves 0 of max_length 32"):
        answerer("who " * 50, LONG)

def test_words_are_whole_with_their_marks(tokenizer):
    """The uncased tokenizer drops the accent, which is a character of its own here."""
    text = "Skåne unbelievablecafe\u0301 (1893)"
    ids, spans = tokenise([text], tokenizer, whole_words=True)[0]
    words = [text[a:b] for a, b in dict.fromkeys(map(tuple, spans.tolist()))]
    assert words == ["Skåne", "unbelievablecafe\u0301", "(", "1893", ")"] and len(ids) > len(words)
    assert tokenise([""], tokenizer, whole_words=True)[0][1].shape == (0, 2)

@pytest.mark.parametrize("arguments, message", [
    (("", "Ada"), "the question is '': expected some text"),
    (("Who?", " \n"), "the context is ' \\n': expected some text"),
    (("Who?",), "the context is None: expected some text"),
    ((["Who?", "Where?"],), "the context is None: expected some text"),
    (({"question": "Who?"},), "the context is None: expected some text"),
    (({"question": ["Who?"], "context": "Ada"},), "the question is ['Who?']: expected some text"),
    (("Who?", "Ada \ud800"),
     "the context contains '\\ud800', which is not a character; replace it"),
    ((["Who?", "Where?"], ["Ada"]), "2 questions for 1 contexts: expected one context, or one for "
                                    "each question"),
    (("Who?", "Ada", 0), "top_k is 0: expected 1 or more"),
    (("Who?", "Ada", 1, 0), "max_answer_len is 0: expected 1 or more"),
])
def test_invalid_arguments_raise_one_line(tiny_qa, tokenizer, arguments, message):
    with pytest.raises(ValueError) as error:
        QuestionAnswerer(tiny_qa, tokenizer, 32, 8)(*arguments)
    assert str(error.value) == message

def test_windows_longer_than_the_model_reads_raise(tiny_qa, tokenizer):
    with pytest.raises(ValueError, match="max_length is 9999, but model 'BertFor"):
        QuestionAnswerer(tiny_qa, tokenizer)("Who?", "Ada", max_seq_len=9999)
    with pytest.raises(ValueError, match="stride 40: expected 0 or more, and less than"):
        QuestionAnswerer(tiny_qa, tokenizer)("Who?", "Ada", max_seq_len=32, doc_stride=40)
