"""c: distillation with stored logits, against a step without; and what asking the teacher costs."""

import torch

from benchmarks.measure import device, ratio, result, time_in_turns
from benchmarks.references import attach_sorted_masks, train_plainly
from benchmarks.workload import (
    bert,
    embedded_tokenizer,
    questions,
    random_windows,
    steps_in_turns,
    training,
)
from smp.distill import ask_teacher, distilled_loss
from smp.masks import Masks
from smp.settings import choose_settings
from smp.squad import featurise, make_loader
from smp.train import MODEL_INPUTS

BATCH, LENGTH, STEPS = 4, 128, 14


def teacher_in_every_step(scores_of, teacher):
    """(model, run): a plain loop that asks the teacher in every step, or (None) has none."""
    model = bert()
    scores = scores_of(model)
    loader = make_loader(
        random_windows(STEPS * BATCH, LENGTH), embedded_tokenizer(), BATCH, shuffle=False
    )
    batches = [{k: v.to(device()) for k, v in batch.items()} for batch in loader]
    return model, lambda: train_plainly(model, batches, scores, teacher=teacher)


def pass_over_epoch():
    """{who: function} over the same real windows: the teacher's pass, an epoch's forwards."""
    data, _ = questions()
    windows = featurise(data["train"].select(range(32)), embedded_tokenizer(), 384, 128)
    student, teacher = bert(), bert()
    Masks(student)

    def forwards():
        for batch in make_loader(windows, embedded_tokenizer(), 8, shuffle=True):
            student.train()
            student(**{name: batch[name].to(device()) for name in MODEL_INPUTS})

    return {"forwards": forwards,
            "teacher": lambda: ask_teacher(teacher, windows, embedded_tokenizer(), "fp32")}


def measure():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn((STEPS * BATCH, LENGTH, 2), generator=rng).half()
    listening = distilled_loss(logits, choose_settings("squad", "smp-kd"))
    def asked_each(model):
        return attach_sorted_masks(model, 0.1)
    seconds = steps_in_turns({
        "plain": training(BATCH, LENGTH, STEPS),
        "stored": training(BATCH, LENGTH, STEPS, loss_function=listening),
    })
    each = steps_in_turns({
        "plain": teacher_in_every_step(asked_each, None),
        "asked": teacher_in_every_step(asked_each, bert().eval()),
    })
    passes = time_in_turns(pass_over_epoch(), rounds=3)
    shape = f"{BATCH} x {LENGTH}, fp32"
    return [
        result(f"c: KD step with stored logits / step without KD, {shape}",
               *ratio(seconds["stored"], seconds["plain"]), "<= 1.03",
               f"BERT-base, {len(seconds['plain'])} pairs of SMP steps"),
        result(f"c: KD step that asks the teacher / step without KD, {shape}",
               *ratio(each["asked"], each["plain"]),
               detail="the reference, both with a sort in every forward"),
        result("c: the one pass of the teacher / the forwards of one epoch, fp32",
               *ratio(passes["teacher"], passes["forwards"]), "<= 1.00",
               "32 windows of real lengths"),
    ]
