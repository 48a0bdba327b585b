"""Fixtures of all tests: no network, a tiny random BERT with the embedded tokenizer."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import hypothesis
import pytest
import torch
from transformers import AutoTokenizer, BertForMaskedLM, BertForQuestionAnswering

from helpers import attach_masks, tiny_config
from smp.model.load import EMBEDDED_ENCODER, find_model

# The same inputs in each run of the tests; `make fuzz` tries new ones.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(find_model(EMBEDDED_ENCODER))


@pytest.fixture
def tiny_qa():
    torch.manual_seed(0)
    return BertForQuestionAnswering(tiny_config()).eval()


@pytest.fixture
def tiny_masked_lm():
    torch.manual_seed(0)
    model = BertForMaskedLM(tiny_config()).eval()
    torch.nn.init.normal_(model.cls.predictions.bias)  # a pretrained one is not zero
    return model


@pytest.fixture
def base(tmp_path, tiny_masked_lm, tokenizer):
    """Return a folder with a masked language model, like bert-base-uncased."""
    tiny_masked_lm.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def batch():
    torch.manual_seed(1)
    ids = torch.randint(1000, 20_000, (3, 12))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(scope="session")
def synthetic():
    """Return a DatasetDict of synthetic questions: 48 train, 8 valid, 16 eval."""
    from smp.data.reading import load_squad

    return load_squad("synthetic", n_train=48, n_valid=8, n_eval=16)


@pytest.fixture(scope="session")
def windows(synthetic, tokenizer):
    """Return the windows of the training questions, of at most 96 tokens."""
    from smp.data.windows import featurise

    return featurise(synthetic["train"], tokenizer, max_length=96, stride=32)


@pytest.fixture(scope="session")
def kept_masks(tmp_path_factory):
    """Return (snapshot file of a tiny encoder, {step: {name: (mask, scores, |W|)}})."""
    from smp.look.snapshot_writer import SnapshotWriter

    torch.manual_seed(0)
    masks = attach_masks(BertForQuestionAnswering(tiny_config()), "shared", start=1.0)
    path, kept = tmp_path_factory.mktemp("kept") / "run.safetensors", {}
    keeper = SnapshotWriter(path, name="tiny", model="bert", heads=4)
    for step, density in ((0, 1.0), (10, 0.4), (20, 0.05), (30, 0.05)):
        for number, scores in enumerate(masks.scores):  # layer 1 scores higher
            scores.data += 0.3 * torch.randn(scores.shape) - 0.1 * torch.rand(len(scores), 1)
            scores.data += 0.1 * (number // 6)
        masks.refresh(density)
        keeper.keep(step, masks)
        kept[step] = {
            name: (masks.masks[name].mask.numpy().copy(),
                   masks.rankings()[name].detach().numpy().copy(),
                   linear.parametrizations.weight.original.detach().abs().numpy())
            for name, _, _, linear in masks.matrices
        }
    return path, kept
