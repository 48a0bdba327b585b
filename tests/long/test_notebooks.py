"""Each built notebook runs alone, in an empty folder, with `smp` out of reach."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import papermill
import pytest
import torch
from transformers import BertForMaskedLM, BertForQuestionAnswering

from helpers import tiny_config
from smp.data.reading import load_squad
from smp.data.synthetic import make_synthetic_squad
from smp.data.windows import featurise
from smp.fast.products import compiled_products
from smp.method.masks import kept_count
from smp.model.encoder import biases_and_norms, encoder_linears
from smp.model.load import load_qa_model, load_student
from smp.model.predict import evaluate_answers
from smp.model.save import model_fingerprint
from smp.runs.read import read_records
from smp.task.authors import save_authors_masks
from smp.task.mask_file import load_masks

ROOT = Path(__file__).parents[2]
SMALL = dict(PROFILE="quick", N_TRAIN=24, N_VALID=8, N_EVAL=12, EPOCHS=1)


def run_alone(name, folder, edit=None, **parameters):
    """Copies the notebook into the folder, runs it there, returns all text it printed.

    edit: a line of it and what to write there instead, as someone at the screen would.
    """
    shutil.copy(ROOT / name, folder)
    path = folder / Path(name).name
    if edit:
        text = path.read_text("utf-8")
        assert text.count(edit[0]) == 1
        path.write_text(text.replace(*edit), "utf-8")
    notebook = papermill.execute_notebook(
        str(path), str(folder / "executed.ipynb"), SMALL | parameters, cwd=folder,
        kernel_name="python3", progress_bar=False, extra_arguments=["--log-level=50"],
    )
    return "".join(
        output.text for cell in notebook.cells for output in cell.get("outputs", [])
        if output.output_type == "stream"
    )


@pytest.fixture(scope="module", autouse=True)
def out_of_reach():
    """The kernels see neither this repository nor a network."""
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


def test_fine_tuning_leaves_a_model_a_record_and_a_table(fine_tuned):
    (record,) = read_records(fine_tuned / "results")
    assert record["method"] == "fine-tuned" and record["density"] == 1.0
    assert (record["n_train"], record["n_eval"]) == (24, 12)
    assert len(record["history"]["loss"]) == record["steps"]
    _, _, has_head = load_qa_model(str(fine_tuned / "results" / "models" / record["name"]))
    assert has_head
    assert record["name"].split("_")[0] in (fine_tuned / "results" / "summary.md").read_text()


def test_smp_keeps_just_what_was_asked_for(tmp_path):
    printed = run_alone("Static_Model_Pruning/BERT_SMP.ipynb", tmp_path, DENSITY=0.3,
                        SHARING="shared", SET={"precision": "fp32"})
    if compiled_products() is not None and not torch.cuda.is_available():
        assert "zeros are skipped where a matrix keeps 40%" in printed
    (record,) = read_records(tmp_path / "results")
    assert (record["method"], record["sharing"], record["teacher"]) == ("SMP", "SMP-S", None)
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


def test_kd_takes_the_saved_teacher_or_makes_its_own(fine_tuned, tmp_path):
    printed = run_alone("Static_Model_Pruning/BERT_SMP_KD.ipynb", fine_tuned)
    assert printed.endswith("to evaluate masks of the authors, name their file in authors_mask\n")
    teacher, student = read_records(fine_tuned / "results")
    assert student["teacher"] == {
        "name": teacher["name"], "em": teacher["em"], "sha": student["teacher"]["sha"]}
    own = BertForQuestionAnswering.from_pretrained(
        fine_tuned / "results" / "models" / teacher["name"])
    assert student["teacher"]["sha"] == model_fingerprint(own, with_head=True)
    assert "fine-tuning one first" not in printed

    printed = run_alone("Static_Model_Pruning/BERT_SMP_KD.ipynb", tmp_path, N_TRAIN=16,
                        SET={"head": "teacher", "hidden_weight": 1.0,
                             "vector_learning_rate": 0.001})
    teacher, student = read_records(tmp_path / "results")
    assert student["head"] == "trained" and student["settings"]["hidden_weight"] == 1
    assert "no fine-tuned all-MiniLM-L6-v2" in printed
    assert "numbers are trained: the scores, biases and LayerNorms, the head" in printed
    about = load_masks(tmp_path / "results/models" / student["name"] / "masks.safetensors")[1]
    dense = load_student("all-MiniLM-L6-v2")[0].base_model
    assert all((about["vectors"][name] != vector.detach().numpy()).any()
               for name, vector in biases_and_norms(dense).items() if ".key." not in name)
    assert student["teacher"]["name"] == teacher["name"]
    saved = tmp_path / "results" / "models" / teacher["name"] / "record.json"
    assert json.loads(saved.read_text())["em"] == teacher["em"]


@pytest.fixture(scope="module")
def like_bert_base(tmp_path_factory, tokenizer):
    """A folder with the files and the form of bert-base-uncased, only smaller; and a data file."""
    folder = tmp_path_factory.mktemp("local")
    torch.manual_seed(0)
    BertForMaskedLM(tiny_config(max_position_embeddings=512)).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    (folder / "mine.json").write_text(json.dumps(make_synthetic_squad("train", 150)))
    return dict(PROFILE="paper", MODEL=str(folder / "bert"), DATA=str(folder / "mine.json"),
                N_TRAIN=40, N_VALID=0, N_EVAL=8)


@pytest.fixture(scope="module")
def like_the_authors(tmp_path_factory, like_bert_base):
    """A zipped mask file in the authors' form, of 10% of that checkpoint's encoder."""
    random = np.random.default_rng(0)
    masks = {name: random.random(linear.weight.shape) < 0.1 for name, _, _, linear in
             encoder_linears(load_student(like_bert_base["MODEL"])[0])}
    path = tmp_path_factory.mktemp("authors") / "squad_0.10_kd_mag.npy"
    save_authors_masks(masks, path)
    with zipfile.ZipFile(f"{path}.zip", "w") as archive:
        archive.write(path, path.name)
    return Path(f"{path}.zip")


def what_the_authors_masks_give(parameters, path):
    """What the notebook must print, from the file's bits put onto the checkpoint one by one."""
    model, tokenizer, _ = load_student(parameters["MODEL"])
    linears = {f"bert.{name}.mask_scores": linear for name, _, _, linear in encoder_linears(model)}
    bits = np.unpackbits(np.load(path.with_suffix(""))).tolist()
    density = sum(bits) / sum(linear.weight.numel() for linear in linears.values())
    for name in sorted(linears):
        weight = linears[name].weight.data.view(-1)
        for i in range(len(weight)):
            weight[i] *= bits[i]
        del bits[: len(weight)]
    asked = load_squad(parameters["DATA"], 1, n_eval=parameters["N_EVAL"])["eval"]
    windows = featurise(asked, tokenizer, max_length=384, stride=128)
    scores, _ = evaluate_answers(model, asked, windows, tokenizer, "fp32")
    return (f"squad_0.10_kd_mag.npy.zip: {100 * density:.3g}% of the encoder's weights\n"
            f"here       EM {scores['em']:.3f}   F1 {scores['f1']:.3f}   8 questions of mine.json\n"
            "published  EM 0.793   F1 0.872   BERT-base at 10%, SQuAD v1.1 dev\n")


