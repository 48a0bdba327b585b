"""Each built notebook runs alone in an empty folder, without access to `smp`."""

import json
import os
import shutil
from pathlib import Path

import papermill
import pytest
import torch
from transformers import BertForMaskedLM, BertForQuestionAnswering

from helpers import tiny_config
from smp.cli.main import main
from smp.data.synthetic import make_synthetic_squad
from smp.method.masks import kept_count
from smp.model.encoder import biases_and_norms
from smp.model.load import load_qa_model
from smp.model.save import model_fingerprint
from smp.model.student import load_student
from smp.runs.read import read_records
from smp.task.validate import load_masks

ROOT = Path(__file__).parents[2]
SMALL = dict(PROFILE="quick", N_TRAIN=24, N_VALID=8, N_EVAL=12, EPOCHS=1)


def run_alone(name, folder, **parameters):
    """Copy the notebook into the folder, run it there, and return the printed text."""
    folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / name, folder)
    notebook = papermill.execute_notebook(
        str(folder / Path(name).name), str(folder / "executed.ipynb"), SMALL | parameters,
        cwd=folder, kernel_name="python3", progress_bar=False, extra_arguments=["--log-level=50"],
    )
    return "".join(
        output.text for cell in notebook.cells for output in cell.get("outputs", [])
        if output.output_type == "stream"
    )


@pytest.fixture(scope="module", autouse=True)
def without_repository_and_network():
    """Hide this repository and the network from the kernels."""
    before = dict(os.environ)
    os.environ.pop("PYTHONPATH", None)
    # the last one: progress as text, as in `python -m smp run`
    os.environ.update(HF_HUB_OFFLINE="1", MPLBACKEND="agg", SPYDER_TEXT_BARS="1")
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    run_alone("BERT_FINETUNE_QA.ipynb", folder)
    return folder


def test_fine_tuning_writes_model_record_and_table(fine_tuned):
    (record,) = read_records(fine_tuned / "results")
    assert record["method"] == "fine-tuned" and record["density"] == 1.0
    assert (record["n_train"], record["n_eval"]) == (24, 12)
    assert len(record["history"]["loss"]) == record["steps"]
    _, _, has_head = load_qa_model(str(fine_tuned / "results" / "models" / record["name"]))
    assert has_head


def test_a_sweep_fine_tunes_the_model_of_the_notebook(fine_tuned, tmp_path):
    """A sweep therefore does not train the teacher of the first notebook again."""
    (notebook,) = read_records(fine_tuned / "results")
    assert main(["sweep", "--profile=quick", "--n-train=24", "--n-valid=8", "--n-eval=12",
                 "--epochs=1", "--methods", "fine-tuned", f"--results={tmp_path}"]) == 0
    (sweep,) = read_records(tmp_path)
    same = sweep.keys() - set("seconds ms_per_question commit dirty history".split())
    assert {name: sweep[name] for name in same} == {name: notebook[name] for name in same}
    assert sweep["history"]["loss"] == notebook["history"]["loss"]
    models = (fine_tuned / "results/models", tmp_path / "models")
    one, other = (BertForQuestionAnswering.from_pretrained(folder / sweep["name"]).state_dict()
                  for folder in models)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_smp_keeps_exactly_the_given_density(tmp_path):
    printed = run_alone("Static_Model_Pruning/BERT_SMP.ipynb", tmp_path, DENSITY=0.3,
                        METHOD="smp-s", SET={"precision": "fp32"})
    assert "0 of 10,616,832 pretrained weights changed" in printed
    (record,) = read_records(tmp_path / "results")
    assert (record["method"], record["label"], record["teacher"]) == ("smp-s", "SMP-S", None)
    assert record["settings"]["distill"] == "none" and record["variant"] is None
    for matrix in {row["matrix"] for row in record["layers"]}:
        group = [row for row in record["layers"] if row["matrix"] == matrix]
        total = sum(row["total"] for row in group)
        assert sum(row["kept"] for row in group) == kept_count(0.3, total)

    folder = tmp_path / "results" / "models" / record["name"]
    masks, about = load_masks(folder / "masks.safetensors")
    assert about["base_sha"] == record["model_sha"]
    assert record["bytes_mask_file"] == (folder / "masks.safetensors").stat().st_size
    pruned, dense = load_student(str(folder))[0], load_student("all-MiniLM-L6-v2")[0]
    for name, mask in masks.items():  # the kept weights are the checkpoint's, bit for bit
        after, before = (model.base_model.get_submodule(name).weight.detach().numpy()
                         for model in (pruned, dense))
        assert (after == before * mask).all()


