"""c: a step with cached teacher logits, compared with no teacher and with a teacher per step."""

import torch

from benchmarks.measure import device, ratio, result, time_in_turns
from benchmarks.workload import (
    bert,
    embedded_tokenizer,
    plainly,
    questions,
    steps_in_turns,
    training,
)
from smp.cli.train import attach_pruning, teacher_loss
from smp.data.windows import featurise, make_loader
from smp.model.predict import MODEL_INPUTS
from smp.model.teacher import teacher_logits
from smp.runs.settings import choose_settings

BATCH, LENGTH, STEPS, PLAIN_STEPS = 4, 128, 5, 4


def passes():
    """Return functions over the same real windows: the teacher's pass, the forwards of an epoch."""
    data, _ = questions()
    windows = featurise(data["train"].select(range(8)), embedded_tokenizer(), 384, 128)
    student, teacher = bert(), bert()
    attach_pruning(student, choose_settings("squad", "smp", precision="fp32"))

    def forwards():
        for batch in make_loader(windows, embedded_tokenizer(), 8, shuffle=True):
            student.train()
            student(**{name: batch[name].to(device()) for name in MODEL_INPUTS})

    return {"forwards": forwards,
            "teacher": lambda: teacher_logits(teacher, windows, embedded_tokenizer(), "fp32")}


def measure():
    logits = torch.randn(STEPS * BATCH + 1, LENGTH, 2, generator=torch.manual_seed(0)).half()
    cached_loss = teacher_loss(choose_settings("squad", "smp-kd"), None, None, logits)
    seconds = steps_in_turns({
        "without": training(BATCH, LENGTH, STEPS),
        "cached": training(BATCH, LENGTH, STEPS, loss=cached_loss),
    })
    teachers = {"without": None, "online": bert().eval()}
    models = {name: bert() for name in teachers}
    plain = steps_in_turns({
        name: (models[name], plainly(models[name], BATCH, LENGTH, PLAIN_STEPS, teacher=teacher))
        for name, teacher in teachers.items()
    })
    once = time_in_turns(passes(), rounds=3)
    shape = f"{BATCH} x {LENGTH}, fp32"
    return [
        result(f"c: KD step with cached logits / step without KD, {shape}",
               *ratio(seconds["cached"], seconds["without"]), "<= 1.03",
               f"BERT-base, {len(seconds['cached'])} pairs of SMP steps"),
        result(f"c: KD step with an online teacher / step without KD, {shape}",
               *ratio(plain["online"], plain["without"]),
               detail="plain implementation, a loop that trains all weights"),
        result("c: the single pass of the teacher / the forwards of one epoch, fp32",
               *ratio(once["teacher"], once["forwards"]), "<= 1.00", "8 windows of real lengths"),
    ]
