"""The benchmarks: both sides of a comparison have equal results, and the file has one form.

The tests assert no times. The fast and the plain implementation must give equal results.
"""

import copy
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertForQuestionAnswering

from benchmarks import __main__ as bench
from benchmarks import run_on_gpus
from benchmarks.decoding import peaked_logits
from benchmarks.measure import ROOT, machine, peak_memory, ratio, result, time_in_turns, versions
from benchmarks.references import (
    attach_sorted_masks,
    n_best_answers,
    padded_batches,
    train_plainly,
)
from benchmarks.workload import random_windows, steps_in_turns
from helpers import attach_masks, tiny_config
from smp.cli.train import teacher_loss, train
from smp.data.answers import decode_answers
from smp.data.reading import SQUAD_FEATURES
from smp.data.windows import featurise, label_window, make_loader, visible_part, with_marks
from smp.fast.buffers import reuse_buffers
from smp.fast.topk import KeepTop
from smp.method.distill import distillation_loss
from smp.method.schedule import Pruning
from smp.model.predict import MODEL_INPUTS, predict_logits
from smp.model.teacher import teacher_logits
from smp.runs.settings import choose_settings

# -- fast and plain results are equal ----------------------------------------------------------


def plain_windows(examples, tokenizer, max_length, stride):
    """Return the rows of `featurise`, computed by a loop over the windows of each pair."""
    rows, columns = [], examples.with_format(None)[:]
    for first in range(0, len(examples), 1000):
        batch = {name: values[first : first + 1000] for name, values in columns.items()}
        windows = tokenizer(
            [question.lstrip() for question in batch["question"]], batch["context"],
            truncation="only_second", max_length=max_length, stride=stride,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )
        for i, one in enumerate(windows["overflow_to_sample_mapping"]):
            of_context = np.array([part == 1 for part in windows.sequence_ids(i)])
            spans = np.where(of_context[:, None], windows["offset_mapping"][i], -1)
            spans[of_context] = with_marks(spans[of_context], batch["context"][one])
            answers = batch["answers"][one]
            begin = answers["answer_start"][0]
            start, end = (begin + at for at in visible_part(answers["text"][0]))
            labels = label_window(spans, start, end)
            rows.append({name: windows[name][i] for name in tokenizer.model_input_names} | {
                "start_positions": labels[0], "end_positions": labels[1], "example": first + one,
                "offsets": spans.tolist(),
            })
    return rows


@pytest.fixture(scope="module")
def narrow(synthetic, tokenizer):
    """Return the evaluation questions in windows of 40 tokens, several per question."""
    features = featurise(synthetic["eval"], tokenizer, 40, 12)
    assert len(features) > 2 * len(synthetic["eval"])
    return features


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 30]), st.booleans())
def test_decoding_equals_the_n_best_loop(synthetic, narrow, seed, longest, coarse):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, len(narrow), 40)).astype(np.float32)
    answers = decode_answers(synthetic["eval"], narrow, *logits, longest)
    loop = n_best_answers(synthetic["eval"], narrow, *logits, n_best=40, longest=longest)
    assert {one["id"]: one["prediction_text"] for one in answers} == loop


def test_twenty_best_are_enough_for_logits_with_a_peak(synthetic, narrow):
    logits = peaked_logits(narrow)
    answers = decode_answers(synthetic["eval"], narrow, *logits)
    assert {one["id"]: one["prediction_text"] for one in answers} == n_best_answers(
        synthetic["eval"], narrow, *logits
    )


def fast_masks(model):
    """Attach masks with the fast choice and storage; zeros are multiplied, for equal bits."""
    masks = attach_masks(model, start=1.0, choose=KeepTop())
    reuse_buffers(masks)
    return masks


