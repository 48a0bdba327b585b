"""A small SMP training that test_processes.py starts in one process and in two.

Then it runs two_trainers.py, because a start takes longer than both trainings.

Each process writes its results, and a digest of its masks in each step, into the given folder.
"""

import hashlib
import runpy
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering, set_seed

from smp.cli.train import attach_pruning, train
from smp.data.reading import load_squad
from smp.data.windows import featurise
from smp.model.load import load_pretrained
from smp.model.predict import evaluate_answers, is_first_process, predict_logits
from smp.runs.checkpoint import Checkpoints
from smp.runs.settings import choose_settings

folder = Path(sys.argv[1])
torch.set_num_threads(1)
tokenizer = load_pretrained(AutoTokenizer, "all-MiniLM-L6-v2")
data = load_squad("synthetic", 45, 0, 21)  # batches of 8 end with one of 5: 3 rows and 2
windows = {part: featurise(data[part], tokenizer, 96, 32) for part in ("train", "eval")}
settings = choose_settings("quick", "smp", density=0.3, epochs=3, dropout=0.0, precision="fp32",
                           n_validations=2, score_init=1.0)
set_seed(0)
model = BertForQuestionAnswering(BertConfig(
    vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=64, max_position_embeddings=96, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
))
pruning, seen = attach_pruning(model, settings), hashlib.sha256()
refresh = pruning.masks.refresh


def watched(density):
    refresh(density)
    for mask in pruning.masks.masks.values():
        seen.update(mask.mask.numpy().tobytes())


pruning.masks.refresh = watched
run = train(model, windows["train"], tokenizer, settings, pruning,
          checkpoints=Checkpoints(folder / "checkpoints", minutes=0))
start, end = predict_logits(model, windows["eval"], tokenizer, "fp32", batch_size=4)
scores, answers = evaluate_answers(model, data["eval"], windows["eval"], tokenizer, "fp32")
state = PartialState()
assert is_first_process() == state.is_main_process
np.savez(
    folder / f"{state.num_processes}-{state.process_index}.npz",
    masks=seen.hexdigest(), loss=run["history"]["loss"], start=start, end=end, em=scores["em"],
    f1=scores["f1"], answers=[answer["prediction_text"] for answer in answers],
    kept=np.concatenate([m.mask.numpy().ravel() for m in pruning.masks.masks.values()]),
    scores=np.concatenate([s.detach().numpy().ravel() for s in pruning.masks.scores]),
)
runpy.run_path(str(Path(__file__).with_name("two_trainers.py")))
