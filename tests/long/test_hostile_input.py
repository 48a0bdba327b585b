"""Hostile and damaged input: one table of inputs, readers and expected error lines.

A row is (reader, function that returns the input, expected result). The expected result is the
whole error line, in which … matches any text, or Right(value) for odd but valid input. Each error
is a ValueError or FileNotFoundError, and no reader leaves a file.
"""

import gzip
import io
import json
import lzma
import os
import pickle
import re
import shutil
import struct
import warnings
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertTokenizer,
)

import fuzz_readers
import smp.cli.main as command_line
from helpers import tiny_config
from records import make_record
from smp.data import reading, squad_file
from smp.data.answers import decode_answers
from smp.data.reading import SQUAD_FEATURES, load_squad
from smp.data.windows import featurise
from smp.model.encoder import encoder_linears
from smp.model.load import load_qa_model
from smp.model.question_answerer import QuestionAnswerer
from smp.model.student import load_student
from smp.model.teacher import load_teacher
from smp.runs.read import read_records
from smp.runs.record import write_record
from smp.runs.run import find_teacher
from smp.runs.settings import choose_settings
from smp.task.authors import load_authors_masks, save_authors_masks
from smp.task.mask_file import save_masks, with_checksum
from smp.task.validate import apply_masks, load_any_masks

SMALL = dict(vocab_size=40, hidden_size=8, num_attention_heads=2, intermediate_size=12)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no", "who", "ada", "did", "it"]
DEEP = "[" * 100_000
DIGITS = "9" * 5000  # more than Python converts to a number


class Right(SimpleNamespace):
    """The expected result of input that is odd but valid."""

    def __init__(self, value):
        super().__init__(value=value)


class World:
    """Folders of a row: `folder` for its own files, `saved` with shared models."""

    def __init__(self, folder, saved, monkeypatch):
        self.folder, self.saved, self.monkeypatch = folder, saved, monkeypatch

    def file(self, name, content):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def model(self, saved="qa"):
        """Return a new copy of the folder of a saved model."""
        folder = self.folder / saved
        shutil.copytree(self.saved / saved, folder)
        return folder


def save_models(folder):
    """Write tiny models with a tokenizer of a few words; return the folder."""
    torch.manual_seed(0)
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    for name, made, changes in (
        ("qa", BertForQuestionAnswering, {}), ("words", BertForMaskedLM, {}),
        ("three", BertForQuestionAnswering, {"num_labels": 3}),
        ("topics", BertForSequenceClassification, {"num_labels": 3}),
        ("narrow", BertForQuestionAnswering, {"hidden_size": 4}),
    ):
        made(tiny_config(**SMALL | changes)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("saved"))


# Data


def document(**changes):
    """Return SQuAD JSON with three articles; changes: of context, id, ... of the first article."""
    data = []
    for number in range(3):
        fields = dict(title="t", context="Ada did it", id=f"q{number}", question="Who?", text="Ada",
                      answer_start=0, is_impossible=None)
        fields |= changes if number == 0 else {}
        answer = {name: fields[name] for name in ("text", "answer_start")}
        question = {name: fields[name] for name in ("id", "question", "is_impossible")}
        data.append({"title": fields["title"], "paragraphs": [
            {"context": fields["context"], "qas": [question | {"answers": [answer]}]}]})
    return json.dumps({"data": data})


def pages(content, name="pages.json"):
    return lambda world: world.file(name, content)


def rows_of(world, data):
    """Return the ids of the training questions from load_squad."""
    return load_squad(data)["train"]["id"][:]


def only_contexts(world, data):
    return load_squad(data)["eval"]["context"][:]


def hub(**changes):
    """Return a function that replaces load_dataset by one changed row."""
    row = {"id": "a", "title": "t", "context": "Ada did it", "question": "Who?",
           "answers": {"text": ["Ada"], "answer_start": [0]}}

    def make(world):
        rows = Dataset.from_list([row | changes])
        parts = DatasetDict(train=rows, validation=Dataset.from_list([row]))
        world.monkeypatch.setattr(reading, "load_dataset", lambda name: parts)
        return "owner/data"

    return make


def emptied(split):
    def make(world):
        name = hub()(world)
        parts = reading.load_dataset(name)
        parts[split] = parts[split].select([])
        return name

    return make


def folder_with(make):
    def made(world):
        world.file("data/dev.json", document())
        make(world.folder / "data" / "train.json")
        return str(world.folder / "data")

    return made


def pipe(world):
    os.mkfifo(world.folder / "pages.json")
    return str(world.folder / "pages.json")


def bounded(name, value, make):
    """Return a function for the same input with a lower limit in smp/data/squad_file.py."""
    def made(world):
        world.monkeypatch.setattr(squad_file, name, value)
        return make(world)

    return made


def flipped(data, at):
    """Return the bytes with one bit flipped."""
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


NO_ROW = ("owner/data train: question …has a field of another type; expected rows as in SQuAD "
          "v1.1")
NO_ROWS = ("owner/data: its split '{}' has 0 rows with the columns …; expected rows with the "
           "columns id, title, context, question, answers")
UNPACKED = "…pages.json…: cannot be unpacked to UTF-8 text (…); download or compress it again"
BOMB = ("…pages.json.…: unpacks to more than 67,108,864 bytes, the limit for a file of its size; "
        "if you trust it, unpack it yourself")
