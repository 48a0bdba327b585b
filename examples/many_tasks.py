"""Use three tasks on one encoder in memory: answers, moods and entities. It needs no network."""

import tempfile
import time
from pathlib import Path

import transformers
from transformers import AutoTokenizer, TrainingArguments

from smp import Masks, MaskSettings, PrunedModel, Pruning, SMPTrainer, encoder_linears
from smp.model.load import EMBEDDED_ENCODER, find_model

base = find_model(EMBEDDED_ENCODER)
tokenizer = AutoTokenizer.from_pretrained(base)
PEOPLE, TOWNS = ("anna", "peter", "maria", "paul"), ("paris", "london", "rome", "berlin")
PAIRS = [(person, town) for person in PEOPLE for town in TOWNS]


def learn(head, labels, rows, folder):
    """Train the masks of one task on the rows, and write its folder."""
    model = getattr(transformers, f"AutoModelFor{head}").from_pretrained(
        base, id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)})
    arguments = TrainingArguments(
        folder, num_train_epochs=5, per_device_train_batch_size=8, learning_rate=3e-3,
        save_strategy="no", report_to=[], disable_tqdm=True)
    masks = Masks(encoder_linears(model), score_init=1.0)
    trainer = SMPTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer,
                         pruning=Pruning(masks, MaskSettings(density=0.5)))
    trainer.train()
    trainer.save_mask(folder, base=EMBEDDED_ENCODER, name=Path(folder).name)


moods, entities, answers = [], [], []
for person, town in PAIRS:
    for label, word in enumerate(("hates", "loves")):
        moods.append(dict(tokenizer(f"{person} {word} {town}"), labels=label))
    entities.append(dict(tokenizer(f"{person} lives in {town}"), labels=[-100, 1, 0, 0, 2, -100]))
    answers.append(dict(tokenizer("who?", f"{person} lives in {town}"),
                        start_positions=4, end_positions=4))

folder = Path(tempfile.mkdtemp())
learn("SequenceClassification", ["bad", "good"], moods, str(folder / "moods"))
learn("TokenClassification", ["other", "person", "place"], entities, str(folder / "entities"))
learn("QuestionAnswering", ["start", "end"], answers, str(folder / "answers"))

pruned = PrunedModel.from_pretrained(EMBEDDED_ENCODER, folder / "answers", "answers")
print(pruned.answer("who?", "maria lives in rome")["answer"])
for name, tag in (("moods", "text-classification"), ("entities", "token-classification")):
    pruned.load_mask(folder / name, name)
    began = time.perf_counter()
    pruned.set_mask(name)
    print(f"{name}: switched in {1000 * (time.perf_counter() - began):.0f} ms")
    run = transformers.pipeline(tag, pruned.model, tokenizer=pruned.tokenizer)
    text = "paul loves berlin" if name == "moods" else "paul lives in berlin"
    print([found.get("label", found.get("entity")) for found in run(text)])
