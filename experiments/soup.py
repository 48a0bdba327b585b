"""Several fine-tuned models as one teacher, the mean of their weights (a uniform soup, Wortsman et
al. 2022). It comes to lie beside the first of them, with NAME in place of its seed.

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
    """ValueError, one line, where the records beside two models tell of other data, or of another
    number of questions. A model without a record beside it is taken as it is."""
    learned = []
    for name in names:
        path = Path(name) / "record.json"
        if path.is_file():
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                learned.append((name, f"{record['n_train']:,} questions of {record['data']}"))
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path} is damaged: make the model again, or take the file "
                                 "away") from None
    for name, of in learned:
        first, same = learned[0]
        if of != same:
            raise ValueError(f"{name} learned from {of}, {first} from {same}: expected models "
                             "that learned from the same")


def mean_model(names):
    """(question-answering model whose weights are the mean of those of the named, its tokenizer).

    Raises ValueError with one line where there are less than two, or one has no trained head or
    another shape, or other words, than the first.
    """
    if len(names) < 2:
        raise ValueError(f"expected two models or more, got {len(names)}")
    loaded = [load_qa_model(name) for name in names]
    (first, tokenizer, _), shapes = loaded[0], []
    for name, (model, its_tokenizer, has_head) in zip(names, loaded):
        shapes.append({key: part.shape for key, part in model.named_parameters()})
        if not has_head:
            raise ValueError(f"{name} has no trained head: expected a fine-tuned model")
        if shapes[-1] != shapes[0] or its_tokenizer.get_vocab() != tokenizer.get_vocab():
            raise ValueError(f"{name} has other weights or words than {names[0]}: expected models "
                             "fine-tuned from one encoder")
    with torch.no_grad():
        for parts in zip(*(model.parameters() for model, *_ in loaded)):
            parts[0].copy_(torch.stack(parts).mean(0))
    return first, tokenizer


def run(arguments):
    """Writes the mean model. -> exit code"""
    name, *models = arguments or [""]
    try:
        check_same_questions(models)
        model, tokenizer = mean_model(models)
        first = Path(models[0])
        folder = first.with_name(f"{first.name.partition('_seed')[0]}_{name}")
        if folder.exists():
            raise ValueError(f"{folder} is there already; remove it, or take another name")
        save_model(model, tokenizer, folder)
    except (ValueError, FileNotFoundError) as error:
        print(f"soup: {error}", file=sys.stderr)
        return 2
    print(f"the mean of {len(models)} models: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