@settings(max_examples=10, deadline=None)
@given(st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
def test_refreshed_masks_equal_those_of_a_full_sort(density, seed):
    torch.manual_seed(seed)
    fast = BertForQuestionAnswering(tiny_config())
    plain = copy.deepcopy(fast)
    masks = fast_masks(fast)
    scores = attach_sorted_masks(plain, density)
    masks.refresh(density)
    inputs = random_windows(2, 16).with_format("torch")[:]
    inputs = {name: inputs[name].long() for name in MODEL_INPUTS}
    assert all(torch.equal(*pair) for pair in zip(masks.scores, scores, strict=True))
    one, other = fast.eval()(**inputs), plain.eval()(**inputs)
    assert torch.equal(one.start_logits, other.start_logits)
    for out in (one, other):
        out.start_logits.square().sum().backward()
    for ours, theirs in zip(masks.scores, scores, strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_scores_of_the_plain_loop_equal_those_of_fit(tiny_qa, tokenizer):
    """Take one SMP step, the regulariser's gradient in closed form and through the graph."""
    windows, plain = random_windows(4, 24), copy.deepcopy(tiny_qa)
    chosen = choose_settings(
        "squad", "smp", batch_size=4, epochs=1, learning_rate=1e-4, precision="fp32", density=1.0,
        regulariser=400.0, score_init=1.0, n_validations=0,
        method="smp-l",
    )
    masks = fast_masks(tiny_qa)
    tiny_qa.qa_outputs.requires_grad_(False)
    pruning = Pruning(masks, chosen)
    pruning.regulariser_at = lambda step, steps: 400.0  # else 0 in the only step
    train(tiny_qa, windows, tokenizer, chosen, pruning)
    scores = attach_sorted_masks(plain, 1.0)
    plain.qa_outputs.requires_grad_(False)
    train_plainly(plain, list(make_loader(windows, tokenizer, 4, shuffle=False)), scores)
    for ours, theirs in zip(masks.scores, scores, strict=True):
        assert torch.allclose(ours, theirs, atol=2e-6)


def test_online_and_cached_teacher_logits_match(
    tiny_qa, synthetic, windows, tokenizer
):
    teacher = copy.deepcopy(tiny_qa)
    torch.nn.init.normal_(teacher.qa_outputs.weight)
    chosen = choose_settings("squad", "smp-kd", distill_weight=1.0)
    loss = teacher_loss(chosen, None, None, teacher_logits(teacher, windows, tokenizer, "fp32"))
    for batch in make_loader(windows, tokenizer, 7, shuffle=True):
        inputs = {name: batch[name] for name in MODEL_INPUTS}
        with torch.no_grad():
            student_out, teacher_out = tiny_qa(**inputs), teacher(**inputs)
        cached = loss(student_out.start_logits, student_out.end_logits, batch)
        online = distillation_loss(
            torch.stack([student_out.start_logits, student_out.end_logits], dim=-1),
            torch.stack([teacher_out.start_logits, teacher_out.end_logits], dim=-1),
            batch["attention_mask"], chosen.distill_temperature,
        )
        assert float(cached) == pytest.approx(float(online), rel=1e-2)  # the cache is fp16


def test_padding_to_one_length_does_not_change_logits(tiny_qa, windows, tokenizer):
    start, end = predict_logits(tiny_qa, windows, tokenizer, "fp32", batch_size=5)
    order = np.random.default_rng(0).permutation(len(windows)).tolist()
    for i, batch in enumerate(padded_batches(windows, tokenizer, 6, 128, order)):
        with torch.no_grad():
            out = tiny_qa(**{name: batch[name] for name in MODEL_INPUTS})
        assert out.start_logits.shape[1] == 128
        for place, row in enumerate(order[6 * i : 6 * i + 6]):
            length = int(batch["attention_mask"][place].sum())
            for ours, theirs in ((start, out.start_logits), (end, out.end_logits)):
                assert np.allclose(ours[row, :length], theirs[place, :length], atol=1e-5)


words = st.text(st.sampled_from("abcdéñ東 ,.'-0123́ "), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(words, st.lists(words, min_size=1, max_size=30)), min_size=1, max_size=4),
       st.sampled_from([(48, 8), (48, 0), (64, 24)]), st.data())
def test_windows_equal_those_of_a_plain_loop(tokenizer, pages, lengths, data):
    rows = []
    for i, (question, parts) in enumerate(pages):
        context = " ".join(["x", *parts])
        start = data.draw(st.integers(0, len(context) - 1))
        end = data.draw(st.integers(start + 1, len(context)))
        answers = {"text": [context[start:end]], "answer_start": [start]}
        rows += [dict(id=f"{i}-{n}", title="", context=context, question=question, answers=answers)
                 for n in range(2)]
    examples = Dataset.from_list(rows, SQUAD_FEATURES)
    assert featurise(examples, tokenizer, *lengths).to_list() == plain_windows(
        examples, tokenizer, *lengths
    )


def test_synthetic_windows_equal_those_of_a_plain_loop(synthetic, tokenizer):
    for lengths in ((96, 32), (40, 12)):
        found = featurise(synthetic["train"], tokenizer, *lengths).to_list()
        assert found == plain_windows(synthetic["train"], tokenizer, *lengths)


# -- measurement -------------------------------------------------------------------------------


def test_trainings_in_turns_equal_a_training_alone(tiny_qa, tokenizer):
    """Compare the order of the steps, and the weights with those of a training alone."""
    chosen = choose_settings("squad", "fine-tune", batch_size=2, epochs=1, precision="fp32",
                             n_validations=0)
    windows = random_windows(10, 16)
    alone, one, two = (copy.deepcopy(tiny_qa) for _ in range(3))
    train(alone, windows, tokenizer, chosen)
    calls = []
    for name, model in (("one", one), ("two", two)):
        model.register_forward_hook(lambda *_, name=name: calls.append(name))
    seconds = steps_in_turns({
        name: (model, lambda model=model: train(model, windows, tokenizer, chosen))
        for name, model in (("one", one), ("two", two))
    })
    assert calls == ["one", "two"] * 5
    assert {name: len(times) for name, times in seconds.items()} == {"one": 3, "two": 3}
    for model in (one, two):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters()))


