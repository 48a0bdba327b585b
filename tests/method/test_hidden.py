"""Distillation of hidden states: the distance, the hooks, and a training."""

import copy
import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForQuestionAnswering, BertForQuestionAnswering

from helpers import attach_masks, tiny_config
from smp.cli.train import teacher_loss, train
from smp.data.windows import make_loader
from smp.method.hidden import HiddenTeacher, hidden_distance, record_layers
from smp.method.schedule import Pruning
from smp.model.encoder import encoder_layers
from smp.model.predict import MODEL_INPUTS, make_accelerator
from smp.model.teacher import check_layers, copy_head, teacher_logits
from smp.runs.settings import choose_settings


def reference_distance(student, teacher, lengths):
    """Return H by numpy loops over layers and tokens that are not padding."""
    shares = []
    for ours, theirs in zip(student, teacher):
        apart = norm = 0.0
        for row, length in enumerate(lengths):
            for token in range(length):
                apart += float(((ours[row, token] - theirs[row, token]) ** 2).sum())
                norm += float((theirs[row, token] ** 2).sum())
        shares.append(apart / norm)
    return np.mean(shares)


def distance_of_models(student, teacher, batch):
    """Return H of two models on a batch, from the hidden states that transformers returns."""
    states = [model(**batch, output_hidden_states=True).hidden_states[1:]
              for model in (student, teacher)]
    return reference_distance(*(
        [state.detach().numpy() for state in one] for one in states
    ), batch["attention_mask"].sum(1).tolist())


def test_hidden_distance_equals_the_formula_without_padding():
    rng, lengths = np.random.default_rng(0), [5, 9, 7]
    student, teacher = (rng.normal(size=(4, 3, 9, 8)).astype(np.float32) for _ in range(2))
    mask = torch.tensor([[1] * n + [0] * (9 - n) for n in lengths])
    expected = reference_distance(student, teacher, lengths)
    for rubbish in (0.0, 1e9):
        for row, length in enumerate(lengths):
            student[:, row, length:] = rubbish
        found = hidden_distance(torch.from_numpy(student), torch.from_numpy(teacher), mask)
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_copy_has_distance_0_and_read_leaves_no_hooks(tiny_qa, batch):
    teacher = copy.deepcopy(tiny_qa)
    hidden = HiddenTeacher(tiny_qa, teacher, encoder_layers, make_accelerator("fp32"))
    tiny_qa(**batch)
    assert hidden.read(batch)[1].item() == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        tiny_qa.bert.encoder.layer[1].output.dense.weight.mul_(0.5)  # the last layer, not the first
    tiny_qa(**batch)
    expected = distance_of_models(tiny_qa, teacher, batch)
    assert hidden.read(batch)[1].item() == pytest.approx(expected, rel=1e-4) and expected > 0
    hooks = sum(len(module._forward_hooks) for module in teacher.modules())
    tiny_qa(**batch)
    hidden.read(batch)
    assert sum(len(module._forward_hooks) for module in teacher.modules()) == hooks


def test_the_distance_changes_the_scores_of_every_layer(tiny_qa, windows, tokenizer):
    """The other loss terms are 0, so only H changes the scores."""
    teacher = copy.deepcopy(tiny_qa)
    with torch.no_grad():
        for name, weight in teacher.named_parameters():
            if "encoder" in name and "dense.weight" in name:
                weight.add_(0.05 * torch.randn(weight.shape))
    settings = choose_settings(
        "quick", "smp-kd", distill="hidden", distill_weight=1.0, hidden_distill_weight=2.0,
        density=0.9, regulariser=0.0, score_init=0.0, epochs=0.5, max_length=96, stride=32,
        n_validations=0, precision="fp32",
    )
    tiny_qa.qa_outputs.weight.data.zero_()  # so that the KL is 0 and without a gradient below
    tiny_qa.qa_outputs.weight.requires_grad_(False)
    tiny_qa.qa_outputs.bias.requires_grad_(False)
    masks = attach_masks(tiny_qa)
    train(tiny_qa, windows, tokenizer, settings, Pruning(masks, settings),
        teacher_loss(settings, tiny_qa, teacher))
    assert all(bool((scores != 0).any()) for scores in masks.scores)