SURROGATE = ("…pages.json: question 'q0' contains '\\ud800', which is not a character; replace it")
PACKED = document().encode()
DATA = {
    "a number of 5000 digits": (
        rows_of, pages(document().replace('"answer_start": 0', f'"answer_start": {DIGITS}')),
        "…pages.json: not JSON (Exceeds the limit…); expected SQuAD v1.1 JSON"),
    "NaN for a number": (
        rows_of, pages(document(answer_start=float("nan"))),
        "…answer 0: field 'answer_start' must be int, found float"),
    "a whole number as a float": (
        rows_of, pages(document(answer_start=0.0)),
        "…answer 0: field 'answer_start' must be int, found float"),
    "an answer longer than its context": (
        rows_of, pages(document(text="Ada did it.")),
        "…question 'q0': expected the answer 'Ada did it.' at answer_start 0 of its context, found "
        "'Ada did it'; correct it"),
    "an empty context": (
        rows_of, pages(document(context="")),
        "…question 'q0': expected the answer 'Ada' at answer_start 0 of its context, found ''; "
        "correct it"),
    "an answer of spaces": (
        rows_of, pages(document(context="a  b", text="  ", answer_start=1)),
        "…question 'q0' has the empty answer '  '; remove it"),
    "an id of 20,000 letters": (
        rows_of, pages(document(id="q" * 20_000, text="Eve")),
        "…pages.json: question 'qqq…': expected the answer 'Eve' at answer_start 0 of its context, "
        "found 'Ada'; correct it"),
    "an empty answer of 20,000 spaces": (
        rows_of, pages(document(text=" " * 20_000)),
        "…pages.json: question 'q0' has the empty answer '  …'; remove it"),
    "an empty id twice": (
        rows_of, pages(document(id="").replace('"q1"', '""')),
        "…question '' occurs twice; give every question its own id"),
    "a lone surrogate in the context": (rows_of, pages(document(context="Ada \ud800")), SURROGATE),
    "a lone surrogate in the title": (rows_of, pages(document(title="\ud800")), SURROGATE),
    "a lone surrogate in the answer": (
        rows_of, pages(document(context="\ud800", text="\ud800")), SURROGATE),
    "impossible as text": (
        rows_of, pages(document(is_impossible="false")),
        "…(id 'q0') is marked impossible, which is SQuAD v2; use v1.1, or remove such questions"),
    "null": (rows_of, pages("null"),
             "…pages.json: expected a JSON object, found NoneType; see the SQuAD v1.1 format"),
    "two documents": (rows_of, pages(document() * 2),
                      "…pages.json: not JSON (Extra data: …); expected SQuAD v1.1 JSON"),
    "one name twice": (rows_of, pages(document()[:-1] + ', "data": []}'),
                       "…pages.json: no questions in it; expected SQuAD v1.1 JSON with 'qas'"),
    "UTF-16": (rows_of, pages(document().encode("utf-16")), UNPACKED),
    "a byte order mark": (rows_of, pages(b"\xef\xbb\xbf" + PACKED), Right(["q0", "q1"])),
    "lines that end in CRLF": (
        rows_of, pages(json.dumps(json.loads(document()), indent=1).replace("\n", "\r\n")),
        Right(["q0", "q1"])),
    "CRLF and NUL in a context": (
        only_contexts, pages(document().replace("Ada did it", "Ada\\r\\ndid\\u0000it")),
        Right(["Ada\r\ndid\0it"])),
    "a folder instead of a file": (
        rows_of, folder_with(lambda path: path.mkdir()),
        "…train.json: not a file; expected SQuAD v1.1 JSON"),
    "a broken link": (
        rows_of, folder_with(lambda path: path.symlink_to("nowhere")),
        "…train.json: no such file; check the path"),
    "a pipe without a writer": (
        rows_of, pipe, "…pages.json: not a file; expected SQuAD v1.1 JSON"),
    "a user that does not exist": (
        rows_of, lambda w: "~nosuchuser/pages.json",
        "~nosuchuser/pages.json: no such file or folder; check the path"),
    "a name that is too long": (
        rows_of, lambda w: "a" * 5000 + ".json",
        "aaa….json: no such file or folder; check the path"),
    "NUL in a path": (
        rows_of, lambda w: "./a\0b", "./a\0b: no such file or folder; check the path"),
    "gzip, then zeros": (  # padding of tape drives
        rows_of, pages(gzip.compress(PACKED) + b"\0" * 99, "pages.json.gz"), Right(["q0", "q1"])),
    "gzip, then text": (rows_of, pages(gzip.compress(PACKED) + b"junk", "pages.json.gz"), UNPACKED),
    "gzip in two parts": (
        rows_of, pages(gzip.compress(b" ") + gzip.compress(PACKED), "pages.json.gz"),
        Right(["q0", "q1"])),
    "gzip with a flipped bit": (
        rows_of, pages(flipped(gzip.compress(PACKED), -20), "pages.json.gz"), UNPACKED),
    "xz with a flipped bit": (
        rows_of, pages(flipped(lzma.compress(PACKED), 100), "pages.json.xz"), UNPACKED),
    "xz named gz": (rows_of, pages(lzma.compress(PACKED), "pages.json.gz"), UNPACKED),
    "200 MB of zeros in gzip": (
        rows_of, pages(gzip.compress(b"\0" * 10**7) * 20, "pages.json.gz"), BOMB),
    "200 MB of zeros in xz": (
        rows_of, pages(lzma.compress(b"\0" * 10**7) * 20, "pages.json.xz"), BOMB),
    "more than the upper limit": (
        rows_of, bounded("NEVER_UNPACKED", 500, pages(lzma.compress(PACKED), "pages.json.xz")),
        BOMB.replace("67,108,864", "500")),
    "a compressed file below the bound": (
        rows_of, bounded("ALWAYS_UNPACKED", 500, pages(lzma.compress(PACKED), "pages.json.xz")),
        Right(["q0", "q1"])),
    "Hub: answers that are numbers": (
        rows_of, hub(answers={"text": [1], "answer_start": [0]}), NO_ROW),
    "Hub: starts that are text": (
        rows_of, hub(answers={"text": ["Ada"], "answer_start": ["0"]}), NO_ROW),
    "Hub: a text instead of a list": (
        rows_of, hub(answers={"text": "Ada", "answer_start": [0, 1, 2]}), NO_ROW),
    "Hub: null for a list": (
        rows_of, hub(answers={"text": None, "answer_start": None}), NO_ROW),
    "Hub: a null in a list": (
        rows_of, hub(answers={"text": [None], "answer_start": [0]}), NO_ROW),
    "Hub: answers of other fields": (rows_of, hub(answers={"words": ["Ada"]}), NO_ROW),
    "Hub: an id that is a list": (rows_of, hub(id=["a"]), NO_ROW),
    "Hub: no training questions": (
        rows_of, emptied("train"),
        NO_ROWS.format("train")),
    "Hub: no evaluation questions": (
        rows_of, emptied("validation"),
        NO_ROWS.format("validation")),
}


# Unicode: a model with high logits at the labels returns the labelled answer


def read_back(world, made):
    """Return the answer of the labels, with featurise and decode_answers."""
    context, answer, question, tokenizer = made
    rows = [{"id": "a", "title": "", "context": context, "question": question,
             "answers": {"text": [answer], "answer_start": [context.index(answer)]}}]
    examples = Dataset.from_list(rows, SQUAD_FEATURES)
    windows = featurise(examples, tokenizer, 384, 128)
    logits = np.zeros((2, len(windows), max(map(len, windows["input_ids"]))))
    for row, window in enumerate(windows):
        if window["start_positions"]:
            logits[0, row, window["start_positions"]] = logits[1, row, window["end_positions"]] = 9
    (found,) = decode_answers(examples, windows, *logits)
    assert context[found["start"] : found["end"]] == found["prediction_text"]
    return found["prediction_text"] if logits.any() else "(not labelled)"


def text(context, answer, question="Who?"):
    return lambda world: (context, answer, question, world.tokenizer)


FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467"  # woman, joined to woman, joined to girl
UNICODE = {
    "a combining accent": (read_back, text("the cafe\u0301 is open", "cafe\u0301"),
                             Right("cafe\u0301")),
    "a combining accent at the end": (read_back, text("a cafe\u0301", "cafe\u0301"),
                                        Right("cafe\u0301")),
    "three accents on one letter": (
        read_back, text("it was z\u0310\u0311\u0312", "z\u0310\u0311\u0312"),
        Right("z\u0310\u0311\u0312")),
    "a combining accent without a letter": (read_back, text("\u0301cafe is open", "\u0301cafe"),
                                    Right("(not labelled)")),
    "vowel signs": (read_back, text("यह हिन्दी है", "हिन्दी"), Right("हिन्दी")),
    "vowel points": (read_back, text("זה שָׁלוֹם", "שָׁלוֹם"), Right("שָׁלוֹם")),
    "right to left, with direction marks": (
        read_back, text("\u200fהספר של עדה\u200f", "\u200fהספר"), Right("הספר")),
    "a direction mark at the end": (
        read_back, text("פתח ב-1998\u200f", "1998\u200f"), Right("1998")),
    "joined emoji": (read_back, text(f"the {FAMILY} won", FAMILY), Right(FAMILY)),
    "an emoji with a skin tone at the end": (
        read_back, text("he said \U0001f44d\U0001f3fd", "\U0001f44d\U0001f3fd"),
        Right("\U0001f44d\U0001f3fd")),
    "a sign with a variation selector at the end": (
        read_back, text("I love \u2764\ufe0f", "\u2764\ufe0f"), Right("\u2764\ufe0f")),
    "NUL within": (read_back, text("Ada\0Brenn did", "Ada\0Brenn"), Right("Ada\0Brenn")),
    "NUL at the end": (read_back, text("It was Ada\0", "Ada\0"), Right("Ada")),
    "only NUL": (read_back, text("It was \0 here", "\0"), Right("(not labelled)")),
    "a space of no width at the end": (read_back, text("it was Ada\u200b", "Ada\u200b"),
                                       Right("Ada")),
    "a byte order mark within the text": (read_back, text("\ufeffAda was", "\ufeffAda"),
                                          Right("Ada")),
    "CRLF within": (read_back, text("by\r\nAda Brenn\r\nin 1911", "Ada Brenn\r\nin"),
                    Right("Ada Brenn\r\nin")),
    "a letter with a lower case of two": (read_back, text("in İstanbul it", "İstanbul"),
                                           Right("İstanbul")),
    "a ligature of a word": (read_back, text("قال ﷺ شيئا", "ﷺ"), Right("ﷺ")),
    "syllables": (read_back, text("it is 한국어", "한국어"), Right("한국어")),
    "an empty question": (read_back, text("it was Ada", "Ada", ""), Right("Ada")),
    "a question of NUL": (read_back, text("it was Ada", "Ada", "\0\0"), Right("Ada")),
    "a word of 100,000 letters": (read_back, text("a" * 100_000 + " Ada", "Ada"), Right("Ada")),
    "a context of 100,000 words": (
        read_back, text(" ".join(f"w{i % 977}" for i in range(100_000)) + " Ada", "Ada"),
        Right("Ada")),
}


def answer_of(world, made):
    """Return the answer of a QuestionAnswerer."""
    model, tokenizer, _ = load_qa_model(str(world.saved / "qa"))
    return QuestionAnswerer(model, tokenizer, 64, 16, "fp32")(*made)["answer"]


QUESTIONS = {
    "half a character in a passage": (
        answer_of, lambda w: ("Who?", "Ada \udcff"),
        "the context contains '\\udcff', which is not a character; replace it"),
    "half a character in a question": (
        answer_of, lambda w: ("Who \ud800?", "Ada"),
        "the question contains '\\ud800', which is not a character; replace it"),
    "a passage of NUL": (answer_of, lambda w: ("Who?", "\0\0"), Right("")),
    "a passage that is no text": (
        answer_of, lambda w: ("Who?", None), "the context is None: expected some text"),
}


# Models


def qa(world, folder):
    """Return the size of the head from load_qa_model, and whether the checkpoint contains it."""
    model, _, has_head = load_qa_model(str(folder))
    return model.qa_outputs.out_features, has_head


def student(world, folder):
    return load_student(str(folder))[2]


def with_files(*changes, saved="qa"):
    """Return a function for the folder of a saved model after changes(folder)."""
    def make(world):
        folder = world.model(saved)
        for change in changes:
            change(folder)
        return folder

    return make


