# %% [markdown]
# # Static Model Pruning with a teacher
#
# *Static Model Pruning* (SMP; Jiang et al., "Pruning Pre-trained Language Models Without
# Fine-Tuning", ACL 2023) keeps the pretrained weights as they are and learns which of them to keep.
# *Knowledge distillation* (KD) gives it more to learn from than the right answers: the logits of a
# fine-tuned **teacher**. At the end of this notebook you will have
#
# - a BERT that answers questions with half of its encoder's weights (or what you ask for),
# - its **masks**, one bit a weight, as pictures of every layer and along the training,
# - Exact Match, F1 and sparsity as a record in `results/`, and the table of all records.
#
# | profile | model | data | time |
# |---|---|---|---|
# | `quick` | six-layer MiniLM-BERT, embedded | synthetic questions, embedded | about 8 minutes on two cores, no GPU, no network |
# | `laptop` | the same | 8,000 questions of SQuAD | half an hour to an hour and a half on two cores |
# | `minilm` | the same | all of SQuAD | on a GPU; not measured yet |
# | `squad`, `colab`, `paper` | BERT-base-uncased | SQuAD | on a GPU; not measured yet, the README has what it should take |
#
# Run the cells from top to bottom. Nothing else is needed: all the code is in this file.

# %% [markdown]
# ## Parameters
#
# Leave a value at `None` to take the profile's.

# %% tags=["parameters"]
PROFILE = None  # of the table above, in quotes; None: quick
MODEL = None  # a Hub name, a folder, or "all-MiniLM-L6-v2" (embedded)
DATA = None  # a Hub name, a SQuAD-format .json/.json.gz/.json.xz or folder, or "synthetic"
N_TRAIN = None  # questions to train on
N_VALID = None  # questions held out of train, for the curves
N_EVAL = None  # questions to evaluate on
EPOCHS = None
DENSITY = None  # share of the encoder's weights that stay, above 0 and at most 1
METHOD = None  # "smp-l" or "smp-s"
DISTILL = None  # "logits", or "hidden" for the teacher's hidden states too
TEACHER = None  # a folder, .zip or Hub name; None: what the first notebook saved, else made here
SEED = None
RESULTS = None  # folder for records and models; None: results/ of the clone, or here
SET = {}  # any other setting listed below, e.g. {"batch_size": 16, "head": "trained"}
CHECKPOINTS = None  # folder for checkpoints, e.g. on a mounted drive; None: in RESULTS

# %%
from smp.environment import install_missing

# %%
from pathlib import Path

install_missing()

# %%
from smp.runs.settings import changed_settings, choose_settings

# %%
settings = choose_settings(
    PROFILE, "smp-kd", model=MODEL, data=DATA, n_train=N_TRAIN, n_valid=N_VALID, n_eval=N_EVAL,
    epochs=EPOCHS, method=METHOD, distill=DISTILL, density=DENSITY, seed=SEED,
    **SET,
)
if settings.method not in ("smp-l", "smp-s"):
    raise ValueError(f"METHOD is {settings.method!r}: this notebook has smp-l and smp-s; "
                     "`smp sweep --methods` runs the others")
print(f"profile {settings.profile}, changed: {changed_settings(settings) or 'nothing'}")
for name, value in vars(settings).items():
    print(f"  {name:20}{value}")

# %%
from smp.runs.provenance import results_folder

# %%
from smp.runs.run import begin_record, finish_record, keep_record, run_checkpoints, show_summary

# %%
results = results_folder() if RESULTS is None else Path(RESULTS)

# %%
from smp.look.figures import plot_lengths, plot_training, show_answers, show_example

# %% [markdown]
# # 1. The data
#
# Questions, each with a passage that holds its answer. The first notebook looks at them closely;
# here is one, with its answer marked.

# %%
from smp.data.reading import data_fingerprint, load_squad

# %%
from smp.data.windows import featurise, fit_windows, split_passages

# %%
data = load_squad(
    settings.data, settings.n_train, settings.n_valid, settings.n_eval, settings.data_seed,
    settings.longest_passage,
)
show_example(data["train"][0])

# %%
from smp.model.load import load_qa_model, load_student, readable_tokens

