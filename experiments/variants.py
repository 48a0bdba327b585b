"""Variants that were tried and are no settings: `python -m experiments.variants NAME`.

A variant replaces one class of a run (see `Parts` in smp/cli/train.py). Its records contain NAME
among their settings, and in their own names. README.md lists the results.

    python -m experiments.variants NAME [arguments of `python -m smp sweep`]
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from smp.cli.main import main
from smp.cli.train import Parts, train
from smp.data.windows import make_loader
from smp.method.hidden import HiddenTeacher, hidden_distance, record_layers
from smp.method.loop import span_loss
from smp.method.masks import Masks, StaticMask
from smp.model.device import make_accelerator, shard_batch
from smp.model.load import load_qa_model
from smp.model.predict import MODEL_INPUTS
from smp.runs.methods import method_of
from smp.runs.names import seedless
from smp.runs.run import read_model_record

# The teacher, looked at more closely

ATTENDING = ("query", "key", "value")


def watch_attention(model, with_gradients):
    """{name: output (batch, length, hidden)} of the last forward's queries, keys and values."""
    seen = {}

    def watch(name, linear):
        def keep(_, inputs, output):
            if torch.is_grad_enabled() == with_gradients:
                seen[name] = output

        linear.register_forward_hook(keep)

    for name, module in model.named_modules():
        if name.endswith(tuple(f"attention.self.{part}" for part in ATTENDING)):
            watch(name, module)
    return seen


class AttentionTeacher(HiddenTeacher):
    """Adds to H, with the same weight, how far the student's attention is from the teacher's."""

    def __init__(self, student, teacher, layers_of, accelerator):
        super().__init__(student, teacher, layers_of, accelerator)
        self.heads = student.config.num_attention_heads
        self.of_student = watch_attention(student, with_gradients=True)
        self.of_teacher = watch_attention(self.teacher, with_gradients=False)

    def read(self, batch):
        logits, distance = super().read(batch)
        more = self.attention_distance(batch["attention_mask"])
        self.of_student.clear()
        self.of_teacher.clear()
        return logits, distance + more


class VectorsTeacher(AttentionTeacher):
    """Queries, keys and values: the mean of their distances, as H's (compare MiniLMv2, Wang et al.
    2021)."""

    def attention_distance(self, attention_mask):
        ours = [self.of_student[name] for name in self.of_teacher]
        return hidden_distance(ours, self.of_teacher.values(), attention_mask)


class MapsTeacher(AttentionTeacher):
    """Attention maps: KL(teacher || student) of each real token's, the mean over tokens, heads and
    layers (compare TinyBERT, Jiao et al. 2020)."""

    def maps(self, outputs, query, attention_mask):
        """log of the attention (batch, heads, length, length), of a layer by its query's name."""
        queries, keys = (
            out.float().unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for out in (outputs[query], outputs[query.removesuffix("query") + "key"])
        )
        scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
        return scores.masked_fill(attention_mask[:, None, None] == 0, -1e4).log_softmax(-1)

    def attention_distance(self, attention_mask):
        apart = []
        for name in self.of_teacher:
            if name.endswith("query"):
                ours = self.maps(self.of_student, name, attention_mask)
                theirs = self.maps(self.of_teacher, name, attention_mask)
                gap = (theirs.exp() * (theirs - ours)).sum(-1) * attention_mask[:, None]
                apart.append(gap.sum() / attention_mask.sum() / self.heads)
        return torch.stack(apart).mean()


class ForcingTeacher(HiddenTeacher):
    """Adds to H, with the same weight, the distance that each student layer alone makes: fed with
    what the teacher's layer was fed."""

    def __init__(self, student, teacher, layers_of, accelerator):
        super().__init__(student, teacher, layers_of, accelerator)
        self.student_layers, layers = layers_of(student), layers_of(self.teacher)
        self.fed = [None] * len(layers)
        for number, layer in enumerate(layers):
            self.watch(number, layer)

    def watch(self, number, layer):
        def keep(_, args, kwargs):
            if not torch.is_grad_enabled():
                self.fed[number] = args, kwargs

        layer.register_forward_pre_hook(keep, with_kwargs=True)

    def read(self, batch):
        layers = self.layers_of(self.teacher)
        theirs, hooks = record_layers(self.teacher, layers, with_gradients=False)
        logits, distance = super().read(batch)
        for hook in hooks:
            hook.remove()
        with self.accelerator.autocast():
            for layer, (args, kwargs) in zip(self.student_layers, self.fed):
                layer(*args, **kwargs)  # what comes out lies in `ours`, as in any forward
        alone = hidden_distance(self.ours, theirs, batch["attention_mask"])
        self.ours.clear()
        return logits, distance + alone


