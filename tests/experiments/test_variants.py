"""Variants and soups: each variant changes a training as its docstring states."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from transformers import BertForQuestionAnswering

from experiments import soup, variants
from experiments.variants import (
    VARIANTS,
    ForcingTeacher,
    MapsTeacher,
    SeveralTeachers,
    VectorsTeacher,
    other_seeds,
)
from helpers import attach_masks, linears_of, tiny_config
from records import make_record
from smp.cli.grid import Grid
from smp.cli.sweep import plan_sweep
from smp.cli.train import Parts, attach_pruning
from smp.data.reading import data_fingerprint, load_squad
from smp.data.windows import featurise
from smp.method.hidden import HiddenTeacher
from smp.method.masks import Masks
from smp.model.encoder import encoder_layers
from smp.model.load import load_qa_model
from smp.model.predict import evaluate_answers, make_accelerator
from smp.model.save import model_fingerprint
from smp.runs.record import run_name
from smp.runs.run import find_teacher, provenance
from smp.runs.settings import choose_settings
from smp.runs.training import parameter_groups

TEACHERS = {  # changes of their records
    "teacher": {},
    "another seed": {"seed": 1},
    "more steps": {"seed": 1, "steps": 10},
    "smaller batches": {"seed": 1, "settings": {"batch_size": 4}},
}

PLAIN = Parts()


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer):
    """Return (tiny random encoder without a head, teacher of its shape in a folder with others)."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    for name in ("encoder", *TEACHERS):
        model = BertForQuestionAnswering(tiny_config(max_position_embeddings=192))
        (model.bert if name == "encoder" else model).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name, changes in TEACHERS.items():
        record = make_record("fine-tuned", **changes)
        (folder / name / "record.json").write_text(json.dumps(record))
    return folder / "encoder", folder / "teacher"


def train(folders, results, method="smp-s+hidden", parts=PLAIN, **changes):
    encoder, teacher = folders
    (settings,) = plan_sweep("quick", [method], [0.5], [0], **{
        "model": str(encoder), "n_train": 48, "n_valid": 0, "n_eval": 4, "n_validations": 1,
        "hidden_distill_weight": 1, "regulariser": 1e6, "bias_norm_learning_rate": 0.003,
        "precision": "fp32",
    } | changes)
    learned, merge = [], Masks.merge

    def keep_scores(masks):
        learned.extend(scores.detach().clone() for scores in masks.scores)
        merge(masks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Masks, "merge", keep_scores)
        return Grid([settings], results, str(teacher), parts=parts).run(settings), learned


def teacher_of(kind, student, teacher):
    """Return a teacher of the class, in fp32."""
    return kind(student, teacher, encoder_layers, make_accelerator("fp32"))


@pytest.fixture(scope="module")
def plain(folders, tmp_path_factory):
    return train(folders, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_the_scores_and_the_record(
    name, plain, folders, tmp_path
):
    parts = variants.parts_of(name)
    (record, learned), (plain, plainly_learned) = train(folders, tmp_path, parts=parts), plain
    assert not all(map(torch.equal, learned, plainly_learned))
    if name != "heads-regularised":  # six steps are too few to change each mask
        assert record["history"]["loss"] != plain["history"]["loss"]
    assert np.isfinite(record["history"]["loss"]).all()
    assert record["settings"] == plain["settings"]
    assert (record["variant"], plain["variant"]) == (name, None)
    assert record["name"] == run_name(record) != plain["name"]
    assert (tmp_path / f"{record['name']}.json").exists()
    trains_vectors = variants.VARIANTS[name].trains_biases_and_norms
    assert record["label"].endswith("+ biases, LayerNorms") == trains_vectors
    # A mask file would lack trained weights.
    assert (record["bytes_mask_file"] is None) == (name == "trained-matrices")


@pytest.mark.parametrize("name, method, changes, expected", [
    ("attention-maps", "smp-s", {}, "the teacher's hidden states, which smp-s with"),
    ("several-teachers", "smp-s+kd", {}, "expected methods with .hidden"),
    ("adam-per-matrix", "smp-s", {"optim": "adamw_hf"}, "expected smp-l or smp-s, optim adamw_to"),
    ("row-factors", "smp-s", {"bias_norm_learning_rate": 0}, "biases and LayerNorms, which smp-s"),
    ("backward-start", "magnitude", {}, "scores that are learned, which magnitude"),
    ("heads-regularised", "movement", {}, "the regulariser of SMP, which movement"),
    ("heads-regularised", "smp-l", {"regulariser": 0}, "a regulariser above 0"),
])
def test_a_variant_of_an_unused_part_raises_one_line(
    name, method, changes, expected, folders, tmp_path
):
    with pytest.raises(ValueError, match=f"variant {name} replaces .*{expected}") as error:
        train(folders, tmp_path, method, variants.parts_of(name), **changes)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("method", ["magnitude", "movement", "movement-s", "soft-movement"])
@pytest.mark.parametrize("name", [
    name for name, parts in VARIANTS.items()
    if (parts.masks, parts.static_mask, parts.optimizer) != (
        PLAIN.masks, PLAIN.static_mask, PLAIN.optimizer)
])
def test_a_variant_of_smp_raises_for_other_methods(name, method):
    """Otherwise a record could name a method whose masks or optimizer were replaced."""
    (settings,) = plan_sweep("quick", [method], [0.5], [0], bias_norm_learning_rate=0.003)
    with pytest.raises(ValueError, match=f"variant {name} replaces .* expected") as error:
        variants.parts_of(name).check(settings)
    assert "\n" not in str(error.value)


def test_each_variant_has_an_entry_in_needs():
    assert variants.NEEDS.keys() == VARIANTS.keys()


def test_an_unknown_variant_prints_one_line(capsys):
    for arguments in ([], ["norm"], ["--profile=quick"]):
        assert variants.run(arguments) == 2
        assert "expected one of attention-vectors, attention-maps" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [VectorsTeacher, MapsTeacher, ForcingTeacher])
