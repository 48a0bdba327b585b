"""`smp authors`: evaluate the masks that the authors of SMP released."""

import os
from pathlib import Path
from typing import Any

from smp.cli.parameters import read_path
from smp.data.reading import load_squad
from smp.data.windows import featurise
from smp.model.predict import evaluate_answers
from smp.runs.methods import method_label
from smp.runs.published import PUBLISHED
from smp.task.authors import load_authors_student


def authors(options: Any) -> int:
    """Print EM and F1 of a mask file of the authors and of the paper; return the exit code."""
    path = Path(os.path.expanduser(options.masks))
    if not path.is_file():  # before the base model is downloaded
        raise ValueError(f"{path}: no such file")
    base, data = read_path("model", options.model), read_path("data", options.data)
    model, tokenizer, density = load_authors_student(base, path)
    examples = load_squad(data, 1, 0, options.n_eval)["eval"]
    windows = featurise(examples, tokenizer, 384, 128)
    scores, _ = evaluate_answers(model, examples, windows, tokenizer, "fp32")  # as the authors did
    print(f"{path.name}: density {density:.1%}, EM {scores['em']:.3f}, F1 {scores['f1']:.3f} on "
          f"{len(examples):,} questions")
    for row in PUBLISHED["rows"]:
        if (row["method"], row["distill"]) == ("smp-s", "logits"):
            print(f"published, {method_label(row['method'], row['distill'])}, density "
                  f"{row['density']:.0%}: EM {row['em']:.3f}, F1 {row['f1']:.3f}")
    return 0