@pytest.mark.parametrize("name, method", [
    ("BERT_FINETUNE_QA.ipynb", "fine-tuned"),
    ("Static_Model_Pruning/BERT_SMP_KD.ipynb", "SMP + KD"),
])
def test_the_papers_profile_runs_on_a_local_checkpoint_and_file(
    tmp_path, like_bert_base, like_the_authors, name, method
):
    edit = ("authors_mask = None", f"authors_mask = '{like_the_authors}'") if "KD" in name else None
    printed = run_alone(name, tmp_path, edit, **like_bert_base)
    records = {record["method"]: record for record in read_records(tmp_path / "results")}
    record = records[method]
    assert (record["model"], record["data"], record["profile"]) == ("bert", "mine", "paper")
    assert str(tmp_path) not in json.dumps(record)  # paths of this machine stay here
    if method != "fine-tuned":
        assert record["head"] == "label words"
        folder = tmp_path / "results" / "models" / record["name"]
        assert load_student(str(folder))[2] == "label words"
        assert what_the_authors_masks_give(like_bert_base, like_the_authors) in printed


@pytest.mark.parametrize("name", ["BERT_SMP", "BERT_SMP_KD"])
def test_another_method_is_not_recorded_as_smp(name, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="this notebook prunes by SMP"):
        run_alone(f"Static_Model_Pruning/{name}.ipynb", tmp_path, SET={"method": "movement"})
    assert not (tmp_path / "results").exists()


def test_a_wrong_value_stops_the_notebook_before_anything_is_written(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError) as error:
        run_alone("Static_Model_Pruning/BERT_SMP.ipynb", tmp_path, DENSITY=1.5)
    assert error.value.ename == "ValueError"
    assert error.value.evalue == "DENSITY=1.5: expected a number above 0 and at most 1"
    assert not (tmp_path / "results").exists()