def test_a_copy_of_the_teacher_has_distance_0(kind, tiny_qa, batch):
    watching = teacher_of(kind, tiny_qa, copy.deepcopy(tiny_qa))
    tiny_qa(**batch)
    assert watching.read(batch)[1].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", [VectorsTeacher, MapsTeacher, ForcingTeacher])
def test_padding_does_not_change_the_distance(kind, tiny_qa, batch):
    teacher = BertForQuestionAnswering(tiny_config()).eval()
    watching = teacher_of(kind, tiny_qa, teacher)
    distances = []
    for word in (1000, 2000):
        batch["input_ids"][batch["attention_mask"] == 0] = word
        tiny_qa(**batch)
        distances.append(watching.read(batch)[1].item())
    assert distances[0] == pytest.approx(distances[1], rel=1e-5) and distances[0] > 0.01


def test_attention_maps_equal_those_of_the_model(tiny_qa, batch):
    watching = teacher_of(MapsTeacher, tiny_qa, copy.deepcopy(tiny_qa))
    tiny_qa.set_attn_implementation("eager")
    shown = tiny_qa(**batch, output_attentions=True).attentions
    for layer, expected in enumerate(shown):
        query = f"bert.encoder.layer.{layer}.attention.self.query"
        found = watching.maps(watching.of_student, query, batch["attention_mask"]).exp()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_other_teachers_differ_only_in_the_seed(folders, tmp_path):
    _, teacher = folders
    (other,) = other_seeds(teacher)
    assert other.name == "another seed"
    assert other_seeds(other) == [teacher]
    assert other_seeds(tmp_path / "one without a record") == []


def test_several_teachers_have_equal_weights(folders, batch):
    _, folder = folders
    student = BertForQuestionAnswering(tiny_config(max_position_embeddings=192))
    alone = [teacher_of(HiddenTeacher, student, load_qa_model(str(folder.with_name(name)))[0])
             for name in ("teacher", "another seed")]
    together = teacher_of(SeveralTeachers, student, load_qa_model(str(folder))[0])
    student(**batch)
    (logits, distance), (first, near), (second, far) = (
        one.read(batch) for one in (together, *alone))
    torch.testing.assert_close(logits, (first + second) / 2)
    assert near != far and distance.item() == pytest.approx(((near + far) / 2).item(), rel=1e-6)


def test_a_teacher_without_other_seeds_raises_one_line(folders, tiny_qa):
    tiny_qa.name_or_path = str(folders[1].with_name("more steps"))
    with pytest.raises(ValueError, match="'more steps': its folder has no model of another seed"):
        teacher_of(SeveralTeachers, tiny_qa, tiny_qa)


def test_a_soup_has_mean_weights_and_is_a_teacher(folders, tmp_path, capsys):
    _, teacher = folders
    names = [str(shutil.copytree(teacher.with_name(name), tmp_path / f"m_fine-tuned_seed{seed}"))
             for seed, name in enumerate(("teacher", "another seed"))]
    assert soup.run(["soup", *names]) == 0
    one, other, mean = (load_qa_model(name)[0].state_dict()
                        for name in (*names, str(tmp_path / "m_fine-tuned_soup")))
    for key, part in mean.items():
        torch.testing.assert_close(part, (one[key] + other[key]) / 2)
    record, _ = train((folders[0], tmp_path / "m_fine-tuned_soup"), tmp_path)
    made = json.loads((tmp_path / "m_fine-tuned_soup/soup.json").read_text())
    assert made["name"] == "m_fine-tuned_soup" and made["sha"]
    assert {name: record["teacher"][name] for name in ("name", "sha")} == {
        name: made[name] for name in ("name", "sha")}
    capsys.readouterr()
    assert soup.run(["soup", *names]) == 2
    assert "m_fine-tuned_soup exists: remove it" in capsys.readouterr().err


