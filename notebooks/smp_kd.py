# %% [markdown]
# # Static Model Pruning with a teacher
#
# Knowledge distillation (KD) trains with a fine-tuned teacher's probabilities for every token, in addition to
# the right answer. The rest is as in `BERT_SMP.ipynb` ([SMP](https://arxiv.org/abs/2210.06210), Jiang et al.,
# ACL 2023). The pretrained weights are frozen, and each weight of the encoder's linear layers has a score. A
# mask keeps the weights with the highest scores, in SMP-L the same share of each matrix. A straight-through
# gradient trains the scores. A regulariser R lowers them, so that the mask can change late in the training.
#
# At the end you will have
#
# - an encoder that answers questions with 50% of the weights of its linear layers,
# - a mask file of 1.3 MB: with the unchanged base model, it is all that the task needs,
# - its Exact Match (EM), with its uncertainty, next to the teacher's and the paper's.
#
# The profile `quick` uses all-MiniLM-L6-v2, a small encoder with BERT's architecture, and synthetic
# questions. EM is about 0.94 at 50% remaining weights (teacher: about 0.94). It takes about six minutes on
# two CPU cores, and four more if no teacher is there yet.
#
# Map: [the teacher's loss](#1-The-method-by-hand) · [the training loop](#3.4-The-training-loop) ·
# [the experiment](#3-The-experiment). The mask is folded, because `BERT_SMP.ipynb` explains it. Section
# 2 is support code and is folded: skip it.

# %% [markdown]
# **Parameters.** Leave a value at `None` to use the profile's value. `quick` trains MiniLM on synthetic
# questions and `laptop` on 8,000 questions of SQuAD, both without a GPU. `minilm` uses all of SQuAD.
# `colab`, `squad` and `paper` train BERT-base on all of SQuAD, from the shortest to the longest run. They need
# a GPU. `DISTILL` is logits, or hidden for the teacher's hidden states too.

# %% tags=["parameters"]
PROFILE = None  # quick, laptop, minilm, colab, squad, paper; None: quick
MODEL = None  # a Hub name, a folder, or "all-MiniLM-L6-v2" (in a package)
DATA = None  # a Hub name, a SQuAD .json file or folder, or "synthetic"
N_TRAIN = None  # questions to train on
N_VALID = None  # questions held out of train, for the curves
N_EVAL = None  # questions to evaluate on
EPOCHS = None
METHOD = None  # smp-l or smp-s
DENSITY = None  # above 0 and at most 1
TEACHER = None  # a folder, .zip or Hub name; None: the model of BERT_FINETUNE_QA, or a new one
DISTILL = None  # logits or hidden
SEED = None
RESULTS = None  # folder for records and models; None: results/
CHECKPOINTS = None  # folder for checkpoints, for example on a mounted drive
SET = {}  # other settings, for example {"batch_size": 16}

# %% [markdown] part="install"

# %% part="install-code"

# %% [markdown]
# # 1 The method by hand
#
# **1.1 Softened probabilities.** The question is *Who built the bridge?* The passage is *The bridge was
# designed by Clara Voss and built by Henrik Dahl.* Four of its tokens are shown. Logits divided by a temperature τ give a flatter distribution. At τ = 2
# the teacher's exponentials are 4, 2, 1 and 1, so *henrik* has 4/8. Small probabilities become visible.

# %%
import math

import torch

ln2, tokens = math.log(2), ["henrik", "clara", "built", "dahl"]
teacher_start = torch.tensor([4 * ln2, 2 * ln2, 0, 0])
student_start = torch.tensor([2 * ln2, 0, 4 * ln2, 0])
print(" " * 13 + "".join(f"{token:>8}" for token in tokens))
for name, logits, tau in (("teacher", teacher_start, 1), ("teacher", teacher_start, 2),
                          ("student", student_start, 2)):
    print(f"{name} tau {tau}" + "".join(f"{p:8.1%}" for p in (logits / tau).softmax(0)))

# %% [markdown]
# **1.2 The distillation loss.** KD is τ² · KL(teacher ‖ student), the mean over start, end and batch.
# Both distributions exclude padding.

# %%
from smp.method.distill import distillation_loss

# %% [markdown]
# KL of the start = ½ ln 2 + ¼ ln 2 + ⅛ ln ¼ + 0 = ½ ln 2 = 0.3466; times τ² = 4 it is 1.3863. The end
# logits agree and cost 0. A fifth token is padding: left in, it dominates the loss.

