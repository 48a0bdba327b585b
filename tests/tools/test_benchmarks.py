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

import gpu_hours
from benchmarks import __main__ as bench
from benchmarks.data import peaked_logits
from benchmarks.measure import (
    BEST,
    DEFAULT,
    ROOT,
    children_in_turns,
    load_of_others,
    machine,
    result,
    time_in_turns,
    versions,
)
from benchmarks.references import (
    OnlineTeacher,
    n_best_answers,
    padded_batches,
    sorted_mask,
    train_plainly,
)
from benchmarks.report import table
from benchmarks.workload import random_windows, training
from smp.cli.train import train
from smp.data.answers import decode_answers
from smp.data.reading import SQUAD_FEATURES
from smp.data.windows import featurise, label_window, make_loader, visible_part, with_marks
from smp.fast.topk import KeepTop
from smp.method.distill import CachedTeacher
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


def test_weights_of_the_plain_loop_equal_those_of_fit(tiny_qa, tokenizer):
    windows, plain = random_windows(4, 24), copy.deepcopy(tiny_qa)
    chosen = choose_settings(
        "squad", "fine-tune", batch_size=4, epochs=1, learning_rate=1e-4, precision="fp32",
        warmup_fraction=0.0, n_validations=0)
    train(tiny_qa, windows, tokenizer, chosen)
    train_plainly(plain, make_loader(windows, tokenizer, 4, shuffle=False))
    tiny_qa.qa_outputs.bias = plain.qa_outputs.bias  # its gradient is 0 except for rounding
    for one, other in zip(tiny_qa.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)  # a tenth of a step


def test_online_and_cached_teacher_logits_match(tiny_qa, windows, tokenizer):
    cached = CachedTeacher(teacher_logits(tiny_qa, windows, tokenizer, "fp32"))
    online = OnlineTeacher(copy.deepcopy(tiny_qa).train())
    for batch in make_loader(windows, tokenizer, 7, shuffle=True):
        visible = batch["attention_mask"] == 1
        ours, theirs = (teacher.read(batch)[0][visible].float() for teacher in (cached, online))
        assert torch.allclose(ours, theirs, atol=1e-3)  # the cache is fp16


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.03, 0.1, 0.5]))
def test_masks_of_a_full_sort_equal_the_fast_ones(seed, density):
    scores = torch.randn(32, 48, generator=torch.manual_seed(seed))
    fast = KeepTop()({"one": scores}, {"one": int(density * scores.numel())})["one"]
    assert torch.equal(sorted_mask(scores, density), fast)


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


def test_the_order_of_the_functions_alternates():
    calls = []
    seconds = time_in_turns({n: lambda n=n: calls.append(n) for n in "ab"}, rounds=3)
    assert "".join(calls) == "ab" + "ba" + "ab" + "ba"
    assert all(len(times) == 3 and (times >= 0).all() for times in seconds.values())


def test_children_report_the_time_and_memory_of_their_steps():
    """Fine-tuning needs 180 MiB more: gradients and Adam's two moments of 60 MiB of embeddings."""
    sizes = dict(hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
                 vocab_size=60 * 2**20 // (4 * 64))
    seconds, peaks = children_in_turns({
        way: (training, dict(way=way, windows=2, tokens=8, steps=4, config=sizes, teacher=teacher))
        for way, teacher in (("smp", "cached"), ("fine-tune", None))
    }, 2)
    assert all(times.shape == (2,) and (times > 0).all() for times in seconds.values())
    assert 170 < (peaks["fine-tune"] - peaks["smp"])[-1] / 2**20 < 260


def test_an_error_in_a_child_is_raised():
    with pytest.raises(RuntimeError, match="result ended with .*missing 1 required .*'values'"):
        children_in_turns({"wrong": (result, {"against": ""})}, 1)


def test_the_load_of_other_processes_is_a_share():
    assert 0 <= load_of_others() <= 1


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=9))
def test_a_result_contains_the_median_within_its_quartiles(values):
    found = result("x", "y", values)
    low, high = found["quartiles"]
    assert min(values) * 0.999 <= low <= found["value"] <= high <= max(values) * 1.001
    assert found["value"] == pytest.approx(np.median(values), rel=1e-3)


# -- the file, its picture and its table -------------------------------------------------------


class Topic:
    """Replacement of a module with a function measure()."""

    def __init__(self, *results):
        self.results = results

    def measure(self):
        return self.results


@pytest.fixture
def three(monkeypatch):
    known = {
        "training": Topic(result("SMP", DEFAULT, [2, 3, 4]), result("SMP", BEST, [1, 2, 3]),
                          result("peak", BEST, [1.1], unit="times the memory")),
        "masks": Topic(result("choice", "a sort", [100])),
        "growth": Topic(*(result("SMP", "", [x / 10], unit="s") | {"axis": "tokens", "x": x}
                          for x in (1, 2))),
    }
    monkeypatch.setattr(bench, "TOPICS", dict.fromkeys(known, "title"))
    monkeypatch.setattr(bench, "modules", lambda: known)
    monkeypatch.setattr(bench, "load_of_others", lambda: 0.1)
    return known


