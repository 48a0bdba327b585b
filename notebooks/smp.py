# %% [markdown]
# # Static Model Pruning: learn which weights to keep
#
# The pretrained weights are frozen. A binary mask over them is learned (SMP; Jiang et al., "Pruning
# Pre-trained Language Models Without Fine-Tuning", ACL 2023). At the end you will have
#
# - an encoder that answers questions with 10% of the weights of its linear layers,
# - a mask file of 0.6 MB: with the unchanged base model, it is all that the task needs,
# - its Exact Match (EM), with its uncertainty, next to the fine-tuned model's and the paper's.
#
# The profile `quick` uses all-MiniLM-L6-v2, a small encoder with BERT's architecture, and synthetic
# questions. It takes about six minutes on two CPU cores. Three seeds gave EM 0.80, 0.78 and 0.39 at 10%
# remaining weights (fine-tuned: 0.94): so short a training is not stable.
#
# Map: [the mask](#1-The-method-by-hand) · [the experiment](#3-The-experiment) ·
# [the training loop](#3.4-The-training-loop) · [the masks as pictures](#3.6-Where-weights-remain) ·
# [your result](#4-Your-result). Section 2 is support code and is folded: it runs, but you need not read it.

# %% [markdown]
# **Parameters.** Leave a value at `None` to use the profile's value. `quick` trains MiniLM on synthetic
# questions and `laptop` on 8,000 questions of SQuAD, both without a GPU. `minilm` uses all of SQuAD.
# `colab`, `squad` and `paper` train BERT-base on all of SQuAD, from the shortest to the longest run. They need
# a GPU. `METHOD` is smp-l (the same share of each matrix) or smp-s (the layers compete for the kept weights).
# `DENSITY` is the share of the masked weights that remain.

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
SEED = None
RESULTS = None  # folder for records and models; None: results/
CHECKPOINTS = None  # folder for checkpoints, for example on a mounted drive
SET = {}  # other settings, for example {"batch_size": 16}

# %% [markdown] part="install"

# %% part="install-code"

# %% [markdown]
# # 1 The method by hand
#
# **1.1 Keep exactly k weights.** Each weight has a score. The mask keeps the k = ⌊v·n⌋ weights with
# the highest scores, where v is the density and n the number of weights. Among equal scores, the one with
# the lower index is kept. `same_share` computes k for each of several matrices. To try another rule, edit
# `keep_top`, run its cell, and run section 3 again: the record then has the variant "edited".

# %%
from smp.method.masks import kept_count, keep_top, same_share

# %% [markdown]
# A 2 × 4 matrix has eight scores, and density 0.5 keeps four. Two scores equal 0.3, and only one of
# them may stay. Scores that start at 0 have many ties, and a threshold would keep the wrong number.

# %%
W = torch.tensor([[0.5, -1.0, 0.9, 0.4], [-0.6, 0.3, 1.0, 0.8]])
S = torch.tensor([[0.35, 0.9, -0.2, 0.3], [0.3, -0.5, 0.6, 0.27]])

def rows(mask):
    return " ".join("".join(str(int(one)) for one in row) for row in mask)

mask = keep_top(S, kept_count(0.5, S.numel()))
print("mask", rows(mask))
print(f"S > 0.3 keeps {int((S > 0.3).sum())}, S >= 0.3 keeps {int((S >= 0.3).sum())}, "
      f"keep_top keeps {int(mask.sum())}")
print(f"kept_count(0.29, 100) = {kept_count(0.29, 100)}, floor(0.29 * 100) = {math.floor(0.29 * 100)}")

# %% [markdown]
# **1.2 A gradient for the scores.** The masked layer computes with W′ = W ⊙ M. The choice of the mask is a
# step function, so its gradient is zero almost everywhere. The straight-through estimator gives the scores ∂L/∂S = ∂L/∂W′ ⊙ W, for kept and removed
# weights alike: the score of a removed weight that would help rises, and the weight comes back.

# %%
from smp.method.masks import StraightThrough, StaticMask

# %% [markdown]
# For the input x = (1, 1, 1, 2) and the target (−0.7, 2), y = (0.5 − 1.0 + 2 · 0.4, 1.0) = (0.3, 1.0).
# The loss, half the squared error, is 1.0, and ∂L/∂y = (1, −1). The gradient of the last score in the second
# row is (−1 · 2) · 0.8 = −1.6, the largest in absolute value. That weight is removed now, but it would help.