# %%
from smp.model.save import count_parameters, model_bytes, model_fingerprint, save_model

# %%
from transformers import set_seed

set_seed(settings.seed)  # before a new head is drawn
model, tokenizer, head = load_student(
    settings.model, settings.dropout, settings.max_length, settings.student_head
)
model_sha, params_total = model_fingerprint(model), count_parameters(model)
settings = fit_windows(settings, data["train"], tokenizer, readable_tokens(model))
revision = getattr(model.config, "_commit_hash", None)  # where it came from the Hub
print(f"{settings.model}: {params_total:,} parameters, head: {head}")

# %% [markdown]
# By hand: the tokens of one question and passage, and the two labels, the first and the last
# token of the answer. Then the function, for all of them.

# %%
example = data["train"][0]
by_hand = tokenizer(
    example["question"], example["context"], max_length=settings.max_length,
    truncation="only_second", return_offsets_mapping=True,
)
answer_start = example["answers"]["answer_start"][0]
answer_end = answer_start + len(example["answers"]["text"][0])
inside = [
    token for token, (start, end) in enumerate(by_hand["offset_mapping"])
    if by_hand.sequence_ids()[token] == 1 and start < answer_end and end > answer_start
]
print("tokens  ", *tokenizer.convert_ids_to_tokens(by_hand["input_ids"])[:24], "...")
print("labels  ", (inside[0], inside[-1]) if inside else "the answer is beyond this window")
print("expected", repr(example["answers"]["text"][0]))

# %%
features = {
    part: featurise(data[part], tokenizer, settings.max_length, settings.stride) for part in data
}
print({part: f"{len(data[part]):,} questions, {len(features[part]):,} windows" for part in data})
print(split_passages(data["train"], tokenizer, settings.max_length))
plot_lengths([len(ids) for ids in features["train"]["input_ids"]], settings.max_length)

# %% [markdown]
# # 2. The teacher
#
# In this order: the parameter TEACHER; the model that the first notebook saved for the same encoder
# and data; a fine-tune of its own, here and now, with the first notebook's settings. TEACHER may be
# the authors' archive, as it was downloaded.

# %% [markdown]
# The student imitates the teacher's logits, softened by a temperature $\tau$:
# $$L = (1 - \alpha)\,\mathrm{CE} + \alpha\,\tau^2\,\mathrm{KL}\big(p_{teacher}^{\tau}\,\|\,
# p_{student}^{\tau}\big) + \beta H + \lambda R .$$
# $H$ is the distance of the hidden states, for which the teacher runs on every batch; SMP has none
# ($\beta = 0$):
# $$H = \frac{1}{L}\sum_{l=1}^{L} \frac{\sum_t \lVert h_{l,t}^{student} - h_{l,t}^{teacher} \rVert^2}
# {\sum_t \lVert h_{l,t}^{teacher} \rVert^2}.$$

# %%
from smp.method.distill import CachedTeacher, distilled_loss

# %%
from smp.method.hidden import HiddenTeacher

# %%
from smp.model.device import make_accelerator

# %%
from smp.model.teacher import check_layers, copy_head, load_teacher, teacher_logits

# %%
from smp.runs.run import find_teacher

# %%
from smp.method.loop import fit, span_loss

# %%
from smp.runs.training import prepare_training

# %%
from smp.model.predict import evaluate_answers, validator

# %%
data_sha, train_sha = (data_fingerprint(data[part]) for part in ("eval", "train"))
found = None if TEACHER else find_teacher(results, model_sha, settings.data)
if TEACHER:
    teacher_name, teacher_record = TEACHER, None
elif found:
    teacher_name, teacher_record = found
