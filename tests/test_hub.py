"""A Hub name without a network loads from the cache, or raises one line after one request."""

import shutil
import socket
import time
from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import constants

from smp import hub
from smp.data.reading import load_squad
from smp.model.load import EMBEDDED_ENCODER, load_qa_model
from smp.task.answerer import find_mask_file

LOADERS = {
    "model": lambda: load_qa_model("owner/tiny"), "mask file": lambda: find_mask_file("owner/tiny"),
    "data": lambda: load_squad("owner/tiny", 10, 0, 10),
}


@pytest.fixture
def silent_hub(monkeypatch):
    """A Hub that accepts connections and never answers; 0.2 seconds of patience."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "HUB_PATIENCE", 0.2)
        hub.hub_answers.cache_clear()
        yield server
    hub.hub_answers.cache_clear()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder of a model repository in an empty cache of the Hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder, commit = tmp_path / "models--owner--tiny", "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    return folder / "snapshots" / commit


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_a_name_that_is_not_cached_needs_one_request(load, silent_hub, cache):
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="does not answer, and the local") as error:
            load()
        assert "\n" not in str(error.value)
    assert time.monotonic() - began < 5
    silent_hub.accept()
    with pytest.raises(BlockingIOError):
        silent_hub.accept()
    assert not constants.HF_HUB_OFFLINE


def test_cached_models_and_mask_files_load(silent_hub, cache, tiny_qa, tokenizer):
    tiny_qa.save_pretrained(cache)
    tokenizer.save_pretrained(cache)
    assert load_qa_model("owner/tiny")[0].config.hidden_size == 32
    (cache / "masks.safetensors").touch()
    assert find_mask_file("owner/tiny") == cache / "masks.safetensors"


def test_cached_data_loads(silent_hub, cache, monkeypatch, tmp_path, synthetic):
    """Load from a cache with the layout of `load_dataset("owner/tiny")`."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "data")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    for split, part in (("train", "train"), ("validation", "eval")):
        synthetic[part].to_parquet(tmp_path / "source" / f"{split}.parquet")
    made = load_dataset("parquet", data_dir=str(tmp_path / "source"))
    (file,) = made["train"].cache_files
    folder = Path(file["filename"]).parent  # parquet/default-.../0.0.0/...
    for path in folder.glob("*.arrow"):
        path.rename(path.with_name(path.name.replace("parquet-", "tiny-")))
    shutil.copytree(folder, tmp_path / "data/owner___tiny/default/0.0.0" / folder.name)
    assert load_squad("owner/tiny", 10, 0, 10)["train"]["id"][0] in synthetic["train"]["id"]


def test_local_names_need_no_request(base, monkeypatch):
    monkeypatch.setattr(hub, "hub_answers", lambda *_: pytest.fail("a request to the Hub"))
    for name in (base, EMBEDDED_ENCODER):
        load_qa_model(name)
    load_squad("synthetic", 10, 0, 10)
