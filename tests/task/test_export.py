"""Every exported format gives the same answers, and reported sizes are those on disk."""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from test_adapters import learn

from helpers import compiler_named
from records import make_record
from smp import __main__ as command_line
from smp.data.windows import featurise
from smp.fast.compact_file import load_compact
from smp.model.load import load_qa_model
from smp.model.save import save_model
from smp.model.student import stock_model
from smp.runs.record import check_record, record_json
from smp.runs.settings import choose_settings
from smp.task.answerer import load_answerer, load_format, load_saved
from smp.task.export import export_run, without_dead_units
from smp.task.mask_file import MASK_FILE, save_masks
from smp.task.measure import export_markdown, window_batches
from smp.task.openvino_model import quiet
from smp.task.saved_run import entropy_bytes
from smp.task.validate import load_masks


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


def logits_of(model, batch):
    """Return (2, B, L) logits; padding has 0."""
    with torch.inference_mode():
        out = model(**batch)
    return torch.stack([out.start_logits, out.end_logits]) * batch["attention_mask"]


def run_code(card, question, passage, blocked=()):
    """Run the Python block of a card in another process; return what it prints."""
    text = card.read_text("utf-8")
    code = text[text.index("```python\n") + 10 :]
    code = code[: code.index("```")]
    for stand_in, value in (("this folder", card.parent), ("a question", question),
                            ("a passage", passage)):
        assert f'"{stand_in}"' in code
        code = code.replace(f'"{stand_in}"', repr(str(value)))
    stop = "".join(f"sys.modules[{name!r}] = None\n" for name in blocked)
    return subprocess.run([sys.executable, "-c", f"import sys\n{stop}{code}"], check=True,
                          capture_output=True, text=True).stdout.strip()


OPENVINO = ("openvino-bf16", "openvino-int8")


def needs(kind):
    """Skip the test without the packages of OpenVINO formats."""
    with quiet():
        for package in ("openvino", "nncf") if kind in OPENVINO else ():
            pytest.importorskip(package)


@pytest.mark.parametrize("kind, head, most", [
    ("dense", "trained", 1e-5), ("dense", "label words", 1e-5), ("csr", "trained", 1e-5),
    ("onnx", "trained", 1e-5), ("openvino-bf16", "trained", 0.03),
    ("openvino-bf16", "label words", 0.03), ("openvino-int8", "trained", 0.15)])
def test_each_format_answers_alone(base, tmp_path, tokenizer, synthetic, kind, head, most):
    """The README's code runs without this project, and without torch if another engine computes.

    most: mean change of the logits, as a share of their deviation.
    """
    needs(kind)
    folder = tmp_path / "run"
    save_run(base, folder, tokenizer, head)
    report = export_run(folder, formats=(kind,), questions=5, held_out=6)
    own = folder / kind
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [kind]
    assert report["bytes"][kind] == sum(
        path.stat().st_size for path in own.iterdir()
        if path.suffix in (".safetensors", ".onnx", ".xml", ".bin"))
    model, own_tokenizer, about = load_format(own)
    assert (about["format"], about["max_length"], about["stride"]) == (kind, 96, 32)
    plain = load_answerer(str(folder), None, 96, 32)
    features = featurise(synthetic["eval"], own_tokenizer, 96, 32)
    batches = [*window_batches(features, own_tokenizer, 1), *window_batches(
        features, own_tokenizer, 8)]
    assert any(0 in batch["attention_mask"] for batch in batches)
    for batch in batches:
        wanted = logits_of(plain.model, batch)
        assert (logits_of(model, batch) - wanted).abs().mean() < most * wanted.std()
    question = "Who wrote the first program?"
    passage = "Ada Lovelace, born in London, wrote it in 1843 for a machine of brass and steam."
    whole = kind == "csr"  # the code of the other cards takes the best span of 30 tokens
    rules = {} if whole else {"max_answer_len": 30, "align_to_words": False}
    answer = load_answerer(str(own))(question, passage, **rules)
    if kind in ("dense", "csr", "onnx"):
        assert answer["answer"] == plain(question, passage, **rules)["answer"]
    blocked = {"dense": ["smp"], "csr": []}.get(kind, ["smp", "torch"])
    assert run_code(own / "README.md", question, passage, blocked) == answer["answer"]
    card = ModelCard.load(own / "README.md")
    assert card.data.base_model == "base" and ("AutoModelForMaskedLM" in card.text) == (
        kind == "dense" and head == "label words" and not about["compact"])


