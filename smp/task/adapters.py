"""Switch one base model between tasks, with the verbs of PEFT's adapters.

The base model is in memory once. A task consists of the codes of its masks (0.5 bits a weight at
10% density), its head, and its biases and LayerNorms if they were trained. `set_mask` computes the
masked weights.
"""

import copy
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi
from torch import nn
from transformers import AutoTokenizer

from smp.files import replace_text_file
from smp.model.encoder import biases_and_norms, encoder_linears
from smp.model.load import load_pretrained
from smp.model.mask_code import decode_mask, encode_mask
from smp.model.question_answerer import QuestionAnswerer
from smp.model.save import head_parts, model_fingerprint, model_setup
from smp.model.student import LabelWordHead, load_student, stock_model
from smp.task.answerer import find_mask_file
from smp.task.cards import mask_card
from smp.task.mask_file import MASK_FILE, save_masks
from smp.task.validate import check_task, load_any_masks
from smp.text import first_line


class PrunedModel:
    """A stock model, `model`, as the base model or one of the loaded tasks.

    model: a stock question-answering model with its original weights in fp32; base: the name it
    was loaded by; head: its head of STUDENT_HEADS; ready: the number of tasks whose masked weights
    stay in memory.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, base: str, head: str, ready: int = 2):
        self.model, self.tokenizer, self.base = model.eval(), tokenizer, base
        self.sha, self.heads = model_fingerprint(model), {head: head_parts(model)}
        self.setup = model_setup(model, tokenizer)
        self.linears = {name: linear for name, _, _, linear in encoder_linears(model)}
        self.own = {name: linear.weight.data for name, linear in self.linears.items()}
        self.vectors = biases_and_norms(model)
        self.own_vectors = {name: vector.data for name, vector in self.vectors.items()}
        self.tasks: dict[str, tuple] = {}  # {name: (codes of the masks, parts of the head, about)}
        self.active = ""  # the name of the current task
        self.masked_weights = lru_cache(ready)(self.mask_weights)

    @classmethod
    def from_pretrained(
        cls, base: Any, path: Path | str, name: str = "default", ready: int = 2
    ) -> "PrunedModel":
        """Return the base model pruned by a mask file.

        base: folder, Hub name, or a stock question-answering model loaded from one; path: as in
        `find_mask_file`. Raises ValueError or FileNotFoundError with one line if they do not fit.
        """
        if isinstance(base, str):
            about = load_any_masks(find_mask_file(path))[1]
            model, tokenizer, head = load_student(base, head=about.get("head", "auto"))
        else:
            model, base = base.float(), base.config._name_or_path
            words = isinstance(getattr(model, "qa_outputs", None), LabelWordHead)
            head = "label words" if words else "trained"
            tokenizer = load_pretrained(AutoTokenizer, base, use_fast=True)
        pruned = cls(model, tokenizer, base, head, ready)
        pruned.load_mask(path, name)
        pruned.set_mask(name)
        return pruned

    def load_mask(self, path: Path | str, name: str) -> None:
        """Load one more task as `name`, without setting it unless `name` is the current task.

        Raises as `from_pretrained`.
        """
        path = find_mask_file(path)
        masks, about = task = load_any_masks(path)
        kind = about.get("head", "auto")
        if kind not in self.heads:
            student, _, kind = load_student(self.base, head=kind)
            self.heads[kind] = head_parts(student)
        parts = copy.deepcopy(self.heads[kind])
        head = parts.state_dict() if kind == "trained" else {}
        setup = self.setup | {"head": model_fingerprint(parts, with_head=True)}
        check_task(path, task, self.model, self.base, self.sha, setup, head)
        for tensor_name, array in about.get("head_weights", {}).items():
            head[tensor_name].copy_(torch.from_numpy(array))
        codes = {matrix: encode_mask(mask) for matrix, mask in masks.items()}
        self.tasks[name] = codes, parts, about
        self.masked_weights.cache_clear()  # the name may have had another task
        if name == self.active:
            self.set_mask(name)

    def masks(self, name: str) -> dict[str, np.ndarray]:
        """Return {matrix: bool array (out, in)} of a task."""
        return {matrix: decode_mask(code, self.own[matrix].shape)
                for matrix, code in self.tasks[name][0].items()}

    def mask_weights(self, name: str) -> dict[str, torch.Tensor]:
        """Compute {matrix: masked weights (out, in)} of a task; `masked_weights` is cached."""
        masks = self.masks(name)
        return {matrix: own * torch.from_numpy(masks[matrix]).to(own.device)
                for matrix, own in self.own.items()}

    @torch.no_grad()
    def set_mask(self, name: str) -> None:
        """Make `model` the task of this name.

        Raises KeyError if no such task is loaded, and ValueError if a matrix of the model was
        replaced or made smaller.
        """
        if name not in self.tasks:
            raise KeyError(f"no task {name!r}: expected one of {', '.join(map(repr, self.tasks))}")
        for matrix, linear in self.linears.items():
            now: Any = self.model.base_model.get_submodule(matrix)
            if now is not linear or linear.weight.shape != self.own[matrix].shape:
                raise ValueError(f"{matrix} was replaced or made smaller, so no mask fits: change "
                                 "a copy of the model, pruned.merge_and_unload()")
        place = {"device": self.model.device, "dtype": self.model.dtype}
        weights = self.masked_weights(name)
        for matrix, linear in self.linears.items():
            linear.weight.data = weights[matrix].to(**place)
        values = self.tasks[name][2].get("vectors", self.own_vectors)
        for vector, parameter in self.vectors.items():
            parameter.data = torch.asarray(values[vector], **place, copy=True)
        for part, module in self.tasks[name][1].items():
            setattr(self.model, part, copy.deepcopy(module).to(**place).eval())
        self.active = name

    def answer(self, question: Any, context: Any = None, precision: str = "fp32",
               **options: Any) -> Any:
        """Return the current task's answer, or a list of answers: see `QuestionAnswerer`."""
        answerer = QuestionAnswerer(self.model, self.tokenizer, precision=precision)
        return answerer(question, context, **options)

    def merge_and_unload(self) -> nn.Module:
        """Return a stock copy with the masks merged into its weights, as `stock_model` does."""
        return copy.deepcopy(stock_model(self.model, self.base))

    def save_pretrained(self, folder: Path | str) -> int:
        """Write the current task's mask file and card; return the bytes of the mask file."""
        folder, about = Path(folder), self.tasks[self.active][2]
        size = save_masks(self.masks(self.active), folder / MASK_FILE, **about)
        replace_text_file(folder / "README.md", mask_card(about, size))
        return size

    def push_to_hub(self, repository: str, private: bool | None = None) -> Any:
        """Upload what `save_pretrained` writes. Raises ValueError with one line if it fails."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            try:
                hub = HfApi()
                hub.create_repo(repository, private=private, exist_ok=True)
                return hub.upload_folder(repo_id=repository, folder_path=folder)
            except Exception as error:  # the Hub's client and HTTP raise many types
                raise ValueError(
                    f"{repository!r}: the upload to the Hub failed ({first_line(error)}); log in "
                    "with `hf auth login`, and use the form owner/name") from None
