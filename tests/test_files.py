"""Tests of files that are replaced as a whole, and of Hub names without a network."""

import shutil
import socket
import time
from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import constants

from smp import files
from smp.data.reading import load_squad
from smp.model.load import EMBEDDED_ENCODER, load_qa_model
from smp.task.answerer import find_mask_file

LOADERS = {
    "model": lambda: load_qa_model("owner/tiny"), "mask file": lambda: find_mask_file("owner/tiny"),
    "data": lambda: load_squad("owner/tiny", 10, 0, 10),
}


@pytest.fixture
def silent_hub(monkeypatch):
    """A Hub that accepts connections and never answers; the time limit is 0.2 seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(files, "HUB_TIMEOUT", 0.2)
        files.hub_answers.cache_clear()
        yield server
    files.hub_answers.cache_clear()


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
    monkeypatch.setattr(files, "hub_answers", lambda *_: pytest.fail("a request to the Hub"))
    for name in (base, EMBEDDED_ENCODER):
        load_qa_model(name)
    load_squad("synthetic", 10, 0, 10)


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "folder" / "record.json"
    assert files.replace_text_file(path, "old\r\n") == path
    with files.replaced_file(path) as draft:
        draft.write_text("new")
        assert path.read_bytes() == b"old\r\n" and list(path.parent.glob("*.json")) == [path]
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = files.replace_text_file(tmp_path / "a.txt", "old")
    with pytest.raises(OSError, match="disk full"), files.replaced_file(path) as draft:
        draft.write_text("half")
        raise OSError("disk full")
    with pytest.raises(UnicodeEncodeError):
        files.replace_text_file(path, "half \ud800")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_when_it_is_complete(tmp_path):
    folder = tmp_path / "model"
    for text in ("old", "new"):
        files.replace_folder(folder, lambda draft, text=text: files.replace_text_file(
            draft / "a.txt", text))
    assert (folder / "a.txt").read_text() == "new" and list(tmp_path.iterdir()) == [folder]

    def fails(draft):
        draft.mkdir()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.replace_folder(folder, fails)
    assert (folder / "a.txt").read_text() == "new"


def test_a_failed_write_leaves_the_old_folder(tmp_path):
    def write(draft):
        draft.mkdir()
        (draft / "half").touch()
        raise KeyboardInterrupt

    (tmp_path / "model").mkdir()
    (tmp_path / "model/old").touch()
    with pytest.raises(KeyboardInterrupt):
        files.replace_folder(tmp_path / "model", write)
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "old"]


@pytest.mark.parametrize("atomic", [True, False])
def test_a_kill_while_a_folder_is_replaced_loses_nothing(tmp_path, monkeypatch, atomic):
    """The kill is an exception at each step after the draft is complete."""
    class Kill(BaseException):
        pass

    def text_of(folder):
        files.recover_folder(folder)
        return (folder / "a.txt").read_text()

    def write(text):
        return lambda draft: files.replace_text_file(draft / "a.txt", text)

    swap, seen = files.swap, set()
    for step in range(4):
        folder, done = tmp_path / f"{atomic}{step}" / "model", []
        files.replace_folder(folder, write("old"))

        def killed(act, done=done, step=step):
            def acting(*arguments, **options):
                done.append(act)
                if len(done) > step:
                    raise Kill
                return act(*arguments, **options)
            return acting

        with monkeypatch.context() as patch:
            patch.setattr(files, "swap", killed(swap if atomic else lambda *_: False))
            patch.setattr(Path, "rename", killed(Path.rename))
            patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)  # a kill cleans nothing
            try:
                files.replace_folder(folder, write("new"))
            except Kill:
                pass
        seen.add(text_of(folder))
        files.replace_folder(folder, write("last"))
        assert text_of(folder) == "last" and list(folder.parent.iterdir()) == [folder]
    assert seen == {"old", "new"}