def test_hidden_and_cached_teacher_logits_match(tiny_qa, windows, tokenizer):
    teacher = BertForQuestionAnswering(tiny_config()).eval()
    torch.nn.init.normal_(teacher.qa_outputs.weight)  # so that its logits differ
    choose = functools.partial(choose_settings, "quick", "smp-kd", precision="fp32",
                               distill_weight=1.0)
    stored = teacher_logits(teacher, windows, tokenizer, "fp32")
    cached = teacher_loss(choose(), None, None, stored)
    online = teacher_loss(choose(distill="hidden", hidden_distill_weight=3.0), tiny_qa, teacher)
    for batch in make_loader(windows, tokenizer, 3, shuffle=True):
        inputs = {name: batch[name] for name in MODEL_INPUTS}
        out = tiny_qa(**inputs)
        logits = out.start_logits, out.end_logits
        distance = distance_of_models(tiny_qa, teacher, inputs)
        expected = cached(*logits, batch).item() + 3 * distance
        assert online(*logits, batch).item() == pytest.approx(expected, rel=1e-3)
        assert cached(*logits, batch).item() > 0.5 and distance > 0.01
    hidden = HiddenTeacher(tiny_qa, teacher, encoder_layers, make_accelerator("fp32"))
    tiny_qa(**inputs)
    real = batch["attention_mask"].bool()
    logits, before = hidden.read(batch)[0], stored[batch["row"], : real.shape[1]].float()
    assert torch.allclose(logits[real], before[real], atol=1e-2)  # fp16


@pytest.mark.parametrize("family", ["albert", "distilbert", "electra", "roberta"])
def test_every_layer_of_every_family_is_recorded(family, batch):
    config = AutoConfig.for_model(
        family, vocab_size=30522, embedding_size=16, hidden_size=32, num_hidden_layers=3,
        num_attention_heads=4, intermediate_size=64, dim=32, n_layers=3, n_heads=4, hidden_dim=64,
    )
    student, teacher = (AutoModelForQuestionAnswering.from_config(config).eval() for _ in "ab")
    expected = distance_of_models(student, teacher, batch)
    hidden = HiddenTeacher(student, teacher, encoder_layers, make_accelerator("fp32"))
    student(**batch)
    with torch.no_grad():
        student(**{name: value[:1] for name, value in batch.items()})  # an evaluation in between
    assert len(hidden.ours) == 0
    student(**batch)
    assert len(hidden.ours) == 3
    assert hidden.read(batch)[1].item() == pytest.approx(expected, rel=1e-4)


def test_a_teacher_of_another_shape_raises_one_line(tiny_qa):
    for changes in ({"num_hidden_layers": 3}, {"hidden_size": 64}):
        other = BertForQuestionAnswering(tiny_config(**changes))
        with pytest.raises(ValueError, match="the teacher has . layers of size .. and the student "
                           "2 of size 32") as error:
            check_layers(tiny_qa.config, other.config)
        assert "\n" not in str(error.value)


def test_the_student_starts_from_the_teachers_head(tiny_qa, windows, tokenizer):
    torch.manual_seed(7)
    teacher = BertForQuestionAnswering(tiny_config()).eval()
    student = copy.deepcopy(teacher)
    torch.nn.init.normal_(student.qa_outputs.weight)
    stored = [teacher_logits(model, windows, tokenizer, "fp32") for model in (teacher, student)]
    assert not torch.equal(*stored)
    copy_head(student, teacher)
    assert torch.equal(teacher_logits(student, windows, tokenizer, "fp32"), stored[0])
    wide = BertForQuestionAnswering(tiny_config(hidden_size=64))
    with pytest.raises(ValueError, match="init_head_from_teacher is True, but the teacher has no "
                       "qa_outputs like the student's Linear: use another teacher"):
        copy_head(student, wide)


def test_the_distance_of_different_depths_raises():
    states = torch.ones(3, 1, 2, 4)
    with pytest.raises(ValueError, match="zip"):
        hidden_distance(states, states[:2], torch.ones(1, 2))


def test_the_first_output_of_a_layer_is_recorded():
    """Layers of other versions of transformers return (hidden states, attention weights)."""
    class Pair(torch.nn.Module):
        def forward(self, x):
            return 2 * x, x

    model = torch.nn.Sequential(Pair())
    model.base_model = torch.nn.Identity()
    outputs, hooks = record_layers(model, [model[0]], with_gradients=True)
    model[0](torch.tensor([3.0]))
    assert [output.tolist() for output in outputs] == [[6.0]] and len(hooks) == 2


def test_the_teacher_moves_to_the_device_of_the_accelerator(tiny_qa):
    accelerator = SimpleNamespace(device=torch.device("meta"))
    teacher = copy.deepcopy(tiny_qa).train()
    hidden = HiddenTeacher(tiny_qa, teacher, encoder_layers, accelerator)
    assert {part.device.type for part in hidden.teacher.parameters()} == {"meta"}
    assert not hidden.teacher.training and {p.device.type for p in tiny_qa.parameters()} == {"cpu"}