def values_in(folder):
    document = json.loads((folder / "bench.json").read_text())
    return [one["value"] for one in document["results"]]


def test_each_topic_is_a_module_with_measure():
    assert all(callable(module.measure) for module in bench.modules().values())


def test_bench_writes_a_file_and_a_picture(three, tmp_path, capsys):
    bench.main(["--results", str(tmp_path)])
    document = json.loads((tmp_path / "bench.json").read_text())
    assert document["machine"] == machine() and document["versions"] == versions()
    assert values_in(tmp_path) == [3, 2, 1.1, 100, 0.1, 0.2]
    assert [one["topic"] for one in document["results"]] == [
        *["training"] * 3, "masks", "growth", "growth"]
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench.png"]
    printed = capsys.readouterr().out
    assert f"SMP: 3.00 times faster than {DEFAULT} (quartiles 2.50 to 3.50)" in printed
    assert f"peak: 1.10 times the memory of {BEST}" in printed
    assert "SMP, tokens 2: 0.20 s" in printed


def test_some_topics_replace_only_their_own_results(three, tmp_path):
    bench.main(["--results", str(tmp_path)])
    three["masks"].results = [result("choice", "a sort", [50])]
    bench.main(["--results", str(tmp_path), "--only", "masks"])
    assert values_in(tmp_path) == [3, 2, 1.1, 50, 0.1, 0.2]


def test_a_failed_topic_keeps_the_results_of_the_others(three, tmp_path, monkeypatch):
    bench.main(["--results", str(tmp_path)])
    three["training"].results = [result("SMP", DEFAULT, [5])]
    monkeypatch.setattr(three["masks"], "measure", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench.main(["--results", str(tmp_path)])
    assert values_in(tmp_path) == [5, 100, 0.1, 0.2]


def test_a_loaded_machine_measures_nothing(three, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "load_of_others", lambda: 0.57)
    with pytest.raises(ValueError, match="nothing measured: other processes use 57% of the CPU"):
        bench.main(["--results", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_results_under_load_are_not_written(three, tmp_path, monkeypatch):
    loads = iter([0.1, 0.1, 0.5, 0.1])  # at the start, then after each topic
    monkeypatch.setattr(bench, "load_of_others", lambda: next(loads))
    with pytest.raises(ValueError, match="busy after masks: measure again with --only masks"):
        bench.main(["--results", str(tmp_path)])
    assert values_in(tmp_path) == [3, 2, 1.1, 0.1, 0.2]


@pytest.mark.parametrize("part, name", [("machine", "cpu"), ("versions", "torch")])
def test_results_of_two_machines_are_not_mixed(three, tmp_path, capsys, part, name):
    bench.main(["--results", str(tmp_path)])
    path = tmp_path / "bench.json"
    document = json.loads(path.read_text())
    document[part][name] = "another"
    path.write_text(json.dumps(document))
    before = [path.read_bytes(), (tmp_path / "bench.png").read_bytes()]
    capsys.readouterr()
    bench.main(["--results", str(tmp_path), "--only", "masks"])
    printed = capsys.readouterr().out
    assert "choice: 100" in printed
    assert f"bench.json was measured with {name} another, not " in printed
    assert [path.read_bytes(), (tmp_path / "bench.png").read_bytes()] == before
    bench.main(["--results", str(tmp_path)])
    assert json.loads(path.read_text())[part][name] != "another"


def test_the_readme_contains_the_table_of_the_reference():
    """`python -m benchmarks --table` updates it."""
    document = json.loads((ROOT / "results/reference/bench.json").read_text(encoding="utf-8"))
    page = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    assert f"<!-- results -->\n{table(document)}<!-- /results -->" in page


# -- calculated hours --------------------------------------------------------------------------


def test_flops_equal_the_count_of_torch(tiny_qa):
    config = tiny_qa.config
    tiny_qa.set_attn_implementation("eager")  # torch does not count other attention on a CPU
    inputs = random_windows(3, 48).with_format("torch")[:]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tiny_qa.bert(**{name: inputs[name].long() for name in MODEL_INPUTS})
    a_token = gpu_hours.forward_flops(
        48, config.num_hidden_layers, config.hidden_size, config.intermediate_size
    )
    assert counter.get_total_flops() == 3 * 48 * a_token


def test_hours_in_the_docs_equal_the_calculated_ones():
    page = (ROOT / "docs/bert-base.md").read_text(encoding="utf-8")
    assert set(gpu_hours.rows()) == {line for line in page.splitlines() if line.startswith("| `")}


def test_the_colab_profile_takes_less_than_three_hours():
    assert sum(gpu_hours.hours(task, "T4", 0, "colab") for task in gpu_hours.TASKS) < 3
