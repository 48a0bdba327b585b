"""Load a teacher, check that it fits the student, and compute its logits.

The data is not augmented, so a window's teacher logits never change: they are computed once
before training and reused in every epoch.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PretrainedConfig

from smp.model.archive import is_archive, load_archive
from smp.model.load import check_max_length, load_qa_model
from smp.model.predict import MODEL_INPUTS, predict_logits
from smp.model.save import head_parts


def load_teacher(name: str, tokenizer: Any, max_length: int | None,
                 student_config: PretrainedConfig) -> nn.Module:
    """Return a fine-tuned question-answering model, checked against the student's tokenizer.

    name: a Hub name, a folder that transformers saved, or an archive (see `load_archive`). Raises
    ValueError if the head is not trained, if the vocabulary differs, if the teacher needs token
    types that the student's windows do not have, or if it cannot read max_length tokens.
    """
    if is_archive(name):
        teacher, vocabulary = load_archive(name, student_config)
        check_max_length(name, teacher, max_length)
        inputs = MODEL_INPUTS
    else:
        teacher, its_tokenizer, has_head = load_qa_model(name, max_length=max_length)
        vocabulary, inputs = its_tokenizer.get_vocab(), its_tokenizer.model_input_names
        if not has_head or teacher.config.num_labels != 2:
            raise ValueError(
                f"teacher {name!r} has no question-answering head with a start and an end logit: "
                "expected a model fine-tuned on SQuAD, such as BERT_FINETUNE_QA.ipynb saves")
    check_vocabulary(name, teacher, vocabulary, tokenizer, student_config)
    typed = "token_type_ids" in inputs and getattr(teacher.config, "type_vocab_size", 0) > 1
    if typed and "token_type_ids" not in tokenizer.model_input_names:
        raise ValueError(
            f"teacher {name!r} needs token_type_ids, but the student's tokenizer returns none: "
            "save the teacher's tokenizer with the student's model")
    return teacher.eval()


def check_vocabulary(name: str, teacher: nn.Module, vocabulary: dict[str, int] | None,
                     tokenizer: Any, student_config: PretrainedConfig) -> None:
    """Raise ValueError unless teacher and student give the same tokens the same ids.

    vocabulary: {token: id} of the teacher. If it is None, the sizes must agree, and a line is
    printed that the student's vocabulary is assumed.
    """
    if vocabulary is None:
        if teacher.config.vocab_size != student_config.vocab_size:
            raise ValueError(
                f"teacher {name!r} has no vocab.txt and {teacher.config.vocab_size:,} tokens, but "
                f"the student has {student_config.vocab_size:,}: add the teacher's vocab.txt")
        print(f"{Path(name).name} has no vocab.txt: the student's vocabulary is assumed")
    elif vocabulary != tokenizer.get_vocab():
        raise ValueError(
            f"teacher {name!r} has another vocabulary ({len(vocabulary):,} tokens) than the "
            f"student ({len(tokenizer):,} tokens): use a teacher with the student's tokenizer")


def teacher_logits(teacher: nn.Module, features: Dataset, tokenizer: Any,
                   precision: str = "auto") -> torch.Tensor:
    """Return the logits of every window, fp16 (n_features, length, 2): 136 MB for SQuAD."""
    start, end = predict_logits(teacher, features, tokenizer, precision, note="teacher logits")
    logits = np.stack([start, end], axis=-1)
    return torch.from_numpy(logits.clip(-6e4, 6e4)).half()  # -inf is padding, masked out later


def copy_head(student: nn.Module, teacher: nn.Module) -> None:
    """Copy the teacher's head weights into the student's head, as a start for training.

    Raises ValueError if the two heads differ in form.
    """
    theirs = head_parts(teacher)
    for name, part in head_parts(student).items():
        try:
            part.load_state_dict(theirs[name].state_dict())
        except (KeyError, RuntimeError):
            raise ValueError(
                f"init_head_from_teacher is True, but the teacher has no {name} like the student's "
                f"{type(part).__name__}: use another teacher, or set it to False") from None


def check_layers(student: PretrainedConfig, teacher: PretrainedConfig) -> None:
    """Raise ValueError unless both configs have the same number of layers and hidden size."""
    layers, width = student.num_hidden_layers, student.hidden_size
    theirs, wide = teacher.num_hidden_layers, teacher.hidden_size
    if (layers, width) != (theirs, wide):
        raise ValueError(
            f"distill is 'hidden', but the teacher has {theirs} layers of size {wide} and the "
            f"student {layers} of size {width}: use another teacher, or set distill to logits")
