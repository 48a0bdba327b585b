"""SMPTrainer: masks equal to those of `fit`, accumulation, bf16, resume, heads, and errors."""

import copy

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    MPNetConfig,
    MPNetForQuestionAnswering,
    MPNetForSequenceClassification,
    MPNetForTokenClassification,
    TrainerCallback,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)

from helpers import tiny_config
from smp.method.baselines import MagnitudeMasks
from smp.method.loop import fit, span_loss
from smp.method.masks import Masks, competing_share, keep_top, kept_count
from smp.method.schedule import Pruning
from smp.model.encoder import encoder_linears
from smp.model.predict import make_accelerator
from smp.task.mask_settings import MaskSettings
from smp.task.trainer import SCORES_FILE, SMPTrainer

BERTS = BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification
MPNETS = MPNetForQuestionAnswering, MPNetForSequenceClassification, MPNetForTokenClassification
KIND = {"question": 0, "sequence": 1, "token": 2}


def make_model(kind=BertForQuestionAnswering):
    """Return a tiny model with three labels if it classifies, always with the same weights."""
    torch.manual_seed(0)
    labels = {} if "Question" in kind.__name__ else {"num_labels": 3}
    if "MPNet" in kind.__name__:
        return kind(MPNetConfig(
            vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64, max_position_embeddings=40, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, **labels))
    return kind(tiny_config(vocab_size=200, **labels))


