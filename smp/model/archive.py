"""Load a teacher from an archive: a .zip or folder with a state dict `pytorch_model.bin`.

The authors published their [teacher](https://drive.google.com/file/d/15zLGpdTrBlChjc_lYBJu3tln-YS1dzTW/view)
in this form. Its config.json may name a class of their own, so a stock BERT is built from the
plain fields of the config. Everything is checked before it is used, and code in it never runs.
"""

import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import CONFIG_MAPPING, BertConfig, BertForQuestionAnswering, PretrainedConfig

from smp.data.zip_files import open_zip, read_from_zip
from smp.text import first_line

STATE_DICT = "pytorch_model.bin"
ARCHIVE_FILES = {STATE_DICT: 4 * 2**30, "config.json": 2**20, "vocab.txt": 2**24}  # most bytes
PLAIN_BERT = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
    "max_position_embeddings type_vocab_size layer_norm_eps pad_token_id"
).split()


def folder_of_state_dict(names: Iterable[str]) -> str:
    """Return "" or "folder/" of the state dict, from the names of all files."""
    folders = {name.removesuffix(STATE_DICT) for name in names
               if name.count("/") < 2 and name.split("/")[-1] == STATE_DICT}
    if "" in folders:
        return ""
    if len(folders) != 1:
        raise ValueError(f"it contains {len(folders)} files {STATE_DICT} at its top or one folder "
                         "below, expected one")
    return folders.pop()


def file_names(folder: Path) -> list[str]:
    """Return the names of ARCHIVE_FILES that a folder and its subfolders contain."""
    return [path.relative_to(folder).as_posix() for name in ARCHIVE_FILES
            for pattern in (name, f"*/{name}") for path in folder.glob(pattern) if path.is_file()]