@pytest.mark.parametrize("head, rate", [("label words", 0.0), ("trained", 0.1)])
def test_dead_units_are_removed_from_each_format(base, tmp_path, tokenizer, head, rate, batch):
    """Without a dead unit the dense format is a stock model, with one it is the compact file."""
    folder = tmp_path / "run"
    save_run(base, folder, tokenizer, head, rate=rate)
    model, _ = load_saved(str(folder))
    assert without_dead_units(model) == (model, None)
    export_run(folder, formats=("dense",), questions=2)
    assert load_answerer(str(folder / "dense"))
    assert (folder / "dense/model.safetensors").exists()
    host = stock_model(model, str(folder))
    with torch.no_grad():
        host.base_model.encoder.layer[1].intermediate.dense.weight[3] = 0
        host.base_model.encoder.layer[0].attention.self.value.weight[:8] = 0  # a head
    save_model(host, tokenizer, tmp_path / "dead")
    for name in ("record.json", MASK_FILE):
        (folder / name).rename(tmp_path / "dead" / name)
    report = export_run(tmp_path / "dead", formats=("dense", "csr", "onnx"), questions=2)
    before, after = report["dead_units"]["parameters"]
    assert after < before
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    wanted = logits_of(load_saved(str(tmp_path / "dead"))[0], batch)
    for kind in ("dense", "csr", "onnx"):
        found = logits_of(load_format(tmp_path / "dead" / kind)[0], batch)
        assert torch.allclose(found, wanted, atol=1e-5)
    small = load_format(tmp_path / "dead/csr")[0].base_model.encoder.layer
    assert small[1].intermediate.dense.out_features == 63
    text = (tmp_path / "dead/dense/README.md").read_text()
    assert "load_answerer(" in text and "AutoModel" not in text


def test_csr_stores_the_same_weights_in_fewer_bytes(base, tmp_path, tokenizer):
    save_run(base, tmp_path / "run", tokenizer, "trained")
    report = export_run(tmp_path / "run", formats=("dense", "csr"), questions=2)
    assert report["bytes"]["csr"] < report["bytes"]["dense"]
    small, plain = load_compact(tmp_path / "run/csr"), load_saved(str(tmp_path / "run"))[0]
    for name, weight in plain.state_dict().items():
        assert torch.equal(small.state_dict()[name], weight)
    with compiler_named("no-such-compiler"):
        without = load_format(tmp_path / "run/csr")[0]
    assert not [m for m in without.modules() if type(m).__name__ == "SparseLinear"]


def test_a_run_is_measured_and_described(base, tmp_path, tokenizer):
    folder = tmp_path / "run"
    save_run(base, folder, tokenizer, "trained", rate=0.1)
    masks, about = load_masks(folder / MASK_FILE)
    report = export_run(folder, formats=("onnx",), questions=5, best=True, held_out=7)
    assert [*report["formats"]] == ["fp32 model", "dense", "onnx"]  # dense for the choice
    for row in report["formats"].values():
        assert row["same_answers"] == report["questions"] == 5 and row["precision"] == "fp32"
        assert row["em_difference"] == row["half_interval"] == 0
        assert row["batch_1"]["ms"] > 0 and row["batch_8"]["ms"] > 0
    assert report["formats"]["fp32 model"]["batch_1"]["over_plain"] == [1, 1, 1]
    biases, norms = 4 * 32 + 64 + 32, 2 * 2 * 32  # of a layer
    assert report["mask_file"]["bytes_vectors"] == 4 * 2 * (biases + norms)
    assert report["mask_file"]["bytes_entropy_bound"] == round(sum(map(bound, masks.values())))
    assert json.loads((folder / "export.json").read_text()) == json.loads(json.dumps(report))
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == "base" and card.data.eval_results[0].metric_value == 0.4804
    assert "LayerNorms of the encoder's layers are trained" in card.text
    assert report["best"]["questions"] == 7
    last = export_markdown(report).splitlines()[-1]
    assert last.endswith(str(folder / report["best"]["format"]))


