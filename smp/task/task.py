"""A task put onto its base model.

The pretrained model is known already: a mask file makes the task's model of it. Masks fit one
model only, to the last bit, so the file has a hash of the weights they were learned on.
"""

import os
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import hf_hub_download

from smp.model.encoder import biases_and_norms, encoder_linears
from smp.model.load import load_qa_model, load_student
from smp.model.question_answerer import QuestionAnswerer
from smp.model.save import head_parts, model_fingerprint
from smp.task.mask_file import load_masks
from smp.text import first_line, short_name

MASK_FILE = "masks.safetensors"  # in a folder, or on the Hub
VECTORS = "biases and LayerNorms"


def head_weights(model):
    """{name: float32 array} of these parts: what travels with the masks where it was trained."""
    return {
        f"{part}.{name}": tensor.detach().float().cpu().numpy()
        for part, module in head_parts(model).items()
        for name, tensor in module.state_dict().items()
    }


def vector_values(model):
    """{name in the base model: float32 array (n,)} of the biases and LayerNorms of its layers."""
    vectors = biases_and_norms(model).items()
    return {name: vector.detach().float().cpu().numpy() for name, vector in vectors}


def describe_task(begun, model, base, revision, head, scores, n_eval):
    """What a mask file says of itself, from a record begun before and the scores after.

    model: the student, trained; base: the name it was loaded by, of a path the last part goes in;
    revision: the commit it has on the Hub, None where it is not from there.
    """
    keys = ("name", "method", "sharing", "data", "data_sha", "settings")
    return {
        "base": begun["model"] if os.path.isdir(os.path.expanduser(base)) else short_name(base),
        "base_revision": revision,
        "base_sha": begun["model_sha"], "density": begun["density_target"], "head": head,
        "em": scores["em"], "f1": scores["f1"], "n_eval": n_eval,
        **{key: begun[key] for key in keys},
        **({"head_weights": head_weights(model)} if head == "trained" else {}),
        **({"vectors": vector_values(model)} if begun["settings"].get("vector_learning_rate")
           else {}),
    }


def find_mask_file(name):
    """The mask file that is meant: a file, a folder that holds one, or a repository of the Hub.

    Raises FileNotFoundError with one line where there is none.
    """
    path = Path(os.path.expanduser(name))
    is_folder, text = path.is_dir(), str(name)
    path = path / MASK_FILE if is_folder else path
    if path.is_file():
        return path
    if is_folder or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise FileNotFoundError(f"{path}: no such mask file")
    try:
        return Path(hf_hub_download(str(name), MASK_FILE))
    except Exception as error:  # the Hub's client and HTTP each raise their own
        raise FileNotFoundError(
            f"{name}: neither a mask file nor a folder with {MASK_FILE} in it, nor a repository "
            f"that the Hub would give ({first_line(error)})"
        ) from None


def read_task(name):
    """(path, masks, what the file says of itself, the kind of head that load_student should make),
    of what `find_mask_file` finds. Raises as that and `load_masks` do."""
    path = find_mask_file(name)
    masks, about = load_masks(path)
    head = about.get("head", "auto")  # the first form of the file does not say
    if head not in ("auto", "label words", "embedding rows", "trained"):
        raise ValueError(f"{path}: its head is {str(head)[:40]!r}, of a kind not known here")
    return path, masks, about, head


def check_task(path, about, head, sha, base):
    """ValueError, one line, unless the mask file is of a base whose weights have the hash `sha`,
    and of a task with a head of the kind that was made for it."""
    if about.get("base_sha") != sha:
        raise ValueError(
            f"{path}: its masks belong to {about.get('base')!r} with weights "
            f"{about.get('base_sha')!r}, {base!r} has {sha!r}: name the base they were learned on"
        )
    if "head" not in about and head == "trained":
        raise ValueError(
            f"{path}: is of an older form, without its trained head: load the model that was saved "
            "beside it, or run again"
        )
    if "head" in about and ("head_weights" in about) != (about["head"] == "trained"):
        raise ValueError(f"{path}: its head is {about['head']!r}, which does not fit its tensors")