def without(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def holding(name, content):
    """Return a change that replaces the bytes of a file; content: bytes or a function of them."""
    def change(folder):
        new = content((folder / name).read_bytes()) if callable(content) else content
        (folder / name).write_bytes(new)

    return change


def config(**fields):
    return with_files(
        holding("config.json", lambda old: json.dumps(json.loads(old) | fields).encode())
    )


def weights(change):
    """Return a change of {name: tensor} in the safetensors file."""
    def changed(folder):
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        change(tensors)
        safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return changed


def as_pickle(make, **options):
    """Return a change that saves make({name: tensor}) as pytorch_model.bin."""
    def change(folder):
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        torch.save(make(tensors), folder / "pytorch_model.bin", **options)
        (folder / "model.safetensors").unlink()

    return change


class Code:
    """An object that writes a file when it is unpickled."""

    def __reduce__(self):
        return open, ("code-was-run", "w")


def spoil(name, value):
    return weights(lambda tensors: tensors.update(
        {key: tensor.half() for key, tensor in tensors.items()}) or tensors[name].fill_(value))


FFN = "bert.encoder.layer.0.output.dense.weight"
NOT_LOADED = ("model '…' cannot be loaded (…); expected an encoder such as BERT or RoBERTa with "
              "complete files")
NOT_WHOLE = ("model '…': bert.… is missing from the checkpoint, or its shape differs from "
             "config.json; expected a complete pretrained encoder")
NO_WORDS = ("model '…': its tokenizer has no vocabulary; add the tokenizer.json or vocab.txt that "
            "belongs to the model")
NOT_FINITE = ("model '…': … contains NaN or infinity; expected finite weights: use a checkpoint "
              "that was saved in fp32")
NOT_SAFE = ("model '…' is neither a complete local folder nor reachable on the Hub (…): …no file "
            "named model.safetensors…")
NOT_THERE = "model '…' is neither a complete local folder nor reachable on the Hub (…): …"
LAYERS = "model '…': config.json has … layers, expected 1 to 200"
TOO_LARGE = ("model '…': config.json describes … weights, but their files have … bytes; use the "
             "config.json of these weights")
SAFE = "model.safetensors"
MODELS = {
    "a whole model": (qa, with_files(), Right((2, True))),
    "a config of a large model": (
        qa, config(hidden_size=65_536, intermediate_size=2**18, num_hidden_layers=150), TOO_LARGE),
    "a config of a large vocabulary": (qa, config(vocab_size=2**31), TOO_LARGE),
    "no tokenizer": (qa, with_files(without("tokenizer.json", "tokenizer_config.json")), NO_WORDS),
    "half a tokenizer": (qa, with_files(without("tokenizer.json")), NO_WORDS),
    "a tokenizer that is no JSON": (qa, with_files(holding("tokenizer.json", b"{")), NOT_LOADED),
    "a tokenizer that is a list": (qa, with_files(holding("tokenizer.json", b"[]")), NOT_LOADED),
    "an unknown kind of tokenizer": (
        qa, with_files(holding("tokenizer.json", b'{"model": {"type": "Magic"}}')), NOT_LOADED),
    "a tokenizer's config that is a list": (
        qa, with_files(holding("tokenizer_config.json", b"[]")), NOT_LOADED),
    "a tokenizer of more tokens": (
        qa, with_files(lambda folder: BertTokenizer(
            vocab={word: i for i, word in enumerate([*WORDS, *map(str, range(40))])}
        ).save_pretrained(folder)),
        "model '…': the tokenizer has 51 tokens, the model 40; use the tokenizer that the model "
        "was trained with"),
    "a token of a number too high": (
        qa, with_files(lambda folder: BertTokenizer(
            vocab={word: i for i, word in enumerate(WORDS)} | {"ada": 40}).save_pretrained(folder)),
        "model '…': the tokenizer has 41 tokens, the model 40; use the tokenizer that the model "
        "was trained with"),
    "a config that is no JSON": (qa, with_files(holding("config.json", b"{")), NOT_THERE),
    "a config that is no text": (qa, with_files(holding("config.json", b"\xff\0")), NOT_THERE),
    "a config that is a list": (qa, with_files(holding("config.json", b"[]")), NOT_LOADED),
    "a config that is null": (qa, with_files(holding("config.json", b"null")), NOT_LOADED),
    "a config too deep": (qa, with_files(holding("config.json", DEEP.encode())), NOT_LOADED),
    "a kind of model that is a list": (qa, config(model_type=["bert"]), NOT_LOADED),
    "text for a size": (qa, config(hidden_size="8"), NOT_LOADED),
    "a size of zero": (qa, config(hidden_size=0), NOT_LOADED),
    "a size below zero": (qa, config(hidden_size=-8), NOT_LOADED),
    "no heads": (qa, config(num_attention_heads=0), NOT_LOADED),
    "an activation that is a command": (qa, config(hidden_act="os.system"), NOT_LOADED),
    "a type that is a command": (qa, config(dtype="os.system"), NOT_LOADED),
    "ten million layers": (qa, config(num_hidden_layers=10**7), LAYERS),
    "no layers": (qa, config(num_hidden_layers=0), LAYERS),
    "a layer more than saved": (qa, config(num_hidden_layers=3), NOT_WHOLE),
    "more words than saved": (qa, config(vocab_size=41), NOT_WHOLE),
    "fewer words than saved": (qa, config(vocab_size=39), NOT_WHOLE),
    "a trillion words": (qa, config(vocab_size=10**12), TOO_LARGE),
    "labels that are text": (qa, config(id2label="x"), NOT_LOADED),
    "a quantisation that is a number": (qa, config(quantization_config=3), NOT_LOADED),
    "a kind that comes with code": (
        qa, config(model_type="mine", auto_map={"AutoConfig": "evil.Config"}), NOT_LOADED),
    "a known kind that brings code": (
        qa, config(auto_map={"AutoModelForQuestionAnswering": "evil.Model"}), Right((2, True))),
    "attention that is code from the Hub": (
        qa, config(_attn_implementation="evil/kernel"), Right((2, True))),
    "an empty safetensors": (qa, with_files(holding(SAFE, b"")), NOT_LOADED),
    "a cut safetensors": (qa, with_files(holding(SAFE, lambda old: old[:-9])), NOT_LOADED),
    "a longer safetensors": (qa, with_files(holding(SAFE, lambda old: old + b"x")), NOT_LOADED),
    "a header of 4 EiB": (
        qa, with_files(holding(SAFE, lambda old: struct.pack("<Q", 2**62) + old[8:])), NOT_LOADED),
    "a header of the whole file": (
        qa, with_files(holding(SAFE, lambda old: struct.pack("<Q", len(old) - 8) + old[8:])),
        NOT_LOADED),
    "a header with a flipped bit": (
        qa, with_files(holding(SAFE, lambda old: flipped(old, 9))), NOT_LOADED),
    "a page for a file": (
        qa, with_files(holding(SAFE, b"<html>sign in to download</html>")), NOT_LOADED),
    "a pointer for a file": (
        qa, with_files(holding(SAFE, b"version https://git-lfs.github.com/spec/v1\n")), NOT_LOADED),
    "no weights": (qa, with_files(without(SAFE)), NOT_THERE),
    "weights of another model": (
        qa, with_files(lambda folder: safetensors.torch.save_file(
            {"x": torch.zeros(2)}, folder / SAFE, {"format": "pt"})), NOT_WHOLE),
    "an index that leads out": (
        qa, with_files(without(SAFE), lambda folder: (
            folder / "model.safetensors.index.json").write_text(json.dumps(
                {"metadata": {}, "weight_map": {"x": "../../../../etc/passwd"}}))), NOT_THERE),
    "NaN in half precision": (qa, with_files(spoil(FFN, float("nan"))), NOT_FINITE),
    "infinity in half precision": (qa, with_files(spoil(FFN, float("inf"))), NOT_FINITE),
    "half precision": (qa, with_files(spoil(FFN, 1)), Right((2, True))),
    "NaN for a student": (student, with_files(spoil(FFN, float("nan")), saved="words"), NOT_FINITE),
    "a pickle of tensors": (qa, with_files(as_pickle(dict)), NOT_SAFE),
    "a pickle with code": (qa, with_files(as_pickle(lambda t: t | {"x": Code()})), NOT_SAFE),
    "an old pickle with code": (
        qa, with_files(
            as_pickle(lambda t: t | {"x": Code()}, _use_new_zipfile_serialization=False)),
        NOT_SAFE),
    "a bare pickle with code": (
        qa, with_files(as_pickle(dict), holding("pytorch_model.bin", pickle.dumps(Code(), 2))),
        NOT_SAFE),
    "a pickle of a list": (qa, with_files(as_pickle(lambda t: [1])), NOT_SAFE),
    "a pickle of numbers": (qa, with_files(as_pickle(lambda t: dict.fromkeys(t, 3))), NOT_SAFE),
    "an empty pickle": (
        qa, with_files(as_pickle(dict), holding("pytorch_model.bin", b"")), NOT_SAFE),
    "half a pickle": (
        qa, with_files(as_pickle(dict), holding("pytorch_model.bin", lambda old: old[:4000])),
        NOT_SAFE),
    "a model for three labels": (qa, with_files(saved="three"), Right((2, False))),
    "a model of topics": (qa, with_files(saved="topics"), Right((2, False))),
    "a model of words": (student, with_files(saved="words"), Right("label words")),
    "a file for a folder": (
        qa, lambda w: w.file(SAFE, b""),
        "model '…model.safetensors': no such folder; use a saved model or a Hub name"),
    "a user without a home": (
        qa, lambda w: "~nosuchuser/bert",
        "model '~nosuchuser/bert': no such folder; use a saved model or a Hub name"),
    "a model's name that is too long": (qa, lambda w: "b" * 5000, NOT_THERE),
    "NUL in a model's name": (qa, lambda w: "b\0b", NOT_THERE),
}


# Teachers


def teacher(world, made):
    name, length = made if isinstance(made, tuple) else (made, 64)
    load_teacher(str(name), world.words, length, tiny_config(**SMALL))
    return "a teacher"


def archive(world, compression=zipfile.ZIP_STORED, **tensors):
    """Return a zip in the authors' format, of the saved model with some tensors changed."""
    state = safetensors.torch.load_file(world.saved / "qa" / SAFE)
    state |= {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    weights = io.BytesIO()
    torch.save(state, weights)
    path = world.folder / "teacher.zip"
    with zipfile.ZipFile(path, "w", compression) as new:
        new.writestr("pytorch_model.bin", weights.getvalue())
        new.writestr("config.json", (world.saved / "qa" / "config.json").read_text())
        new.writestr("vocab.txt", "\n".join(WORDS))
    return path


def piped(name):
    """Return a function for a pipe, which nobody writes."""
    return lambda w: os.mkfifo(w.folder / name) or w.folder / name


def zip_of(names):
    """Return a function for a zip of empty files with these names."""
    def make(world):
        path = world.folder / "teacher.zip"
        with zipfile.ZipFile(path, "w") as new, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a name that is there twice
            for name in names:
                new.writestr(name, b"")
        return path

    return make


def zip_bomb(world):
    path = world.folder / "teacher.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("pytorch_model.bin", b"\0" * 10**7)
    return path


NO_HEAD = ("teacher '…' has no question-answering head with a start and an end logit: expected a "
           "model fine-tuned on SQuAD, such as BERT_FINETUNE_QA.ipynb saves")
TEACHERS = {
    "a whole teacher": (teacher, with_files(), Right("a teacher")),
    "a teacher of another width": (teacher, with_files(saved="narrow"), Right("a teacher")),
    "a teacher for three labels": (teacher, with_files(saved="three"), NO_HEAD),
    "a teacher of topics": (teacher, with_files(saved="topics"), NO_HEAD),
    "a teacher of words": (teacher, with_files(saved="words"), NO_HEAD),
    "a teacher without its words": (
        teacher, with_files(without("tokenizer.json", "tokenizer_config.json", "config.json")),
        "model '…': the folder has no config.json; expected a folder that save_pretrained wrote"),
    "a teacher of other words": (
        teacher, with_files(lambda folder: BertTokenizer(
            vocab={word: i for i, word in enumerate([*WORDS[:-2], "it", "did"])}
        ).save_pretrained(folder)),
        "teacher '…' has another vocabulary (11 tokens) than the student (11 tokens): use a "
        "teacher with the student's tokenizer"),
    "a teacher of shorter windows": (
        teacher, lambda w: (w.model(), 129),
        "max_length is 129, but model '…' reads at most 128 tokens: lower max_length, or use "
        "another model"),
    "a teacher with NaN in its head": (
        teacher, with_files(spoil("qa_outputs.weight", float("nan"))), NOT_FINITE),
    "a whole archive": (teacher, archive, Right("a teacher")),
    "an archive with NaN": (
        teacher, lambda w: archive(w, qa_outputs__bias=torch.tensor([0, torch.nan])),
        "teacher '…teacher.zip': qa_outputs.bias contains NaN or infinity, expected finite "
        "weights"),
    "an archive of repeated values": (
        teacher, lambda w: archive(w, qa_outputs__weight=torch.zeros(1).expand(2, 8)),
        "teacher '…teacher.zip': qa_outputs.weight repeats values that the file has once, expected "
        "its weights"),
    "an archive of tensors that share their values": (
        teacher, lambda w: archive(w, **dict.fromkeys(
            (f"bert__encoder__layer__{n}__output__dense__weight" for n in (0, 1)),
            torch.zeros(8, 12))),
        "teacher '…teacher.zip': bert.encoder.layer.1.output.dense.weight repeats values that the "
        "file has once, expected its weights"),
    "an archive that is a pipe": (
        teacher, piped("teacher.zip"),
        "teacher '…teacher.zip': it is a pipe or a device, expected a file"),
    "an archive that is a device": (
        teacher, lambda w: (w.folder / "t.zip").symlink_to("/dev/zero") or w.folder / "t.zip",
        "teacher '…t.zip': it is a pipe or a device, expected a file"),
    "an archive of too many names": (
        teacher, zip_of(f"{number}" for number in range(100_001)),
        "teacher '…teacher.zip': the zip has 100,001 files, at most 100,000 are expected"),
    "an archive of one name twice, the last": (
        teacher, zip_of([*map(str, range(50_000)), "49999"]),
        "teacher '…teacher.zip': the zip contains '49999' twice, expected each file once"),
    "an archive that is a bomb": (
        teacher, bounded("ALWAYS_UNPACKED", 2**20, zip_bomb),
        "teacher '…teacher.zip': pytorch_model.bin unpacks to 10,000,000 bytes, expected at most "
        "1,048,576"),
    "an archive's config too deep": (
        teacher, with_files(as_pickle(dict), holding("config.json", DEEP.encode()),
                            without("tokenizer.json", "tokenizer_config.json")),
        "teacher '…': its config.json does not fit a stock BERT (maximum recursion depth "
        "exceeded…)"),
    "an archive of a user without a home": (
        teacher, lambda w: "~nosuchuser/t.zip",
        "teacher '~nosuchuser/t.zip': no such file or folder"),
    "an archive's name that is too long": (
        teacher, lambda w: "t" * 5000 + ".zip", "teacher 'ttt….zip': …File name too long…"),
}


# Mask files


def masks(world, path):
    return {name: mask.shape for name, mask in load_any_masks(path)[0].items()}


def mask_file(shapes, bits=b"\xa5", dtype="U8", shape=None, **metadata):
    """Return a function for a file with one tensor "w" and a header written by hand."""
    shapes = shapes if isinstance(shapes, str) else json.dumps(shapes)
    tensor = {"dtype": dtype, "shape": shape or [len(bits)], "data_offsets": [0, len(bits)]}
    about = {"format": "smp-masks-1", "shapes": shapes} | metadata
    header = json.dumps({"__metadata__": about, "w": tensor}, separators=(",", ":")).encode()
    return lambda w: w.file("m", struct.pack("<Q", len(header)) + header + bits)


def new_mask_file(shapes, mask=None):
    """Return a function for a file of masks, by default empty, with other shapes in its header."""
    def make(world):
        save_masks({name: np.zeros((2, 4), bool) if mask is None else mask for name in shapes},
                   world.folder / "m")
        header, rest = fuzz_readers.header_of((world.folder / "m").read_bytes())
        header["__metadata__"]["shapes"] = json.dumps(shapes)
        header = json.dumps(header, separators=(",", ":")).encode()
        data = struct.pack("<Q", len(header)) + header + rest
        return world.file("m", with_checksum(data))

    return make


def of_another_model(world, made):
    model, masks = made
    apply_masks(model, masks)


def other_masks(world):
    wide, narrow = (BertForQuestionAnswering.from_pretrained(world.saved / name)
                    for name in ("qa", "narrow"))
    masks = {name: np.ones(linear.weight.shape, bool) for name, *_, linear in encoder_linears(wide)}
    save_masks(masks, world.folder / "m")
    return narrow, load_any_masks(world.folder / "m")[0]


def theirs(world, path):
    model = BertForQuestionAnswering.from_pretrained(world.saved / "qa")
    return len(load_authors_masks(path, model))


def their_file(change=lambda data: data, name="m.npy", model="qa"):
    def make(world):
        model_ = BertForQuestionAnswering.from_pretrained(world.saved / model)
        ones = {n: np.ones(linear.weight.shape, bool) for n, *_, linear in encoder_linears(model_)}
        save_authors_masks(ones, world.folder / "m.npy")
        data = change((world.folder / "m.npy").read_bytes())
        if name.endswith(".zip"):
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
                new.writestr("m.npy", data)
            data = packed.getvalue()
        return world.file(name, data)

    return make


NO_MASKS = "…m is not a mask file of this project: …"
NOT_THEIRS = "…m.npy… is not a mask file of the authors for this model: …"
MASKS = {
    "a mask file": (masks, mask_file({"w": [2, 4]}), Right({"w": (2, 4)})),
    "a pipe of masks": (masks, piped("m"), "…m is not a mask file of this project: it is a pipe or "
                        "a device, expected a file"),
    "a mask of three dimensions": (
        masks, mask_file({"w": [2, 2, 2]}),
        "…m is not a mask file of this project: w has shape [2, 2, 2], expected [out, in]"),
    "a shape that is a number": (masks, mask_file({"w": 8}), NO_MASKS),
    "a shape of true": (masks, mask_file({"w": [True, 8]}), NO_MASKS),
    "a shape below zero": (masks, mask_file({"w": [-2, -4]}), NO_MASKS),
    "a shape with a point": (masks, mask_file({"w": [2.0, 4.0]}), NO_MASKS),
    "a shape without end": (masks, mask_file('{"w": [1e308, 1e308]}'), NO_MASKS),
    "a shape that wraps around": (masks, mask_file({"w": [2**32, 2**32]}, b""), NO_MASKS),
    "a shape of 5000 digits": (masks, mask_file(f'{{"w": [{DIGITS}, 1]}}'), NO_MASKS),
    "shapes too deep": (masks, mask_file(DEEP), NO_MASKS),
    "shapes that are a list": (masks, mask_file([]), NO_MASKS),
    "a missing mask": (masks, mask_file({"x": [2, 4]}), NO_MASKS),
    "bits that are floats": (
        masks, mask_file({"w": [2, 4]}, b"abcd", "F32", [1]),
        "…m is not a mask file of this project: w is float32 of shape (1,), expected uint8 (m,)"),
    "bits of a type that numpy lacks": (masks, mask_file({"w": [2, 4]}, dtype="F8_E4M3"), NO_MASKS),
    "an entry that is no JSON": (masks, mask_file({"w": [2, 4]}, density="x"), NO_MASKS),
    "an entry too deep": (masks, mask_file({"w": [2, 4]}, density=DEEP), NO_MASKS),
    "a missing header": (
        masks, lambda w: w.file("m", struct.pack("<Q", 2**40) + b"{}"), NO_MASKS),
    "a mask of 9 bytes that fills the memory": (
        masks, new_mask_file({"w": [2**31, 2**31]}),
        "…m is not a mask file of this project: w has shape [2147483648, 2147483648], expected "
        "[out, in]"),
    "four masks of 9 bytes that fill the memory": (
        masks, new_mask_file(dict.fromkeys("wxyz", [2**14, 2**14])),
        "…m is not a mask file of this project: it describes 1,073,741,824 weights in … bytes; "
        "load it with its base model"),
    "a code of another shape": (
        masks, new_mask_file({"w": [9, 9]}, np.eye(2, 4) > 0),
        "…m is not a mask file of this project: the code of a mask is damaged, or not of shape 9 x "
        "9"),
    "a mask file with another checksum": (
        masks, mask_file({"w": [2, 4]}, format="smp-masks-2", checksum="0" * 64),
        "…m is not a mask file of this project: its bytes differ from those that were written; "
        "copy it again"),
    "a mask file without a checksum": (
        masks, mask_file({"w": [2, 4]}, format="smp-masks-2"),
        "…m is not a mask file of this project: it has no checksum"),
    "a mask file of a form to come": (
        masks, mask_file({"w": [2, 4]}, format="smp-masks-4"),
        "…m is not a mask file of this project: its format is 'smp-masks-4', expected "
        "'smp-masks-3'"),
    "a folder of masks": (masks, lambda w: w.folder, "… is not a mask file of this project: …"),
    "masks of another model": (
        of_another_model, other_masks,
        "mask encoder.layer.0.attention.output.dense is bool of shape (8, 8), expected bool of "
        "shape (4, 4)"),
    "their masks": (theirs, their_file(), Right(12)),
    "their masks of another model": (
        theirs, their_file(model="narrow"),
        "…m.npy is not a mask file of the authors for this model: it contains 40 bytes, expected "
        "112 for this model"),
    "their masks with 200 MB more": (
        theirs, their_file(lambda data: data + b"\0" * 2 * 10**7, "m.npy.zip"),
        "…m.npy.zip is not a mask file of the authors for this model: its header gives 112 bytes, "
        "it contains more: download it again"),
    "their masks with a flipped bit, zipped": (
        theirs, lambda w: w.file("m.npy.zip", flipped(
            open(their_file(name="m.npy.zip")(w), "rb").read(), 60)), NOT_THEIRS),
    "a folder for their masks": (
        theirs, lambda w: (w.folder / "m.npy").mkdir() or w.folder / "m.npy", NOT_THEIRS),
    "their masks in a home that does not exist": (
        theirs, lambda w: "~nosuchuser/m.npy", "~nosuchuser/m.npy: no such mask file"),
}


# Settings, records, and the search for a teacher by its record


def setting(world, made):
    profile = made.pop("profile", "quick")
    settings = choose_settings(profile, "smp", **made)
    return {name: getattr(settings, name) for name in made}


SETTINGS = {
    name: (setting, lambda w, made=made: dict(made), expected) for name, made, expected in (
        ("a seed", dict(seed=2**32 - 1), Right(dict(seed=2**32 - 1))),
        ("a seed too high", dict(seed=2**32),
         "seed is 4294967296: expected a number below 4294967296"),
        ("epochs without end", dict(epochs=1e308),
         "epochs is 1e+308: expected a number below 4294967296"),
        ("a billion validations", dict(n_validations=10**9),
         "n_validations is 1000000000: expected a whole number from 0 to 1000"),
        ("minus infinity", dict(regulariser=-float("inf")),
         "regulariser is -inf: expected a number below 4294967296"),
        ("not a number", dict(learning_rate=float("nan")),
         "learning_rate is nan: expected a number above 0"),
        ("a method in a list", dict(method=["smp-l"]),
         "method is ['smp-l']: expected one of smp-l, …"),
        ("a profile in a list", dict(profile=["quick"]),
         "profile is ['quick']: expected one of quick, …"),
        ("a distillation in a list", dict(distill=["logits"]),
         "distill is ['logits']: expected one of none, logits, hidden"),
        ("a number for yes or no", dict(init_head_from_teacher=1),
         "init_head_from_teacher is 1: expected False, or True with the head auto or trained"),
        ("a number as text", dict(density="0.5"),
         "density is '0.5': expected a number above 0 and at most 1"),
        ("a number in a list", dict(density=[0.5]),
         "density is [0.5]: expected a number above 0 and at most 1"),
        ("an array", dict(density=np.array([0.5, 0.6])),
         "density is array([0.5, 0.6]): expected a number above 0 and at most 1"),
        ("a complex number", dict(density=1j),
         "density is 1j: expected a number above 0 and at most 1"),
        ("a temperature of zero", dict(distill_temperature=0),
         "distill_temperature is 0: expected a number above 0"),
        ("a window of no tokens", dict(max_length=0),
         "max_length is 0: expected a whole number from 1"),
        ("a path that is no text", dict(model=io),
         "model is <module 'io'…>: expected a name or a path, as text"),
        ("lines in a value", dict(precision="fp\n32"),
         "precision is 'fp\\n32': expected auto, fp32, bf16 or fp16"),
        ("lines in a name", {"a\nb": 1}, "unknown setting 'a\\nb': did you mean …?"),
    )
}


def records(world, folder):
    return len(read_records(folder))


def record_with(**changes):
    return record_text(lambda record: json.dumps(record | changes))


def record_text(change, folder="results"):
    def make(world):
        path = write_record(make_record(), world.folder / folder)
        path.write_text(change(json.loads(path.read_text())))
        return path.parent

    return make


def folder_named(name):
    def make(world):
        (world.folder / "results" / name).mkdir(parents=True)
        return world.folder / "results"

    return make


def layer(**changes):
    kept = {"layer": 0, "matrix": "query", "kept": 73728, "total": 147456}
    return record_with(layers=[kept | changes])


def no_record(reason):
    return (f"all-MiniLM-L6-v2….json is not a result record: {reason}; run it again or move the "
            "file away")


LAYER = no_record("layers is expected to be a list of {layer, matrix, kept, total}")
RECORDS = {
    "a record": (records, record_with(), Right(1)),
    "a record too deep": (
        records, record_text(lambda record: DEEP), no_record("maximum recursion depth exceeded…")),
    "a record of 5000 digits": (
        records, record_text(lambda record: json.dumps(record).replace("1327104", DIGITS)),
        no_record("Exceeds the limit…")),
    "a record cut off": (
        records, record_text(lambda record: json.dumps(record)[:500]), no_record("…")),
    "a folder for a record": (
        records, folder_named("x.json"),
        "x.json is not a result record: …Is a directory…; run it again or move the file away"),
    "a record of an infinite number": (
        records, record_with(seconds=float("inf")),
        no_record("seconds is inf, expected a finite number; did the run diverge?")),
    "a count above the largest float": (
        records, record_with(params_total=10**400),
        no_record("params_total is 1000…, expected a number from 0 to 1e18")),
    "kept weights as text": (records, layer(kept="all"), LAYER),
    "more kept than there is": (records, layer(kept=147457), LAYER),
    "a layer of no weights": (records, layer(kept=0, total=0), LAYER),
    "a layer in a list": (records, layer(layer=[0]), LAYER),
    "a hash in a list": (
        records, record_with(model_sha=["a"]),
        no_record("model_sha is ['a'], expected a name, without < ` $ \\ or line breaks")),
    "HTML for a name": (
        records, record_with(model="<script>"),
        no_record("model is '<script>', expected a name, without < ` $ \\ or line breaks")),
    "a heading for a name": (
        records, record_with(data="a\n# b"),
        no_record("data is 'a\\n# b', expected a name, without < ` $ \\ or line breaks")),
    "a record of the first edition": (
        records, record_text(lambda record: json.dumps(
            {name: value for name, value in record.items() if name != "schema"})),
        no_record("missing schema; a record has all fields of RECORD_FIELDS")),
    "a record of an edition to come": (
        records, record_with(schema=3), no_record("schema is 3, expected 2")),
    "an unknown distillation": (
        records, record_with(settings={"distill": ["logits"]}),
        no_record("settings is {'distill': ['logits']}, expected distill to be one of none, "
                  "logits, hidden")),
    "a command for a device": (
        records, record_with(device="$(rm -rf ~)"),
        no_record("device is '$(rm -rf ~)', expected a name, without < ` $ \\ or line breaks")),
    "HTML for a precision": (
        records, record_with(precision="<img src=x>"),
        no_record("precision is '<img src=x>', expected a name, without < ` $ \\ or line breaks")),
    "a command for a teacher": (
        records, record_with(teacher={"name": "`id`", "em": 0.5}),
        no_record("teacher is …, expected null, or a name, without < ` $ \\ or line breaks, and "
                  "its em")),
    "no target density": (
        records, record_with(density_target=None),
        no_record("density_target is None, expected in [0, 1]")),
}
PASSED_OVER = ("…record.json is damaged, so its model is not used as a teacher: train it again, "
               "or set it as the teacher")
GOOD = dict(method="fine-tuned", model_sha="a", data="b", data_sha="c", em=0.5)


def found_teacher(world, made):
    """Return the name from find_teacher; raise the line that it prints for a damaged record."""
    found = find_teacher(world.folder, "a", "b")
    printed = world.capsys.readouterr().out.strip()
    if printed:
        assert found is None
        raise ValueError(printed)
    return found[0].name


def saved_record(content):
    return lambda w: w.file("models/m/record.json", content)


FOUND = {
    "a saved teacher": (found_teacher, saved_record(json.dumps(GOOD)), Right("m")),
    "a teacher's record that is a pipe": (
        found_teacher, lambda w: w.file("models/m/x", "") and piped("models/m/record.json")(w),
        PASSED_OVER),
    "a teacher's record, empty": (found_teacher, saved_record(""), PASSED_OVER),
    "a teacher's record, cut": (found_teacher, saved_record(json.dumps(GOOD)[:20]), PASSED_OVER),
    "a teacher's record, a list": (found_teacher, saved_record("[]"), PASSED_OVER),
    "a teacher's record, null": (found_teacher, saved_record("null"), PASSED_OVER),
    "a teacher's record, no text": (found_teacher, saved_record(b"\xff\xfe"), PASSED_OVER),
    "a teacher's record, too deep": (found_teacher, saved_record(DEEP), PASSED_OVER),
    "a teacher without a score": (
        found_teacher, saved_record(json.dumps(GOOD | {"em": None})), PASSED_OVER),
    "a folder for a teacher's record": (
        found_teacher, lambda w: (w.folder / "models/m/record.json").mkdir(parents=True),
        PASSED_OVER),
}


# The command line


def main(world, made):
    """Run `python -m smp`; raise the line on stderr if the exit code is not 0."""
    arguments = [str(word).replace("HERE", str(world.folder)) for word in made]
    try:
        code = command_line.main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    shown = world.capsys.readouterr()
    if code:
        assert shown.out == "" and shown.err.endswith("\n")
        raise ValueError(shown.err[:-1])
    return code


def command(*words, make=None):
    def made(world):
        if make:
            make(world)
        return words

    return made


def unwritable(world):
    real = os.access
    world.monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))