@pytest.fixture
def seeds(folders, tmp_path):
    """Return the evaluation questions, and two models with records of runs on them."""
    sizes = dict(n_train=48, n_valid=0, n_eval=4, max_length=96, stride=32, precision="fp32")
    questions = load_squad("synthetic", 48, 0, 4)["eval"]
    names = []
    for seed, name in enumerate(("teacher", "another seed")):
        names.append(shutil.copytree(folders[1].with_name(name), tmp_path / f"m_seed{seed}"))
        record = make_record("fine-tuned", seed=seed, em=0.5 + seed / 4, n_train=48, n_eval=4,
                             data_sha=data_fingerprint(questions), settings=sizes)
        (names[-1] / "record.json").write_text(json.dumps(record))
    return questions, [str(name) for name in names]


def test_the_record_of_a_soup_has_its_models_and_scores(seeds, tmp_path, tokenizer):
    questions, names = seeds
    assert soup.run(["soup", *names, "--data", "synthetic"]) == 0
    made = json.loads((tmp_path / "m_soup/soup.json").read_text())
    shas = [model_fingerprint(load_qa_model(name)[0], with_head=True) for name in names]
    assert made["models"] == [{"name": f"m_seed{i}", "sha": shas[i], "seed": i, "em": 0.5 + i / 4}
                              for i in (0, 1)]
    mean = load_qa_model(str(tmp_path / "m_soup"))[0]
    scores, _ = evaluate_answers(mean, questions, featurise(questions, tokenizer, 96, 32),
                                 tokenizer, "fp32")
    assert made["sha"] == model_fingerprint(mean, with_head=True) not in shas
    assert [made[name] for name in ("em", "f1", "exact_matches")] == [
        scores[name] for name in ("em", "f1", "exact_matches")]
    assert [made[name] for name in ("kind", "data", "data_sha", "train_sha", "n_train", "n_eval")
            ] == ["soup", "synthetic", data_fingerprint(questions), "cccc", 48, 4]
    assert {name: made[name] for name in provenance()} == provenance()
    assert find_teacher(tmp_path, made["model_sha"], "synthetic") is None


def test_a_soup_without_data_has_no_em(seeds, tmp_path):
    assert soup.run(["soup", *seeds[1]]) == 0
    made = json.loads((tmp_path / "m_soup/soup.json").read_text())
    assert made["em"] is made["f1"] is None and made["models"][1]["em"] == 0.75