else:
    print(f"no fine-tuned {settings.model} in {results / 'models'}: fine-tuning one first")
    teaching = choose_settings(
        settings.profile, "fine-tune", model=settings.model, data=settings.data,
        n_train=settings.n_train, n_valid=settings.n_valid, n_eval=settings.n_eval,
        data_seed=settings.data_seed, longest_passage=settings.longest_passage,
        max_length=settings.max_length, stride=settings.stride, seed=settings.seed,
        **{name: SET[name] for name in ("batch_size", "precision") if name in SET},
    )
    set_seed(teaching.seed)
    teacher, _, _ = load_qa_model(teaching.model, teaching.dropout)
    teacher_record = begin_record(teaching, model_sha, data_sha, train_sha)
    checkpoints = run_checkpoints(teacher_record, results, CHECKPOINTS)
    training = prepare_training(
        teacher, features["train"], tokenizer, teaching, checkpoints=checkpoints)
    fit(**training, loss=span_loss)
    run = training["watch"].run()
    scores, _ = evaluate_answers(
        teacher, data["eval"], features["eval"], tokenizer, teaching.precision
    )
    teacher_name = save_model(teacher, tokenizer, results / "models" / teacher_record["name"])
    teacher_record = finish_record(
        teacher_record, run, scores, head="trained", params_total=count_parameters(teacher),
        bytes_model=model_bytes(teacher_name), n_train=len(data["train"]), n_eval=len(data["eval"]),
    )
    keep_record(teacher_record, results, teacher_name)
    checkpoints.clear()

# %%
teacher = load_teacher(str(teacher_name), tokenizer, settings.max_length, model.config)
if teacher_record and teacher_record["data_sha"] == data_sha:
    teacher_em = teacher_record["em"]  # measured on these very questions
else:
    scores, _ = evaluate_answers(
        teacher, data["eval"], features["eval"], tokenizer, settings.precision
    )
    teacher_em = scores["em"]
print(f"the teacher, {Path(teacher_name).name}: EM {teacher_em:.3f}")

# %%
if settings.init_head_from_teacher:
    copy_head(model, teacher)

# %% [markdown]
# It is asked once about every training window; its logits serve every epoch. (With DISTILL =
# "hidden" the teacher runs on every batch instead.)

# %%
cached = None
if settings.distill == "hidden":
    check_layers(model.config, teacher.config)
else:
    cached = teacher_logits(teacher, features["train"], tokenizer, settings.precision)
    print(f"{tuple(cached.shape)} logits, {cached.nbytes / 1e6:.1f} MB")

# %% [markdown]
# Here is what it says about one window: the probability of each token to start the answer, as it is
# and softened.

# %%
window = features["train"].select([0])
said = teacher_logits(teacher, window, tokenizer, settings.precision)[0, :, 0].float()
soft = (said / settings.distill_temperature).softmax(0)
for token in said.topk(5).indices.tolist():
    word = tokenizer.convert_ids_to_tokens(window["input_ids"][0][token])
    print(f"{word:16} {said.softmax(0)[token]:6.1%}  softened {soft[token]:6.1%}")

# %% [markdown]
# # 3. What a mask is
#
# Take one small matrix. Its weights never change; each has a score, and the highest scores decide
# which weights are seen.

# %% [markdown]
# A masked linear layer computes $y = (W \odot M)\,x + b$. The weights $W$ are frozen. The mask
# $M \in \{0, 1\}$ marks the weights with the $k = \lfloor v\,n \rfloor$ highest scores $S$, where $v$
# is the density and $n$ the number of weights. A mask has no gradient, so the *straight-through*
# estimator gives the scores
# $$\frac{\partial L}{\partial S} = \frac{\partial L}{\partial W'} \odot W,\qquad W' = W \odot M,$$
# for kept and removed weights alike: the score of a removed weight that would help rises, and the
# weight comes back. In SMP-L each matrix has the density $v$. In SMP-S the $L$ layers of one kind of
# matrix compete: layer $l$ gets
# $$v_l = v\,L\,\frac{r_l}{\sum_{l'} r_{l'}},\qquad r_l = \mathrm{mean}\;\sigma(S_l / p).$$
# The regulariser $R$ is the mean of $\sigma(S)$. It lowers kept scores more than removed ones, so the
# mask keeps changing late in the run.

# %%
from smp.method.masks import Masks, competing_share, keep_top, same_share

# %%
from smp.model.encoder import encoder_layers, encoder_linears, freeze_encoder

# %%
from functools import partial

import torch

