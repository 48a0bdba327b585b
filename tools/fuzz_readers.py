"""Readers of files for tools/fuzz.py: undamaged input, damage to it, and checks of the results.

A reader of READERS has `make`, which returns (file name, bytes) for a random.Random, `read`, which
reads a path, and `check`, which raises AssertionError for a wrong result.
"""

import gzip
import io
import json
import lzma
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.numpy import save
from torch import nn
from transformers import BertConfig, BertForQuestionAnswering

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from smp.data.reading import squad_rows_of_file
from smp.model.archive import load_archive
from smp.runs.read import read_records
from smp.runs.record import record_json
from smp.runs.summary import summary_markdown
from smp.runs.sweep_curves import sweep_markdown
from smp.task.authors import load_authors_masks, save_authors_masks
from smp.task.mask_file import CHECKSUM, save_masks, with_checksum
from smp.task.validate import load_any_masks

# Damaged input

ODD_NUMBERS = [0, 1, 7, 127, 128, 255, 2**16, 2**31 - 1, 2**32, 2**63 - 1, 2**64 - 1]
ODD_VALUES = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "a", "\0", "\ud800", "é\u0301", "<b>", "a\nb", [], [0], [[]], {}, {"a": {}}, ["a"] * 50,
]


def damaged(chance, data):
    """Return the bytes after one to four small or large changes."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(data) + 1)
        to = min(len(data), at + chance.choice((1, 1, 2, 8, 64)))
        change = chance.randrange(7)
        if change == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif change == 1:
            data[at:to] = chance.randbytes(to - at)
        elif change == 2:
            del data[at:to]
        elif change == 3:
            del data[at:]
        elif change == 4:
            data[at:at] = data[at:to]
        elif change == 5:
            size = chance.choice((1, 2, 4, 8))
            number = chance.choice(ODD_NUMBERS) % 256**size
            data[at : at + size] = number.to_bytes(size, chance.choice(("little", "big")))
        else:
            data[at:at] = chance.choice((b"\0", b"}", b"]", b'"', b"9" * 5000, b"[" * 2000))
    return bytes(data)


def odd_json(chance, value):
    """Return the JSON value with one value or name replaced, removed or duplicated."""
    if isinstance(value, dict | list) and value and chance.random() < 0.9:
        key = chance.choice([*value] if isinstance(value, dict) else range(len(value)))
        new = value.copy()
        change = chance.randrange(12)
        if change == 0:
            del new[key]
        elif change == 1 and isinstance(value, list):
            new.insert(key, value[key])
        elif change == 1:
            new[str(chance.choice(ODD_VALUES))] = value[key]
        else:
            new[key] = odd_json(chance, value[key])
        return new
    if type(value) is int and chance.random() < 0.5:
        return value + chance.choice((-8, -1, 1, 8))
    if isinstance(value, str) and chance.random() < 0.5:
        at = chance.randrange(len(value) + 1)
        return value[:at] + chance.choice(("", " ", "x", "\n", "\0", "\u0301", "\ud800")) + (
            value[at + chance.randrange(2) :])
    return chance.choice(ODD_VALUES)


def damaged_json(chance, value):
    """Return the bytes of the JSON value, damaged as a value or as bytes."""
    if chance.random() < 0.7:
        return json.dumps(odd_json(chance, value)).encode()
    return damaged(chance, json.dumps(value).encode())


# The readers


def written(write):
    """Return the bytes of the file that write(path) writes."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "file")
        return (Path(folder) / "file").read_bytes()


def zipped(files):
    """Return the bytes of a zip of {name: bytes}, without a time stamp."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as new:
        for name, data in files.items():
            new.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def random_masks(shapes):
    """Return random masks {name: bool array}, the same in each call."""
    numbers = np.random.default_rng(0)
    return {name: numbers.random(shape) < 0.4 for name, shape in shapes.items()}


def header_of(data):
    """Return (JSON header, other bytes) of the bytes of a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


