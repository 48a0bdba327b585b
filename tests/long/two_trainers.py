"""A small SMPTrainer training that two_processes.py runs after its own.

Each process writes its final scores, and a digest of its masks in each step, into a folder.
"""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from smp.method.masks import Masks, competing_share
from smp.method.schedule import Pruning
from smp.model.encoder import encoder_linears
from smp.task.mask_settings import MaskSettings
from smp.task.trainer import SMPTrainer

folder = Path(sys.argv[1], "trainers")
folder.mkdir(exist_ok=True)
torch.set_num_threads(1)
torch.manual_seed(0)
model = BertForSequenceClassification(BertConfig(
    vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_labels=3,
    intermediate_size=64, max_position_embeddings=40, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0))
ids = torch.randint(5, 200, (48, 12))
rows = [{"input_ids": row, "labels": row[0] % 3} for row in ids]
processes = int(os.environ.get("WORLD_SIZE", 1))
arguments = TrainingArguments(
    str(folder / "trainer"), use_cpu=True, report_to=[], disable_tqdm=True, num_train_epochs=2,
    per_device_train_batch_size=8 // processes, save_steps=6, logging_steps=1, learning_rate=1e-2,
    gradient_accumulation_steps=2)
masks, seen = Masks(encoder_linears(model), competing_share, 1.0), hashlib.sha256()
trainer = SMPTrainer(model, arguments, train_dataset=rows,
                     pruning=Pruning(masks, MaskSettings(0.3, learning_rate=0.1)))
refresh = masks.refresh


def watched(density):
    refresh(density)
    for mask in masks.masks.values():
        seen.update(mask.mask.numpy().tobytes())


masks.refresh = watched
assert trainer.accelerator.num_processes == processes
trainer.train()
np.savez(
    folder / f"{processes}-{trainer.args.process_index}.npz", masks=seen.hexdigest(),
    kept=np.concatenate([mask.mask.numpy().ravel() for mask in masks.masks.values()]),
    scores=np.concatenate([score.detach().numpy().ravel() for score in masks.scores]),
    head=model.classifier.weight.detach().numpy(), steps=trainer.state.global_step,
    loss=[log["loss"] for log in trainer.state.log_history if "loss" in log],
)
