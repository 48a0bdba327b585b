# %% [markdown]
# # Fine-tune BERT for question answering
#
# BERT learns to mark the answer to a question in a passage. At the end you will have
#
# - a fine-tuned model in `results/models/`; the third notebook, `BERT_SMP_KD.ipynb`, uses it as a teacher,
# - its Exact Match (EM) on questions with names that training never shows: about 0.94 with `quick`,
# - a picture of what training changed: the same question before and after.
#
# The profile `quick` uses all-MiniLM-L6-v2, a small encoder with BERT's architecture. It takes about four
# minutes on two CPU cores, without a GPU, and without a network once the packages are installed.
#
# Map: [1 the method by hand](#1-The-method-by-hand) ·
# [the training loop](#3.5-The-training-loop) · [the experiment](#3-The-experiment).
# Section 2 is support code and is folded: it runs, but you need not read it.

# %% [markdown]
# **Parameters.** Leave a value at `None` to use the profile's value. `quick` trains MiniLM on synthetic
# questions and `laptop` on 8,000 questions of SQuAD, both without a GPU. `minilm` uses all of SQuAD.
# `colab`, `squad` and `paper` train BERT-base on all of SQuAD, from the shortest to the longest run. They need
# a GPU.

# %% tags=["parameters"]
PROFILE = None  # quick, laptop, minilm, colab, squad, paper; None: quick
MODEL = None  # a Hub name, a folder, or "all-MiniLM-L6-v2" (in a package)
DATA = None  # a Hub name, a SQuAD .json file or folder, or "synthetic"
N_TRAIN = None  # questions to train on
N_VALID = None  # questions held out of train, for the curves
N_EVAL = None  # questions to evaluate on
EPOCHS = None
SEED = None
RESULTS = None  # folder for records and models; None: results/
CHECKPOINTS = None  # folder for checkpoints, for example on a mounted drive
SET = {}  # other settings, for example {"batch_size": 16}

# %% [markdown] part="install"

# %% part="install-code"

# %% [markdown]
# # 1 The method by hand
#
# **1.1 From characters to labels.** Question and passage become one sequence of tokens: `[CLS]` opens
# it, and `[SEP]` ends the question and the passage. The labels are the positions of the answer's first
# and last token. Positions count from 0, and an end in characters is not included.

# %%
question, answer = "Who built the bridge?", "Henrik Dahl"
passage = "The bridge was designed by Clara Voss and built by Henrik Dahl."

words = [match.span() for match in re.finditer(r"\w+|[^\w\s]", passage)]
prefix = ["[CLS]", *re.findall(r"\w+|[^\w\s]", question.lower()), "[SEP]"]
tokens = [*prefix, *(passage[a:b].lower() for a, b in words), "[SEP]"]
first = passage.index(answer)
end = first + len(answer)
inside = [len(prefix) + i for i, (a, b) in enumerate(words) if a < end and b > first]
print(*tokens, f"({len(tokens)} tokens)")
print(f"characters {first} to {end} -> tokens {inside[0]} and {inside[-1]}:",
      *tokens[inside[0] : inside[-1] + 1])

# %% [markdown]
# **1.2 From logits to a loss.** The model gives each token a start logit and an end logit. A logit is the
# logarithm of odds, so the softmax of the logits is the odds divided by their sum. The loss is the mean of
# two cross-entropies.

# %%
from smp.method.loop import span_loss

# %% [markdown]
# Four candidate tokens have start odds 2 : 1 : 4 : 1 and end odds 1 : 5 : 1 : 3. The probability of
# the right start, *henrik*, is 4/8, so its loss is −ln 0.5 = 0.693. The right end, *dahl*, has 3/10 and the
# loss 1.204. The mean is 0.949.

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
# whose start is not after its end. The table shows start odds times end odds. A pair's score is its number
# divided by the sum of all allowed pairs, 12/48. (The decoder also requires tokens of the passage, at most 30.)

# %%
pairs = torch.triu(start_odds.T * end_odds)  # row: start; column: end, not before the start
print(" " * 8 + "".join(f"{name:>8}" for name in candidates))
for name, row in zip(candidates, pairs):
    print(f"{name:8}" + "".join(f"{int(v):8}" if v else f"{'·':>8}" for v in row))
