"""Variants of SMP that are not settings: `python -m experiments.variants NAME`.

A variant replaces one part of a run (see `Parts` in smp/cli/train.py). Its records contain NAME in
the field `variant` and in their names. README.md lists the results.

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
from smp.method.baselines import MovementMasks
from smp.method.hidden import HiddenTeacher, hidden_distance, record_layers
from smp.method.loop import span_loss
from smp.method.masks import Masks, StaticMask
from smp.model.load import load_qa_model
from smp.model.predict import MODEL_INPUTS, make_accelerator, shard_batch
from smp.runs.grouping import seedless
from smp.runs.methods import method_of
from smp.runs.run import read_model_record

# Losses with more outputs of the teacher

ATTENDING = ("query", "key", "value")


def watch_attention(model, with_gradients):
    """Return {name: output (batch, length, hidden)} of the last forward's queries, keys, values."""
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
    """Add to H, with the same weight, the distance of student and teacher attention."""

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
    """The mean distance of queries, keys and values, computed like H.

    Compare MiniLMv2, Wang et al. 2021.
    """

    def attention_distance(self, attention_mask):
        ours = [self.of_student[name] for name in self.of_teacher]
        return hidden_distance(ours, self.of_teacher.values(), attention_mask)


class MapsTeacher(AttentionTeacher):
    """The mean KL(teacher || student) of attention maps over real tokens, heads and layers.

    Compare TinyBERT, Jiao et al. 2020.
    """

    def maps(self, outputs, query, attention_mask):
        """Return the log attention (batch, heads, length, length) of the layer of a query."""
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
    """Add to H, with the same weight, the distance of each student layer alone.

    Each student layer gets the input of the teacher's layer.
    """

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
                layer(*args, **kwargs)  # a hook stores the output in `ours`, as in any forward
        alone = hidden_distance(self.ours, theirs, batch["attention_mask"])
        self.ours.clear()
        return logits, distance + alone


def other_seeds(folder):
    """Return the folders of models whose records differ from that of `folder` only in the seed."""
    records = {path.parent.name: read_model_record(path)
               for path in sorted(Path(folder).parent.glob("*/record.json"))}
    mine = records.pop(Path(folder).name, None)
    return [Path(folder).with_name(name) for name, record in records.items()
            if mine and record and seedless(record) == seedless(mine)]


class SeveralTeachers:
    """The named teacher and its `other_seeds` with equal weights: mean logits and mean H."""

    def __init__(self, student, teacher, layers_of, accelerator):
        others = other_seeds(teacher.name_or_path)
        if not others:
            raise ValueError(f"--teacher {Path(teacher.name_or_path).name!r}: its folder has no "
                             "model of another seed with record.json; several-teachers needs one")
        print("other teachers:", ", ".join(folder.name for folder in others))
        self.teachers = [HiddenTeacher(student, each, layers_of, accelerator) for each in (
            teacher, *(load_qa_model(str(folder))[0] for folder in others))]

    def read(self, batch):
        logits, distances = zip(*(one.read(batch) for one in self.teachers))
        return torch.stack(logits).mean(0), torch.stack(distances).mean()


# Other masked weights

class NormKept(StaticMask):
    """W' = c (W * M) with a factor c for which W' has the norm of W."""

    def forward(self, weight):
        masked = super().forward(weight)
        with torch.no_grad():
            factor = (weight.square().sum() / masked.square().sum()).sqrt()
        return masked * factor


class FactorsLearned(StaticMask):
    """Rows of W * M times learned factors; their learning rate is `bias_norm_learning_rate`."""

    def __init__(self, weight, score_init=0.0):
        super().__init__(weight, score_init)
        self.factors = torch.nn.Parameter(torch.ones(len(weight), 1))

    def forward(self, weight):
        return super().forward(weight) * self.factors


# Other updates of the scores

class AdamPerMatrix(torch.optim.Optimizer):
    """Adam with one second moment per matrix, so steps are proportional to the gradients."""

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
    """Train with scores that start at -dL/dS of the whole model, over 32 batches of 8.

    Their mean magnitude is 1 in each matrix (compare SNIP, Lee et al. 2019).
    """
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
    """Masks with a group lasso over the heads as R of the attention matrices.

    R uses the square root of a head's mean sigma(S), so it lowers the heads with the fewest kept
    weights most.
    """

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


def masks_with_trained_matrices(model):
    """Return the masks that train the matrices; their learning rate is `bias_norm_learning_rate`.

    Embeddings, biases and LayerNorms stay frozen, and the head has the learning rate of SMP.
    """
    return MovementMasks


def masks_with_heads(model):
    """Return `HeadsRegularised` with the number of heads of a model."""
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
    "trained-matrices": Parts(masks=masks_with_trained_matrices, trains_biases_and_norms=False),
}
FOLLOWED = ("the teacher's hidden states", lambda settings: settings.distill == "hidden",
            "methods with +hidden")
OF_SMP = ("frozen weights with scores", lambda settings:
          method_of(settings).masks == "masks.Masks", "methods smp-l or smp-s")
OF_VECTORS = ("biases and LayerNorms", lambda settings: settings.trains_biases_and_norms)
NEEDS = {  # name: (the replaced part, whether settings use it, the expected settings)
    **{name: FOLLOWED for name, parts in VARIANTS.items()
       if parts.hidden_teacher is not HiddenTeacher},
    "norm-kept": OF_SMP,
    "adam-per-matrix": ("AdamW on the scores", lambda settings: OF_SMP[1](settings)
                        and settings.optim == "adamw_torch", "smp-l or smp-s, optim adamw_torch"),
    "row-factors": (*OF_VECTORS, "--bias-norm-learning-rate 0.003"),
    "trained-matrices": (*OF_VECTORS, "--bias-norm-learning-rate 0.0002"),
    "backward-start": ("scores that are learned", lambda settings: settings.method != "magnitude",
                       "methods without magnitude"),
    "heads-regularised": ("the regulariser of SMP", lambda settings:
                          settings.method in ("smp-l", "smp-s") and settings.regulariser,
                          "methods smp-l or smp-s, and a regulariser above 0"),
}


def check_in_use(variant, settings):
    """Raise ValueError with one line if the settings do not use the replaced part."""
    replaced, in_use, expected = NEEDS[variant]
    if not in_use(settings):
        raise ValueError(f"variant {variant} replaces {replaced}, which {settings.method} with "
                         f"these settings does not use: expected {expected}")


def parts_of(variant):
    """Return the `Parts` of a variant, with its name and its check."""
    return replace(VARIANTS[variant], variant=variant, check=partial(check_in_use, variant))


def run(arguments):
    """Run a sweep of one variant; return the exit code."""
    variant, *rest = arguments or [""]
    if variant not in VARIANTS:
        print(f"sweep: variant is {variant!r}, expected one of {', '.join(VARIANTS)}",
              file=sys.stderr)
        return 2
    return main(["sweep", *rest], parts=parts_of(variant))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