def test_a_failed_training_does_not_stop_the_others(tiny_qa):
    done = []
    broken = (copy.deepcopy(tiny_qa), lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        steps_in_turns({"broken": broken, "whole": (tiny_qa, lambda: done.append(1))})
    assert done == [1]


def test_the_order_of_the_functions_alternates():
    calls = []
    seconds = time_in_turns({n: lambda n=n: calls.append(n) for n in "ab"}, rounds=3, warm_up=1)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert all(len(times) == 3 and (times >= 0).all() for times in seconds.values())


def test_peak_memory_excludes_the_memory_of_this_process():
    here = np.ones(200 * 2**17)  # 200 MB that must not count for a child process
    few, many = (peak_memory(np.ones, shape=size * 2**17) for size in (16, 80))
    assert 60 * 2**20 < many - few < 68 * 2**20 and few < 20 * 2**20 and here.sum()


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=9))
def test_a_ratio_lies_within_its_spread(times):
    value, (low, high) = ratio(times, np.ones(len(times)))
    assert min(times) <= low <= value <= high <= max(times)
    assert ratio(times, times) == (1.0, [1.0, 1.0])


@pytest.mark.parametrize("goal, met", [("<= 1.05", True), (">= 15", False), (None, None)])
def test_a_result_contains_whether_its_goal_is_met(goal, met):
    assert result("x", 1.04999, [1, 1.1], goal, "how") == {
        "name": "x", "value": 1.05, "spread": [1.0, 1.1], "goal": goal, "met": met, "detail": "how"
    }


# -- the file and its picture ------------------------------------------------------------------


class Topic:
    """Replacement of a module with a function measure()."""

    def __init__(self, doc, results):
        self.__doc__, self.results = doc, results

    def measure(self):
        return self.results


@pytest.fixture
def three(monkeypatch):
    grown = [result(f"layers {x}", x / 10) | {"axis": "layers", "x": x} for x in (1, 2)]
    known = {
        "steps": Topic("a: steps", [result("SMP / plain", 1.02, [1, 1.1], "<= 1.05")]),
        "sorts": Topic("b: sorts", [result("sort / refresh", 9, [8, 10], ">= 40")]),
        "growth": Topic("i: growth", grown),
    }
    monkeypatch.setattr(bench, "topics", lambda: known)
    return known


def test_each_module_with_measure_is_a_topic():
    names = list(bench.topics())
    expected = ["steps", "refresh", "teacher", "batches", "decoding", "features", "memory",
                "growth"]
    assert [name for name in names if name in expected] == expected
    assert bench.choose(["e", "growth"], bench.topics()) == ["steps", "growth"]
    with pytest.raises(ValueError, match="topic is 'z', expected some of"):
        bench.choose(["z"], bench.topics())


