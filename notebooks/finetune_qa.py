# %% [markdown]
# # Fine-tune BERT to answer questions
#
# *Extractive question answering*: given a passage and a question, find the words of the passage
# that answer it. In this notebook a pretrained BERT learns to do that. At the end you will have
#
# - a fine-tuned model in `results/models/`, which the third notebook uses as its **teacher**,
# - its **Exact Match** and **F1** on questions it has never seen, as a record in `results/`,
# - a feeling for the data: what a feature looks like, and which answers go wrong.
#
# | profile | model | data | time |
# |---|---|---|---|
# | `quick` | six-layer MiniLM-BERT, embedded | synthetic questions, embedded | about 3 minutes on two cores, no GPU, no network |
# | `laptop` | the same | 8,000 questions of SQuAD | 10 minutes to half an hour on two cores |
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
DENSITY = None  # of no use here; the same parameters serve all three notebooks
METHOD = None  # likewise
DISTILL = None  # likewise
TEACHER = None  # likewise
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
    PROFILE, "fine-tune", model=MODEL, data=DATA, n_train=N_TRAIN, n_valid=N_VALID, n_eval=N_EVAL,
    epochs=EPOCHS, method=METHOD, distill=DISTILL, density=DENSITY, seed=SEED,
    **SET,
)
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

# %%
from smp.data.reading import data_fingerprint, load_squad

# %%
from smp.data.windows import featurise, fit_windows, split_passages

# %%
data = load_squad(
    settings.data, settings.n_train, settings.n_valid, settings.n_eval, settings.data_seed,
    settings.longest_passage,
)
data

# %% [markdown]
# One example. The answer is marked where `answer_start` says it stands.

# %%
example = data["train"][0]
show_example(example)

# %% [markdown]
# ## One feature, worked by hand
#
# BERT reads numbers. First the encoder and its tokenizer.

# %%
from smp.model.load import load_qa_model, readable_tokens

# %%
from smp.model.save import count_parameters, model_bytes, model_fingerprint, save_model

# %%
from transformers import set_seed

set_seed(settings.seed)  # before the new head is drawn
model, tokenizer, has_head = load_qa_model(
    settings.model, settings.dropout, settings.max_length
)
model_sha = model_fingerprint(model)
settings = fit_windows(settings, data["train"], tokenizer, readable_tokens(model))

# %% [markdown]
# Question and passage become one sequence, `[CLS] question [SEP] passage [SEP]`. The labels are the
# positions of the answer's first and last token, found through the characters that each token
# stands for.

# %%
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
print("they say", repr(tokenizer.decode([by_hand["input_ids"][token] for token in inside])))
print("expected", repr(example["answers"]["text"][0]))

# %% [markdown]
# The function does this for every question, and cuts passages that are too long into windows.

# %%
features = {
    part: featurise(data[part], tokenizer, settings.max_length, settings.stride) for part in data
}
first = features["train"][0]
assert first["input_ids"] == by_hand["input_ids"][: len(first["input_ids"])]
print({part: f"{len(data[part]):,} questions, {len(features[part]):,} windows" for part in data})
print(split_passages(data["train"], tokenizer, settings.max_length))
plot_lengths([len(ids) for ids in features["train"]["input_ids"]], settings.max_length)

# %% [markdown]
# # 2. The model
#
# A stock `BertForQuestionAnswering`: the pretrained encoder, and one new linear layer that gives
# every token a start logit and an end logit.

# %%
for name, part in model.named_children():
    print(f"{name:12}{count_parameters(part):>14,} parameters")
print(f"{'together':12}{count_parameters(model):>14,}")

# %% [markdown]
# # 3. Training

# %%
from smp.method.loop import fit, span_loss

# %%
from smp.runs.training import prepare_training

# %%
from smp.model.predict import evaluate_answers, validator

# %%
record = begin_record(
    settings, model_sha, data_fingerprint(data["eval"]), data_fingerprint(data["train"]))
validate = validator(data["valid"], features["valid"], tokenizer, settings.precision)
if validate:
    untrained = validate(model)
    print(f"before training: EM {untrained['em']:.3f} on {len(data['valid'])} held-out questions")

# %%
checkpoints = run_checkpoints(record, results, CHECKPOINTS)
training = prepare_training(
    model, features["train"], tokenizer, settings, validate=validate, checkpoints=checkpoints,
)
fit(**training, loss=span_loss)
run = training["watch"].run()
print(f"{run['steps']:,} steps, {run['seconds'] / 60:.1f} minutes, {run['device']} {run['precision']}")

# %%
plot_training(run["history"])

# %% [markdown]
# The curve of Exact Match is on questions held out of train; the evaluation set is touched once,
# now.

# %%
scores, predictions = evaluate_answers(
    model, data["eval"], features["eval"], tokenizer, settings.precision
)
print(f"EM {scores['em']:.3f}   F1 {scores['f1']:.3f}   on {len(data['eval']):,} questions")

# %% [markdown]
# # 4. What it gets right, and wrong

# %%
show_answers(data["eval"], predictions)

# %% [markdown]
# Change the question or the passage and run the cell again.

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
# # 5. The model and its record

# %%
saved = save_model(model, tokenizer, results / "models" / record["name"])
record = finish_record(
    record, run, scores, head="trained", params_total=count_parameters(model),
    bytes_model=model_bytes(saved), n_train=len(data["train"]), n_eval=len(data["eval"]),
)
keep_record(record, results, saved)
checkpoints.clear()
print(f"the model is in {saved}")

# %% [markdown]
# The table so far, of every record in `results/`.

# %%
show_summary(results)