(row, column), total = divmod(int(pairs.argmax()), 4), int(pairs.sum())
print(f"answer: {candidates[row]} {candidates[column]}, "
      f"score {int(pairs.max())}/{total} = {pairs.max() / total:.2f}")

# %% [markdown]
# **1.4 Exact Match and F1.** EM is 1 if the answer equals one of the reference answers, after both are
# lower-cased and lose punctuation and articles. F1 measures shared words: *by Henrik Dahl* has precision 2/3,
# recall 1 and F1 2 · (2/3) · 1 / (2/3 + 1) = 0.8. That equals 2 · shared / (words given + words true) = 4/5.

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
# One cell for each file of the package `smp`: reading data, windows, metric, records, figures. Each cell
# writes its file into a temporary folder, from which the experiment imports. You need not read it.

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
settings.show("model", "data", "n_train", "n_valid", "n_eval", "epochs", "learning_rate", "seed")

# %% [markdown]
# **3.2 The data.** Each question has a passage. The answer is marked ▸like this◂ in it. A synthetic
# passage also contains a rival: another name, place or number of the same kind. The evaluation questions
# use names and some wordings that training never shows.

# %%
from smp.data.reading import data_fingerprint, load_squad
from smp.data.synthetic import find_rival
from smp.look.figures import plot_lengths, plot_training, show_answers, show_examples

data = load_squad(settings.data, settings.n_train, settings.n_valid, settings.n_eval,
                  settings.data_seed, settings.longest_passage)
if settings.data == "synthetic":
    print("answer / rival:", " · ".join(f"{row['answers']['text'][0]} / {find_rival(row)}"
                                        for row in data["train"].select(range(3))))
show_examples(data["train"], 3)

# %% [markdown]
# **3.3 Features.** The model's tokenizer must give the tokens and labels of section 1.1.

# %%
from datasets import Dataset
from transformers import set_seed

from smp.data.windows import featurise, fit_windows
from smp.model.load import load_qa_model, readable_tokens

set_seed(settings.seed)  # the weights of the new output layer are random
model, tokenizer, _ = load_qa_model(settings.model, settings.dropout, settings.max_length)
row = {"id": "0", "title": "", "context": passage, "question": question,
       "answers": {"text": [answer], "answer_start": [first]}}
short = featurise(Dataset.from_list([row]), tokenizer, max_length=384, stride=128)[0]
print("same tokens", tokenizer.convert_ids_to_tokens(short["input_ids"]) == tokens,
      "· same labels", [short["start_positions"], short["end_positions"]] == [inside[0], inside[-1]])

# %% [markdown]
# A long passage is split into windows that share `stride` tokens. Here are windows of 16 tokens. The first
# does not contain the answer, so its labels are 0 and 0, the position of `[CLS]`. `featurise` does this for
# all questions, with the profile's length.

# %%
for window in featurise(Dataset.from_list([row]), tokenizer, max_length=16, stride=4):
    print(window["start_positions"], window["end_positions"],
          *tokenizer.convert_ids_to_tokens(window["input_ids"]))
settings = fit_windows(settings, data["train"], tokenizer, readable_tokens(model))
features = {part: featurise(data[part], tokenizer, settings.max_length, settings.stride)
            for part in data}
print({part: f"{len(data[part]):,} questions, {len(features[part]):,} windows" for part in data})
lengths = [len(ids) for ids in features["train"]["input_ids"]]
plot_lengths(lengths, settings.max_length)

# %% [markdown]
# **3.4 The model.** The unchanged `BertForQuestionAnswering` of transformers: the pretrained encoder and one
# new linear layer with two outputs for each token, the start logit and the end logit. In the small encoder
# the layer has 384 · 2 weights and 2 biases.

# %%
from smp.model.save import count_parameters, model_bytes, model_fingerprint, save_model

for name, part in model.named_children():
    print(f"{name:12}{count_parameters(part):>14,} parameters")

# %% [markdown]
# Before fine-tuning all tokens have nearly the same probability, so the answer is arbitrary. Bars above the
# line are start probabilities, bars below it are end probabilities. Entropy is 0 bits if one token has all
# the probability, and 5.2 bits if 37 tokens have equal shares. This question returns in section 3.9.

# %%
import copy

from smp.look.passages import show_reading
from smp.model.predict import evaluate_answers, validator

validate = validator(data["valid"], features["valid"], tokenizer, settings.precision)
if validate:
    print(f"EM {validate(model)['em']:.3f} on {len(data['valid'])} held-out questions")
