"""Compare fine-tuned, magnitude-pruned and SMP-S models on SST-2 and WNUT-17.

    python -m experiments.three_tasks --data DATA --model bert-base-uncased --output results.json

DATA contains sst2/train.tsv.xz (sentence, label), wnut17/train.conll.xz (token, tag), dev and test.
"""

import argparse
import itertools
import json
import lzma
import random
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, Trainer, TrainingArguments, set_seed

from smp.method.baselines import MagnitudeMasks
from smp.method.masks import Masks, competing_share
from smp.method.schedule import Pruning
from smp.model.encoder import encoder_linears
from smp.model.load import find_model
from smp.task.mask_settings import MaskSettings
from smp.task.trainer import SMPTrainer

METHODS = ("fine-tuned", "magnitude", "smp-s")


def read_part(data, task, part):
    """Return [(words, label or tags)] of a part of a task."""
    ending = "tsv" if task == "sst2" else "conll"
    text = lzma.open(Path(data, task, f"{part}.{ending}.xz"), "rt", encoding="utf-8").read()
    if task == "sst2":
        lines = (line.rsplit("\t", 1) for line in text.splitlines())
        return [(sentence.split(), int(label)) for sentence, label in lines]
    texts = ([line.rsplit("\t", 1) for line in block.split("\n") if "\t" in line]
             for block in text.split("\n\n"))
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


def entity_f1(predicted, wanted):
    """Return F1 over all entities; type and both ends must be right."""
    pairs = [(entities(a), entities(b)) for a, b in zip(predicted, wanted, strict=True)]
    both = sum(len(guess) + len(truth) for guess, truth in pairs)
    return 2 * sum(len(guess & truth) for guess, truth in pairs) / both if both else 0.0


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


def score(task, logits, features, rows, names):
    """Return accuracy, or entity F1; words beyond the model's length count as O."""
    best = logits.argmax(-1)
    if task == "sst2":
        return float(np.mean(best == [label for _, label in rows]))
    guesses = []
    for row, feature, (_, tags) in zip(best, features, rows, strict=True):
        guess = [names[row[place]] for place, label in enumerate(feature["labels"]) if label >= 0]
        guesses.append(guess + ["O"] * (len(tags) - len(guess)))
    return entity_f1(guesses, [tags for _, tags in rows])


def run(task, method, options):
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
            save_strategy="no", report_to=[], disable_tqdm=True)
        more = {"train_dataset": parts[0], "processing_class": tokenizer}
        if task != "sst2":
            more["data_collator"] = transformers.DataCollatorForTokenClassification(tokenizer)
        if smp:
            masks = Masks(encoder_linears(model), competing_share, options.score_init)
            settings = MaskSettings(options.density, options.score_learning_rate)
        elif method == "magnitude":
            masks = MagnitudeMasks(encoder_linears(model))
            settings = MaskSettings(options.density, regulariser=0.0, density_hold_fraction=0.1,
                                    density_ramp_fraction=0.8)
        trainer = Trainer(model, arguments, **more) if method == "fine-tuned" else SMPTrainer(
            model, arguments, pruning=Pruning(masks, settings), **more)
        seconds = trainer.train().metrics["train_runtime"]
        logits = trainer.predict(parts[1]).predictions
        size = trainer.save_mask(folder, base=options.model) if smp else None
    return {"task": task, "method": method, "metric": "accuracy" if task == "sst2" else "entity_f1",
            "score": score(task, logits, parts[1], rows, names), "n_train": len(train),
            "n_eval": len(rows), "density": 1.0 if method == "fine-tuned" else options.density,
            "seconds": seconds, "bytes_mask_file": size}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    plain = {"model": "all-MiniLM-L6-v2", "part": "test", "sentences": 10**9, "density": 0.1,
             "seed": 0, "epochs": 3.0, "smp_epochs": 10.0, "learning_rate": 3e-5,
             "head_learning_rate": 1e-3, "score_learning_rate": 2e-2, "score_init": 1.0,
             "batch_size": 16, "max_length": 128}
    for name, value in plain.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--tasks", nargs="+", default=["sst2", "wnut17"])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    chosen = parser.parse_args()
    records, settings = [], {name: value for name, value in vars(chosen).items() if name != "data"}
    for task, method in itertools.product(chosen.tasks, chosen.methods):
        records.append(run(task, method, chosen))
        Path(chosen.output).write_text(json.dumps({"settings": settings, "runs": records}), "utf-8")
        print(task, method, records[-1]["metric"], f"{records[-1]['score']:.4f}", flush=True)