class OldMasks:
    """Mask files of the first format: damaged bytes, or headers of valid JSON with odd values."""

    def __init__(self):
        masks = random_masks({"layer.0": (3, 5), "layer.1": (2, 8), "layer.10": (1, 1)})
        shapes = json.dumps({name: list(mask.shape) for name, mask in masks.items()})
        about = {"format": "smp-masks-1", "shapes": shapes, "density": "0.4", "model": '"tiny"'}
        self.valid = save({name: np.packbits(mask) for name, mask in masks.items()}, about)

    def make(self, chance):
        if chance.random() < 0.5:
            return "m", damaged(chance, self.valid)
        header, rest = header_of(self.valid)
        about, what = header["__metadata__"], chance.randrange(3)
        if what == 0:
            return "m", self.valid[: -len(rest)] + chance.randbytes(len(rest))
        if what == 1:
            about["shapes"] = damaged_json(chance, json.loads(about["shapes"])).decode(
                errors="replace")
            header = json.dumps(header).encode()
        else:
            header = damaged_json(chance, header)
        return "m", len(header).to_bytes(8, "little") + header + rest

    def read(self, path):
        return load_any_masks(path)[0]

    def check(self, masks, name, data):
        """Compare with a second reader in plain Python."""
        header, rest = header_of(data)
        shapes = json.loads(header["__metadata__"]["shapes"])
        assert masks.keys() == shapes.keys()
        for matrix, mask in masks.items():
            first, last = header[matrix]["data_offsets"]
            bits = "".join(f"{byte:08b}" for byte in rest[first:last])[: mask.size]
            assert mask.dtype == bool and list(mask.shape) == shapes[matrix]
            assert mask.ravel().tolist() == [bit == "1" for bit in bits]


class Masks:
    """Mask files: damaged ones with a wrong checksum, and odd ones with a correct checksum."""

    def __init__(self):
        self.masks = random_masks({"layer.0": (3, 50), "layer.1": (2, 8), "layer.10": (1, 1)})
        trained = {"head_weights": {"bias": np.float32([1, 2])}}
        trained |= {"vectors": {"layer.0.bias": np.float32([3, 4, 5])}}
        self.valid = written(lambda path: save_masks(self.masks, path, **trained, density=0.4))

    def make(self, chance):
        if chance.random() < 0.3:
            return "damaged", damaged(chance, self.valid)
        header, rest = header_of(self.valid)
        what = chance.randrange(3)
        if what == 0:  # a code, or a head's weights
            rest = damaged(chance, rest)[: len(rest)].ljust(len(rest), b"\0")
        elif what == 1:
            about = header["__metadata__"]
            about["shapes"] = damaged_json(chance, json.loads(about["shapes"])).decode(
                errors="replace")
        header = json.dumps(header, separators=(",", ":")).encode()
        if what == 2:
            header = damaged(chance, header)
        data = len(header).to_bytes(8, "little") + header + rest
        return "m", with_checksum(data) if CHECKSUM.search(data) else data

    def read(self, path):
        return load_any_masks(path)[0]

    def check(self, masks, name, data):
        """Compare with a second decoder; a damaged file must not be read."""
        if name == "damaged":
            assert data == self.valid
        header, rest = header_of(data)
        shapes = json.loads(header["__metadata__"]["shapes"])
        assert masks.keys() == shapes.keys()
        for matrix, mask in masks.items():
            first, last = header[matrix]["data_offsets"]
            way, *symbols = zlib.decompress(rest[first:last])
            assert mask.dtype == bool and list(mask.shape) == shapes[matrix]
            if way == 0:
                bits = "".join(f"{byte:08b}" for byte in symbols)[: mask.size]
                places = [place for place, bit in enumerate(bits) if bit == "1"]
            else:
                places, at = [], -1
                for symbol in symbols:
                    at += symbol + (symbol < 255)
                    places += [at] * (symbol < 255)
            found = mask.ravel() if way < 2 else ~mask.ravel()
            assert np.flatnonzero(found).tolist() == places


class Authors:
    """The authors' masks, plain or zipped; a zip has checksums, which detect damage."""

    def __init__(self):
        base = nn.Module()
        base.layer = nn.ModuleList([nn.ModuleList([nn.Linear(5, 3), nn.Linear(3, 7)])])
        self.model = SimpleNamespace(base_model=base, named_parameters=base.named_parameters)
        self.masks = random_masks({"layer.0.0": (3, 5), "layer.0.1": (7, 3)})
        self.valid = written(lambda path: save_authors_masks(self.masks, path))
        self.zipped = zipped({"m.npy": self.valid})

    def make(self, chance):
        if chance.random() < 0.5:
            return "m.npy", damaged(chance, self.valid)
        return "m.zip", damaged(chance, self.zipped)

    def read(self, path):
        return load_authors_masks(path, self.model)

    def check(self, masks, name, data):
        expected = np.concatenate([mask.ravel() for mask in self.masks.values()])
        if name == "m.npy":
            expected = np.unpackbits(np.frombuffer(data[-5:], np.uint8), count=36)
        assert np.array_equal(np.concatenate([mask.ravel() for mask in masks.values()]), expected)