# On the model, a mask is a product: the stock model's weights become $W \odot M$. With a frozen
# head nothing else is needed; a trained one is filled in, and so are trained biases and LayerNorms.
def check_masks(linears, masks):
    """ValueError, one line, unless the masks {name: bool array (out, in)} are of the encoder's
    matrices {name: nn.Linear}."""
    odd = sorted(linears.keys() ^ masks.keys())
    if odd:
        whose = "model" if odd[0] in linears else "masks"
        raise ValueError(f"only the {whose} has {odd[0]}: expected one mask for each matrix")
    for name, linear in linears.items():
        found, expected = masks[name].shape, tuple(linear.weight.shape)
        if found != expected or masks[name].dtype != bool:
            raise ValueError(
                f"the mask {name} is {masks[name].dtype} of shape {found}, expected bool of "
                f"shape {expected}"
            )


@torch.no_grad()
def apply_masks(model, masks):
    """Writes W * M into the weights of a stock model, for each mask {name: bool array (out, in)}.

    Raises ValueError, with nothing changed, where names or shapes are not the encoder's, where a
    mask is not bool, or where masks are being learned on the model.
    """
    linears = {name: linear for name, *_, linear in encoder_linears(model)}
    check_masks(linears, masks)
    for name, linear in linears.items():
        linear.weight.mul_(torch.from_numpy(masks[name]).to(linear.weight.device))


def check_arrays(tensors, arrays, path, what):
    """ValueError, one line, unless the arrays {name: array} are finite float32 of the names and
    shapes of the tensors; what: "head", say."""
    for name in sorted(tensors.keys() | arrays.keys()):
        found, here = "nothing", "nothing"
        if name in arrays:
            array = arrays[name]
            found = f"{array.dtype} of shape {array.shape}"
            if array.dtype == np.float32 and not np.isfinite(array).all():
                found = "not finite"
        if name in tensors:
            here = f"float32 of shape {tuple(tensors[name].shape)}"
        if found != here:
            raise ValueError(f"{path}: of its {what}, {name} is {found}; this model has {here}")


@torch.no_grad()
def fill(tensors, arrays, path, what):
    """Puts the arrays {name: array} into the tensors of the same names; nothing where there are
    none. ValueError, with nothing changed, where they do not fit, see `check_arrays`."""
    if arrays:
        check_arrays(tensors, arrays, path, what)
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(arrays[name]))


def fill_head(parts, about, path):
    """Puts a trained head's weights into its parts; ValueError where they do not fit."""
    own = {f"{part}.{name}": tensor for part, module in parts.items()
           for name, tensor in module.state_dict().items()}
    fill(own, about.get("head_weights"), path, "head")


def load_task(base, path, max_length=None):
    """(model, tokenizer, what the file says of itself): the base model pruned by a mask file.

    base: folder or Hub name; path: as `find_mask_file` takes it. Raises ValueError or
    FileNotFoundError with one line where one of them is not what it should be.
    """
    path, masks, about, head = read_task(path)
    model, tokenizer, head = load_student(base, max_length=max_length, head=head)
    check_task(path, about, head, model_fingerprint(model), base)
    apply_masks(model, masks)
    fill(biases_and_norms(model), about.get("vectors"), path, VECTORS)
    fill_head(head_parts(model), about, path)
    return model.eval(), tokenizer, about


def load_answerer(model, masks=None, max_length=None, stride=128, precision="fp32"):
    """Return a `QuestionAnswerer` of a saved model, or of a base model and a mask file.

    model: folder or Hub name; masks: as `find_mask_file` takes it. Raises ValueError or
    FileNotFoundError with one line where there is none, or the model has no trained head.
    """
    if masks is not None:
        loaded, tokenizer, _ = load_task(model, masks, max_length)
    else:
        loaded, tokenizer, has_head = load_qa_model(model, max_length=max_length)
        if not has_head:  # saved as the masked language model whose head it uses
            loaded, tokenizer, _ = load_student(model, None, max_length, "label words")
    return QuestionAnswerer(loaded.eval(), tokenizer, max_length, stride, precision)
