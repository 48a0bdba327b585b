"""Compare fine-tuned, magnitude-pruned and SMP-S models on SST-2 and WNUT-17.

    python -m experiments.three_tasks --data DATA --model bert-base-uncased --output results.json

DATA contains sst2/train.tsv.xz (sentence, label), wnut17/train.conll.xz (token, tag), dev and test.
Runs that the output contains are not repeated.
"""

import argparse
import itertools
import json
import lzma
import random
import re
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, Trainer, TrainingArguments, set_seed

from smp.files import replace_text_file
from smp.method.baselines import MagnitudeMasks
from smp.method.masks import Masks, competing_share
from smp.method.schedule import Pruning
from smp.model.encoder import encoder_linears
from smp.model.load import find_model
from smp.runs.run import provenance
from smp.task.mask_settings import MaskSettings
from smp.task.trainer import SMPTrainer
from smp.text import short_name

METHODS = ("fine-tuned", "magnitude", "smp-s")


def read_part(data, task, part):
    """Return [(words, label or tags)] of a part of a task."""
    ending = "tsv" if task == "sst2" else "conll"
    text = lzma.open(Path(data, task, f"{part}.{ending}.xz"), "rt", encoding="utf-8").read()
    if task == "sst2":
        lines = (line.rsplit("\t", 1) for line in text.splitlines())
        return [(sentence.split(), int(label)) for sentence, label in lines]
    texts = ([line.rsplit("\t", 1) for line in block.split("\n") if "\t" in line]
             for block in re.split(r"\n\s*\n", text))  # in train, some of these lines are a tab
    return [tuple(map(list, zip(*pairs))) for pairs in texts if pairs]


def entities(tags):
    """Return {(type, first, last + 1)} of BIO tags, as conlleval and seqeval count them."""
    found, start, kind = set(), 0, None
    for place, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        if kind and (mark != "I" or name != kind):
            found.add((kind, start, place))
            kind = None
        if mark != "O" and kind is None:
            start, kind = place, name
    return found


def entity_counts(predicted, wanted):
    """Return (right, predicted, wanted) entities of each text; type and both ends must be right."""
    pairs = [(entities(a), entities(b)) for a, b in zip(predicted, wanted, strict=True)]
    return [(len(guess & truth), len(guess), len(truth)) for guess, truth in pairs]


def f1_of(counts):
    """Return F1 of (right, predicted, wanted) of each text; with one label a text, its accuracy."""
    right, predicted, wanted = np.sum(counts, axis=-2).T
    return 2 * right / np.maximum(predicted + wanted, 1)


def encode(rows, tokenizer, names, length):
    """Return features; the first token of a word has the label of its tag, the others -100."""
    features = []
    for words, label in rows:
        row = tokenizer(words, is_split_into_words=True, truncation=True, max_length=length)
        if isinstance(label, list):
            ids, before = row.word_ids(), [None, *row.word_ids()]
            label = [-100 if word is None or word == last else names.index(label[word])
                     for word, last in zip(ids, before)]
        features.append({**row, "labels": label})
    return features


def count(task, logits, features, rows, names):
    """Return the counts of each text for `f1_of`; words beyond the model's length count as O."""
    best = logits.argmax(-1)
    if task == "sst2":
        return [(int(guess == label), 1, 1) for guess, (_, label) in zip(best, rows, strict=True)]
    guesses = []
    for row, feature, (_, tags) in zip(best, features, rows, strict=True):
        guess = [names[row[place]] for place, label in enumerate(feature["labels"]) if label >= 0]
        guesses.append(guess + ["O"] * (len(tags) - len(guess)))
    return entity_counts(guesses, [tags for _, tags in rows])