question = "Who built the bridge?"
passage = ("The bridge over the Lenn was designed by Clara Voss and built by Henrik Dahl, a carpenter "
           "from the village of Ostby. It was opened in 1893 and is 140 metres long.")
untrained = copy.deepcopy(model)
show_reading({"before": (untrained, tokenizer)}, question, passage)

# %% [markdown]
# ### 3.5 The training loop
#
# All three notebooks use this loop. The lines that mention `pruning` do nothing here.

# %%
from smp.method.loop import INPUTS, fit

# %% [markdown]
# **3.6 Train.** `prepare_training` makes the arguments of `fit`: shuffled batches, AdamW, a learning
# rate that rises and then falls linearly, and `watch`, which draws the curves and writes
# checkpoints. `speed_up` makes the steps faster on a CPU. After an interruption, run the notebook again: it continues. A uniform guess over n tokens
# has the loss ln n: a first loss near the dotted line means that data and labels fit together.

# %%
from functools import partial

from smp.fast.speed_up import speed_up
from smp.runs.edited import edited_method
from smp.runs.run import begin_record, finish_record, keep_record, run_checkpoints
from smp.runs.training import prepare_training

record = begin_record(settings, model_fingerprint(model), data_fingerprint(data["eval"]),
                      data_fingerprint(data["train"]), variant=edited_method(In, METHOD_DIGESTS))
checkpoints = run_checkpoints(record, results, CHECKPOINTS)
speed_up(model)
training = prepare_training(model, features["train"], tokenizer, settings, validate=validate,
                            checkpoints=checkpoints)
fit(**training, loss=span_loss)
run = training["watch"].run()
print(f"{run['steps']:,} steps, {run['seconds'] / 60:.1f} min, {run['device']} {run['precision']}")
plot_training(run["history"], sum(lengths) / len(lengths))

# %% [markdown]
# **3.7 Evaluate.** The evaluation set is used once, here. EM is lower than on the held-out questions, which
# share names with the training questions. ± is the 95% interval of p = EM over n questions,
# 1.96 √(p(1 − p)/n). It does not include the spread over seeds.

# %%
from smp.runs.result import em_text, show_records, show_result

scores, predictions = evaluate_answers(model, data["eval"], features["eval"], tokenizer,
                                       settings.precision)
print(em_text(scores | {"n_eval": len(data["eval"])}), f"  F1 {scores['f1']:.3f}   n {len(data['eval'])}")

# %% [markdown]
# **3.8 Mistakes.** Three right and five wrong answers. Many wrong answers have the right kind and the wrong
# role in the passage: they are the rival of section 3.2.

# %%
wrong = [(row, given["prediction_text"]) for row, given in zip(data["eval"], predictions)
         if given["prediction_text"] not in row["answers"]["text"]]
if settings.data == "synthetic":
    rivals = sum(text == find_rival(row) for row, text in wrong)
    print(f"{rivals} of {len(wrong)} wrong answers are the rival")
show_answers(data["eval"], predictions)

# %% [markdown]
# **3.9 Your question.** The bars are now tall at *Henrik* and *Dahl*. Smaller ones may remain at the rival,
# *Clara Voss*. Change the question or the passage and run the cell again. Try: *Who designed the bridge?*

# %%
question = "Who built the bridge?"
passage = ("The bridge over the Lenn was designed by Clara Voss and built by Henrik Dahl, a carpenter "
           "from the village of Ostby. It was opened in 1893 and is 140 metres long.")
show_reading({"before": (untrained, tokenizer), "fine-tuned": (model, tokenizer)}, question, passage)

# %% [markdown]
# # 4 Your result
#
# The next cell saves the model and the record. `AutoModelForQuestionAnswering.from_pretrained` loads the
# folder. The reference runs have the same profile. Next: `Static_Model_Pruning/BERT_SMP.ipynb`. `show_records(results)` prints the table of all
# records in `results/`.

# %%
saved = save_model(model, tokenizer, results / "models" / record["name"])
record = finish_record(
    record, run, scores, head="trained", params_total=count_parameters(model),
    bytes_model=model_bytes(saved), n_train=len(data["train"]), n_eval=len(data["eval"]))
keep_record(record, results, saved, checkpoints)
print(f"model: {saved}")
show_result(record, results, REFERENCE)