# %%
same_end = torch.tensor([0, 2 * ln2, 0, 4 * ln2])
padding = torch.tensor([[9.0, 9.0], [0.0, 0.0]])  # the student's and the teacher's logits there
student, teacher = (torch.cat([torch.stack([start, same_end], 1), extra[None]])[None]
                    for start, extra in zip((student_start, teacher_start), padding))
real = torch.tensor([[1, 1, 1, 1, 0]])
for part, one in (("start", 0), ("end", 1)):
    kd = distillation_loss(student[..., [one]], teacher[..., [one]], real, 2.0)
    print(f"{part} {kd:.4f}", end=", ")
print(f"mean {distillation_loss(student, teacher, real, 2.0):.4f}")
print(f"padding left in: {distillation_loss(student, teacher, torch.ones_like(real), 2.0):.4f}")

# %% [markdown]
# **Two gradients.** A negative gradient raises a logit. Cross-entropy raises the right token only. The teacher
# gives *clara* 25%, the student 12.5%, so KD raises it too: its gradient is τ · (0.125 − 0.25) = −0.25. The two
# losses disagree about *clara*: this is what a teacher adds.

# %%
free = student_start.clone().requires_grad_()
ce = torch.nn.functional.cross_entropy(free[None], torch.tensor([0]))
kd = distillation_loss(free[None, :, None], teacher_start[None, :, None], torch.ones(1, 4), 2.0)
for name, loss in (("CE", ce), ("KD", kd)):
    gradient = torch.autograd.grad(loss, free)[0] + 0.0
    print(f"{name:12}" + "".join(f"{value:+8.3f}" for value in gradient))

# %% [markdown]
# **1.3 The whole loss.** L = (1 − α) CE + α KD + β H + λR. CE is the loss of the labels, and H is explained
# in 1.4. λR is the regulariser: `pruning.after_backward` adds its gradient, so it is not in the printed loss.
# The teacher's logits are computed once for each window and looked up by the window's row number.

# %%
from smp.method.loop import span_loss
from smp.method.distill import CachedTeacher, distilled_loss

# %% [markdown]
# The labels are *henrik* and *dahl*: CE is (ln 22/4 + ln 22/16)/2 = 1.0116. With α = 0.5 the loss is
# 0.5 · 1.0116 + 0.5 · 0.6931 = 0.8524.

# %%
batch = {"row": torch.tensor([0]), "input_ids": real, "attention_mask": real,
         "start_positions": torch.tensor([0]), "end_positions": torch.tensor([3])}
start, end = student[..., 0].masked_fill(real == 0, -1e9), student[..., 1].masked_fill(real == 0, -1e9)
loss = distilled_loss(span_loss, CachedTeacher(teacher), 0.5, 2.0)(start, end, batch)
print(f"0.5 * {span_loss(start, end, batch):.4f} + 0.5 * "
      f"{distillation_loss(student, teacher, real, 2.0):.4f} = {loss:.4f}")

# %% [markdown]
# **1.4 One more signal (not in the paper).** `DISTILL = "hidden"` also compares the encoder's layers: H
# is the squared distance of the hidden states divided by the teacher's squared norm, the mean over the
# layers. Hidden states are too large to store, so the teacher then runs on every batch.

# %%
from smp.method.hidden import hidden_distance

# %% [markdown]
# In layer 0 the student has (3, 4) and the teacher (0, 5): (9 + 1)/25 = 0.4. Layer 1 agrees, so the mean
# is 0.2. Padding does not count.

# %%
ours = torch.tensor([[[3.0, 4.0], [9.0, 9.0]]])  # (batch, token, hidden); the second token is padding
theirs, alone = torch.tensor([[[0.0, 5.0], [0.0, 0.0]]]), torch.tensor([[1, 0]])
for pair in ([(ours, theirs)], [(theirs, theirs)], [(ours, theirs), (theirs, theirs)]):
    print(f"{hidden_distance(*zip(*pair), alone):.1f}", end="  ")

# %% [markdown] tags=["folded"]
# # The mask (as in BERT_SMP)
#
# The definitions of sections 1.1 to 1.6 of `BERT_SMP.ipynb`, which explains them with toy numbers.

# %% tags=["support"]
from smp.method.masks import kept_count, keep_top, same_share, StraightThrough, StaticMask

# %% tags=["support"]
from smp.method.masks import Masks

# %% tags=["support"]
from smp.method.masks import share_out, competing_share, add_regulariser_gradient

# %% tags=["support"]
from smp.method.schedule import cubic_ramp, Pruning

# %% tags=["support"]
from smp.method.loop import INPUTS
from smp.method.hidden import record_layers, HiddenTeacher

