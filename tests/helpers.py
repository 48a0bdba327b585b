"""Helpers of several tests: a tiny BERT, masks on a stock model, a compiler, cells in IPython."""

import contextlib
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
from transformers import BertConfig

from smp.fast.products import compiled_products
from smp.method.masks import Masks, competing_share, same_share
from smp.model.encoder import encoder_linears, freeze_encoder

SQUAD = Path(os.environ.get("SMP_DATA", "SMP_DATA is not set"), "squad")
needs_squad = pytest.mark.skipif(
    not SQUAD.is_dir(), reason="needs real SQuAD: set SMP_DATA to a folder that contains squad/")


def tiny_config(**changes):
    return BertConfig(**dict(
        vocab_size=30522, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=128, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ) | changes)


@contextlib.contextmanager
def compiler_named(name):
    """Compile the sparse products again in the block, with the compiler of this name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", str(name))
        compiled_products.cache_clear()
        try:
            yield
        finally:
            compiled_products.cache_clear()


def attach_masks(model, sharing="local", temperature=1.0, start=0.0, vectors=False, kind=Masks,
                 **options):
    """Attach plain masks to a stock model and freeze the other parameters of its encoder."""
    if not kind.trains_weights:
        freeze_encoder(model, vectors)
    share = same_share if sharing == "local" else functools.partial(
        competing_share, temperature=temperature)
    return kind(encoder_linears(model), share, start, **options)


def change_json(path, *place, value):
    """Set the value at `place`, keys one in the other, in a JSON file."""
    path = Path(path)
    content = node = json.loads(path.read_text("utf-8"))
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    path.write_text(json.dumps(content), "utf-8")


def swap_unused_tokens(folder):
    """Exchange the ids of two tokens that no text contains in a saved tokenizer."""
    for token, number in (("[unused0]", 2), ("[unused1]", 1)):
        change_json(Path(folder, "tokenizer.json"), "model", "vocab", token, value=number)


def keep_capitals(folder):
    """Make a saved tokenizer keep upper case."""
    change_json(Path(folder, "tokenizer_config.json"), "do_lower_case", value=False)


def change_weight(folder, name):
    """Add 1 to a tensor of a saved model."""
    path = Path(folder, "model.safetensors")
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors | {name: tensors[name] + 1}, path, {"format": "pt"})


def linears_of(masks):
    """Return {name: nn.Linear} of the masked layers."""
    return {name: linear for name, _, _, linear in masks.matrices}


def run_in_ipython(sources, folder):
    """Run cells as a kernel does, in a separate process; return their output."""
    code = ("import json, sys\nfrom IPython.core.interactiveshell import InteractiveShell\n"
            "shell = InteractiveShell.instance(colors='NoColor')\n"
            "for cell in json.load(sys.stdin):\n"
            "    result = shell.run_cell(cell, store_history=True)\n"
            "    result.raise_error()\n")
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(sources), text=True,
                          capture_output=True, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    return done.stdout
