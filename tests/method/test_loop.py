"""The training loop: changed and unchanged tensors, reproducibility, and errors."""

import copy
import itertools

import numpy as np
import pytest
import torch
from transformers import BertForQuestionAnswering

from helpers import attach_masks
from smp.cli.train import train
from smp.data.windows import featurise
from smp.look.snapshot_writer import SnapshotWriter, snapshot_steps
from smp.look.snapshots import Snapshots
from smp.method.loop import fit, span_loss
from smp.method.masks import kept_count
from smp.method.schedule import Pruning
from smp.model.load import EMBEDDED_ENCODER, load_qa_model, set_dropout
from smp.model.predict import evaluate_answers, predict_logits
from smp.model.save import save_model
from smp.model.student import load_student
from smp.runs.checkpoint import Checkpoints
from smp.runs.settings import choose_settings
from smp.runs.training import prepare_training


def short(stage="smp", **changes):
    plain = dict(precision="fp32", max_length=96, stride=32, epochs=1, batch_size=8,
                 n_validations=2)
    return choose_settings("quick", stage, **plain | changes)


def prune(model, windows, tokenizer, **changes):
    settings = short(**changes)
    pruning = Pruning(attach_masks(model), settings)
    return train(model, windows, tokenizer, settings, pruning=pruning), pruning.masks


class Watch(Pruning):
    """A Pruning that checks the masks in every step."""

    def __init__(self, masks, settings, look):
        super().__init__(masks, settings)
        self.look = look

    def after_backward(self, step, steps):
        super().after_backward(step, steps)
        self.look(self)


@pytest.mark.parametrize("method, sharing", [("smp-l", "local"), ("smp-s", "shared")])
@pytest.mark.parametrize("density", [0.5, 0.1])
def test_weights_stay_identical_and_densities_exact_in_each_step(
    tiny_qa, windows, tokenizer, method, sharing, density, tmp_path
):
    before = copy.deepcopy(tiny_qa.bert.state_dict())
    settings = short(density=density, method=method)
    seen = []

    def look(pruning):
        rows = pruning.masks.counts()
        seen.append(pruning.density)
        for matrix in {row["matrix"] for row in rows}:
            group = [row for row in rows if row["matrix"] == matrix]
            if sharing == "local":
                assert all(r["kept"] == kept_count(pruning.density, r["total"]) for r in group)
            total = sum(row["total"] for row in group)
            if sharing == "shared":
                assert sum(row["kept"] for row in group) == kept_count(pruning.density, total)
        now = {name.replace("parametrizations.weight.original", "weight"): value
               for name, value in tiny_qa.bert.state_dict().items()}
        assert all(torch.equal(now[name], before[name]) for name in before)

    masks = attach_masks(tiny_qa, sharing)
    keeper = SnapshotWriter(tmp_path / "run")
    run = train(tiny_qa, windows, tokenizer, settings, pruning=Watch(masks, settings, look),
              snapshots=keeper)
    assert len(seen) == run["steps"] and seen[0] == 1.0
    assert seen == run["history"]["density"]
    assert any((score != 0).any() for score in masks.scores)
    share = sum(row["kept"] for row in masks.counts()) / sum(r["total"] for r in masks.counts())
    assert share == pytest.approx(density, abs=1e-3)
    saved, steps = Snapshots(tmp_path / "run"), run["steps"]
    assert all(np.array_equal(saved.mask(steps, name), mask)
               for name, mask in masks.numpy().items())


def test_the_seed_fixes_the_masks(tiny_qa, windows, tokenizer):
    runs = [prune(copy.deepcopy(tiny_qa), windows, tokenizer, density=0.3, seed=seed)
            for seed in (1, 1, 2)]
    first, again, other = (masks.numpy() for _, masks in runs)
    assert runs[0][0]["history"]["loss"] == runs[1][0]["history"]["loss"]
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_evaluation_changes_no_mask_and_no_mode(tiny_qa, synthetic, windows, tokenizer):
    _, masks = prune(tiny_qa, windows, tokenizer, density=0.3)
    before = masks.numpy()
    for score in masks.scores:
        score.data.neg_()  # a refresh would now choose others
    tiny_qa.train()
    features = featurise(synthetic["eval"], tokenizer, 96, 32)
    scores, predictions = evaluate_answers(tiny_qa, synthetic["eval"], features, tokenizer, "fp32")
    assert all(np.array_equal(before[name], mask) for name, mask in masks.numpy().items())
    assert tiny_qa.training
    assert 0 <= scores["em"] <= scores["f1"] <= 1 and len(predictions) == 16