toy_weights = torch.tensor([[0.5, -1.2, 0.1], [0.9, 0.3, -0.7]])
toy_scores = torch.tensor([[0.2, 0.9, -0.4], [0.2, -0.1, 0.6]])
toy_mask = keep_top(toy_scores, k=3)
print("mask of the three highest scores (0.2 occurs twice: the first one stays)\n", toy_mask.int())
print("what the model sees\n", toy_weights * toy_mask)

# %% [markdown]
# Now the whole encoder. The scores start at 0, or in short runs from the sizes of the weights
# (`score_init`). At density 1 every weight is kept whatever its score, so the masked model must
# answer exactly as the untouched one, to the last bit.

# %% [markdown]
# The density falls on a cubic from 1 to $v_f$ in $N$ steps, and the regulariser's weight rises on the
# mirrored cubic in $T$ steps:
# $$v(t) = v_f + (1 - v_f)\,(1 - t/N)^3,\qquad \lambda(t) = \lambda_f\,\big(1 - (1 - t/T)^3\big).$$

# %%
from smp.method.schedule import Pruning

# %%
probe = {k: torch.tensor([v]) for k, v in by_hand.items() if k != "offset_mapping"}
model.eval()
with torch.no_grad():
    untouched = model(**probe).start_logits
    freeze_encoder(model, settings.trains_biases_and_norms)
    share = same_share if settings.method == "smp-l" else partial(
        competing_share, temperature=settings.temperature)
    masks = Masks(encoder_linears(model), share, settings.score_init)  # faster on a CPU: KeepTop
    assert torch.equal(untouched, model(**probe).start_logits)

params_masked = sum(row["total"] for row in masks.counts())
trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
print(f"{len(masks.counts())} matrices are masked: {params_masked:,} of {params_total:,} parameters")
beside = ["biases and LayerNorms"] * settings.trains_biases_and_norms
beside += ["the head"] * (head == "trained")
print(f"{trained:,} numbers are trained: {', '.join(['the scores', *beside])}")

# %% [markdown]
# How density falls over the run, and the regulariser's weight grows:

# %%
pruning = Pruning(masks, settings)
for part in (0, 0.1, 0.2, 0.4, 0.6, 0.8, 1):
    print(f"{part:4.0%} of the steps: density {pruning.density_at(part, 1):6.1%}, "
          f"lambda {pruning.regulariser_at(part, 1):5.0f}")

# %%
record = begin_record(settings, model_sha, data_sha, train_sha,
                      teacher={"name": Path(teacher_name).name, "em": teacher_em,
                               "sha": model_fingerprint(teacher, with_head=True)})

# %% [markdown]
# # 4. Training
#
# Every student window is held against what the teacher said of it: half the loss is the right
# answer's, half the teacher's. (With DISTILL = "hidden" the distance of the layers counts too.)

# %%
from smp.fast.buffers import reuse_buffers

# %%
from smp.fast.skipping import skip_zeros

# %%
reuse_buffers(masks)
print(skip_zeros(masks, settings.precision))

# %%
from smp.look.snapshot_writer import run_snapshots

# %%
checkpoints = run_checkpoints(record, results, CHECKPOINTS)
snapshots = run_snapshots(record, results, model.config.num_attention_heads)
source = CachedTeacher(cached) if cached is not None else HiddenTeacher(
    model, teacher, encoder_layers, make_accelerator(settings.precision))
training = prepare_training(
    model, features["train"], tokenizer, settings, pruning,
    validate=validator(data["valid"], features["valid"], tokenizer, settings.precision),
    checkpoints=checkpoints, snapshots=snapshots,
)
fit(**training, loss=distilled_loss(
    span_loss, source, settings.distill_weight, settings.distill_temperature,
    settings.hidden_distill_weight,
))
run = training["watch"].run()
print(f"{run['steps']:,} steps, {run['seconds'] / 60:.1f} minutes, {run['device']} {run['precision']}")

# %%
plot_training(run["history"])

# %% [markdown]
# # 5. What is left
#
# Kept weights per layer and type of matrix. SMP-L keeps the same share everywhere; SMP-S lets the
# layers compete.

# %%
from smp.look.explorer import explore

# %%
from smp.look.stills import plot_masks, still

# %%
from smp.look.snapshots import Snapshots

