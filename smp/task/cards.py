"""Model cards: the README.md of a mask file or a saved model, with metadata for the Hub."""

from huggingface_hub import EvalResult, ModelCardData

from smp.text import as_percent

PLAIN_HEAD = """\
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

model = AutoModelForQuestionAnswering.from_pretrained("this folder")
tokenizer = AutoTokenizer.from_pretrained("this folder")
out = model(**tokenizer("a question", "a passage", return_tensors="pt"))
start, end = out.start_logits, out.end_logits
"""
WORD_HEAD = """\
from transformers import AutoModelForMaskedLM, AutoTokenizer

model = AutoModelForMaskedLM.from_pretrained("this folder")
tokenizer = AutoTokenizer.from_pretrained("this folder")
yes, no = (tokenizer.encode(" " + word, add_special_tokens=False)[0] for word in ("yes", "no"))
logits = model(**tokenizer("a question", "a passage", return_tensors="pt")).logits
start, end = logits[..., yes], logits[..., no]
"""
MASK_CODE = """\
from smp import PrunedModel  # of the repository that made the masks

pruned = PrunedModel.from_pretrained({base!r}, "this folder")
print(pruned.answer("a question", "a passage"))
"""
PRUNED_NOTE = """\
The pruned weights are stored as zeros, so the file is as large as that of the base model, and \
dense inference is as slow. The mask file and the compact model are smaller.

"""
WORD_HEAD_NOTE = """\
Its head is the frozen masked-LM head of the base model: the masked-LM logits of *yes* and *no* \
are the start and end logits. No stock question-answering class has such a head, so the model is \
loaded as a masked language model.

"""


def card_metadata(about: dict) -> str:
    """Return the card's YAML block for the Hub, of the fields that are known."""
    scores = [
        EvalResult(
            task_type="question-answering", dataset_type=about["data"], dataset_name=about["data"],
            metric_type=kind, metric_value=round(about[field], 4),
        )
        for field, kind in (("em", "exact_match"), ("f1", "f1")) if field in about
    ]
    data = ModelCardData(
        model_name=about.get("name"), eval_results=scores or None, base_model=about.get("base"),
        datasets=[about["data"]] if "data" in about else None,
        pipeline_tag="question-answering", tags=["static-model-pruning"],
    )
    return f"---\n{data.to_yaml()}\n---\n"


def card_table(about: dict, has_vectors: bool) -> str:
    """Return the list of method, size and scores; has_vectors: biases and LayerNorms trained."""
    lines = [f"- base model: {about.get('base')}, weights `{about.get('base_sha')}`"]
    if "label" in about:
        lines.append(f"- method: {about['label']}")
    if about.get("density") is not None:
        lines.append(f"- remaining encoder weights: {as_percent(about['density'])}")
    if "head" in about:
        lines.append(f"- head: {about['head']}")
    if has_vectors:
        lines.append("- the biases and LayerNorms of the encoder's layers are trained")
    if "em" in about:
        lines.append(
            f"- Exact Match {about['em']:.4f}, F1 {about['f1']:.4f} on {about['n_eval']:,} "
            f"questions of {about['data']} (`{about['data_sha']}`)"
        )
    return "\n".join(lines) + "\n"


def mask_card(about: dict, size: int) -> str:
    """Return the card of a mask file of `size` bytes; about: as `load_masks` returns it."""
    name, code = about.get("name", "masks"), MASK_CODE.format(base=about.get("base"))
    return (
        f"{card_metadata(about)}\n# {name}\n\nThe masks of one task: which weights of the base "
        f"model's encoder remain. The file has {size:,} bytes and is applied to the base model.\n\n"
        f"{card_table(about, 'vectors' in about)}\n```python\n{code}```\n"
    )


def model_card(record: dict) -> str:
    """Return the card of a saved model, from the record of its run."""
    about = record | {"base": record["model"], "base_sha": record["model_sha"]}
    has_vectors = record["settings"]["bias_norm_learning_rate"] > 0
    notes, code = "", PLAIN_HEAD
    if record["method"] != "fine-tuned":
        notes += PRUNED_NOTE
    if record["head"] == "label words":
        notes, code = notes + WORD_HEAD_NOTE, WORD_HEAD
    return (
        f"{card_metadata(about)}\n# {record['name']}\n\nA model for extractive question answering. "
        f"{notes}{card_table(about, has_vectors)}\n```python\n{code}```\n"
    )
