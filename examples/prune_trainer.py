"""Prune a sentence classifier in a Trainer script. It needs no network and takes seconds.

The lines marked `# new` are the difference to an ordinary script.
"""

import sys
import tempfile

from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainingArguments

from smp import (  # new
    Masks,
    MaskSettings,
    PrunedModel,
    Pruning,
    SMPTrainer,
    competing_share,
    encoder_linears,
)
from smp.model.load import EMBEDDED_ENCODER, find_model

GOOD = ("a warm and funny film", "the best story of the year", "I loved every minute",
        "clever, moving and beautiful", "a delight from start to end", "great actors, great music")
BAD = ("a dull and empty film", "the worst story of the year", "I hated every minute",
       "stupid, boring and ugly", "a failure from start to end", "bad actors, bad music")

base = find_model(EMBEDDED_ENCODER)  # a folder; a Hub name such as bert-base-uncased works too
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForSequenceClassification.from_pretrained(
    base, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
rows = [dict(tokenizer(text), labels=label)
        for label, texts in enumerate((BAD, GOOD)) for text in texts]

masks = Masks(encoder_linears(model), competing_share, score_init=1.0)  # new
pruning = Pruning(masks, MaskSettings(density=0.5))  # new
folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()
trainer = SMPTrainer(  # was Trainer(
    model,
    TrainingArguments(folder, num_train_epochs=10, per_device_train_batch_size=6, seed=0,
                      learning_rate=3e-3, logging_steps=10, save_strategy="no", report_to=[],
                      disable_tqdm=True),
    train_dataset=rows,
    processing_class=tokenizer,
    pruning=pruning,  # new
)
trainer.train()
size = trainer.save_mask(folder, base=EMBEDDED_ENCODER, name="mood")  # new

pruned = PrunedModel.from_pretrained(EMBEDDED_ENCODER, folder)
right = 0
for label, texts in (("bad", BAD), ("good", GOOD)):
    logits = pruned.model(**tokenizer(list(texts), padding=True, return_tensors="pt")).logits
    right += sum(pruned.model.config.id2label[i] == label for i in logits.argmax(1).tolist())
print(f"{right} of {len(rows)} sentences right, density {trainer.pruning.density:.0%}, "
      f"{size:,} bytes in {folder}")