def is_archive(name: str) -> bool:
    """Return whether it is a .zip, or a state dict's folder that transformers cannot load."""
    path = Path(os.path.expanduser(name))
    if not os.path.isdir(path):
        return path.suffix.lower() == ".zip"
    try:
        kind = json.loads((path / "config.json").read_bytes())["model_type"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        kind = None
    has_words = any(path.glob("tokenizer*.json")) or (path / "vocab.txt").is_file()
    incomplete = kind == "bert" and not (has_words and any(path.glob("*.safetensors")))
    unknown = not isinstance(kind, str) or kind not in CONFIG_MAPPING
    return (unknown or incomplete) and any(n.endswith(STATE_DICT) for n in file_names(path))


def read_archive(path: Path) -> dict[str, bytes]:
    """Return {file name: bytes} of the state dict and the other ARCHIVE_FILES next to it."""
    if path.is_dir():
        names = file_names(path)
        folder = folder_of_state_dict(names)
        return {file: (path / folder / file).read_bytes()
                for file in ARCHIVE_FILES if folder + file in names}
    with open_zip(path) as archive:
        names = archive.namelist()
        folder = folder_of_state_dict(names)
        return {file: read_from_zip(archive, folder + file, limit)
                for file, limit in ARCHIVE_FILES.items() if folder + file in names}


def read_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """Return {name: tensor} of a state dict's bytes, without scores, positions and the pooler."""
    try:
        if data[:2] == b"PK":  # torch.save compresses nothing, but torch.load would unpack it
            with open_zip(io.BytesIO(data)) as archive:
                if sum(info.file_size for info in archive.infolist()) > len(data):
                    raise ValueError("compressed")
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # the parsers of torch raise many types
        raise ValueError(f"{STATE_DICT} is damaged, or contains objects other than tensors"
                         ) from None
    named = isinstance(tensors, dict) and all(
        isinstance(name, str) and isinstance(each, torch.Tensor) for name, each in tensors.items())
    if not named:
        raise ValueError(f"{STATE_DICT} is not a state dict, expected tensors by name")
    return {name: tensor for name, tensor in tensors.items()
            if not name.endswith(("mask_scores", "position_ids")) and ".pooler." not in name}


def plain_config(fields: dict, n_tensors: int) -> BertConfig:
    """Return the BertConfig of the plain fields. Raises ValueError if they are not of a BERT."""
    kind = fields.get("model_type", "bert")
    if kind not in ("bert", "masked_bert"):
        raise ValueError(f"model_type is {kind!r}, expected 'bert'")
    config = BertConfig(**{name: fields[name] for name in PLAIN_BERT if name in fields})
    if config.num_hidden_layers > n_tensors:
        raise ValueError(f"it has {config.num_hidden_layers} layers, but there are only "
                         f"{n_tensors} tensors")
    return config


def check_tensors(tensors: dict, expected: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise ValueError unless the tensors are finite floats with the expected names and shapes."""
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise ValueError(
            f"{STATE_DICT} has no {missing[0]} ({len(missing)} of {len(expected)} tensors are "
            "missing), expected a complete BERT fine-tuned for question answering")
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if name not in expected:
            raise ValueError(f"{STATE_DICT} contains {name}, which a stock BERT does not have")
        found, wanted = tuple(tensor.shape), tuple(expected[name].shape)
        if found != wanted:
            raise ValueError(f"{name} has shape {found}, expected {wanted} from {source}")
        floats = tensor.is_floating_point() and tensor.layout == torch.strided
        if not floats or tensor.device.type != "cpu":
            raise ValueError(f"{name} is {tensor.dtype}, {tensor.layout} on {tensor.device}, "
                             "expected dense floats on the CPU")
        storage = tensor.untyped_storage()
        if tensor.nbytes > storage.nbytes() or storage.data_ptr() in seen:
            raise ValueError(f"{name} repeats values that the file has once, expected its weights")
        seen.add(storage.data_ptr())
        if not tensor.isfinite().all():
            raise ValueError(f"{name} contains NaN or infinity, expected finite weights")


def read_vocabulary(data: bytes, config: BertConfig) -> dict[str, int]:
    """Return {token: id} of a vocab.txt's bytes, one token a line."""
    try:
        tokens = data.decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise ValueError("vocab.txt is not UTF-8 text, expected one token a line") from None
    if len(tokens) > config.vocab_size:
        raise ValueError(f"vocab.txt has {len(tokens):,} tokens, the model {config.vocab_size:,}")
    return {token: row for row, token in enumerate(tokens)}


def load_archive(name: str, student_config: PretrainedConfig) -> tuple[nn.Module, dict | None]:
    """Return (stock BertForQuestionAnswering in fp32, {token: id} or None without a vocab.txt).

    name: a folder or .zip with `pytorch_model.bin`, at its top or in one of its folders.
    student_config: used if there is no config.json. Raises FileNotFoundError, or ValueError if the
    archive is damaged, is not exactly a BERT for question answering, or unpacks to more bytes than
    ARCHIVE_FILES permits.
    """
    try:
        files = read_archive(Path(os.path.expanduser(name)))
        tensors = read_tensors(files[STATE_DICT])
        has_config = "config.json" in files
        source = "its config.json" if has_config else "the student's config"
        try:
            fields = json.loads(files["config.json"]) if has_config else student_config.to_dict()
            config = plain_config(fields, len(tensors))
            with torch.device("meta"):  # shapes without memory
                expected = BertForQuestionAnswering(config).state_dict()
        except Exception as error:  # transformers raises many types for bad fields
            raise ValueError(f"{source} does not fit a stock BERT ({first_line(error)})") from None
        check_tensors(tensors, expected, source)
        vocabulary = read_vocabulary(files["vocab.txt"], config) if "vocab.txt" in files else None
    except FileNotFoundError:
        raise FileNotFoundError(f"teacher {name!r}: no such file or folder") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"teacher {name!r}: {error}") from None
    model = BertForQuestionAnswering(config)
    model.load_state_dict(tensors)  # strict: nothing missing, nothing left over
    return model.eval(), vocabulary
