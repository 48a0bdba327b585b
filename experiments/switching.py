"""Print the size of three tasks at 10% and the time of a switch, for BERT-base's shape.

    python -m experiments.switching

The weights and scores are random: neither size nor time depends on the training.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer, BertConfig, BertModel, TrainingArguments

from smp import Masks, MaskSettings, PrunedModel, Pruning, SMPTrainer, encoder_linears
from smp.model.load import EMBEDDED_ENCODER, find_model

HEADS = ("QuestionAnswering", "SequenceClassification", "TokenClassification")


def save_task(base, folder, head):
    """Write the folder of a task with random masks; return the bytes of its mask file."""
    model = getattr(transformers, f"AutoModelFor{head}").from_pretrained(base)
    masks = Masks(encoder_linears(model))
    with torch.no_grad():
        for scores in masks.scores:
            scores.normal_()
    trainer = SMPTrainer(
        model, TrainingArguments(str(folder), use_cpu=True, report_to=[]),
        processing_class=AutoTokenizer.from_pretrained(base),
        pruning=Pruning(masks, MaskSettings(density=0.1)))
    trainer.pruning.finish()
    return trainer.save_mask(folder, base="base")


def measure(config, switches):
    """Return (bytes of each task's mask file, milliseconds of each switch)."""
    with tempfile.TemporaryDirectory() as name:
        base, *folders = (str(Path(name, part)) for part in ("base", *HEADS))
        torch.manual_seed(0)
        BertModel(config).save_pretrained(base)
        AutoTokenizer.from_pretrained(find_model(EMBEDDED_ENCODER)).save_pretrained(base)
        sizes = [save_task(base, *pair) for pair in zip(folders, HEADS, strict=True)]
        pruned = PrunedModel.from_pretrained(base, folders[0], HEADS[0])
        for folder, head in zip(folders[1:], HEADS[1:], strict=True):
            pruned.load_mask(folder, head)
        times = []
        for turn in range(3 + switches):  # the first three warm up
            began = time.perf_counter()
            pruned.set_mask(HEADS[turn % 3])
            times.append(1000 * (time.perf_counter() - began))
            time.sleep(0.05)
    return sizes, times[3:]


if __name__ == "__main__":
    sizes, times = measure(BertConfig(), 60)
    print(f"three tasks: {sum(sizes) / 1e6:.2f} MB ({', '.join(map(str, sizes))} bytes)")
    print(f"switch, {torch.get_num_threads()} threads: median {statistics.median(times):.1f} ms, "
          f"{min(times):.1f} to {max(times):.1f} ms ({len(times)} switches)")