@pytest.mark.parametrize("harm, message", [
    (lambda record: record | {"data_sha": "other"}, "evaluation questions of synthetic differ"),
    (lambda record: record | {"settings": {"seed": 1}}, "--data needs the settings of a record"),
    (lambda record: None, "--data needs the settings of a record"),
    (lambda record: record | {"train_sha": "dddd"}, "48 questions of synthetic (dddd), expected"),
])
def test_a_soup_of_other_records_prints_one_line(harm, message, seeds, tmp_path, capsys):
    for number, name in enumerate(seeds[1]):
        path = tmp_path / name / "record.json"
        changed = harm(json.loads(path.read_text()))
        if changed is None:
            path.unlink()
        elif number or "dddd" not in message:  # one model differs from the other
            path.write_text(json.dumps(changed))
    assert soup.run(["soup", *seeds[1], "--data=synthetic"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("soup: ") and message in line
    assert not (tmp_path / "m_soup").exists()


def test_a_soup_of_other_shapes_prints_one_line(folders, tmp_path, tiny_qa, tokenizer, capsys):
    encoder, teacher = map(str, folders)
    wide = tmp_path / "m_seed0"
    tiny_qa.save_pretrained(wide)  # its window is shorter
    tokenizer.save_pretrained(wide)
    capsys.readouterr()
    for names, expected in (
        ([], "found 0 models, expected two or more"), ([teacher], "found 1 models, expected two"),
        ([teacher, encoder], f"{encoder} has no trained head"),
        ([teacher, str(wide)], f"{wide} has another shape or vocabulary than {teacher}"),
        ([teacher, f"{wide}9"], "m_seed09"),
    ):
        assert soup.run(["soup", *names]) == 2
        line = capsys.readouterr().err
        assert expected in line and line.startswith("soup: ") and line.count("\n") == 1
    assert not list(tmp_path.glob("*soup*"))


@pytest.mark.parametrize("other, message", [
    ('{"n_train": 90, "data": "squad"}', "was trained on 90 questions of squad"),
    ('{"n_train": 40, "data": "synthetic"}', "was trained on 40 questions of synthetic"),
    ("[]", "record.json is damaged"), ('{"data": "squad"}', "record.json is damaged"),
    ('{"n_train": 40, "data": "squad"}', None),
])
def test_a_soup_needs_equal_training_data(folders, tmp_path, other, message, capsys):
    names = [shutil.copytree(folders[1], tmp_path / f"m_seed{seed}") for seed in (0, 1, 2)]
    for name, text in zip(names, ('{"n_train": 40, "data": "squad"}', None, other), strict=True):
        (name / "record.json").unlink(missing_ok=True)
        if text is not None:  # a model without a record is accepted
            (name / "record.json").write_text(text)
    assert soup.run(["soup", *map(str, names)]) == (2 if message else 0)
    if message:
        line = capsys.readouterr().err
        assert message in line and str(names[2]) in line and line.count("\n") == 1
    assert bool(list(tmp_path.glob("*soup*"))) == (not message)


def test_norm_kept_has_the_norm_of_all_weights(tiny_qa):
    masks = attach_masks(tiny_qa, start=1.0, static_mask=variants.NormKept)
    norms = {name: linear.weight.norm().item() for name, linear in linears_of(masks).items()}
    masks.refresh(0.1)
    for name, linear in linears_of(masks).items():
        assert linear.weight.norm().item() == pytest.approx(norms[name], rel=1e-5)
        kept = masks.masks[name].mask
        assert torch.equal(linear.weight != 0, kept) and kept.float().mean() < 0.101


def test_row_factors_multiply_the_rows_of_the_masked_weight(tiny_qa):
    masks = attach_masks(tiny_qa, start=1.0, static_mask=variants.FactorsLearned)
    masks.refresh(0.3)
    for name, linear in linears_of(masks).items():
        one, weight = masks.masks[name], linear.parametrizations.weight.original
        one.factors.data = torch.rand_like(one.factors)
        torch.testing.assert_close(linear.weight, weight * one.mask * one.factors)
        (gradient,) = torch.autograd.grad(linear.weight.sum(), one.factors)
        torch.testing.assert_close(gradient, (weight * one.mask).sum(1, keepdim=True))


def test_adam_per_matrix_steps_are_proportional_to_the_gradient():
    part = torch.nn.Parameter(torch.zeros(3))
    adam = variants.AdamPerMatrix([{"params": [part], "lr": 0.1}], betas=(0.9, 0.999))
    part.grad = torch.tensor([1.0, -2.0, 4.0])
    adam.step()
    expected = -0.1 * part.grad / part.grad.square().mean().sqrt()
    torch.testing.assert_close(part.detach(), expected)


def test_trained_matrices_leave_all_other_weights_of_the_encoder(tiny_qa):
    settings = choose_settings("quick", "smp", method="smp-s", density=0.3, score_init=0.0,
                               bias_norm_learning_rate=2e-4)
    pruning = attach_pruning(tiny_qa, settings, variants.parts_of("trained-matrices"))
    matrices = {id(linear.parametrizations.weight.original)
                for linear in linears_of(pruning.masks).values()}
    of_encoder = {id(part) for name, part in tiny_qa.bert.named_parameters()
                  if part.requires_grad and not name.endswith("scores")}
    assert of_encoder == matrices
    rates = {id(part): group["lr"] for group in parameter_groups(tiny_qa, settings)
             for part in group["params"]}
    assert {rates[name] for name in matrices} == {2e-4}
    assert {rates[id(part)] for part in tiny_qa.qa_outputs.parameters()} == {3e-3}
    assert {rates[id(part)] for part in pruning.masks.scores} == {2e-2}


def test_heads_regulariser_equals_the_gradient_of_its_formula(tiny_qa):
    """Compare with autograd of 2 sqrt(mean m) mean(sqrt(m)) for the mean m of each head.

    The first root is a constant. With one head the gradient is that of SMP.
    """
    masks = attach_masks(tiny_qa, kind=variants.HeadsRegularised, heads=4)
    torch.manual_seed(0)
    for scores in masks.scores:
        torch.nn.init.normal_(scores)
    masks.add_regulariser_gradient(2.0)
    for (_, matrix, _, _), scores in zip(masks.matrices, masks.scores):
        free = scores.detach().clone().requires_grad_()
        kept = free.sigmoid()
        if matrix in ("query", "key", "value"):
            of_head = kept.reshape(4, -1).mean(1)
        elif matrix == "attention output":
            of_head = kept.reshape(len(kept), 4, -1).mean((0, 2))
        else:
            of_head = kept.mean().reshape(1)
        held = of_head.mean().sqrt().detach()
        (2.0 / len(masks.scores) * held * 2 * of_head.sqrt().mean()).backward()
        torch.testing.assert_close(scores.grad, free.grad, rtol=1e-4, atol=1e-9)