def test_predicted_logits_equal_those_of_each_window_alone(tiny_qa, windows, tokenizer):
    start, end = predict_logits(tiny_qa, windows, tokenizer, "fp32", batch_size=7)
    for row in (0, 5, len(windows) - 1):
        one = {k: torch.tensor([windows[row][k]]) for k in ("input_ids", "token_type_ids")}
        out = tiny_qa(**one)
        length = one["input_ids"].shape[1]
        assert np.allclose(start[row, :length], out.start_logits.detach(), atol=1e-5)
        assert np.allclose(end[row, :length], out.end_logits.detach(), atol=1e-5)
        assert np.isneginf(start[row, length:]).all()


def test_exact_matches_have_one_bit_per_question(tiny_qa, synthetic, tokenizer, monkeypatch):
    """Return a model that answers 13 questions as labelled, except 0, 1, 3 and 11."""
    wrong = [0, 1, 3, 11]
    examples = synthetic["train"].select(range(13))
    features = featurise(examples, tokenizer, 160, 32)
    assert features["example"][:] == list(range(13))
    start, end = np.zeros((2, 13, 160))
    for row in range(13):
        label = features["start_positions"][row], features["end_positions"][row]
        start[row, label[0]] = end[row, label[1]] = -9 if row in wrong else 9
    monkeypatch.setattr("smp.model.predict.predict_logits", lambda *_, **__: (start, end))
    scores, _ = evaluate_answers(tiny_qa, examples, features, tokenizer, "fp32")
    assert scores["exact_matches"] == f"{0b00101111_11101000:04x}" and scores["em"] == 9 / 13


def test_a_saved_merged_model_has_the_same_scores(tmp_path, tiny_qa, synthetic, windows, tokenizer):
    _, masks = prune(tiny_qa, windows, tokenizer, density=0.3)
    features = featurise(synthetic["eval"], tokenizer, 96, 32)
    scores, masked = evaluate_answers(tiny_qa, synthetic["eval"], features, tokenizer, "fp32")
    masks.merge()
    save_model(tiny_qa, tokenizer, tmp_path / "merged")
    plain, _, _ = load_qa_model(str(tmp_path / "merged"))
    again, merged = evaluate_answers(plain, synthetic["eval"], features, tokenizer, "fp32")
    assert merged == masked and (again["em"], again["f1"]) == (scores["em"], scores["f1"])
    assert scores["ms_per_question"] > 0


def test_fine_tuning_changes_every_weight_with_a_gradient(tiny_qa, windows, tokenizer):
    before = {n: p.detach().clone() for n, p in tiny_qa.named_parameters()}
    run = train(tiny_qa, windows, tokenizer,
                short("fine-tune", learning_rate=1e-3, warmup_fraction=0.0))
    # a key's bias adds the same number to every position's logit, so the softmax cancels it
    still = [n for n, p in tiny_qa.named_parameters() if torch.equal(p, before[n])]
    assert all(name.endswith("key.bias") for name in still), still
    assert set(run["history"]["density"]) == {1.0} and set(run["history"]["lambda"]) == {0.0}


def test_a_loss_that_is_not_finite_raises(tiny_qa, windows, tokenizer):
    tiny_qa.qa_outputs.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="at step .* lower the learning rate"):
        train(tiny_qa, windows, tokenizer, short("fine-tune"))


def test_overflowing_scores_raise_with_the_last_good_checkpoint(
    tiny_qa, windows, tokenizer, tmp_path
):
    settings = short(density=0.5, epochs=4)
    pruning = Pruning(attach_masks(tiny_qa), settings)
    refresh, steps = pruning.masks.refresh, []

    def overflow(density):
        refresh(density)
        steps.append(density)
        if len(steps) == 9:
            pruning.masks.scores[0].data[0, 0] = torch.inf

    pruning.masks.refresh = overflow
    with pytest.raises(FloatingPointError) as error:
        train(tiny_qa, windows, tokenizer, settings, pruning,
            checkpoints=Checkpoints(tmp_path, minutes=0))
    kept = Checkpoints(tmp_path).paths()[0].name
    assert "a trained weight or score is not finite at step 9" in str(error.value)
    assert kept.startswith("step-00000008-") and kept in str(error.value)


def test_a_full_gpu_raises_with_the_settings_to_lower(tiny_qa, windows, tokenizer):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore")

    expected = "8 windows of [0-9]+ tokens: lower batch_size or max_length .CUDA out of mem"
    with pytest.raises(MemoryError, match=expected):
        train(tiny_qa, windows, tokenizer, short("fine-tune"), loss=full)


