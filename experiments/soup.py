"""Average the weights of several fine-tuned models into one teacher.

The result is a uniform soup (Wortsman et al. 2022). Its folder is that of the first model, with
NAME in place of the seed.

    python -m experiments.soup NAME MODEL MODEL ...

    python -m experiments.soup soup results/models/*_squad_fine-tuned_seed[12]_*
"""

import json
import sys
from pathlib import Path

import torch

from smp.model.load import load_qa_model
from smp.model.save import save_model


def check_same_questions(names):
    """Raise ValueError with one line if two records have different data or numbers of questions.

    The record is the file record.json in the folder of a model. A model without one is accepted.
    """
    trained = []
    for name in names:
        path = Path(name) / "record.json"
        if path.is_file():
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                trained.append((name, f"{record['n_train']:,} questions of {record['data']}"))
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path} is damaged: train the model again, or remove the "
                                 "file") from None
    for name, data in trained:
        first, expected = trained[0]
        if data != expected:
            raise ValueError(f"{name} was trained on {data}, expected {expected} as for {first}: "
                             "name models with the same training questions")


def mean_model(names):
    """Return (question-answering model with the mean of the weights, tokenizer).

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
    with torch.no_grad():
        for parts in zip(*(model.parameters() for model, *_ in loaded)):
            parts[0].copy_(torch.stack(parts).mean(0))
    return first, tokenizer


def run(arguments):
    """Write the mean model; return the exit code."""
    name, *models = arguments or [""]
    try:
        check_same_questions(models)
        model, tokenizer = mean_model(models)
        first = Path(models[0])
        folder = first.with_name(f"{first.name.partition('_seed')[0]}_{name}")
        if folder.exists():
            raise ValueError(f"{folder} exists: remove it, or choose another name")
        save_model(model, tokenizer, folder)
    except (ValueError, FileNotFoundError) as error:
        print(f"soup: {error}", file=sys.stderr)
        return 2
    print(f"the mean of {len(models)} models: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
