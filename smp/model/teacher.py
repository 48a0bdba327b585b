r"""Learning from a teacher.

A fine-tuned model knows more than the right answer: its logits say which other spans come
close. Distillation lets the student imitate them, softened by a temperature $\tau$:
$$L = (1 - \alpha)\,\mathrm{CE} + \alpha\,\tau^2\,\mathrm{KL}\big(p_{teacher}^{\tau}\,\|\,
p_{student}^{\tau}\big) + \lambda R .$$
The data is not augmented, so what the teacher says about a window never changes: it is asked
once, before training, and its logits are kept. (Unless its hidden states are wanted too.)
"""

from pathlib import Path

import numpy as np
import torch

from smp.model.archive import is_archive, load_archive
from smp.model.load import check_max_length, load_qa_model
from smp.model.predict import MODEL_INPUTS, predict_logits
from smp.model.save import head_parts


def load_teacher(name, tokenizer, max_length, student_config):
    """A fine-tuned question-answering model, checked against the student's tokenizer.

    name: a Hub name, a folder that transformers saved, or an archive as the authors' (see
    `load_archive`), which is a BERT of student_config where it has no config.json. An archive
    without a vocabulary is taken to have the student's, and a printed line says so.
    Raises ValueError with one line where its head is not trained, its vocabulary is another, it
    needs token types that the student's windows lack, or it cannot read max_length tokens.
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
                f"TEACHER={name!r} has no question-answering head with a start and an end logit: "
                "expected a model fine-tuned on SQuAD, as BERT_FINETUNE_QA.ipynb saves"
            )
    check_vocabulary(name, teacher, vocabulary, tokenizer, student_config)
    typed = "token_type_ids" in inputs and getattr(teacher.config, "type_vocab_size", 0) > 1
    if typed and "token_type_ids" not in tokenizer.model_input_names:
        raise ValueError(
            f"TEACHER={name!r} reads token_type_ids, which the student's tokenizer does not make: "
            "save the teacher's tokenizer with the student's model"
        )
    return teacher.eval()


def check_vocabulary(name, teacher, vocabulary, tokenizer, student_config):
    """ValueError unless teacher and student number the same tokens alike; vocabulary None: unknown,
    so the sizes must agree, and a line says what is assumed."""
    if vocabulary is None:
        if teacher.config.vocab_size != student_config.vocab_size:
            raise ValueError(
                f"TEACHER={name!r} has no vocab.txt, and knows {teacher.config.vocab_size:,} "
                f"tokens where the student knows {student_config.vocab_size:,}: add the "
                "vocab.txt it was trained with"
            )
        print(f"{Path(name).name} has no vocab.txt: its tokens are taken to be the student's")
    elif vocabulary != tokenizer.get_vocab():
        raise ValueError(
            f"TEACHER={name!r} has another vocabulary ({len(vocabulary):,} tokens) than the "
            f"student ({len(tokenizer):,}): token by token they cannot be compared"
        )


def teacher_logits(teacher, features, tokenizer, precision="auto"):
    """The teacher's logits of every window: (n_features, length, 2) in fp16, 136 MB for SQuAD."""
    start, end = predict_logits(teacher, features, tokenizer, precision, note="asking the teacher")
    logits = np.stack([start, end], axis=-1)
    return torch.from_numpy(logits.clip(-6e4, 6e4)).half()  # -inf is padding, masked out later


def copy_head(student, teacher):
    """Fills the student's head with the teacher's weights, from which it is trained on.

    Raises ValueError with one line where the two heads are not of one form.
    """
    theirs = head_parts(teacher)
    for name, part in head_parts(student).items():
        try:
            part.load_state_dict(theirs[name].state_dict())
        except (KeyError, RuntimeError):
            raise ValueError(
                f"HEAD='teacher': the teacher has no {name} of the student's form "
                f"({type(part).__name__}); name another TEACHER, or set head=trained"
            ) from None


def check_layers(student, teacher):
    """ValueError with one line unless the configs are of as many layers of one width."""
    (layers, width), (theirs, wide) = (
        (config.num_hidden_layers, config.hidden_size) for config in (student, teacher)
    )
    if (layers, width) != (theirs, wide):
        raise ValueError(
            f"HIDDEN_WEIGHT needs a teacher with the student's {layers} layers of {width}, this "
            f"one has {theirs} of {wide}: name another TEACHER, or set hidden_weight=0"
        )