def test_bench_writes_a_file_and_a_picture(three, tmp_path, capsys):
    bench.main(["--results", str(tmp_path)])
    document = json.loads((tmp_path / "bench.json").read_text())
    assert document["machine"] == machine() and document["versions"] == versions()
    assert [(one["topic"], one["value"], one["met"]) for one in document["ratios"]] == [
        ("steps", 1.02, True), ("sorts", 9.0, False)
    ]
    assert [(one["axis"], one["x"], one["value"]) for one in document["growth"]] == [
        ("layers", 1, 0.1), ("layers", 2, 0.2)
    ]
    assert list(document["seconds"]) == ["steps", "sorts", "growth"]
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "MISSED" in printed and "Calculated, not measured" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench.png"]


def test_some_topics_replace_only_their_own_rows(three, tmp_path):
    bench.main(["--results", str(tmp_path)])
    three["steps"].results = [result("SMP / plain", 1.5, [1, 2], "<= 1.05")]
    bench.main(["--results", str(tmp_path), "--only", "a"])
    document = json.loads((tmp_path / "bench.json").read_text())
    assert [one["value"] for one in document["ratios"]] == [1.5, 9.0]
    assert len(document["growth"]) == 2


@pytest.mark.parametrize("only", [[], ["--only", "a", "b", "i"]])
def test_a_failed_topic_keeps_the_rows_of_the_others(three, tmp_path, monkeypatch, only):
    def break_down():
        raise MemoryError

    bench.main(["--results", str(tmp_path)])
    three["steps"].results = [result("SMP / plain", 1.5, [1, 2], "<= 1.05")]
    monkeypatch.setattr(three["sorts"], "measure", break_down)
    with pytest.raises(MemoryError):
        bench.main(["--results", str(tmp_path), *only])
    document = json.loads((tmp_path / "bench.json").read_text())
    assert [one["value"] for one in document["ratios"]] == [1.5, 9.0]
    assert len(document["growth"]) == 2
    assert list(document["seconds"]) == ["steps", "sorts", "growth"]


@pytest.mark.parametrize("part, name", [("machine", "cpu"), ("versions", "torch")])
def test_results_of_two_machines_are_not_mixed(three, tmp_path, capsys, part, name):
    bench.main(["--results", str(tmp_path)])
    path = tmp_path / "bench.json"
    document = json.loads(path.read_text())
    document[part][name] = "another"
    path.write_text(json.dumps(document))
    before = path.read_bytes()
    picture = (tmp_path / "bench.png").read_bytes()
    capsys.readouterr()
    bench.main(["--results", str(tmp_path), "--only", "a"])
    printed = capsys.readouterr().out
    assert "SMP / plain" in printed
    assert f"bench.json was measured with {name} another, not " in printed
    assert path.read_bytes() == before and (tmp_path / "bench.png").read_bytes() == picture
    bench.main(["--results", str(tmp_path)])
    assert json.loads(path.read_text())[part][name] != "another"


# -- calculated hours --------------------------------------------------------------------------


def test_flops_equal_the_count_of_torch(tiny_qa):
    config = tiny_qa.config
    tiny_qa.set_attn_implementation("eager")  # torch does not count other attention on a CPU
    inputs = random_windows(3, 48).with_format("torch")[:]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tiny_qa.bert(**{name: inputs[name].long() for name in MODEL_INPUTS})
    a_token = run_on_gpus.forward_flops(
        48, config.num_hidden_layers, config.hidden_size, config.intermediate_size
    )
    assert counter.get_total_flops() == 3 * 48 * a_token


@pytest.mark.parametrize("profile, tasks, changes", [
    *((profile, run_on_gpus.TASKS, {}) for profile in ("colab", "squad", "paper")),
    ("paper", ("smp-kd",), {"density": 0.03}),
])
def test_hours_in_the_docs_equal_the_calculated_ones(profile, tasks, changes):
    cells = []
    for card in run_on_gpus.CARDS:
        high, low = (sum(run_on_gpus.hours(task, card, level, profile, **changes) for task in tasks)
                     for level in (0, 2))
        cells.append(f"{low:.1f} to {high:.1f}")
    readme = (ROOT / "docs" / "bert-base.md").read_text(encoding="utf-8")
    (row,) = [line for line in readme.splitlines() if line.startswith(f"| `{profile}`,")
              and ("3%" in line) == bool(changes)]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == cells


def test_the_colab_profile_takes_less_than_three_hours():
    lowest = run_on_gpus.SHARES["half"].index(min(run_on_gpus.SHARES["half"]))
    assert sum(run_on_gpus.hours(task, "T4", lowest, "colab") for task in run_on_gpus.TASKS) < 3