def seeds_beside(folder):
    """Folders of the models that a seed alone tells from the one in `folder`, by their records."""
    records = {path.parent.name: read_model_record(path)
               for path in sorted(Path(folder).parent.glob("*/record.json"))}
    mine = records.pop(Path(folder).name, None)
    return [Path(folder).with_name(name) for name, record in records.items()
            if mine and record and seedless(record) == seedless(mine)]


class SeveralTeachers:
    """The teacher that is named and the `seeds_beside` it, each of which counts alike: the mean of
    their logits, and of H to each."""

    def __init__(self, student, teacher, layers_of, accelerator):
        beside = seeds_beside(teacher.name_or_path)
        if not beside:
            raise ValueError(f"TEACHER={Path(teacher.name_or_path).name!r} has no other seeds "
                             "beside it, with record.json: several-teachers expects some")
        print("taught besides by", ", ".join(place.name for place in beside))
        self.teachers = [HiddenTeacher(student, each, layers_of, accelerator) for each in (
            teacher, *(load_qa_model(str(place))[0] for place in beside))]

    def read(self, batch):
        logits, distances = zip(*(one.read(batch) for one in self.teachers))
        return torch.stack(logits).mean(0), torch.stack(distances).mean()


# What is multiplied with

class NormKept(StaticMask):
    """W' = c (W * M), c such that W' has the norm of W. Nothing more is shipped."""

    def forward(self, weight):
        masked = super().forward(weight)
        with torch.no_grad():
            factor = (weight.square().sum() / masked.square().sum()).sqrt()
        return masked * factor


class FactorsLearned(StaticMask):
    """Each row of W * M times a learned factor; its rate is `bias_norm_learning_rate`."""

    def __init__(self, weight, score_init=0.0):
        super().__init__(weight, score_init)
        self.factors = torch.nn.Parameter(torch.ones(len(weight), 1))

    def forward(self, weight):
        return super().forward(weight) * self.factors


# How scores move

class AdamPerMatrix(torch.optim.Optimizer):
    """Adam with one second moment a matrix: what has a larger gradient moves further, where Adam
    moves all alike."""

    def __init__(self, params, betas, weight_decay=0.0, fused=True):
        super().__init__(params, dict(lr=1e-3, betas=betas))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            first, second = group["betas"]
            for part in group["params"]:
                if part.grad is None:
                    continue
                state = self.state[part]
                if not state:  # of Adam's shapes, for checkpoints
                    state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(part),
                              "exp_avg_sq": torch.zeros_like(part)}
                state["step"] += 1
                steps = float(state["step"])
                state["exp_avg"].lerp_(part.grad, 1 - first)
                state["exp_avg_sq"].mul_(second).add_(part.grad.square().mean(), alpha=1 - second)
                square = float(state["exp_avg_sq"].flatten()[0]) / (1 - second**steps)
                rate = group["lr"] / (1 - first**steps) / (square**0.5 + 1e-12)
                part.add_(state["exp_avg"], alpha=-rate)


def train_from_a_backward_pass(model, features, tokenizer, settings, pruning, loss=span_loss,
                               batches=32, **watched):
    """Train with scores that start from 32 batches of 8: -dL/dS of the whole model, of mean size 1
    in each matrix (compare SNIP, Lee et al. 2019)."""
    accelerator = make_accelerator(settings.precision)
    model.to(accelerator.device)
    loader = make_loader(features, tokenizer, 8, shuffle=True, seed=1)
    pruning.masks.refresh(1.0)
    for _, batch in zip(range(batches), loader):
        batch, share = shard_batch(batch, accelerator)
        with accelerator.autocast():
            out = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
        (share * loss(out.start_logits.float(), out.end_logits.float(), batch)).backward()
    with torch.no_grad():
        for scores in pruning.masks.scores:
            slope = accelerator.reduce(scores.grad, "mean")
            scores.copy_(-slope / slope.abs().mean())
    model.zero_grad()
    return train(model, features, tokenizer, settings, pruning, loss, **watched)