def make_rows(model, count=32, length=12):
    """Return rows with the labels that the model's head is trained with."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 200, (count, length), generator=draw)
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
    for row in rows:
        if "Question" in type(model).__name__:
            row |= {"start_positions": row["input_ids"][0] % length,
                    "end_positions": row["input_ids"][1] % length}
        else:
            per_token = "Token" in type(model).__name__
            row["labels"] = row["input_ids"] % 3 if per_token else row["input_ids"][0] % 3
    return rows


class Recording(SMPTrainer):
    """Keep the batches, and the masks after each is used."""

    def training_step(self, model, inputs, *others, **options):
        self.seen = [*getattr(self, "seen", ()), {k: v.clone() for k, v in inputs.items()}]
        loss = super().training_step(model, inputs, *others, **options)
        self.used = [*getattr(self, "used", ()), self.masks.numpy()]
        return loss


def make_trainer(folder, model=None, density=0.3, kind=Masks, share=competing_share,
                 settings=None, **changes):
    model = make_model() if model is None else model
    arguments = TrainingArguments(str(folder), **dict(
        use_cpu=True, report_to=[], disable_tqdm=True, per_device_train_batch_size=8, max_steps=8,
        learning_rate=1e-2, logging_steps=2, save_strategy="no") | changes)
    pruning = Pruning(kind(encoder_linears(model), share),
                      settings or MaskSettings(density, learning_rate=0.5))
    return Recording(model, arguments, pruning=pruning, train_dataset=make_rows(model))


def learned(trainer):
    """Return {name: tensor} of scores, masks and head, copied."""
    return {name: tensor.clone() for name, tensor in trainer.trained_tensors().items()}


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("share", [None, competing_share])
def test_masks_equal_those_of_fit_bit_for_bit(tmp_path, share):
    trainer = make_trainer(tmp_path, share=share)
    trainer.train()
    model = make_model()
    pruning = Pruning(Masks(encoder_linears(model), share), trainer.pruning.settings)
    model.bert.requires_grad_(False)
    for score in pruning.masks.scores:
        score.requires_grad_(True)
    head = model.qa_outputs
    optimizer = torch.optim.AdamW([
        {"params": pruning.masks.scores, "lr": 0.5},
        {"params": [head.weight, head.bias], "lr": 1e-2}], weight_decay=0.0, fused=True)
    schedule, used = get_linear_schedule_with_warmup(optimizer, 0, 8), []
    accelerator = make_accelerator("fp32")
    model, optimizer = accelerator.prepare(model, optimizer)

    class Watch:
        first_step = 0

        def masked(self, step):
            used.append(pruning.masks.numpy())

        def stepped(self, step, loss):
            pass

        finished = staticmethod(lambda: None)

    fit(model, [(batch, 1.0) for batch in trainer.seen], span_loss, optimizer, schedule,
        accelerator, 8, pruning, Watch())
    for ours, theirs in zip(trainer.used, used, strict=True):
        assert all((ours[name] == mask).all() for name, mask in theirs.items())
    fitted = dict(model.named_parameters()) | dict(model.named_buffers())
    assert_equal(learned(trainer), {name: fitted[name].data for name in learned(trainer)})
    assert any((trainer.used[0][name] != mask).any() for name, mask in trainer.used[-1].items())


@pytest.mark.parametrize("kind", BERTS[:2], ids=lambda kind: kind.__name__)
def test_accumulated_batches_equal_one_large_batch(tmp_path, kind):
    """Scores differ by rounding only; Adam enlarges it where a gradient is near zero.

    The loss does not depend on the bias of a question-answering head.
    """
    one, two = (make_trainer(tmp_path, make_model(kind), max_steps=4, logging_steps=1,
                             per_device_train_batch_size=rows,
                             gradient_accumulation_steps=8 // rows) for rows in (8, 2))
    for trainer in (one, two):
        trainer.train()
    assert len(two.seen) == 4 * len(one.seen) == 16
    for ours, theirs in zip(two.state.log_history[:4], one.state.log_history[:4]):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
    for step in range(4):
        rows = torch.cat([batch["input_ids"] for batch in two.seen[4 * step : 4 * step + 4]])
        assert torch.equal(rows, one.seen[step]["input_ids"])
        first = two.used[4 * step]
        for later in two.used[4 * step + 1 : 4 * step + 4]:  # one choice in a step
            assert all((later[name] == mask).all() for name, mask in first.items())
    found, wanted = learned(two), learned(one)
    for name in wanted.keys() - {"qa_outputs.bias"}:
        tensor = wanted[name]
        same = torch.isclose(found[name].float(), tensor.float(), atol=1e-4)
        assert same.float().mean() > 0.995, name


def test_bf16_trains_and_keeps_the_exact_density(tmp_path):
    trainer = make_trainer(tmp_path, bf16=True, share=None)
    trainer.train()
    assert all(score.dtype == torch.float32 for score in trainer.masks.scores)
    for each in trainer.masks.counts():
        assert each["kept"] == kept_count(0.3, each["total"])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_equals_an_undisturbed_one(tmp_path, accumulation):
    options = dict(save_strategy="steps", save_steps=3, gradient_accumulation_steps=accumulation,
                   per_device_train_batch_size=4, num_train_epochs=3, max_steps=-1)
    whole = make_trainer(tmp_path / "whole", **options)
    whole.train()
    assert whole.state.max_steps == 24 // accumulation
    rest = make_trainer(tmp_path / "rest", **options)
    rest.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-9"))
    assert len(rest.seen) == len(whole.seen) - 9 * accumulation
    assert_equal(learned(rest), learned(whole))
    for ours, theirs in zip(reversed(rest.used), reversed(whole.used)):
        assert all((ours[name] == mask).all() for name, mask in theirs.items())


@pytest.mark.parametrize("kind", [*BERTS, *MPNETS], ids=lambda kind: kind.__name__)
def test_each_head_is_trained_and_the_encoder_is_not(tmp_path, kind, capsys):
    model = make_model(kind)
    before = copy.deepcopy(model).state_dict()
    trainer = make_trainer(tmp_path, model, density=0.5, share=None, save_strategy="steps",
                           save_steps=8)
    line = capsys.readouterr().out
    assert line.startswith("SMPTrainer trains ") and line.count("\n") == 1
    trainer.train()
    for each in trainer.masks.counts():
        assert each["kept"] == each["total"] / 2
    masked = trainer.merged_state()
    batch = {name: torch.stack([row[name] for row in make_rows(model)])
             for name in ("input_ids", "attention_mask")}
    wanted = trainer.model.eval()(**batch)[0]
    masks, prefix = trainer.masks.numpy(), model.base_model_prefix
    stock = trainer.merge()
    assert stock is model and stock.state_dict().keys() == before.keys() == masked.keys()
    assert torch.equal(stock(**batch)[0], wanted)
    for name, tensor in stock.state_dict().items():
        assert torch.equal(masked[name], tensor), name
        inside = name.removeprefix(f"{prefix}.").removesuffix(".weight")
        if name.startswith(f"{prefix}.") and ".pooler." not in name:
            kept = torch.from_numpy(masks[inside]) if inside in masks else 1
            assert torch.equal(tensor, before[name] * kept), name
        else:
            assert not torch.equal(tensor, before[name]), name
            assert f" {name.removeprefix(f'{prefix}.').split('.')[0]} (" in line
    again = kind.from_pretrained(tmp_path / "checkpoint-8").eval()
    assert torch.equal(again(**batch)[0], wanted)


def test_scores_have_their_rate_and_no_weight_decay(tmp_path):
    trainer = make_trainer(tmp_path, weight_decay=0.1, max_steps=1)
    decayed, plain, scores = trainer.create_optimizer().param_groups
    assert [*map(id, scores["params"])] == [*map(id, trainer.masks.scores)]
    assert (scores["lr"], scores["weight_decay"]) == (0.5, 0.0)
    assert [part["weight_decay"] for part in (decayed, plain)] == [0.1, 0.0]
    assert decayed["params"][0] is trainer.model.qa_outputs.weight and decayed["lr"] == 1e-2
    assert len(decayed["params"]) == len(plain["params"]) == 1
    assert all(score.requires_grad for score in trainer.masks.scores)


def test_the_log_contains_density_and_changed_masks(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["step"] for log in logs] == [2, 4, 6, 8]
    entries = sum(each["total"] for each in trainer.masks.counts())
    ones = {name: mask | True for name, mask in trainer.used[0].items()}
    for log, masks in zip(logs, [trainer.used[i] for i in (1, 3, 5)]):
        step = log["step"] - 1
        assert log["density"] == trainer.pruning.density_at(step, 8)
        assert log["regulariser"] == trainer.pruning.regulariser_at(step, 8)
        changed = sum(int((ones[name] != mask).sum()) for name, mask in masks.items())
        assert log["mask_changed"] == changed / entries
        ones = masks
    assert logs[-1]["density"] == 0.3  # the final masks


def test_a_training_that_stops_early_has_the_density(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 2

    trainer = make_trainer(tmp_path, share=None)
    trainer.add_callback(Stop())
    trainer.train()
    assert trainer.state.global_step == 2 and trainer.pruning.density == 0.3
    for each in trainer.masks.counts():
        assert each["kept"] == kept_count(0.3, each["total"])


def test_magnitude_masks_train_the_weights(tmp_path):
    model = make_model(BertForSequenceClassification)
    before = copy.deepcopy(model).state_dict()
    trainer = make_trainer(tmp_path, model, kind=MagnitudeMasks, share=None,
                           settings=MaskSettings(0.5, regulariser=0.0))
    trainer.train()
    with pytest.raises(ValueError, match="trained the weights.*use merge"):
        trainer.save_mask(tmp_path / "task")
    linear = encoder_linears_of(trainer)[0]
    original = linear.parametrizations.weight.original
    assert torch.equal(linear.weight, original * keep_top(original.abs(), original.numel() // 2))
    state = trainer.merge().state_dict()
    for name, tensor in state.items():
        assert torch.equal(tensor, before[name]) == ("embeddings" in name), name


def encoder_linears_of(trainer):
    return [linear for *_, linear in trainer.masks.matrices]


def test_an_own_optimizer_must_contain_the_scores(tmp_path):
    model = make_model()
    early = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    pruning = Pruning(Masks(encoder_linears(model)), MaskSettings(0.5))
    trainer = SMPTrainer(model, TrainingArguments(str(tmp_path), use_cpu=True, report_to=[]),
                         pruning=pruning, train_dataset=make_rows(model), optimizers=(early, None))
    with pytest.raises(ValueError, match="the optimizer lacks the scores"):
        trainer.train()


def test_albert_is_masked_once_for_all_passes(tmp_path):
    model = AlbertForSequenceClassification(AlbertConfig(
        vocab_size=200, hidden_size=32, embedding_size=16, num_hidden_layers=3,
        num_attention_heads=4, intermediate_size=64, num_labels=3))
    trainer = make_trainer(tmp_path, model, max_steps=2)
    trainer.train()
    assert len(trainer.masks.matrices) == 6


@pytest.mark.parametrize("change, said", [
    (dict(fsdp="full_shard"), "fsdp is set .* FSDP shards the weights: use"),
    (dict(deepspeed="ds.json"), "deepspeed is set .* DeepSpeed owns the gradients"),
    (dict(load_best_model_at_end=True), "load_best_model_at_end is set .* set it to False"),
    (dict(_n_gpu=2), "2 GPUs in one process: start the script with `torchrun"),
])
def test_unsupported_arguments_raise_a_one_line_error(tmp_path, change, said):
    model = make_model()
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    assert arguments.n_gpu <= 1  # computed before it is changed
    for name, value in change.items():
        object.__setattr__(arguments, name, value)
    pruning = Pruning(Masks(encoder_linears(model)), MaskSettings(0.5))
    with pytest.raises(ValueError, match=said) as error:
        SMPTrainer(model, arguments, pruning=pruning)
    assert "\n" not in str(error.value)


def meta_model():
    with torch.device("meta"):
        return BertForQuestionAnswering(tiny_config())


def tied_model():
    model = make_model()
    layers = model.bert.encoder.layer
    layers[1].output.dense.weight = layers[0].output.dense.weight
    return model


def quantised_model():
    return torch.ao.quantization.quantize_dynamic(make_model(), {torch.nn.Linear}, torch.qint8)


@pytest.mark.parametrize("make, said", [
    (lambda: GPT2ForSequenceClassification(GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=4)), "has layers with weights in Conv1D"),
    (tied_model, "uses one matrix in several places"),
    (quantised_model, "has quantised layers"),
    (lambda: make_model().bfloat16(), "is torch.bfloat16: load the model with dtype=torch.float32"),
    (meta_model, "sharded or offloaded: load the model without device_map"),
])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize:UserWarning")
def test_models_that_masks_do_not_fit_raise_one_line(tmp_path, make, said):
    with pytest.raises(ValueError, match=said) as error:
        make_trainer(tmp_path, make())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings, said", [
    (dict(density=1e-4), r"density 0.0001 leaves a matrix of 1,024 weights empty: set it to 0.000"),
    (dict(density=0), "density is 0: expected a number above 0, at most 1"),
    (dict(density=1.5), "density is 1.5: expected a number above 0, at most 1"),
    (dict(density=0.5, learning_rate="1"), "learning_rate is '1': expected a number above 0"),
    (dict(density=0.5, regulariser=-1), "regulariser is -1: expected a number from 0"),
    (dict(density=0.5, density_hold_fraction=0.9), "density_hold_fraction is 0.9: expected less"),
])
def test_settings_that_cannot_work_raise_one_line(tmp_path, settings, said):
    with pytest.raises(ValueError, match=said) as error:
        make_trainer(tmp_path, settings=MaskSettings(**settings))
    assert "\n" not in str(error.value)


def test_masks_of_another_model_and_model_init_raise(tmp_path):
    pruning = Pruning(Masks(encoder_linears(make_model())), MaskSettings(0.5))
    with pytest.raises(ValueError, match="the masks are not those of this BertForQuestionAnsw"):
        SMPTrainer(make_model(), pruning=pruning)
    model = make_model()
    pruning = Pruning(Masks(encoder_linears(model)), MaskSettings(0.5))
    with pytest.raises(ValueError, match="model_init makes a model without masks"):
        SMPTrainer(model, pruning=pruning, model_init=make_model)


@pytest.mark.parametrize("change, said", [
    (lambda folder: (folder / SCORES_FILE).unlink(), "so SMPTrainer did not write it"),
    (lambda folder: None, "its settings is .*0.3.*, this run's .*0.6"),
])
def test_a_wrong_checkpoint_raises_one_line(tmp_path, change, said):
    make_trainer(tmp_path, save_strategy="steps", save_steps=4).train()
    change(tmp_path / "checkpoint-4")
    with pytest.raises(ValueError, match=said) as error:
        make_trainer(tmp_path, density=0.6).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert "\n" not in str(error.value)
