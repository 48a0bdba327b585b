"""Switch one base model between tasks, with the verbs of PEFT's adapters.

The base model is in memory once, with one more copy of the encoder's matrices, the masked ones. A
task consists of its masks (one bit a weight), its head with its pooler, and its biases and
LayerNorms if they were trained. `set_mask` computes the masked weights in place.
"""

import copy
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi
from torch import nn
from transformers import AutoTokenizer

from smp.model.encoder import biases_and_norms, encoder_linears
from smp.model.load import load_pretrained
from smp.model.question_answerer import QuestionAnswerer
from smp.model.save import head_parts, model_fingerprint, model_setup
from smp.model.student import LabelWordHead, load_student, stock_model
from smp.task.answerer import find_mask_file
from smp.task.heads import empty_host, set_part, task_of, task_parts
from smp.task.mask_folder import save_mask_folder
from smp.task.validate import check_task, read_any_masks
from smp.text import first_line

QUESTIONS = "question-answering"


class PrunedModel:
    """A stock model, `model`, as the base model or one of the loaded tasks.

    model: a stock question-answering model with its original weights in fp32; base: the name it
    was loaded by; head: its head of STUDENT_HEADS. `set_mask` makes `model` a stock model of the
    task's class, for example for token classification; all share the encoder.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, base: str, head: str):
        self.model, self.tokenizer, self.base = model.eval(), tokenizer, base
        self.stock = self.model
        self.sha, self.heads = model_fingerprint(model), {head: head_parts(model)}
        self.setup = model_setup(model, tokenizer)
        self.linears = {name: linear for name, _, _, linear in encoder_linears(model)}
        self.own = {name: linear.weight.data for name, linear in self.linears.items()}
        self.vectors = biases_and_norms(model)
        self.own_vectors = {name: vector.data for name, vector in self.vectors.items()}
        self.tasks: dict[str, tuple] = {}  # {name: (packed masks, model, parts of its head, about)}
        self.active = ""  # the name of the current task

    @classmethod
    def from_pretrained(
        cls, base: Any, path: Path | str, name: str = "default"
    ) -> "PrunedModel":
        """Return the base model pruned by a mask file.

        base: folder, Hub name, or a stock question-answering model loaded from one; path: as in
        `find_mask_file`. Raises ValueError or FileNotFoundError with one line if they do not fit.
        """
        if isinstance(base, str):
            about = read_any_masks(find_mask_file(path))[1]
            model, tokenizer, head = load_student(base, head=about.get("head", "auto"))
        else:
            model, base = base.float(), base.config._name_or_path
            words = isinstance(getattr(model, "qa_outputs", None), LabelWordHead)
            head = "label words" if words else "trained"
            tokenizer = load_pretrained(AutoTokenizer, base, use_fast=True)
        pruned = cls(model, tokenizer, base, head)
        pruned.load_mask(path, name)
        pruned.set_mask(name)
        return pruned

    def load_mask(self, path: Path | str, name: str) -> None:
        """Load one more task as `name`, without setting it unless `name` is the current task.

        Raises as `from_pretrained`.
        """
        path = find_mask_file(path)
        _, about = task = read_any_masks(path)
        kind, host = about.get("head", "auto"), self.stock
        if about.get("task", QUESTIONS) != QUESTIONS:
            try:
                host = empty_host(self.stock, about)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            parts = task_parts(host)
            setattr(host, host.base_model_prefix, self.stock.base_model)
        elif kind not in self.heads:
            student, _, kind = load_student(self.base, head=kind)
            self.heads[kind] = head_parts(student)
        if host is self.stock:
            parts = copy.deepcopy(self.heads[kind])
        head = parts.state_dict() if kind == "trained" else {}
        setup = self.setup | {"head": model_fingerprint(parts, with_head=True)}
        masks = check_task(path, task, self.model, self.base, self.sha, setup, head)
        for tensor_name, array in about.get("head_weights", {}).items():
            head[tensor_name].copy_(torch.from_numpy(array))
        packed = {matrix: np.packbits(mask) for matrix, mask in masks.items()}
        self.tasks[name] = packed, host, parts, about
        if name == self.active:
            self.set_mask(name)

    def masks(self, name: str) -> dict[str, np.ndarray]:
        """Return {matrix: bool array (out, in)} of a task."""
        shapes = {matrix: own.shape for matrix, own in self.own.items()}
        return {matrix: np.unpackbits(bits, count=shapes[matrix].numel()).view(bool).reshape(
            shapes[matrix]) for matrix, bits in self.tasks[name][0].items()}

    def set_masked_weight(self, matrix: str, bits: np.ndarray, place: dict) -> None:
        """Set one weight to its masked one; on a CPU in fp32 in place."""
        weight, own = self.linears[matrix].weight, self.own[matrix]
        mask = np.unpackbits(bits, count=own.numel()).reshape(own.shape)
        plain = {"device": torch.device("cpu"), "dtype": torch.float32}
        apart = weight.data_ptr() != own.data_ptr()  # the base's stay as they are
        if apart and place == plain == {"device": own.device, "dtype": weight.dtype}:
            np.multiply(own.numpy(), mask, out=weight.data.numpy())  # faster than torch's product
        else:
            weight.data = (own * torch.from_numpy(mask).to(own.device)).to(**place)

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
        packed, self.model, parts, about = self.tasks[name]
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # numpy's run side by side
            list(threads.map(partial(self.set_masked_weight, place=place), *zip(*packed.items())))
        values = about.get("vectors", self.own_vectors)
        for vector, parameter in self.vectors.items():
            parameter.data = torch.asarray(values[vector], **place, copy=True)
        if "pooler" not in parts and hasattr(self.model.base_model, "pooler"):
            self.model.base_model.pooler = None
        for part, module in parts.items():
            set_part(self.model, part, copy.deepcopy(module).to(**place).eval())
        self.active = name

    def answer(self, question: Any, context: Any = None, precision: str = "fp32",
               **options: Any) -> Any:
        """Return the current task's answer, or a list of answers: see `QuestionAnswerer`.

        Raises ValueError if the current task does not answer questions.
        """
        if task_of(self.model) != QUESTIONS:
            raise ValueError(f"the task {self.active!r} does not answer questions: use "
                             f"transformers.pipeline({task_of(self.model)!r}, pruned.model, "
                             "tokenizer=pruned.tokenizer)")
        answerer = QuestionAnswerer(self.model, self.tokenizer, precision=precision)
        return answerer(question, context, **options)

    def merge_and_unload(self) -> nn.Module:
        """Return a stock copy with the masks merged into its weights, as `stock_model` does."""
        return copy.deepcopy(stock_model(self.model, self.base))

    def save_pretrained(self, folder: Path | str) -> int:
        """Write the current task's folder, see `save_mask_folder`; return its mask file's bytes."""
        return save_mask_folder(self.masks(self.active), folder, **self.tasks[self.active][3])

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