class HeadsRegularised(Masks):
    """R of the attention's matrices is that of a group lasso over the heads: a head's mean of
    sigma(S) counts with its root, so that heads of which little is left are pushed hardest."""

    def __init__(self, *arguments, heads, **options):
        super().__init__(*arguments, **options)
        self.heads = heads

    @torch.no_grad()
    def add_regulariser_gradient(self, weight):
        for (_, matrix, *_), scores in zip(self.matrices, self.scores):
            kept = torch.sigmoid(scores)
            slope = kept * (1 - kept)
            if matrix in (*ATTENDING, "attention output"):
                by_head = 1 if matrix == "attention output" else 0  # columns, or rows
                of_head = kept.mean(1 - by_head).unflatten(0, (self.heads, -1)).mean(1)
                push = (of_head.mean() / of_head).sqrt()
                push = push.repeat_interleave(scores.shape[by_head] // self.heads)
                slope *= push.unsqueeze(1 - by_head)
            scale = weight / (len(self.masks) * scores.numel())
            scores.grad = slope * scale if scores.grad is None else scores.grad.add_(
                slope, alpha=scale)


def masks_with_heads(model):
    """`HeadsRegularised` for a model."""
    return partial(HeadsRegularised, heads=model.config.num_attention_heads)


VARIANTS = {
    "attention-vectors": Parts(hidden_teacher=VectorsTeacher),
    "attention-maps": Parts(hidden_teacher=MapsTeacher),
    "teacher-forced": Parts(hidden_teacher=ForcingTeacher),
    "several-teachers": Parts(hidden_teacher=SeveralTeachers),
    "norm-kept": Parts(static_mask=NormKept),
    "row-factors": Parts(static_mask=FactorsLearned, trains_biases_and_norms=False),
    "adam-per-matrix": Parts(optimizer=AdamPerMatrix),
    "backward-start": Parts(train=train_from_a_backward_pass),
    "heads-regularised": Parts(masks=masks_with_heads),
}
FOLLOWED = ("the teacher's hidden states", lambda settings: settings.distill == "hidden",
            "methods with +hidden")
OF_SMP = ("frozen weights with scores", lambda settings:
          method_of(settings).masks == "masks.Masks", "methods smp-l or smp-s")
NEEDS = {  # name: (what it replaces, whether that is in use, what to give for it)
    **{name: FOLLOWED for name, parts in VARIANTS.items()
       if parts.hidden_teacher is not HiddenTeacher},
    "norm-kept": OF_SMP,
    "adam-per-matrix": OF_SMP,
    "row-factors": ("biases and LayerNorms", lambda settings: settings.trains_biases_and_norms,
                    "--bias-norm-learning-rate 0.003"),
    "backward-start": ("scores that are learned", lambda settings: settings.method != "magnitude",
                       "methods without magnitude"),
    "heads-regularised": ("the regulariser of SMP", lambda settings:
                          settings.method in ("smp-l", "smp-s") and settings.regulariser,
                          "methods smp-l or smp-s, and a regulariser above 0"),
}


def check_in_use(variant, settings):
    """ValueError with one line where the part that a variant replaces is not in use."""
    replaced, in_use, expected = NEEDS[variant]
    if not in_use(settings):
        raise ValueError(f"variant {variant} replaces {replaced}, which {settings.method} with "
                         f"these settings does not use: expected {expected}")


def parts_of(variant):
    """The `Parts` of a variant, with its name and its check."""
    return replace(VARIANTS[variant], variant=variant, check=partial(check_in_use, variant))


def run(arguments):
    """A sweep of one variant. -> exit code"""
    variant, *rest = arguments or [""]
    if variant not in VARIANTS:
        print(f"sweep: variant {variant!r}: expected one of {', '.join(VARIANTS)}", file=sys.stderr)
        return 2
    return main(["sweep", *rest], parts=parts_of(variant))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