def test_windows_without_answers_raise(tiny_qa, windows, tokenizer):
    empty = windows.remove_columns(["start_positions", "end_positions"])
    for name in ("start_positions", "end_positions"):
        empty = empty.add_column(name, [0] * len(windows))
    with pytest.raises(ValueError, match="none of the 48 training windows contains its answer"):
        train(tiny_qa, empty, tokenizer, short("fine-tune"))


def test_validations_are_evenly_spaced(tiny_qa, windows, tokenizer):
    settings = short(density=0.5, epochs=2, n_validations=4)
    calls = []
    pruning = Pruning(attach_masks(tiny_qa), settings)
    run = train(tiny_qa, windows, tokenizer, settings, pruning,
                validate=lambda model: calls.append(model) or {"em": 0.5, "f1": 0.75})
    quarters = [round(run["steps"] * part / 4) for part in (1, 2, 3, 4)]
    assert run["history"]["valid_step"] == quarters
    assert run["history"]["valid_em"] == [0.5] * 4 and run["history"]["valid_f1"] == [0.75] * 4
    assert len(calls) == 4


def test_earlier_random_draws_do_not_change_a_run(tiny_qa, windows, tokenizer):
    """A notebook that trains its teacher equals a notebook that finds one."""
    losses = []
    for draws in (0, 5):
        model = copy.deepcopy(tiny_qa)
        set_dropout(model, 0.5)
        torch.rand(draws)
        run = train(model, windows, tokenizer, short("fine-tune"))
        losses.append(run["history"]["loss"])
    assert losses[0] == losses[1]


def test_one_process_trains_in_two_precisions_in_turn(tiny_qa, windows, tokenizer):
    for precision in ("bf16", "fp32", "bf16"):
        settings = short("fine-tune", precision=precision)
        assert train(tiny_qa, windows, tokenizer, settings)["precision"] == precision


def test_a_run_records_its_number_of_threads(tiny_qa, windows, tokenizer):
    usual = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            run = train(tiny_qa, windows, tokenizer, short("fine-tune", epochs=0.1))
            assert run["threads"] == threads
    finally:
        torch.set_num_threads(usual)


def test_snapshots_contain_the_masks_at_the_start_of_a_step(tiny_qa, windows, tokenizer, tmp_path):
    settings = short(density=0.2, epochs=2, n_mask_snapshots=5)
    seen, pruning = [], Pruning(attach_masks(tiny_qa), settings)
    refresh = pruning.masks.refresh

    def watched(density):
        refresh(density)
        seen.append(pruning.masks.numpy())

    pruning.masks.refresh = watched
    run = train(tiny_qa, windows, tokenizer, settings, pruning,
              snapshots=SnapshotWriter(tmp_path / "run"))
    saved = Snapshots(tmp_path / "run")
    assert set(saved.steps) == snapshot_steps(run["steps"], pruning.density_at, 5)
    assert len(saved.steps) == 5
    for step in saved.steps:  # step `steps` has the final mask
        assert all(np.array_equal(saved.mask(step, name), mask)
                   for name, mask in seen[step].items())


def test_dropout_is_active_in_every_step_after_validation_too(tiny_qa, windows, tokenizer):
    modes, losses = [], []

    def loss(start_logits, end_logits, batch):
        modes.append(tiny_qa.training)
        return span_loss(start_logits, end_logits, batch)

    for dropout in (0.0, 0.5):
        model = copy.deepcopy(tiny_qa)
        set_dropout(model, dropout)
        losses.append(train(model, windows, tokenizer, short("fine-tune"))["history"]["loss"])
    assert losses[0][0] != losses[1][0]
    train(tiny_qa, windows, tokenizer, short("fine-tune", n_validations=3), loss=loss,
          validate=lambda model: model.eval() and {"em": 0.0, "f1": 0.0})
    assert len(modes) == 6 and all(modes)


def test_batches_that_end_early_raise_one_line(tiny_qa, windows, tokenizer):
    training = prepare_training(tiny_qa, windows, tokenizer, short("fine-tune"))
    with pytest.raises(ValueError, match="batches ended after step 2 of 6: prepare them again"):
        fit(**training | {"batches": itertools.islice(training["batches"], 2)}, loss=span_loss)