SWEEP = ["sweep", "--profile=quick", "--results=HERE/new"]
COMMANDS = {
    "results below a file": (
        main, command("run", "--results=HERE/file/new", make=lambda w: w.file("file", "")),
        "run: --results …/file/new: …/file is not a folder; name a writable folder"),
    "results behind a link to nowhere": (
        main, command("run", "--results=HERE/link/x",
                      make=lambda w: (w.folder / "link").symlink_to("nowhere")),
        "run: --results …/link/x: …/link is not a folder; name a writable folder"),
    "results that cannot be written": (
        main, command("run", "--results=HERE/new/x", make=unwritable),
        "run: --results …/new/x: cannot write in …; name a writable folder"),
    "a sweep into what cannot be written": (
        main, command(*SWEEP, make=unwritable),
        "sweep: --results …/new: cannot write in …; name a writable folder"),
    "checkpoints below a file": (
        main, command("run", "--checkpoints=HERE/file/new", make=lambda w: w.file("file", "")),
        "run: --checkpoints …/file/new: …/file is not a folder; name a writable folder"),
    "a method with a grid": (
        main, command(*SWEEP, "--method=movement"), "sweep: --method: a sweep takes --methods"),
    "a task with a grid": (
        main, command(*SWEEP, "--task=smp"), "sweep: unknown option --task: …"),
    "a distillation with a grid": (
        main, command(*SWEEP, "--distill", "hidden"), "sweep: --distill: a sweep takes --methods"),
    "settings in one option": (
        main, command("run", "--set", "epochs=2"), "run: unknown option --set: …"),
    "an option without a name": (
        main, command("run", "--=5"), "run: Unrecognized options: --=5"),
    "an option of bytes": (
        main, command("run", "--\udcff=5"), "run: Unrecognized options: --\\udcff=5"),
    "lines in an option": (
        main, command("run", "--a\nb=5"), "run: unknown option --a\\nb: …"),
    "a setting that is not finite": (
        main, command("run", "--learning-rate=1e999"),
        "run: learning_rate is inf: expected a number below 4294967296"),
    "a density that is not a number": (
        main, command(*SWEEP, "--densities", "0.5", "nan"),
        "sweep: density is nan: expected a number above 0 and at most 1"),
    "no densities": (
        main, command(*SWEEP, "--densities"), "sweep: --densities: expected one or more"),
    "a number of 5000 digits as option": (
        main, command("run", f"--n-train={DIGITS}"),
        "run: --n-train 999…: expected a whole number"),
    "lines in a number": (
        main, command("run", "--n-train=1\n2"), "run: --n-train 1…2: expected a whole number"),
    "lines in a path": (
        main, command("run", "--data=./a\nb"), "run: --data ./a\\nb: no such file or folder"),
    "a path of bytes": (
        main, command("run", "--model=./\udcff"), "run: --model ./\\udcff: no such file or folder"),
    "a seed too high as option": (
        main, command("run", f"--seed={2**32}"),
        "run: seed is 4294967296: expected a number below 4294967296"),
    "a name of bytes": (
        main, command("run", "--profile=\udcff"),
        "run: profile is '\\udcff': expected one of quick, …"),
    "a verb of bytes": (
        main, command("r\udcffn"), "smp: unknown verb 'r\\udcffn': did you mean …? Known: …"),
    "a sweep of a model without its tokenizer": (
        main, command(*SWEEP, "--model=HERE/qa", make=with_files(
            without("tokenizer.json", "tokenizer_config.json"))), "sweep: " + NO_WORDS),
    "a sweep of a pickle with code": (
        main, command(*SWEEP, "--model=HERE/qa",
                      make=with_files(as_pickle(lambda t: t | {"x": Code()}))),
        "sweep: " + NOT_SAFE),
    "a sweep of a model for short windows": (
        main, command(*SWEEP, "--model=HERE/qa", make=with_files()),
        "sweep: max_length is 160, but model '…qa' reads at most 128 tokens: lower max_length, or "
        "use another model"),
    "a sweep over damaged records": (
        main, command(*SWEEP[:2], "--results=HERE/results",
                      make=record_text(lambda record: DEEP)),
        "sweep: " + no_record("maximum recursion depth exceeded…")),
    "a table of damaged records": (
        main, command("table", make=record_text(lambda record: DEEP)),
        "table: " + no_record("maximum recursion depth exceeded…")),
    "a table of a folder": (
        main, command("table", make=folder_named("x.json")),
        "table: x.json is not a result record: …; run it again or move the file away"),
    "a repeat of JSON that is too deep": (
        main, command("repeat", "HERE/x.json", make=lambda w: w.file("x.json", DEEP)),
        "repeat: …/x.json is not a result record: maximum recursion depth exceeded…"),
    "a repeat of a folder": (
        main, command("repeat", "HERE/results/x.json", make=folder_named("x.json")),
        "repeat: …/x.json is not a result record: …Is a directory…"),
    "a repeat in a home that does not exist": (
        main, command("repeat", "~nosuchuser/x"), "repeat: ~nosuchuser/x: no such file; …"),
    "their masks in no home": (
        main, command("authors", "~nosuchuser/x"), "authors: ~nosuchuser/x: no such file"),
    "their masks as a pipe": (
        theirs, piped("m.npy"), "…m.npy is not a mask file of the authors for this model: it is a "
        "pipe or a device, expected a file"),
    "their masks as a folder": (
        main, command("authors", "HERE"), "authors: …: no such file"),
}

