"""Load a saved model, or a base model and a mask file, by name: for answers and for export."""

import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from torch import nn
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from smp.fast.compact_file import load_compact
from smp.fast.products import compiled_products
from smp.fast.sparse import SparseLinear
from smp.files import cached_if_offline
from smp.model.load import check_max_length, load_pretrained, load_qa_model
from smp.model.question_answerer import QuestionAnswerer
from smp.model.save import head_parts, model_fingerprint
from smp.model.student import label_word_head, load_student
from smp.task.apply import apply_task
from smp.task.formats import ABOUT, onnx_model, read_about
from smp.task.mask_file import MASK_FILE
from smp.task.openvino_model import openvino_model
from smp.task.validate import check_task, read_any_masks
from smp.text import first_line


def find_mask_file(name: Path | str) -> Path:
    """Return the path of a mask file, given as a file, its folder, or a repository on the Hub.

    Raises FileNotFoundError with one line if there is none.
    """
    path = Path(os.path.expanduser(name))
    is_folder, text = path.is_dir(), str(name)
    path = path / MASK_FILE if is_folder else path
    if path.is_file():
        return path
    if is_folder or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise FileNotFoundError(f"{path}: no such mask file")
    try:
        with cached_if_offline():
            return Path(hf_hub_download(text, MASK_FILE))
    except Exception as error:  # the Hub's client and HTTP raise many types
        raise FileNotFoundError(
            f"{name}: no such mask file, no such folder, and no download of {MASK_FILE} from the "
            f"Hub ({first_line(error)})") from None


def load_any_task(base: str, name: Path | str,
                  max_length: int | None = None) -> tuple[nn.Module, Any, dict]:
    """Return (model, tokenizer, about) of a base model and a mask file of any format.

    base: folder or Hub name; name: as in `find_mask_file`; about: as in `read_any_masks`. Raises
    ValueError or FileNotFoundError with one line if one is missing or they do not fit.
    """
    path = find_mask_file(name)
    _, about = task = read_any_masks(path)
    model, tokenizer, kind = load_student(base, None, max_length, about.get("head", "auto"))
    head = head_parts(model).state_dict() if kind == "trained" else {}
    masks = check_task(path, task, model, base, model_fingerprint(model), model.setup, head)
    apply_task(model, masks, about)
    return model.eval(), tokenizer, about


def load_saved(name: str, max_length: int | None = None) -> tuple[nn.Module, Any]:
    """Return (model, tokenizer) of a saved model, with the head that it was trained with."""
    model, tokenizer, has_head = load_qa_model(name, max_length=max_length)
    if not has_head:  # a model with a label-word head is saved as its masked language model
        model, tokenizer, _ = load_student(name, None, max_length, "label words")
    return model.eval(), tokenizer


def load_small(folder: Path, tokenizer: Any, products: list[str]) -> nn.Module:
    """Return the question-answering model of a compact file.

    products: names of matrices to multiply in CSR; without a C compiler they stay dense.
    """
    model: Any = load_compact(folder)
    if not hasattr(model, "qa_outputs"):  # a label-word head is saved as its masked language model
        host, model = model, AutoModelForQuestionAnswering.from_config(model.config)
        setattr(model, model.base_model_prefix, host.base_model)
        model.qa_outputs = label_word_head(host, tokenizer)
    if products and compiled_products() is not None:
        for name in products:
            model.base_model.set_submodule(
                name, SparseLinear(model.base_model.get_submodule(name)))
    return model.eval().requires_grad_(False)


def load_format(folder: Path | str, on_cpu: bool = True) -> tuple[nn.Module, Any, dict]:
    """Return (model, tokenizer, content of smp_format.json) of a format that `smp export` wrote.

    on_cpu: False for another device, where CSR products stay dense. Raises ValueError or
    FileNotFoundError with one line if a file is missing or damaged.
    """
    folder = Path(folder)
    about = read_about(folder)
    kind, tokens = about["format"], about["tokens"]
    if kind == "dense" and not (folder / "compact.json").exists():
        return *load_saved(str(folder)), about
    tokenizer = load_pretrained(AutoTokenizer, str(folder), use_fast=True)
    try:
        if kind in ("dense", "csr"):
            model = load_small(folder, tokenizer, about.get("products", []) if on_cpu else [])
        elif kind == "onnx":
            model = onnx_model(folder / "model.onnx", tokens)
        else:
            model = openvino_model(folder / "model.xml", tokens)
    except ImportError as error:
        raise ValueError(f"{folder}: {first_line(error)}; "
                         f'pip install "bert-smp[{kind.split("-")[0]}]"') from None
    except Exception as error:  # each engine raises types of its own
        raise ValueError(f"{folder} cannot be loaded as {kind} ({first_line(error)}): export the "
                         "run again") from None
    return model, tokenizer, about


def load_answerer(
    model: str, masks: Path | str | None = None, max_seq_len: int | None = None,
    doc_stride: int | None = None, precision: str = "fp32",
) -> QuestionAnswerer:
    """Return a `QuestionAnswerer` of a saved or exported model, or of a base model and a mask file.

    model: folder or Hub name; masks: as in `find_mask_file`; max_seq_len, doc_stride: those of the
    run for an exported model, otherwise see `QuestionAnswerer`. Raises ValueError or
    FileNotFoundError with one line if one is missing, or if the model has no trained head.
    """
    about: dict = {}
    if masks is None and (Path(os.path.expanduser(model)) / ABOUT).is_file():
        folder = Path(os.path.expanduser(model))
        loaded, tokenizer, about = load_format(folder, not torch.cuda.is_available())
        check_max_length(model, loaded, max_seq_len)
    elif masks is None:
        loaded, tokenizer = load_saved(model, max_seq_len)
    else:
        loaded, tokenizer, _ = load_any_task(model, masks, max_seq_len)
    return QuestionAnswerer(
        loaded, tokenizer, max_seq_len or about.get("max_length"),
        about.get("stride") if doc_stride is None else doc_stride, precision)