# %%
layers = masks.counts()
saved = Snapshots(snapshots.path)
still(saved, "layers")

# %% [markdown]
# One matrix on its way: the same query at steps of the run.

# %%
last_query = next(name for name, _, layer, _ in masks.matrices if layer == layers[-1]["layer"])
plot_masks(saved, last_query)

# %% [markdown]
# How many of the kept weights were exchanged between two snapshots: late in the run the density
# stands still, and the mask still moves. And how much of the mask the weights' sizes would have
# chosen too.

# %%
still(saved, "over the run")

# %%
still(saved, "heads")

# %% [markdown]
# All of it, step by step, down to single weights. If the training above was stopped, this cell
# still shows what was saved; while it runs, another notebook can show it with the same call.

# %%
explore(snapshots.path)

# %% [markdown]
# # 6. Baked: a plain model again
#
# The mask is written into the weights and taken off. What is saved is a stock Hugging Face model,
# loaded below by stock code, and it is this one that is evaluated, once, on the evaluation set.

# %%
model.cpu().eval()
with torch.no_grad():
    masked_logits = model(**probe).start_logits
    final_masks = masks.numpy()
    masks.merge()
    assert torch.equal(masked_logits, model(**probe).start_logits)

saved = save_model(model, tokenizer, results / "models" / record["name"], base=settings.model)
model, tokenizer, _ = load_student(str(saved))
with torch.no_grad():
    assert torch.equal(masked_logits, model.eval()(**probe).start_logits)
print(f"{saved}: {model_bytes(saved) / 1e6:.1f} MB")

# %%
scores, predictions = evaluate_answers(
    model, data["eval"], features["eval"], tokenizer, settings.precision
)
kept = sum(row["kept"] for row in layers)
print(f"EM {scores['em']:.3f}   F1 {scores['f1']:.3f}   on {len(data['eval']):,} questions,")
print(f"with {kept / params_masked:.1%} of the encoder's weights")

# %%
show_answers(data["eval"], predictions)

# %% [markdown]
# What pruning broke: each question's passage with the probabilities of the answer's start and end,
# the teacher's beside the pruned student's.

# %%
from smp.look.passages import read_passages, show_broken

# %%
asked = data["eval"].select(range(min(200, len(data["eval"]))))
windows = featurise(asked, tokenizer, settings.max_length, settings.stride)
show_broken(asked, {
    name: read_passages(reader, asked, windows, tokenizer, settings.precision)
    for name, reader in (("teacher", teacher), ("student", model))
})


# %% [markdown]
# What must be shipped for this task is less than that model: the masks, and what was trained beside
# them. Put onto the untouched encoder they must give the same logits, to the last bit.

# %%
from smp.task.mask_file import save_masks

# %%
from smp.task.apply import MASK_FILE, describe_task, load_task

# %%
about = describe_task(
    record, model, settings.model, revision, head, scores, len(data["eval"])
)
mask_bytes = save_masks(final_masks, saved / MASK_FILE, **about)
with torch.no_grad():
    from_masks, _, _ = load_task(settings.model, saved)
    assert torch.equal(masked_logits, from_masks(**probe).start_logits)
print(f"{MASK_FILE}: {mask_bytes / 1e6:.2f} MB")

# %% [markdown]
# Ask the pruned model something of your own: change the question or the passage, and run the cell
# again.

# %%
from smp.model.question_answerer import QuestionAnswerer

# %%
question = "Who built the bridge?"
passage = (
    "The bridge over the Lenn was designed by Clara Voss and built by Henrik Dahl, a carpenter from "
    "the village of Ostby. It was opened in 1893 and is 140 metres long."
)
answerer = QuestionAnswerer(
    model, tokenizer, settings.max_length, settings.stride, settings.precision
)
answerer(question, passage)

# %% [markdown]
# # 7. The record, and the table so far

# %%
record = finish_record(
    record, run, scores, head=head, params_total=params_total, layers=layers,
    bytes_mask_file=mask_bytes, bytes_model=model_bytes(saved), n_train=len(data["train"]),
    n_eval=len(data["eval"]),
)
keep_record(record, results, saved)
checkpoints.clear()

# %%
show_summary(results)
