"""`smp authors`: its scores equal those of masks that plain Python decodes from the file."""

import json
import zipfile

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from helpers import tiny_config
from smp.cli.main import main
from smp.data.reading import load_squad
from smp.data.synthetic import make_synthetic_squad
from smp.data.windows import featurise
from smp.model.encoder import encoder_linears
from smp.model.predict import evaluate_answers
from smp.model.student import load_student
from smp.task.authors import save_authors_masks


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """Return a folder with a small BERT in the form of bert-base-uncased, data and a mask file."""
    folder = tmp_path_factory.mktemp("local")
    torch.manual_seed(6)  # F1 is above 0, and differs with and without the masks
    config = tiny_config(max_position_embeddings=512, initializer_range=0.2)
    BertForMaskedLM(config).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    (folder / "mine.json").write_text(json.dumps(make_synthetic_squad("train", 150)))
    random = np.random.default_rng(0)
    masks = {name: random.random(linear.weight.shape) < 0.1 for name, _, _, linear in
             encoder_linears(load_student(str(folder / "bert"))[0])}
    path = folder / "squad_0.10_kd_mag.npy"
    save_authors_masks(masks, path)
    with zipfile.ZipFile(f"{path}.zip", "w") as archive:
        archive.write(path, path.name)
    return folder


def plain_reading(folder, n_eval):
    """Return (density, EM, F1, questions), the file's bits applied to the checkpoint one by one."""
    model, tokenizer, _ = load_student(str(folder / "bert"))
    linears = {f"bert.{name}.mask_scores": linear for name, _, _, linear in encoder_linears(model)}
    bits = np.unpackbits(np.load(folder / "squad_0.10_kd_mag.npy")).tolist()
    density = sum(bits) / sum(linear.weight.numel() for linear in linears.values())
    for name in sorted(linears):
        weight = linears[name].weight.data.view(-1)
        for i in range(len(weight)):
            weight[i] *= bits[i]
        del bits[: len(weight)]
    questions = load_squad(str(folder / "mine.json"), 1, n_eval=n_eval)["eval"]
    windows = featurise(questions, tokenizer, max_length=384, stride=128)
    scores, _ = evaluate_answers(model, questions, windows, tokenizer, "fp32")
    return density, scores["em"], scores["f1"], len(questions)


def authors(folder, name, *more):
    return main(["authors", str(folder / name), f"--model={folder / 'bert'}",
                 f"--data={folder / 'mine.json'}", *more])


@pytest.mark.parametrize("name, n_eval", [("squad_0.10_kd_mag.npy.zip", 8),
                                          ("squad_0.10_kd_mag.npy", None)])
def test_scores_equal_those_of_plainly_decoded_bits(name, n_eval, folder, capfd):
    density, em, f1, count = plain_reading(folder, n_eval)
    assert f1 > 0 and 0.09 < density < 0.11
    capfd.readouterr()
    assert authors(folder, name, *[f"--n-eval={n_eval}"] * (n_eval is not None)) == 0
    first, *rest = capfd.readouterr().out.splitlines()
    assert first == (f"{name}: density {density:.1%}, EM {em:.3f}, F1 {f1:.3f} on "
                     f"{count} questions")
    assert rest == [
        "published, SMP-S + KD, density 50%: EM 0.828, F1 0.898",
        "published, SMP-S + KD, density 10%: EM 0.793, F1 0.872",
        "published, SMP-S + KD, density 3%: EM 0.750, F1 0.841"]


@pytest.mark.parametrize("name, more, message", [
    ("gone.npy", ["--model=nowhere"], "gone.npy: no such file"),
    ("bert", [], "bert: no such file"),
    ("mine.json", [], "mine.json is not a mask file of the authors for this model: "),
    ("short.npy", [], "short.npy is not a mask file of the authors for this model: it contains 40 "
                      "bytes"),
    ("squad_0.10_kd_mag.npy", ["--n-eval=0"], "0"),
    ("squad_0.10_kd_mag.npy", ["--n-eval=99999"], "99999"),
    ("squad_0.10_kd_mag.npy", ["--data=gone.json"], "--data gone.json: no such file or folder"),
    ("squad_0.10_kd_mag.npy", ["--model=./gone"], "--model ./gone: no such file or folder"),
    ("squad_0.10_kd_mag.npy", ["--model=all-MiniLM-L6-v2"], "has no masked-LM head"),
])
def test_wrong_input_prints_one_line(name, more, message, folder, capfd):
    np.save(folder / "short.npy", np.zeros(40, np.uint8))
    capfd.readouterr()
    assert authors(folder, name, *more) == 2
    shown = capfd.readouterr()
    line = shown.err.splitlines()[-1]
    assert shown.out == "" and line.startswith("authors: ") and message in line