# %%
x, target = torch.tensor([1.0, 1, 1, 2]), torch.tensor([-0.7, 2.0])
scores = S.clone().requires_grad_()
y = StraightThrough.apply(W, scores, mask) @ x
loss = (y - target).square().sum() / 2
loss.backward()
print(f"loss {loss.item():.3f}\ndL/dS")
print("\n".join("".join(f"{value:6.1f}" for value in row) for row in scores.grad.tolist()))
by_hand = torch.outer(y.detach() - target, x) * W
print("by hand = autograd:", torch.allclose(by_hand, scores.grad), "  gradient of W:", W.grad)

# %% [markdown]
# **1.3 The mask of a model.** `Masks` attaches a mask to every linear layer in a list and freezes its
# weight. `refresh` computes new masks once per optimizer step; `merge` writes them into the weights. Another
# rule for k is the argument `share`, another choice of the mask the argument `choose`.

# %%
from smp.method.masks import Masks

# %% [markdown]
# **Five updates.** AdamW with learning rate 0.02 changes only the scores. The first step moves each
# score by 0.02 against the sign of its gradient. A removed weight returns, and in the end half of
# the weights do better than all of them.

# %%
def five_steps():
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = W.clone()
    masks = Masks([("toy", "toy", 0, layer)])
    masks.scores[0].data = S.clone()
    optimizer = torch.optim.AdamW(masks.scores, lr=0.02, weight_decay=0)
    for step in range(6):
        masks.refresh(0.5)
        loss = (layer(x) - target).square().sum() / 2
        print(step, rows(masks.numpy()["toy"]), f"{loss.item():.3f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

five_steps()
print(f"all eight weights: {((W @ x - target).square().sum() / 2).item():.3f}")

# %% [markdown]
# Step 4 raises the loss: each gradient assumes that all other weights stay, so a step can also increase
# the loss.
#
# **Two layers.** At density 1 masked and plain layers must agree bit for bit. `score_init` = 1 starts
# the scores at the magnitude divided by its mean: 0.5/0.6875 = 0.727 for the first weight.

# %%
def two_layers():
    layers = [nn.Linear(4, 2), nn.Linear(4, 2)]
    for layer in layers:
        layer.weight.data = W.clone()
    return layers

for score_init in (0.0, 1.0):
    layers = two_layers()
    plain = layers[0](x)
    masks = Masks([(str(i), "toy", i, layer) for i, layer in enumerate(layers)], score_init=score_init)
    masks.refresh(1.0)
    equal = torch.equal(plain, layers[0](x))
    masks.refresh(0.5)
    print(f"score_init {score_init:g}: density 1 equals plain {equal}; density 0.5 keeps",
          rows(masks.numpy()["0"]), [row["kept"] for row in masks.counts()])
masks.merge()
print("after merge:", layers[0], "with", int((layers[0].weight == 0).sum()), "zeros")

# %% [markdown]
# **1.4 How density is shared.** SMP-L keeps the same share of each matrix. In SMP-S the $L$ layers of
# one kind of matrix compete: layer $l$ gets the density
# $v_l = v\,L\,r_l / \sum_{l'} r_{l'}$, where $r_l$ is the mean of $\sigma(S_l / p)$ and $p$ a temperature.

# %%
from smp.method.masks import share_out, competing_share

# %% [markdown]
# Layer 0 has scores ln 3 (σ = 0.75), layer 1 has −ln 3 (σ = 0.25). At density 0.5, eight of 16 weights
# stay: 8 · 0.75 = 6 and 8 · 0.25 = 2. At 0.75 layer 0's share would be 9, but it has only 8 weights: the
# extra one goes to layer 1. The temperature p = 4 makes the shares more even.

# %%
pair = {"layer 0": torch.full((2, 4), math.log(3)), "layer 1": torch.full((2, 4), -math.log(3))}
kinds = dict.fromkeys(pair, "toy")
for density, p in ((0.5, 1), (0.75, 1), (0.5, 4)):
    even, competing = same_share(density, pair, kinds), competing_share(density, pair, kinds, p)
    print(f"density {density:.2f}, p {p}:  SMP-L {' + '.join(map(str, even.values()))}   "
          f"SMP-S {' + '.join(map(str, competing.values()))}")

# %% [markdown]
# **1.5 The regulariser.** λR is added to the loss, where R is the mean of σ(S). R lowers all scores, and its
# slope is steepest at S = 0. Late in training kept scores lie nearer to 0 than removed ones, so R lowers them
# faster, and the mask can still change. In the paper, runs at 10% and 3% fail without it.

# %%
from smp.method.masks import add_regulariser_gradient

# %% [markdown]
# A kept score is −ln 3 (σ = 0.25), a removed one −ln 9 (σ = 0.1). With two matrices of 8 scores and
# λ = 400 the factor is 400/(2 · 8) = 25, and 25 · 0.25 · 0.75 = 4.6875: the kept score gets twice the gradient.

# %%
both = [nn.Parameter(torch.full((2, 4), -math.log(n))) for n in (3, 9)]
add_regulariser_gradient(both, 400)
print("kept {:.4f}, removed {:.4f}".format(*(float(one.grad[0, 0]) for one in both)))
by_autograd = torch.autograd.grad(200 * sum(one.sigmoid().mean() for one in both), both)
print("closed form = autograd:",
      all(torch.allclose(one.grad, other) for one, other in zip(both, by_autograd)))

# %% [markdown]
# **1.6 The schedule.** The density follows a cubic curve from 1 to $v_f$ in $N$ steps and then stays; λ
# follows the mirrored curve until step $T$:
# $v(t) = v_f + (1 - v_f)(1 - t/N)^3$ and $\lambda(t) = \lambda_f (1 - (1 - t/T)^3)$.
# `Pruning` updates the masks at each step; the training loop calls only this class.

# %%
from smp.method.schedule import cubic_ramp, Pruning

# %% [markdown]
# Ten steps with $v_f$ = 0.1, N = 8, λ_f = 400, T = 10. Step 2: 0.1 + 0.9 · (3/4)³ = 0.4797 and
# 400 · (1 − 0.8³) = 195.2. Half of the weights are removed in the first fifth of the run.

# %%
from types import SimpleNamespace

ten = Pruning(None, SimpleNamespace(density=0.1, density_ramp_fraction=0.8, density_hold_fraction=0,
                                    regulariser=400, regulariser_ramp_fraction=1))
print(" · ".join(f"{t}: {ten.density_at(t, 10):.2%} {ten.regulariser_at(t, 10):.1f}"
                 for t in range(0, 11, 2)))

# %% [markdown] tags=["carry"]
# # 2 Support code
#
# One cell for each file: reading data, windows, metric, records, figures, the mask file. Each cell
# writes its file into a temporary folder, from which the experiment imports. Nothing here needs to
# be read. The section also defines `span_loss`, the loss of `BERT_FINETUNE_QA.ipynb`, and two values of this
# notebook: METHOD_DIGESTS detects an edited method, and REFERENCE contains the results to compare with.

# %% tags=["support"]
from smp.method.loop import INPUTS, span_loss

# %% [markdown]
# # 3 The experiment
#
# **3.1 Settings.** The profile fixes every setting. This cell prints the important ones and your
# changes; `settings.show()` prints all of them. `score_init` 1 starts the scores at the weights'
# magnitudes, so the first masks are those of magnitude pruning. The paper starts at 0 and trains longer.

# %%
from pathlib import Path

from smp.files import results_folder
from smp.runs.settings import choose_settings

settings = choose_settings(
    PROFILE, "smp", ("smp-l", "smp-s"), model=MODEL, data=DATA, n_train=N_TRAIN, n_valid=N_VALID,
    n_eval=N_EVAL, epochs=EPOCHS, method=METHOD, density=DENSITY, seed=SEED, **SET)
results = results_folder() if RESULTS is None else Path(RESULTS)
settings.show("model", "data", "n_train", "n_eval", "epochs", "method", "density", "score_init",
              "regulariser", "seed")

# %% [markdown] part="data"

# %% part="data-code"

# %% [markdown]
# **3.3 Model and masks.** Every linear layer of the encoder gets a mask. At density 1 the masked model
# must answer exactly as the stock model, to the last bit: `torch.equal` checks it.

# %% part="model"

# %% [markdown]
# ### 3.4 The training loop
#
# Three calls differ from plain fine-tuning: `before_forward` chooses new masks, `after_backward` adds the
# regulariser's gradient, and `finish` chooses the final masks.

# %%
from smp.method.loop import fit

# %% [markdown]
# **3.5 Train.** `prepare_training` makes the arguments of `fit`: shuffled batches, AdamW on the scores
# and the head, and `watch`, which draws the curves and writes checkpoints and snapshots of the masks.
# A stopped run continues when the notebook is run again.

# %%
from smp.fast.speed_up import speed_up
from smp.look.snapshot_writer import run_snapshots
from smp.model.predict import evaluate_answers, validator
from smp.runs.edited import edited_method
from smp.runs.run import begin_record, find_teacher, finish_record, keep_record, run_checkpoints
from smp.runs.training import prepare_training

record = begin_record(settings, model_sha, data_fingerprint(data["eval"]),
                      data_fingerprint(data["train"]), variant=edited_method(In, METHOD_DIGESTS))
checkpoints = run_checkpoints(record, results, CHECKPOINTS)
snapshots = run_snapshots(record, results, model.config.num_attention_heads)
speed_up(model)
training = prepare_training(
    model, features["train"], tokenizer, settings, Pruning(masks, settings),
    validate=validator(data["valid"], features["valid"], tokenizer, settings.precision),
    checkpoints=checkpoints, snapshots=snapshots)
fit(**training, loss=span_loss)
run = training["watch"].run()
print(f"{run['steps']:,} steps, {run['seconds'] / 60:.1f} min, {run['device']} {run['precision']}")
plot_training(run["history"])

# %% [markdown]
# ### 3.6 Where weights remain
#
# In the overview, each stripe is one attention head. Its colour is the share of kept weights divided by
# the model's density: violet keeps more than average, orange less. Intermediate and output have no heads.
# Click a head or a matrix, then turn the wheel over the matrix, down to single weights. Move the slider, or
# press space, to see the training. `score_init` 1 explains much of the overlap with the largest weights.
# `explore` also shows a training that runs in another notebook, and a stopped run.

# %%
from smp.look.explorer import explore

explore(snapshots.path, masks=masks)

# %% [markdown]
# **3.7 Merge and check.** The mask is multiplied into the weights and removed. The saved folder is a
# stock Hugging Face model. No weight of the encoder was changed: only scores and the head were learned. The
# checks compare the start logits of one window.

# %% part="merge"

# %% [markdown]
# **3.8 Evaluate.** The score is computed once, on the reloaded model. It is lower than on the held-out
# questions, which share names with the training questions. ± is the 95% interval of a share of n questions,
# 1.96 √(EM (1 − EM)/n). It does not include the spread over seeds, which is larger here.

# %%
from smp.runs.result import em_text, show_records, show_result

scores, _ = evaluate_answers(pruned, data["eval"], features["eval"], tokenizer, settings.precision)
print(em_text(scores | {"n_eval": len(data["eval"])}), f"  F1 {scores['f1']:.3f}   n {len(data['eval'])}")

# %% [markdown]
# **3.9 What pruning broke.** Questions that the fine-tuned model of `BERT_FINETUNE_QA.ipynb` answers
# and the pruned model does not, with both models' probabilities: start above the line, end below it. The
# pruned model often chooses the right kind of answer, for example a number, but the wrong one.

# %%
from smp.look.broken import show_broken
from smp.look.passages import read_passages, show_reading
from smp.model.load import load_qa_model
from smp.model.question_answerer import QuestionAnswerer

dense = find_teacher(results, model_sha, settings.data)
models = {"fine-tuned": load_qa_model(str(dense[0]))[0]} if dense else {}
answerers = {name: QuestionAnswerer(one, tokenizer, settings.max_length, settings.stride,
                                    settings.precision)
             for name, one in (models | {"pruned": pruned}).items()}
asked = data["eval"].select(range(min(200, len(data["eval"]))))
show_broken(asked, {name: read_passages(one, asked) for name, one in answerers.items()})

# %% [markdown]
# **Your question.** Change the question or the passage and run the cell again.

# %% part="question"

# %% [markdown]
# **3.10 The mask file.** A mask at 10% needs at least 0.469 bits per weight, the entropy of its entries. With
# the unchanged base model, this file is all that the task needs: base and masks give the logits of the merged
# model, bit for bit.

# %% part="mask-file"

# %% [markdown]
# # 4 Your result
#
# EM retained is the EM divided by the fine-tuned model's; its ± is from the differences of each question.
# The reference runs have the same profile.
# `show_records(results)` prints the table of all records in `results/`. Try `SET = {"score_init": 0}`, another
# seed, or another rule in `keep_top`. Next: `BERT_SMP_KD.ipynb`, which adds a teacher.

# %%
record = finish_record(
    record, run, scores, head=head, params_total=params_total, layers=layers,
    bytes_mask_file=mask_bytes, bytes_model=model_bytes(saved), n_train=len(data["train"]),
    n_eval=len(data["eval"]))
keep_record(record, results, saved, checkpoints)
show_result(record, results, REFERENCE, dense[1] if dense else None)
