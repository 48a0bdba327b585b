# %% [markdown]
# ## Learning from a teacher
#
# A fine-tuned model knows more than the right answer: its logits say which other spans come
# close. Distillation lets the student imitate them, softened by a temperature $\tau$:
# $$L = (1 - \alpha)\,\mathrm{CE} + \alpha\,\tau^2\,\mathrm{KL}\big(p_{teacher}^{\tau}\,\|\,
# p_{student}^{\tau}\big) + \lambda R .$$
# The data is not augmented, so what the teacher says about a window never changes: it is asked
# once, before training, and its logits are kept. (Unless its hidden states are wanted too.)

# %%
from pathlib import Path

import numpy as np
import torch

# %%
from smp.archive import is_archive, load_archive

# %%
from smp.models import check_max_length, head_parts, load_qa_model

# %%
from smp.train import MODEL_INPUTS, predict_logits, span_loss

# %%
from smp.hidden import HiddenTeacher

# %%
def distillation_loss(student, teacher, attention_mask, temperature):
    """tau^2 KL(teacher || student), averaged over start and end and over the batch.

    student, teacher: (batch, length, 2) logits; attention_mask (batch, length): padding is kept
    out of both distributions. Source: SMP, section 4, with the KL as in the authors' code.
    """
    padding = (attention_mask == 0).unsqueeze(-1)
    student = (student / temperature).masked_fill(padding, -torch.inf).log_softmax(dim=1)
    teacher = (teacher / temperature).masked_fill(padding, -torch.inf).log_softmax(dim=1)
    gap = (teacher - student).masked_fill(padding, 0)  # -inf minus -inf at padding
    return temperature**2 * (teacher.exp() * gap).sum(dim=1).mean()

# %%
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


def ask_teacher(teacher, features, tokenizer, precision="auto"):
    """The teacher's logits of every window: (n_features, length, 2) in fp16, 136 MB for SQuAD."""
    start, end = predict_logits(teacher, features, tokenizer, precision, note="asking the teacher")
    logits = np.stack([start, end], axis=-1)
    return torch.from_numpy(logits.clip(-6e4, 6e4)).half()  # -inf is padding, masked out later


def take_head(student, teacher):
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


def distilled_loss(teacher_logits, settings, student=None, teacher=None):
    """The loss of `fit` that listens to the teacher: (1 - alpha) CE + alpha KD + beta H.

    teacher_logits: as `ask_teacher` gives them; where beta (hidden_weight) is not 0 they are not
    needed, but the two models are, see `HiddenTeacher`.
    """
    along = HiddenTeacher(student, teacher, settings.precision) if settings.hidden_weight else None

    def loss(start_logits, end_logits, batch):
        if along is not None:
            said, distance = along.read(batch)
        else:
            said, distance = teacher_logits[batch["row"], : start_logits.shape[1]], 0.0
        said = said.to(start_logits)
        answer = torch.stack([start_logits, end_logits], dim=-1)
        kd = distillation_loss(answer, said, batch["attention_mask"], settings.kd_temperature)
        return (
            (1 - settings.kd_weight) * span_loss(start_logits, end_logits, batch)
            + settings.kd_weight * kd + settings.hidden_weight * distance
        )

    return loss
