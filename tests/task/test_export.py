"""Every exported format gives the same answers, and reported sizes are those on disk."""

import io
import json
from dataclasses import asdict

import numpy as np
import pytest
from huggingface_hub import ModelCard
from test_adapters import learn

from records import make_record
from smp import __main__ as command_line
from smp.data.windows import featurise
from smp.fast.compact_file import load_compact
from smp.model.load import load_qa_model
from smp.model.save import save_model
from smp.model.student import stock_model
from smp.runs.record import check_record, record_json
from smp.runs.settings import choose_settings
from smp.task.export import entropy_bytes, export_run
from smp.task.formats import export_onnx, onnx_predictor, torch_predictor, window_inputs
from smp.task.mask_file import MASK_FILE, load_masks


def bound(mask):
    """Return the entropy of a mask in bytes: n H(k / n) bits."""
    n, k = mask.size, np.count_nonzero(mask)
    return sum(-c * np.log2(c / n) for c in (k, n - k) if c) / 8


def save_run(base, folder, tokenizer, head, method="smp-l", rate=0.0):
    """Return a folder like those that the notebooks write into results/models/."""
    (folder.parent).mkdir(exist_ok=True)
    student = learn(base, folder.parent / "m", head, density=0.2, rate=rate)
    save_model(stock_model(student, base), tokenizer, folder)
    masks, about = load_masks(folder.parent / "m")
    settings = choose_settings("quick", "smp", max_length=96, stride=32, density=0.2,
                               bias_norm_learning_rate=rate)
    total = sum(mask.size for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    record = make_record(
        method, "none", 0.2, asdict(settings), model="base", model_sha=about["base_sha"],
        head=head, params_masked=total, params_kept=kept, n_eval=400,
        bytes_mask_file=(folder.parent / "m").stat().st_size if method == "smp-l" else None,
    )
    (folder / "record.json").write_text(record_json(check_record(record)))
    if method == "smp-l":
        (folder.parent / "m").rename(folder / MASK_FILE)
    return record


@pytest.mark.parametrize("head, rate", [("label words", 0.0), ("trained", 0.0), ("trained", 0.1)])
def test_every_format_gives_the_same_answers(base, tmp_path, tokenizer, head, rate):
    folder = tmp_path / "run"
    save_run(base, folder, tokenizer, head, rate=rate)
    masks, about = load_masks(folder / MASK_FILE)
    report = export_run(folder, base=base, questions=5)
    forms = {form.pop("form"): form for form in report["forms"]}
    assert [*forms] == ["base, not pruned", "base + mask file", "plain model", "compact",
                        "compact, CSR"]
    unpruned = forms.pop("base, not pruned")
    for form in forms.values():
        assert form["same_answers"] == report["questions"] == 5
        assert form["largest_difference"] < 1e-4 and form["ms"] > 0
    assert forms["base + mask file"]["largest_difference"] == 0
    assert unpruned["bytes"] is None and unpruned["parameters"] > forms["plain model"]["parameters"]
    for name, file in (("base + mask file", MASK_FILE), ("plain model", "model.safetensors"),
                       ("compact", "compact/compact.safetensors")):
        assert forms[name]["bytes"] == (folder / file).stat().st_size
    again, said = load_masks(folder / MASK_FILE)
    assert all(np.array_equal(again[name], masks[name]) for name in masks)
    assert said["em"] == about["em"] and said["base_sha"] == about["base_sha"]
    assert ("head_weights" in said) == (head == "trained") and ("vectors" in said) == (rate > 0)
    biases, norms = 4 * 32 + 64 + 32, 2 * 2 * 32  # of a layer
    vectors = 2 * (biases + norms) if rate else 0
    assert report["mask_file"]["bytes_vectors"] == 4 * vectors
    assert report["mask_file"]["bytes_entropy_bound"] == round(sum(map(bound, masks.values())))
    assert json.loads((folder / "export.json").read_text())["run"] == report["run"]
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == "base" and card.data.eval_results[0].metric_value == 0.4804
    assert ("AutoModelForMaskedLM" in card.text) == (head == "label words")
    assert ("LayerNorms of the encoder's layers are trained" in card.text) == (rate > 0)
    load_compact(folder / "compact")


def test_onnx_gives_the_logits_of_torch(tiny_qa, tokenizer, synthetic, tmp_path):
    """The windows are those of questions, of several lengths."""
    windows = window_inputs(featurise(synthetic["eval"], tokenizer, 64, 16))
    size = export_onnx(tiny_qa, windows[0], tmp_path / "model.onnx")
    assert [(p.name, p.stat().st_size) for p in tmp_path.iterdir()] == [("model.onnx", size)]
    ours, theirs = torch_predictor(tiny_qa), onnx_predictor(tmp_path / "model.onnx")
    assert len({window["input_ids"].shape[1] for window in windows}) > 1
    for window in windows:
        for one, other in zip(ours(window), theirs(window)):
            assert np.allclose(one, other, atol=1e-5)


def test_a_fine_tuned_run_exports_its_model_only(base, tmp_path, tokenizer):
    save_run(base, tmp_path / "run", tokenizer, "trained", method="fine-tuned")
    report = export_run(tmp_path / "run", questions=3)
    assert report["mask_file"] is None
    assert [form["form"] for form in report["forms"]] == ["plain model"]
    assert "pruned" not in ModelCard.load(tmp_path / "run/README.md").text.split("\n# ")[1]


def test_export_without_the_base_model(base, tmp_path, tokenizer, capsys):
    save_run(base, tmp_path / "run", tokenizer, "trained")
    report = export_run(tmp_path / "run", questions=3)  # the record names "base"
    assert [form["form"] for form in report["forms"]] == ["plain model", "compact", "compact, CSR"]
    assert "set --base" in capsys.readouterr().out


@pytest.mark.parametrize("data", [None, "./none.json"])
def test_missing_questions_raise_a_one_line_error(base, tmp_path, tokenizer, monkeypatch, data):
    save_run(base, tmp_path / "run", tokenizer, "trained")
    path = tmp_path / "run/record.json"
    record = json.loads(path.read_text())
    record["settings"]["data"] = "squad.json"  # as records keep the path of a file
    path.write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        export_run(tmp_path / "run", data)
    assert "\n" not in str(error.value)
    assert ("set --data to the run's questions" in str(error.value)) == (data is None)


def test_entropy_bytes():
    for density in (0, 0.1, 0.5, 1):
        masks = {"w": np.random.default_rng(0).random((40, 50)) < density}
        assert entropy_bytes(masks) == pytest.approx(bound(masks["w"]))


def test_export_and_ask_on_the_command_line(base, tmp_path, tokenizer, capsys, monkeypatch):
    save_run(base, tmp_path / "run", tokenizer, "trained")
    folder = str(tmp_path / "run")
    assert command_line.main(["export", folder, "--questions", "2"]) == 0
    assert "plain model" in capsys.readouterr().out
    passage = tmp_path / "passage.txt"
    passage.write_text("Ada Lovelace wrote the first program.")
    ask = ["ask", "--model", folder, "--passage", str(passage)]
    assert command_line.main([*ask, "--question", "Who wrote it?", "--n-best", "2"]) == 0
    given = capsys.readouterr().out
    assert given.count("%  ") == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("Who wrote it?\n\nWhat?\n"))
    assert command_line.main(ask) == 0
    assert given.splitlines()[-2] in capsys.readouterr().out.splitlines()
    reader, _, _ = load_qa_model(folder)
    for wrong, said in (
        (["ask", "--model", folder, "--passage", "none.txt"], "ask: none.txt: no such file"),
        (["ask", "--model", "./none", "--passage", str(passage)], "ask: model './none'"),
        ([*ask, "--question", " "], "ask: the question is empty"),
        ([*ask, "--masks", "./none"], "ask: none: no such mask file"),
        (["export", "no-such-run"], "export: "), (["export", str(tmp_path)], "export: "),
    ):
        assert command_line.main(wrong) == 2
        line = capsys.readouterr().err
        assert said in line and line.count("\n") == 1