# %% [markdown] tags=["carry"]
# # 2 Support code
#
# One cell for each file: reading data, windows, metric, teacher, records, figures, the mask file. Each
# cell writes its file into a temporary folder, from which the experiment imports. Nothing here needs
# to be read.

# %% [markdown]
# # 3 The experiment
#
# **3.1 Settings.** The profile fixes every setting. This cell prints the important ones and your
# changes; `settings.show()` prints all of them.

# %%
from pathlib import Path

from smp.files import results_folder
from smp.runs.settings import choose_settings

settings = choose_settings(
    PROFILE, "smp-kd", ("smp-l", "smp-s"), model=MODEL, data=DATA, n_train=N_TRAIN, n_valid=N_VALID,
    n_eval=N_EVAL, epochs=EPOCHS, method=METHOD, distill=DISTILL, density=DENSITY, seed=SEED, **SET)
results = results_folder() if RESULTS is None else Path(RESULTS)
settings.show("method", "density", "distill", "distill_weight", "distill_temperature", "regulariser",
              "epochs", "seed")

# %% [markdown] part="data"

# %% part="data-code"

# %% [markdown]
# **3.3 Student and masks.** Every linear layer of the encoder gets a mask. At density 1 the masked model
# must answer exactly as the stock model, to the last bit.

# %% part="model"

# %% [markdown]
# ### 3.4 The training loop
#
# The same function is in all three notebooks; the loss is its argument. `before_forward` chooses the masks of
# a step, and `after_backward` adds the gradient of λR.

# %%
from smp.method.loop import fit

# %% [markdown]
# **3.5 The teacher.** The teacher is `TEACHER` if it is set. Otherwise it is the newest model of
# `BERT_FINETUNE_QA.ipynb` for this encoder and data, or it is fine-tuned now with the same loop. Its EM is on
# the student's evaluation questions.

# %%
from smp.model.teacher import check_layers, copy_head, teacher_logits
from smp.runs.teaching import find_or_train_teacher

teacher, about_teacher, dense = find_or_train_teacher(
    partial(fit, loss=span_loss), TEACHER, settings, data, features, model, tokenizer, results,
    CHECKPOINTS, model_sha)
if settings.init_head_from_teacher:
    copy_head(model, teacher)
print(f"teacher: {about_teacher['name']}, EM {about_teacher['em']:.3f}")

# %% [markdown]
# The windows never change, so one pass of the teacher serves all epochs: (windows, tokens, start and
# end), 2 bytes a number. With `DISTILL = "hidden"` the teacher runs on every batch instead.

# %%
from smp.model.encoder import encoder_layers
from smp.model.predict import make_accelerator

if settings.distill == "hidden":
    check_layers(model.config, teacher.config)
    source = HiddenTeacher(model, teacher, encoder_layers, make_accelerator(settings.precision))
else:
    cached = teacher_logits(teacher, features["train"], tokenizer, settings.precision)
    source = CachedTeacher(cached)
    print(f"{tuple(cached.shape)} {cached.dtype}, {cached.nbytes / 1e6:.1f} MB")

# %% [markdown]
# **One window.** The teacher's start probabilities for the first training question, as they are and
# softened. Softening shows the small ones, among them other candidates. Labels do not contain these.

# %%
window = features["train"].select([0])
logits = teacher_logits(teacher, window, tokenizer, settings.precision)[0, :, 0].float()
print(data["train"][0]["question"], "->", data["train"][0]["answers"]["text"][0])
sharp, soft = ((logits / tau).softmax(0) for tau in (1, settings.distill_temperature))
for token in sharp.topk(5).indices.tolist():
    word = tokenizer.convert_ids_to_tokens(window["input_ids"][0][token])
    print(f"{word:16} {sharp[token]:6.1%} -> {soft[token]:6.1%}")

# %% [markdown]
# **3.6 Train.** `prepare_training` makes the other arguments: shuffled batches, AdamW on the scores
# and the head, and `watch`, which draws the curves and writes checkpoints and snapshots of the masks.
# A stopped run continues when the notebook is run again. The first loss is higher than in
# `BERT_SMP.ipynb`, because KD is multiplied by τ².

# %%
from smp.fast.speed_up import speed_up
from smp.look.snapshot_writer import run_snapshots
from smp.model.predict import evaluate_answers, validator
from smp.runs.edited import edited_method
from smp.runs.run import begin_record, finish_record, keep_record, run_checkpoints
from smp.runs.training import prepare_training

record = begin_record(
    settings, model_sha, data_fingerprint(data["eval"]), data_fingerprint(data["train"]),
    teacher=about_teacher, variant=edited_method(In, METHOD_DIGESTS))
