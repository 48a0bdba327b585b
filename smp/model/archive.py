"""A teacher from an archive.

The authors published their [teacher](https://drive.google.com/file/d/15zLGpdTrBlChjc_lYBJu3tln-YS1dzTW/view)
as an archive. What their code reads is a state dict `pytorch_model.bin`; a config.json beside it
may name a class of their own, and beside the weights there may be scores. A stock model is built
from what the config says of a plain BERT, or from the student's where there is none; it takes
every weight it has a place for: nothing may be missing, or left over but scores, positions and
the pooler.
"""

import io
import json
import os
from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, BertConfig, BertForQuestionAnswering

from smp.data.packed import open_zip, read_from_zip

STATE_DICT = "pytorch_model.bin"
ARCHIVE_FILES = {STATE_DICT: 4 * 2**30, "config.json": 2**20, "vocab.txt": 2**24}  # most bytes


def folder_of_state_dict(names):
    """"" or "folder/": what stands before the state dict's name. names: of files, with slashes."""
    places = {name.removesuffix(STATE_DICT) for name in names if name.endswith(STATE_DICT)}
    places = [place for place in places if place == "" or place.find("/") == len(place) - 1]
    if "" in places:
        return ""
    if len(places) != 1:
        raise ValueError(f"holds {len(places)} files {STATE_DICT} (in it, or in a folder of it), "
                         "expected one")
    return places[0]


def file_names(folder):
    """Of a folder and the folders in it, those that an archive may have."""
    patterns = [pattern for name in ARCHIVE_FILES for pattern in (name, f"*/{name}")]
    return [path.relative_to(folder).as_posix() for pattern in patterns
            for path in folder.glob(pattern)]


def is_archive(name):
    """Whether it is a .zip, or a folder with a state dict that transformers would not load."""
    path = Path(os.path.expanduser(name))
    if not os.path.isdir(path):
        return path.suffix.lower() == ".zip"
    try:
        kind = json.loads((path / "config.json").read_bytes())["model_type"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        kind = None
    words = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
    wordless = kind == "bert" and not any((path / file).is_file() for file in words)
    foreign = not isinstance(kind, str) or kind not in CONFIG_MAPPING
    return (foreign or wordless) and any(n.endswith(STATE_DICT) for n in file_names(path))


def read_archive(path):
    """{file name: bytes} of the state dict and what lies beside it. Raises ValueError where there
    is no state dict or a file is too large, FileNotFoundError where there is no such archive."""
    if path.is_dir():
        names = file_names(path)
        place = folder_of_state_dict(names)
        return {file: (path / place / file).read_bytes()
                for file in ARCHIVE_FILES if place + file in names}
    with open_zip(path) as archive:
        names = archive.namelist()
        place = folder_of_state_dict(names)
        return {file: read_from_zip(archive, place + file, limit)
                for file, limit in ARCHIVE_FILES.items() if place + file in names}

# What these files say is checked before it is used: tensors are loaded without running any code,
# and their names and shapes are compared with the config's plain fields before a model is made.
PLAIN_BERT = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
    "max_position_embeddings type_vocab_size layer_norm_eps pad_token_id"
).split()


def read_tensors(data):
    """{name: tensor} of the bytes of a state dict, without what a stock model has no use for."""
    try:
        if data[:2] == b"PK":  # torch.save compresses nothing, but torch.load would unpack it
            with open_zip(io.BytesIO(data)) as archive:
                if sum(info.file_size for info in archive.infolist()) > len(data):
                    raise ValueError("compressed")
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # of a damaged file torch raises whatever its parsers did
        raise ValueError(f"{STATE_DICT} is damaged, or holds more than tensors") from None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in tensors.items()
    ):
        raise ValueError(f"{STATE_DICT} is no state dict, expected tensors by name")
    return {
        name: tensor for name, tensor in tensors.items()
        if not name.endswith(("mask_scores", "position_ids")) and ".pooler." not in name
    }


def plain_config(fields, n_tensors):
    """BertConfig of the plain fields among `fields`; ValueError where it is no BERT's."""
    kind = fields.get("model_type", "bert")
    if kind not in ("bert", "masked_bert"):
        raise ValueError(f"it is of model_type {kind!r}")
    config = BertConfig(**{name: fields[name] for name in PLAIN_BERT if name in fields})
    if config.num_hidden_layers > n_tensors:
        raise ValueError(f"it has {config.num_hidden_layers} layers for {n_tensors} tensors")
    return config


def check_tensors(tensors, expected, source):
    """ValueError unless there is one tensor of floats for each of `expected`, of its shape."""
    lost = [name for name in expected if name not in tensors]
    if lost:
        raise ValueError(
            f"{STATE_DICT} lacks {lost[0]} (in all {len(lost)} of {len(expected)} tensors), "
            "expected a whole BERT fine-tuned for question answering"
        )
    for name, tensor in tensors.items():
        if name not in expected:
            raise ValueError(f"{STATE_DICT} holds {name}, for which a stock BERT has no place")
        found, wanted = tuple(tensor.shape), tuple(expected[name].shape)
        if found != wanted:
            raise ValueError(f"{name} is of shape {found}, expected {wanted} by {source}")
        floats = tensor.is_floating_point() and tensor.layout == torch.strided
        if not floats or tensor.device.type != "cpu":
            raise ValueError(f"{name} is of {tensor.dtype}, expected plain floats")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity, expected numbers")


def read_vocabulary(data, config):
    """{token: id} of the bytes of a vocab.txt, one token a line; ValueError where it is none."""
    try:
        words = data.decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise ValueError("vocab.txt is not UTF-8 text, expected one token a line") from None
    if len(words) > config.vocab_size:
        raise ValueError(f"vocab.txt has {len(words):,} tokens, the model {config.vocab_size:,}")
    return {word: row for row, word in enumerate(words)}


def load_archive(name, student_config):
    """(stock BertForQuestionAnswering in fp32, {token: id} or None where no vocab.txt is there).

    name: a folder or .zip with `pytorch_model.bin`, in it or in its one folder that has it;
    student_config: of the student, used where there is no config.json. Left out: scores, saved
    positions, the pooler. Raises FileNotFoundError, or ValueError with one line where the archive
    is damaged, holds more or less than a BERT for question answering, or unpacks to more than
    `ARCHIVE_FILES` allows.
    """
    try:
        files = read_archive(Path(os.path.expanduser(name)))
        tensors = read_tensors(files[STATE_DICT])
        has_config, has_words = "config.json" in files, "vocab.txt" in files
        source = "its config.json" if has_config else "the student's config"
        try:
            fields = json.loads(files["config.json"]) if has_config else student_config.to_dict()
            config = plain_config(fields, len(tensors))
            with torch.device("meta"):  # shapes without memory
                expected = BertForQuestionAnswering(config).state_dict()
        except Exception as error:  # whatever transformers makes of such fields
            reason = " ".join(str(error).split())
            raise ValueError(f"{source} describes no stock BERT ({reason})") from None
        check_tensors(tensors, expected, source)
        vocabulary = read_vocabulary(files["vocab.txt"], config) if has_words else None
    except FileNotFoundError:
        raise FileNotFoundError(f"TEACHER={name!r}: there is no such file or folder") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"TEACHER={name!r}: {error}") from None
    model = BertForQuestionAnswering(config)
    model.load_state_dict(tensors)  # strict: nothing missing, nothing left over
    return model.eval(), vocabulary
