"""Many tasks on one base model.

The verbs are those that users of adapters know. The base stays in memory once; a task is the
code of its masks, half a bit a weight at 10%, its head, and its biases and LayerNorms where they
were trained. Its masked weights are made when it is set, and those of the last two tasks are
kept, so that going back and forth between them only changes which tensors the stock model points
at (biases and LayerNorms, which are few, are copied).
"""

import copy
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from huggingface_hub import HfApi
from transformers import AutoTokenizer

from smp.files import replace_text_file
from smp.model.encoder import biases_and_norms, encoder_linears
from smp.model.head import LabelWordHead
from smp.model.load import load_pretrained, load_student
from smp.model.mask_code import decode_mask, encode_mask
from smp.model.save import head_parts, model_fingerprint, stock_model
from smp.task.cards import mask_card
from smp.task.mask_file import save_masks
from smp.task.task import (
    MASK_FILE,
    VECTORS,
    check_arrays,
    check_masks,
    check_task,
    fill_head,
    read_task,
)
from smp.text import first_line


class PrunedModel:
    """A stock model, `model`, as one of the tasks that were loaded; as the base at first.

    model: a stock question-answering model of untouched weights in fp32; base: the name or folder
    it was loaded by; head: the kind that it has. ready: of so many tasks the masked weights stay in
    memory, each as large as the encoder's matrices; they are made again for one set less recently.
    """

    def __init__(self, model, tokenizer, base, head, ready=2):
        self.model, self.tokenizer, self.base = model.eval(), tokenizer, base
        self.sha, self.heads = model_fingerprint(model), {head: head_parts(model)}
        self.linears = {name: linear for name, _, _, linear in encoder_linears(model)}
        self.own = {name: linear.weight.data for name, linear in self.linears.items()}
        self.vectors = biases_and_norms(model)
        self.own_vectors = {name: vector.data for name, vector in self.vectors.items()}
        self.tasks, self.active = {}, None
        self.masked_weights = lru_cache(ready)(self.mask_weights)

    @classmethod
    def from_pretrained(cls, base, path, name="default", ready=2):
        """The base pruned by a mask file.

        base: folder, Hub name, or a stock question-answering model loaded from one; path: a mask
        file, a folder that holds one, or a Hub name. Raises ValueError or FileNotFoundError with
        one line for another base than the masks' own, or a file that is damaged or foreign.
        """
        if isinstance(base, str):
            model, tokenizer, head = load_student(base, head=read_task(path)[3])
        else:
            model, base = base, base.config._name_or_path
            words = isinstance(getattr(model, "qa_outputs", None), LabelWordHead)
            head = "label words" if words else "trained"
            tokenizer = load_pretrained(AutoTokenizer, base, use_fast=True)
        pruned = cls(model, tokenizer, base, head, ready)
        pruned.load_mask(path, name)
        pruned.set_mask(name)
        return pruned

    def load_mask(self, path, name):
        """One task more, under `name`; it is not set yet. Raises as `from_pretrained` does."""
        path, masks, about, head = read_task(path)
        if head not in self.heads:
            student, _, head = load_student(self.base, head=head)
            self.heads[head] = head_parts(student)
        check_task(path, about, head, self.sha, self.base)
        check_masks(self.linears, masks)
        if vectors := about.get("vectors"):
            check_arrays(self.vectors, vectors, path, VECTORS)
        parts = copy.deepcopy(self.heads[head])
        fill_head(parts, about, path)
        codes = {matrix: encode_mask(mask) for matrix, mask in masks.items()}
        self.tasks[name] = codes, parts, about
        self.masked_weights.cache_clear()  # there may have been another of that name

    def masks(self, name):
        """{name of the matrix in the base model: bool array (out, in)} of a task."""
        return {matrix: decode_mask(code, self.own[matrix].shape)
                for matrix, code in self.tasks[name][0].items()}

    def mask_weights(self, name):
        masks = self.masks(name)
        return {matrix: own * torch.from_numpy(masks[matrix]).to(own.device)
                for matrix, own in self.own.items()}

    @torch.no_grad()
    def set_mask(self, name):
        """Makes `model` the task of that name; KeyError where none was loaded under it."""
        if name not in self.tasks:
            raise KeyError(f"no task {name!r}: expected one of {', '.join(map(repr, self.tasks))}")
        device, weights = self.model.device, self.masked_weights(name)
        for matrix, linear in self.linears.items():
            linear.weight.data = weights[matrix].to(device)
        values = self.tasks[name][2].get("vectors", self.own_vectors)
        for vector, parameter in self.vectors.items():
            parameter.data = torch.asarray(values[vector], device=device, copy=True)
        for part, module in self.tasks[name][1].items():
            setattr(self.model, part, module.to(device).eval())
        self.active = name

    def merge_and_unload(self):
        """A stock model of its own, the task's masks written into its weights.

        With a label-word head it is the masked language model whose logits of "yes" and "no" are
        the start and end logits, for no stock question-answering model has such a head.
        """
        return copy.deepcopy(stock_model(self.model, self.base))

    def save_pretrained(self, folder):
        """Writes the task that is set: its mask file and a card. -> bytes of the mask file"""
        folder, about = Path(folder), self.tasks[self.active][2]
        size = save_masks(self.masks(self.active), folder / MASK_FILE, **about)
        replace_text_file(folder / "README.md", mask_card(about, size))
        return size

    def push_to_hub(self, repository, private=None):
        """The same onto the Hub. ValueError with one line where the Hub does not take it."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            try:
                hub = HfApi()
                hub.create_repo(repository, private=private, exist_ok=True)
                return hub.upload_folder(repo_id=repository, folder_path=folder)
            except Exception as error:  # the Hub's client and HTTP each raise their own
                raise ValueError(
                    f"{repository!r}: the Hub did not take it ({first_line(error)}); log in with "
                    "`hf auth login`, and name owner/name"
                ) from None
