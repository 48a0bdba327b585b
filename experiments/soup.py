"""Average the weights of several fine-tuned models into one teacher.

The result is a uniform soup (Wortsman et al. 2022). Its folder is that of the first model, with
NAME in place of the seed. Its record is the file soup.json in this folder. It is not a record.json,
because a soup has no training of its own and `find_teacher` does not choose it. --data evaluates
the soup on the evaluation questions of its models; without it, its EM is null.

    python -m experiments.soup NAME MODEL MODEL ... [--data PATH]

    python -m experiments.soup soup results/models/*_squad_fine-tuned_seed[12]_* --data PATH
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from smp.data.reading import data_fingerprint, load_squad
from smp.data.windows import featurise
from smp.files import replace_text_file
from smp.model.load import load_qa_model
from smp.model.predict import evaluate_answers
from smp.model.save import model_fingerprint, save_model
from smp.runs.grouping import with_defaults
from smp.runs.run import provenance

SAME = "model model_sha data data_sha data_note train_sha n_train n_eval".split()


def read_same_questions(names):
    """Return the record of each model, the file record.json in its folder, or {} without one.

    Raises ValueError with one line if a record is damaged, or if two records have different
    training questions.
    """
    records, trained = [], []
    for name in names:
        path = Path(name) / "record.json"
        records.append({})
        if path.is_file():
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                text = f"{record['n_train']:,} questions of {record['data']}"
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path} is damaged: train the model again, or remove the "
                                 "file") from None
            records[-1] = record
            trained.append((name, text, record.get("train_sha")))
    for name, *data in trained:
        first, *expected = trained[0]
        if data[0] != expected[0] or None not in (data[1], expected[1]) and data != expected:
            (text, sha), (wanted, its_sha) = data, expected
            raise ValueError(f"{name} was trained on {text} ({sha}), expected {wanted} ({its_sha}) "
                             f"as for {first}: name models with the same training questions")
    return records


def common_value(records, field):
    """Return the value of the field that all records have, or None."""
    values = [record.get(field) for record in records if record]
    return values[0] if values and values.count(values[0]) == len(values) else None


def evaluate_soup(model, tokenizer, records, data):
    """Return the scores of the soup on the evaluation questions of its models.

    Raises ValueError with one line if `data` has others, or if no model has a record.
    """
    needed = "n_train n_valid n_eval data_seed longest_passage max_length stride precision".split()
    found = [with_defaults(record["settings"]) for record in records if record.get("settings")]
    if not found or not found[0].keys() >= {*needed}:
        raise ValueError("--data needs the settings of a record: train the models again")
    settings = found[0]
    examples = load_squad(data, *(settings[name] for name in needed[:5]))["eval"]
    if data_fingerprint(examples) != common_value(records, "data_sha"):
        raise ValueError(f"the evaluation questions of {data} differ from those of the models: set "
                         "--data to the data of their records")
    features = featurise(examples, tokenizer, settings["max_length"], settings["stride"])
    return evaluate_answers(model, examples, features, tokenizer, settings["precision"])[0]


def mean_model(names):
    """Return (question-answering model with the mean of the weights, tokenizer, hashes).

    hashes: those of the models, with their heads.

    Raises ValueError with one line for fewer than two models, for a model without a trained head,
    and for a model with another shape or vocabulary than the first.
    """
    if len(names) < 2:
        raise ValueError(f"found {len(names)} models, expected two or more")
    loaded = [load_qa_model(name) for name in names]
    (first, tokenizer, _), shapes = loaded[0], []
    for name, (model, its_tokenizer, has_head) in zip(names, loaded):
        shapes.append({key: part.shape for key, part in model.named_parameters()})
        if not has_head:
            raise ValueError(f"{name} has no trained head, expected a fine-tuned model")
        if shapes[-1] != shapes[0] or its_tokenizer.get_vocab() != tokenizer.get_vocab():
            raise ValueError(f"{name} has another shape or vocabulary than {names[0]}: expected "
                             "models fine-tuned from one encoder")
    hashes = [model_fingerprint(model, with_head=True) for model, *_ in loaded]
    with torch.no_grad():
        for parts in zip(*(model.parameters() for model, *_ in loaded)):
            parts[0].copy_(torch.stack(parts).mean(0))
    return first, tokenizer, hashes


def run(arguments):
    """Write the mean model and its record; return the exit code."""
    parser = argparse.ArgumentParser(prog="soup", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--data", help="the data of the models: evaluate the soup on it")
    options = parser.parse_intermixed_args(arguments)
    models = options.models
    try:
        records = read_same_questions(models)
        code = provenance(Path(__file__).parent)
        model, tokenizer, hashes = mean_model(models)
        first = Path(models[0])
        folder = first.with_name(f"{first.name.partition('_seed')[0]}_{options.name}")
        if folder.exists():
            raise ValueError(f"{folder} exists: remove it, or choose another name")
        scores = evaluate_soup(model, tokenizer, records, options.data) if options.data else {}
        record = {
            "kind": "soup", "name": folder.name, "sha": model_fingerprint(model, with_head=True),
            **{field: common_value(records, field) for field in SAME},
            **{field: scores.get(field) for field in ("em", "f1", "exact_matches")},
            "models": [{"name": Path(name).name, "sha": sha, "seed": own.get("seed"),
                        "em": own.get("em")}
                       for name, sha, own in zip(models, hashes, records, strict=True)],
            **code,
        }
        save_model(model, tokenizer, folder)
        replace_text_file(folder / "soup.json", json.dumps(record, indent=1) + "\n")
    except (ValueError, FileNotFoundError) as error:
        print(f"soup: {error}", file=sys.stderr)
        return 2
    print(f"the mean of {len(models)} models: {folder}"
          + (f", EM {record['em']:.3f}" if scores else ""))
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