checkpoints = run_checkpoints(record, results, CHECKPOINTS)
snapshots = run_snapshots(record, results, model.config.num_attention_heads)
speed_up(model)
training = prepare_training(
    model, features["train"], tokenizer, settings, Pruning(masks, settings),
    validate=validator(data["valid"], features["valid"], tokenizer, settings.precision),
    checkpoints=checkpoints, snapshots=snapshots)
fit(**training, loss=distilled_loss(span_loss, source, settings.distill_weight,
                                    settings.distill_temperature, settings.hidden_distill_weight))
run = training["watch"].run()
print(f"{run['steps']:,} steps, {run['seconds'] / 60:.1f} min, {run['device']} {run['precision']}")
plot_training(run["history"])

# %% [markdown]
# ### 3.7 Where weights remain
#
# The explorer of `BERT_SMP.ipynb`, with two masks of one encoder. A is this run. B is your newest run of
# `BERT_SMP.ipynb`, if there is one. Both start from the same scores (`score_init` 1), so the masks agree far
# more than by chance. Black weights are kept by both, orange ones only by A, blue ones only by B.

# %%
from smp.look.explorer import explore

others = [path for path in snapshots.path.parent.glob("*.safetensors")
          if "_smp-l_" in path.name or "_smp-s_" in path.name]
newest = max(others, key=lambda path: path.stat().st_mtime, default=None)
explore(snapshots.path, newest, masks)

# %% [markdown]
# **3.8 Merge and check.** The mask is multiplied into the weights and removed. The saved folder is a
# stock Hugging Face model. No weight of the encoder was changed: only scores and the head were learned. The
# checks compare the start logits of one window.

# %% part="merge"

# %% [markdown]
# **3.9 Evaluate.** The score is computed once, on the reloaded model. It is lower than on the held-out
# questions, which share names with the training questions. ± is the 95% interval of a share of n questions
# and does not include the spread over seeds. Agreement is the share of questions with the teacher's answer:
# distillation copies mistakes too.

# %%
from smp.data.answers import normalize_answer
from smp.runs.result import em_text, show_records, show_result

scores, predictions = evaluate_answers(pruned, data["eval"], features["eval"], tokenizer,
                                       settings.precision)
_, its = evaluate_answers(teacher, data["eval"], features["eval"], tokenizer, settings.precision)
agreeing = sum(normalize_answer(a["prediction_text"]) == normalize_answer(b["prediction_text"])
               for a, b in zip(predictions, its)) / len(its)
print(em_text(scores | {"n_eval": len(data["eval"])}), f"  F1 {scores['f1']:.3f}   n {len(data['eval'])}"
      f"   same answer as the teacher {agreeing:.1%}")

# %% [markdown]
# **3.10 Where teacher and student differ.** Questions that the teacher answers and the student does not, of
# the first 200, with both models' probabilities: start above the line, end below it.

# %%
from smp.look.broken import show_broken
from smp.look.passages import read_passages, show_reading
from smp.model.question_answerer import QuestionAnswerer

answerers = {name: QuestionAnswerer(one, tokenizer, settings.max_length, settings.stride,
                                    settings.precision)
             for name, one in (("teacher", teacher), ("student", pruned))}
asked = data["eval"].select(range(min(200, len(data["eval"]))))
show_broken(asked, {name: read_passages(one, asked) for name, one in answerers.items()})

# %% [markdown]
# **One question, two models.** Change the question or the passage and run the cell again.

# %% part="question"

# %% [markdown]
# **3.11 The mask file.** At 50% the entropy is 1 bit per weight, so the mask can hardly be compressed. With the
# unchanged base model, this file is all that the task needs: base and masks give the logits of the merged
# model, bit for bit.

# %% part="mask-file"

# %% [markdown]
# # 4 Your result
#
# EM retained is the EM divided by the teacher's; its ± is from the differences of each question.
# `show_records(results)` prints the table of all records in `results/`. The reference runs have
# the same profile. The notebooks prune to 10% and 50%. To measure the effect of KD alone, run
# `BERT_SMP.ipynb` with `DENSITY = 0.5` and compare, with several seeds.

# %%
record = finish_record(
    record, run, scores, head=head, params_total=params_total, layers=layers,
    bytes_mask_file=mask_bytes, bytes_model=model_bytes(saved), n_train=len(data["train"]),
    n_eval=len(data["eval"]))
keep_record(record, results, saved, checkpoints)
show_result(record, results, REFERENCE, dense)
