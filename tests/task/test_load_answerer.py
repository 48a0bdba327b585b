"""A saved model, or a base model and a mask file, answers as the trained student did."""

import pytest
from test_adapters import learn

from smp.model.question_answerer import QuestionAnswerer
from smp.model.save import save_model
from smp.model.student import stock_model
from smp.task.answerer import load_answerer

LONG = "Ada Lovelace, born in London in 1815, wrote the first program. " * 12


@pytest.mark.parametrize("head", ["label words", "embedding rows", "trained"])
def test_a_saved_student_answers_as_before(base, tmp_path, tokenizer, head):
    student = learn(base, tmp_path / "m", head)
    save_model(stock_model(student, base), tokenizer, tmp_path / "plain")
    wanted = QuestionAnswerer(student, tokenizer, 64, 16, "fp32")("Who wrote it?", LONG, 5)
    for names in ((str(tmp_path / "plain"), None), (base, str(tmp_path / "m"))):
        answerer = load_answerer(*names, 64, 16, "fp32")
        assert answerer("Who wrote it?", LONG, 5) == wanted


def test_a_model_without_a_trained_head_raises():
    with pytest.raises(ValueError, match="has no masked-LM head") as error:
        load_answerer("all-MiniLM-L6-v2")
    assert "\n" not in str(error.value)