def run(task, method, density, options):
    """Train one model, and return its record."""
    train = read_part(options.data, task, "train")
    names = ["bad", "good"] if task == "sst2" else sorted({t for _, tags in train for t in tags})
    train = random.Random(options.seed).sample(train, min(options.sentences, len(train)))
    rows = read_part(options.data, task, options.part)
    base = find_model(options.model)
    tokenizer = AutoTokenizer.from_pretrained(base, add_prefix_space=True)
    kind = "Sequence" if task == "sst2" else "Token"
    set_seed(options.seed)
    model = getattr(transformers, f"AutoModelFor{kind}Classification").from_pretrained(
        base, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
        dtype=torch.float32)
    parts = [encode(part, tokenizer, names, options.max_length) for part in (train, rows)]
    smp = method == "smp-s"
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=options.smp_epochs if smp else options.epochs,
            learning_rate=options.head_learning_rate if smp else options.learning_rate,
            warmup_steps=0 if smp else 0.1, per_device_train_batch_size=options.batch_size,
            per_device_eval_batch_size=64, seed=options.seed, bf16=options.bf16,
            train_sampling_strategy="group_by_length", save_strategy="no", report_to=[],
            disable_tqdm=True)
        more = {"train_dataset": parts[0], "processing_class": tokenizer}
        if task != "sst2":
            more["data_collator"] = transformers.DataCollatorForTokenClassification(tokenizer)
        if smp:
            masks = Masks(encoder_linears(model), competing_share, options.score_init)
            settings = MaskSettings(density, options.score_learning_rate,
                                    density_ramp_fraction=options.ramp)
        elif method == "magnitude":
            masks = MagnitudeMasks(encoder_linears(model))
            settings = MaskSettings(density, regulariser=0.0, density_hold_fraction=0.1,
                                    density_ramp_fraction=0.8)
        trainer = Trainer(model, arguments, **more) if method == "fine-tuned" else SMPTrainer(
            model, arguments, pruning=Pruning(masks, settings), **more)
        seconds = trainer.train().metrics["train_runtime"]
        trainer.args.train_sampling_strategy = "random"  # else predict returns another order
        logits = trainer.predict(parts[1]).predictions
        size = trainer.save_mask(folder, base=options.model) if smp else None
    counts = count(task, logits, parts[1], rows, names)
    return {"task": task, "method": method, "metric": "accuracy" if task == "sst2" else "entity_f1",
            "score": float(f1_of(counts)), "n_train": len(train), "n_eval": len(rows),
            "density": density, "steps": trainer.state.global_step, "seconds": seconds,
            "bytes_mask_file": size, "counts": counts}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    plain = {"model": "all-MiniLM-L6-v2", "part": "test", "sentences": 10**9, "seed": 0,
             "epochs": 3.0, "smp_epochs": 10.0, "learning_rate": 3e-5, "head_learning_rate": 1e-3,
             "score_learning_rate": 2e-2, "score_init": 1.0, "ramp": 0.82, "batch_size": 16,
             "max_length": 128}
    for name, value in plain.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--tasks", nargs="+", default=["sst2", "wnut17"])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--densities", nargs="+", type=float, default=[0.5, 0.1])
    chosen = parser.parse_args()
    settings = {name: getattr(chosen, name) for name in [*plain, "bf16"]}
    settings["model"] = short_name(chosen.model)
    written = json.loads(chosen.output.read_text("utf-8")) if chosen.output.exists() else {
        "settings": settings, **provenance(), "threads": torch.get_num_threads(), "runs": []}
    if written["settings"] != settings:
        parser.error(f"{chosen.output} has other settings: name another file")
    done = {(row["task"], row["method"], row["density"]) for row in written["runs"]}
    for task, method in itertools.product(chosen.tasks, chosen.methods):
        for density in [1.0] if method == "fine-tuned" else chosen.densities:
            if (task, method, density) not in done:
                row = run(task, method, density, chosen)
                written["runs"].append(row)
                replace_text_file(chosen.output, json.dumps(written) + "\n")
                print(f"{task} {method} {density:.0%} {row['metric']} {row['score']:.4f} in "
                      f"{row['seconds']:.0f} s", flush=True)