def test_kd_uses_the_saved_teacher(fine_tuned):
    printed = run_alone("Static_Model_Pruning/BERT_SMP_KD.ipynb", fine_tuned, DISTILL="hidden",
                        SET={"init_head_from_teacher": True, "hidden_distill_weight": 1.0,
                             "bias_norm_learning_rate": 0.001})
    teacher, student = read_records(fine_tuned / "results")
    assert student["teacher"] == {
        "name": teacher["name"], "em": teacher["em"], "sha": student["teacher"]["sha"]}
    own = BertForQuestionAnswering.from_pretrained(
        fine_tuned / "results" / "models" / teacher["name"])
    assert student["teacher"]["sha"] == model_fingerprint(own, with_head=True)
    assert "fine-tuning one first" not in printed
    assert student["head"] == "trained" and student["settings"]["hidden_distill_weight"] == 1
    assert student["label"] == "SMP-L + KD + hidden states + biases, LayerNorms"
    assert "10,616,832 scores and 30,722 other parameters (head: trained)" in printed
    about = load_masks(fine_tuned / "results/models" / student["name"] / "masks.safetensors")[1]
    dense = load_student("all-MiniLM-L6-v2")[0].base_model
    assert all((about["vectors"][name] != vector.detach().numpy()).any()
               for name, vector in biases_and_norms(dense).items() if ".key." not in name)


def test_an_edited_loss_takes_effect_and_names_the_record(fine_tuned, tmp_path):
    shutil.copy(ROOT / "BERT_FINETUNE_QA.ipynb", tmp_path / "own.ipynb")
    text = (tmp_path / "own.ipynb").read_text()
    assert text.count("return (start + end) / 2") == 1
    (tmp_path / "own.ipynb").write_text(text.replace("return (start + end) / 2",
                                                     "return start + end  # the sum"))
    printed = run_alone(tmp_path / "own.ipynb", tmp_path / "alone")
    (record,) = read_records(tmp_path / "alone" / "results")
    own, *_ = read_records(fine_tuned / "results")
    assert own["method"] == "fine-tuned" and own["variant"] is None
    assert record["variant"] == "edited" and record["name"] != own["name"]
    assert record["history"]["loss"][0] == pytest.approx(2 * own["history"]["loss"][0], rel=1e-4)
    assert "edited: span_loss." in printed and "variant edited" in printed


@pytest.fixture(scope="module")
def like_bert_base(tmp_path_factory, tokenizer):
    """Return parameters with a small model in the form of bert-base-uncased and a data file."""
    folder = tmp_path_factory.mktemp("local")
    torch.manual_seed(0)
    BertForMaskedLM(tiny_config(max_position_embeddings=512)).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    (folder / "mine.json").write_text(json.dumps(make_synthetic_squad("train", 150)))
    return dict(PROFILE="paper", MODEL=str(folder / "bert"), DATA=str(folder / "mine.json"),
                N_TRAIN=40, N_VALID=0, N_EVAL=8)


def test_profile_paper_runs_with_local_model_and_data(tmp_path, like_bert_base):
    """Without a teacher, the notebook runs the fine-tuning one first."""
    printed = run_alone("Static_Model_Pruning/BERT_SMP_KD.ipynb", tmp_path, **like_bert_base)
    records = {record["method"]: record for record in read_records(tmp_path / "results")}
    for record in records.values():
        assert (record["model"], record["data"], record["profile"]) == ("bert", "mine", "paper")
        assert str(tmp_path) not in json.dumps(record)  # a record contains no local path
    assert "fine-tuning one first" in printed
    teacher, record = records["fine-tuned"], records["smp-s"]
    models = tmp_path / "results" / "models"
    assert json.loads((models / teacher["name"] / "record.json").read_text())["em"] == teacher["em"]
    assert record["head"] == "label words"
    assert load_student(str(models / record["name"]))[2] == "label words"
    assert record["label"] == "SMP-S + KD" and record["teacher"]["name"] == teacher["name"]


def test_another_method_raises_and_writes_no_record(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="expected one of smp-l, smp-s"):
        run_alone("Static_Model_Pruning/BERT_SMP_KD.ipynb", tmp_path, METHOD="movement")
    assert not (tmp_path / "results").exists()


def test_a_wrong_value_raises_and_writes_no_file(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError) as error:
        run_alone("Static_Model_Pruning/BERT_SMP.ipynb", tmp_path, DENSITY=1.5)
    assert error.value.ename == "ValueError"
    assert error.value.evalue == "density is 1.5: expected a number above 0 and at most 1"
    assert not (tmp_path / "results").exists()