class Squad:
    """SQuAD files, plain or packed; packed ones have checksums, which detect damage."""

    def __init__(self):
        qas = [{"id": f"q{n}", "question": "Who?", "answers": [{"text": text, "answer_start": n}]}
               for n, text in ((0, "Ada"), (4, "né\u0301e"), (9, "\U0001f44d"))]
        paragraph = {"context": "Ada né\u0301e \U0001f44d it\r\n", "qas": qas}
        self.document = {"data": [{"title": "t", "paragraphs": [paragraph]}, {
            "title": "u", "paragraphs": [{"context": "x", "qas": [
                {"id": "r", "question": "", "answers": [{"text": "x", "answer_start": 0}]}]}]}]}
        text = json.dumps(self.document).encode()
        self.packed = {"p.json.gz": gzip.compress(text, mtime=0),
                       "p.json.xz": lzma.compress(text, preset=0)}
        self.rows = self.plain(self.document)

    def plain(self, document):
        return [
            (qa["id"], article["title"], paragraph["context"], qa["question"],
             [(answer["text"], answer["answer_start"]) for answer in qa["answers"]])
            for article in document["data"] for paragraph in article["paragraphs"]
            for qa in paragraph["qas"]
        ]

    def make(self, chance):
        name = chance.choice(["p.json"] * 6 + list(self.packed))
        if name in self.packed:
            return name, damaged(chance, self.packed[name])
        return name, damaged_json(chance, self.document)

    def read(self, path):
        return squad_rows_of_file(path)

    def check(self, rows, name, data):
        found = [(row["id"], row["title"], row["context"], row["question"],
                  list(zip(*row["answers"].values()))) for row in rows]
        if name == "p.json":
            assert found == self.plain(json.loads(data.decode("utf-8-sig")))
            for row in found:
                assert all(row[2][start:].startswith(text) and start >= 0 for text, start in row[4])
        else:
            assert found == self.rows


class Archive:
    """Teachers: a damaged zip, or a valid zip of damaged files."""

    def __init__(self):
        torch.manual_seed(0)
        self.config = BertConfig(vocab_size=5, hidden_size=2, num_hidden_layers=1,
                                 num_attention_heads=1, intermediate_size=3,
                                 max_position_embeddings=4)
        self.model = BertForQuestionAnswering(self.config)
        weights = io.BytesIO()
        torch.save(self.model.state_dict(), weights)
        fields = {name: value for name, value in self.config.to_dict().items()
                  if isinstance(value, int | float | str)}
        self.files = {"pytorch_model.bin": weights.getvalue(),
                      "config.json": json.dumps(fields).encode(), "vocab.txt": b"a\nb\nc\nd\ne\n"}
        self.zipped = zipped(self.files)

    def make(self, chance):
        if chance.random() < 0.4:
            return "outer.zip", damaged(chance, self.zipped)
        name = chance.choice(list(self.files))
        if name == "config.json":
            data = damaged_json(chance, json.loads(self.files[name]))
        else:
            data = damaged(chance, self.files[name])
        return "inner.zip", zipped(self.files | {name: data})

    def read(self, path):
        return load_archive(str(path), self.config)

    def check(self, found, name, data):
        model, vocabulary = found
        assert vocabulary is None or len(vocabulary) <= 5
        for key, tensor in model.state_dict().items():
            assert tensor.isfinite().all()
            if name == "outer.zip":  # only the name of an optional file may be damaged
                assert torch.equal(tensor, self.model.state_dict()[key])


class Records:
    """Records of results and the tables that are computed from them."""

    def __init__(self):
        folder = Path(__file__).resolve().parent.parent / "results" / "reference"
        record = next(one for one in read_records(folder) if one["layers"])  # of a pruned model
        record["history"] = {name: values[:2] for name, values in record["history"].items()}
        record["layers"] = [{"layer": 0, "matrix": "query", "kept": 1, "total": 2}]
        record["density"] = 0.5
        self.record = json.loads(record_json(record))

    def make(self, chance):
        return f"{self.record['name']}.json", damaged_json(chance, self.record)

    def read(self, path):
        return read_records(path.parent)

    def check(self, records, name, data):
        expected = json.loads(data)
        assert records == [expected] and summary_markdown(records).count("\n### ") >= 2
        assert sweep_markdown(records)


READERS = {"masks": Masks, "old-masks": OldMasks, "authors": Authors, "squad": Squad,
           "archive": Archive, "records": Records}