def test_formats_of_a_mask_file_alone(base, tmp_path, tokenizer):
    save_run(base, tmp_path / "run", tokenizer, "trained")
    record = json.loads((tmp_path / "run/record.json").read_text())
    masks, about = load_masks(tmp_path / "run" / MASK_FILE)
    (tmp_path / "masks").mkdir()
    save_masks(masks, tmp_path / "masks" / MASK_FILE, **about | {"settings": record["settings"]})
    export_run(tmp_path / "masks", base=base, formats=("dense",), questions=2,
               into=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dense", "export.json"]
    assert [path.name for path in (tmp_path / "masks").iterdir()] == [MASK_FILE]
    ask = "Who wrote it?", "Ada Lovelace wrote the first program."
    assert load_answerer(str(tmp_path / "out/dense"))(*ask) == load_answerer(
        str(tmp_path / "run"))(*ask)


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


RECORD, CONFIG, WEIGHTS = "record.json", "config.json", "model.safetensors"


@pytest.mark.parametrize("name", [RECORD, CONFIG, WEIGHTS, "tokenizer.json", MASK_FILE])
def test_a_damaged_run_prints_one_line_and_stays(base, tmp_path, tokenizer, capsys, name):
    save_run(base, tmp_path / "run", tokenizer, "trained")
    damages = [lambda path: path.unlink(), lambda path: path.write_bytes(b""),
               lambda path: path.write_bytes(path.read_bytes()[:50]),
               lambda path: path.write_bytes(b"[]"), lambda path: path.write_bytes(b"[" * 100_000),
               lambda path: path.unlink() or path.mkdir(),
               lambda path: path.unlink() or os.mkfifo(path)]
    if name == RECORD:
        record = json.loads((tmp_path / "run" / RECORD).read_text())
        settings = record["settings"]
        changes = [{"settings": settings | {"stride": "x"}}, {"settings": []}, {"em": None}]
        changes += [{field: "a\n---\n<b>"} for field, value in record.items()
                    if isinstance(value, str)]
        damages += [lambda path, change=change: path.write_text(json.dumps(record | change))
                    for change in changes]
    for number, damage in enumerate(damages):
        run = tmp_path / str(number)
        shutil.copytree(tmp_path / "run", run)
        damage(run / name)
        before = sorted(run.rglob("*"))
        assert command_line.main(["export", str(run), "--format", "dense", "--questions", "1"]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.startswith("export: ")
        assert printed.err.count("\n") == 1 and sorted(run.rglob("*")) == before


def test_entropy_bytes():
    for density in (0, 0.1, 0.5, 1):
        masks = {"w": np.random.default_rng(0).random((40, 50)) < density}
        assert entropy_bytes(masks) == pytest.approx(bound(masks["w"]))


def test_export_and_ask_on_the_command_line(base, tmp_path, tokenizer, capsys, monkeypatch):
    save_run(base, tmp_path / "run", tokenizer, "trained")
    folder = str(tmp_path / "run")
    assert command_line.main(["export", folder, "--questions", "2", "--format", "dense"]) == 0
    assert "| fp32 model |" in capsys.readouterr().out
    passage = tmp_path / "passage.txt"
    passage.write_text("Ada Lovelace wrote the first program.")
    ask = ["ask", "--model", folder, "--passage", str(passage)]
    assert command_line.main([*ask, "--question", "Who wrote it?", "--top-k", "2"]) == 0
    given = capsys.readouterr().out
    assert given.count("%  ") == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("Who wrote it?\n\nWhat?\n"))
    assert command_line.main(ask) == 0
    assert given.splitlines()[-2] in capsys.readouterr().out.splitlines()
    reader, _, _ = load_qa_model(folder)
    for wrong, said in (
        (["ask", "--model", folder, "--passage", "none.txt"], "ask: none.txt: no such file"),
        (["ask", "--model", "./none", "--passage", str(passage)], "ask: model './none'"),
        ([*ask, "--question", " "], "ask: the question is ' ': expected some text"),
        ([*ask, "--masks", "./none"], "ask: none: no such mask file"),
        (["export", "no-such-run"], "export: "), (["export", str(tmp_path)], "export: "),
    ):
        assert command_line.main(wrong) == 2
        line = capsys.readouterr().err
        assert said in line and line.count("\n") == 1