def test_every_dropout_layer_is_active_in_each_forward_of_fit(tiny_qa, windows, tokenizer):
    seen, layers = [], [m for m in tiny_qa.modules() if isinstance(m, torch.nn.Dropout)]
    assert len(layers) == 1 + 3 * 2 and not any(layer.training for layer in layers)
    tiny_qa.register_forward_pre_hook(lambda *_: seen.append([one.training for one in layers]))
    training = prepare_training(tiny_qa, windows, tokenizer, short("fine-tune"))
    fit(**training | {"steps": 2}, loss=span_loss)
    assert seen == [[True] * 7] * 2


@pytest.mark.parametrize("load", [load_qa_model, load_student])
def test_a_training_forward_drops_the_share_of_the_setting(load):
    model = load(EMBEDDED_ENCODER, 0.5)[0].train()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert {layer.p for layer in layers} == {0.5} and len(layers) == 1 + 3 * 6
    torch.manual_seed(0)
    dropped = layers[0](torch.ones(10_000))
    assert set(dropped.tolist()) == {0.0, 2.0} and abs(dropped.mean().item() - 1) < 0.05


class Calls:
    """A watch that records the calls of `fit`."""

    def __init__(self, first_step):
        self.first_step, self.seen = first_step, []

    def masked(self, step):
        self.seen.append(("masked", step))

    def stepped(self, step, loss):
        self.seen.append(("stepped", step, loss.item(), loss.requires_grad))

    def finished(self):
        self.seen.append(("finished",))


def test_fit_continues_at_the_first_step_of_its_watch(tiny_qa, windows, tokenizer):
    """The loss is 3 and this process's share of it 1/2."""
    training, watch = prepare_training(tiny_qa, windows, tokenizer, short("fine-tune")), Calls(2)
    batches = [(batch, 0.5) for batch, _ in itertools.islice(training["batches"], 4)]
    fit(**training | {"batches": batches, "steps": 4, "watch": watch},
        loss=lambda start_logits, *_: 0 * start_logits.sum() + 3)
    assert watch.seen == [("masked", 2), ("stepped", 2, 1.5, False), ("masked", 3),
                          ("stepped", 3, 1.5, False), ("finished",)]


def test_fit_without_a_watch_makes_every_step(tiny_qa, windows, tokenizer):
    training = prepare_training(tiny_qa, windows, tokenizer, short("fine-tune"))
    batches = [*itertools.islice(training["batches"], 3)]
    fit(**training | {"batches": batches, "steps": 3, "watch": None}, loss=span_loss)
    assert training["schedule"].last_epoch == 3
    assert all(state["step"] == 3 for state in training["optimizer"].state.values())


def test_fit_passes_step_and_steps_to_the_pruning(tiny_qa, windows, tokenizer):
    class Recorded:
        def __init__(self):
            self.seen = []

        def before_forward(self, step, steps):
            self.seen.append(("before", step, steps))

        def after_backward(self, step, steps):
            has_gradient = tiny_qa.qa_outputs.weight.grad is not None
            self.seen.append(("after", step, steps, has_gradient))

        def finish(self):
            self.seen.append(("finish",))

    training = prepare_training(tiny_qa, windows, tokenizer, short("fine-tune"))
    pruning = Recorded()
    fit(**training | {"steps": 2, "watch": None, "pruning": pruning}, loss=span_loss)
    assert pruning.seen == [("before", 0, 2), ("after", 0, 2, True), ("before", 1, 2),
                            ("after", 1, 2, True), ("finish",)]


def test_gradients_are_clipped_at_norm_1_and_then_removed(tiny_qa, windows, tokenizer):
    training, norms = prepare_training(tiny_qa, windows, tokenizer, short("fine-tune")), []

    def measure(*_):
        grads = [p.grad for p in tiny_qa.parameters() if p.grad is not None]
        norms.append(float(torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()))

    training["optimizer"].optimizer.register_step_pre_hook(measure)
    fit(**training | {"steps": 2}, loss=lambda *given: 1000 * span_loss(*given))
    assert norms == pytest.approx([1.0, 1.0], rel=1e-4)
    assert all(parameter.grad is None for parameter in tiny_qa.parameters())


def test_a_model_trained_in_bf16_predicts_in_fp32(tiny_qa, windows, tokenizer, batch):
    train(tiny_qa, windows, tokenizer, short("fine-tune", precision="bf16", epochs=0.2))
    fresh = BertForQuestionAnswering(tiny_qa.config).eval()
    fresh.load_state_dict(tiny_qa.state_dict())
    assert torch.equal(tiny_qa.eval()(**batch).start_logits, fresh(**batch).start_logits)