CASES = (
    DATA | UNICODE | QUESTIONS | MODELS | TEACHERS | MASKS | SETTINGS | RECORDS | FOUND | COMMANDS
)


def matches(line, expected):
    """Return whether the line is the expected one, in which … matches any text of one line."""
    return re.fullmatch(".*".join(map(re.escape, expected.split("…"))), line) is not None


@pytest.fixture(scope="module")
def word_pieces(saved):
    return BertTokenizer.from_pretrained(saved / "qa")


@pytest.mark.parametrize("case", CASES)
def test_each_case_has_its_result_or_line(
    case, tmp_path, saved, tokenizer, word_pieces, monkeypatch, capsys
):
    reader, make, expected = CASES[case]
    world = World(tmp_path, saved, monkeypatch)
    world.tokenizer, world.words, world.capsys = tokenizer, word_pieces, capsys
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("input() was called"))
    made = make(world)
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    if isinstance(expected, Right):
        assert reader(world, made) == expected.value
    else:
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            reader(world, made)
        assert matches(str(error.value), expected), str(error.value)
        assert len(str(error.value)) < 12_000
    assert sorted(tmp_path.rglob("*")) == before


def test_the_cases_have_unique_names_and_one_line():
    parts = (DATA, UNICODE, QUESTIONS, MODELS, TEACHERS, MASKS, SETTINGS, RECORDS, FOUND, COMMANDS)
    assert len(CASES) == sum(map(len, parts)) >= 60, "two cases have one name"
    assert not any("\n" in e for _, _, e in CASES.values() if isinstance(e, str)), "two lines"


def test_a_bomb_needs_less_than_8_mib(tmp_path, monkeypatch):
    """Unpacking ends at the limit, so no more memory is used."""
    import tracemalloc

    monkeypatch.setattr(squad_file, "ALWAYS_UNPACKED", 4 * 2**20)
    path = tmp_path / "pages.json.gz"
    path.write_bytes(gzip.compress(b"\0" * 10**7) * 4)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="unpacks to more than 4,194,304 bytes"):
            load_squad(str(path))
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()

