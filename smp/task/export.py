"""Export a saved run: model card, one folder for each format, and their accuracy and speed.

Each format is loaded from its folder. All answer the same questions of the run's own data, on the
CPU, and take turns in the timing.
"""

import copy
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from smp.data.windows import featurise
from smp.fast.dead_units import prune_dead_units
from smp.files import replace_folder, replace_text_file
from smp.model.load import readable_tokens
from smp.model.predict import MODEL_INPUTS
from smp.model.student import stock_model
from smp.task.answerer import load_any_task, load_format, load_saved
from smp.task.apply import matrix_shapes
from smp.task.cards import format_card, model_card
from smp.task.formats import ABOUT, FORMATS, why_not, write_csr, write_dense, write_onnx
from smp.task.mask_file import MASK_FILE, unpack_masks
from smp.task.measure import (
    OPENVINO_FP32,
    PLAIN,
    accuracy_rows,
    answer_on_cpu,
    choose_best,
    measure_formats,
    window_batches,
)
from smp.task.openvino_model import convert, openvino_model, quantise, save_openvino
from smp.task.saved_run import check_settings, measure_mask_file, questions_of_run, read_run
from smp.text import first_line

CALIBRATION = 128  # windows of the training questions
WEIGHTS = (".safetensors", ".onnx", ".xml", ".bin")


def without_dead_units(model: nn.Module) -> tuple[nn.Module, dict | None]:
    """Return (copy without dead units, report of `prune_dead_units`), or (the model, None).

    The model stays as it is if nothing is dead, or if its layers are not stock layers of PRUNABLE.
    """
    small = copy.deepcopy(model)
    try:
        removed = prune_dead_units(small)
    except ValueError:
        return model, None
    before, after = removed["parameters"]
    return (small, removed) if after < before else (model, None)


def root_cause(error: BaseException) -> BaseException:
    """Return the error that caused this one, because exporters wrap it in advice."""
    return root_cause(error.__cause__) if error.__cause__ else error


def pick_formats(asked: tuple[str, ...], best: bool, model: nn.Module) -> list[str]:
    """Return the formats to write: those asked for, or all possible ones, and dense for `best`.

    Raises ValueError if a requested one is not possible. Prints a line if another is not.
    """
    reasons = {kind: why_not(kind, model) for kind in asked or FORMATS}
    for reason in reasons.values():
        if reason and asked:
            raise ValueError(reason)
        if reason:
            print(f"Not written: {reason}")
    return list(dict.fromkeys(["dense"] * best + [k for k in reasons if not reasons[k]]))


def calibration_windows(train: Dataset, tokenizer: Any, length: tuple[int, int],
                        names: list[str]) -> list[dict[str, torch.Tensor]]:
    """Return CALIBRATION windows of training questions, the same in each call, as model inputs."""
    rows = np.random.default_rng(0).permutation(len(train))[:CALIBRATION]
    windows = featurise(train.select(rows), tokenizer, *length)
    return [{name: torch.tensor([row[name]]) for name in names}
            for row in windows.select(range(min(CALIBRATION, len(windows))))]


@dataclass(frozen=True)
class Loaded:
    """A run that is ready to be written in formats.

    base: the name it was loaded by; model: as it was saved; small: the model without dead units,
    and host: the stock model that contains it; removed: report of `prune_dead_units`, or None;
    length: (max_length, stride); names: the inputs of the model.
    """

    record: dict
    masks: tuple[dict, dict] | None
    model: nn.Module
    tokenizer: Any
    small: nn.Module
    host: nn.Module
    removed: dict | None
    length: tuple[int, int]
    names: list[str]

    def featurise(self, questions: Dataset) -> Dataset:
        """Return the windows of questions, with the run's lengths."""
        return featurise(questions, self.tokenizer, *self.length)


def load_run(folder: Path, base: str | None) -> Loaded:
    """Load a run of results/models/, or a mask file with its base model."""
    record, found = read_run(folder)
    check_settings(folder, settings := record["settings"])
    base = str(folder) if (folder / "config.json").exists() else base or record["model"]
    own = base == str(folder)
    model, tokenizer = load_saved(base) if own else load_any_task(base, folder)[:2]
    small, removed = without_dead_units(model)
    if (host := stock_model(model, base)) is model or removed:
        host = small if host is model else without_dead_units(host)[0]
    small.requires_grad_(False)
    reads = inspect.signature(small.forward).parameters  # DistilBERT has no token types
    masks = found and (unpack_masks(folder / MASK_FILE, found[0], matrix_shapes(model)), found[1])
    return Loaded(record, masks, model, tokenizer, small, host, removed,
                  (settings["max_length"], settings["stride"]),
                  [name for name in MODEL_INPUTS if name in reads
                   and name in tokenizer.model_input_names])


def write_int8(run: Loaded, parts: dict[str, Dataset], folder: Path) -> dict:
    """Write OpenVINO in int8, calibrated on training questions and checked on held-out ones."""
    held = parts["held out"], parts["held out windows"], run.tokenizer
    em = answer_on_cpu(run.model, *held)[0]["em"]
    quantised, tried = quantise(
        run.small, calibration_windows(parts["train"], run.tokenizer, run.length, run.names),
        lambda other: em - answer_on_cpu(other, *held)[0]["em"], readable_tokens(run.model))
    save_openvino(quantised, folder)
    return {"packages": ["openvino", "transformers"], "int8": tried}


def write_bf16(run: Loaded, window: dict[str, torch.Tensor], folder: Path) -> dict:
    """Write OpenVINO in floating point."""
    save_openvino(convert(run.small, window), folder)
    return {"packages": ["openvino", "transformers"]}


def write_format(run: Loaded, kind: str, writer: Callable[[Path], dict], folder: Path) -> dict:
    """Write one folder: the model, the tokenizer, smp_format.json and a card. Return its about."""
    folder.mkdir(parents=True)
    about = {"format": kind, "max_length": run.length[0], "stride": run.length[1],
             "tokens": readable_tokens(run.model), "head": run.record["head"],
             "compact": run.removed is not None, **writer(folder)}
    if not (folder / "config.json").exists():
        run.model.config.save_pretrained(folder)
        run.tokenizer.save_pretrained(folder)
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    (folder / "README.md").write_text(format_card(run.record, about), "utf-8")
    return about


def write_formats(run: Loaded, kinds: list[str], parts: dict[str, Dataset], into: Path,
                  must: bool) -> dict[str, dict]:
    """Write a folder in `into` for each format; return {format: its about}.

    parts: questions, and their windows; must: raise ValueError, not print, if one cannot be held.
    """
    batches = window_batches(parts["eval windows"], run.tokenizer, 1)
    window = {name: batches[len(batches) // 2][name] for name in run.names}
    writers: dict[str, Callable[[Path], dict]] = {
        "dense": partial(write_dense, run.host, run.tokenizer, run.removed is not None),
        "csr": partial(write_csr, run.host, run.tokenizer, run.small, window),
        "onnx": partial(write_onnx, run.small, window),
        "openvino-bf16": partial(write_bf16, run, window),
        "openvino-int8": partial(write_int8, run, parts)}
    about: dict[str, dict] = {}
    into.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        def write(draft: Path, kind: str = kind) -> None:
            about[kind] = write_format(run, kind, writers[kind], draft)

        try:
            replace_folder(into / kind, write)
        except OSError:
            raise
        except Exception as error:  # exporters raise types of their own
            line = f"{kind} cannot hold {run.record['name']}: {first_line(root_cause(error))}"
            if must:
                raise ValueError(line) from None
            print(f"Not written: {line}")
    return about


def export_run(
    folder: Path | str, data: str | None = None, base: str | None = None,
    formats: tuple[str, ...] = (), questions: int = 200, into: Path | None = None,
    best: bool = False, most_lost: float = 0.005, held_out: int = 1000,
) -> dict:
    """Write a run's model card, a folder for each format, and measurements in export.json.

    folder: a run in results/models/, or a folder with a mask file; data, base: its questions and
    its base model, if they differ from the record; into: the folder to write into, if it is another
    one; best, most_lost: choose as `choose_best`, on `held_out` training questions. Returns the
    content of export.json. Raises ValueError or FileNotFoundError with one line.
    """
    folder = Path(folder)
    into = into or folder
    for name, count in (("questions", questions), ("held_out", held_out)):
        if count < 1:
            raise ValueError(f"{name} is {count}: expected 1 or more")
    run = load_run(folder, base)
    kinds, settings = pick_formats(formats, best, run.host), run.record["settings"]
    try:
        parts = questions_of_run(settings, data, held_out * (best or "openvino-int8" in kinds))
    except ValueError as error:
        if formats or best or "openvino-int8" not in kinds:
            raise
        print(f"Not written: openvino-int8 needs training questions: {error}")
        kinds.remove("openvino-int8")
        parts = questions_of_run(settings, data, 0)
    parts["eval"] = asked = parts["eval"].select(range(min(questions, len(parts["eval"]))))
    parts |= {f"{name} windows": run.featurise(parts[name])
              for name in ("eval", "held out") if name in parts}
    about = write_formats(run, kinds, parts, into, bool(formats))
    models = {PLAIN: run.model} | {kind: load_format(into / kind)[0] for kind in about}
    if "openvino-bf16" in models and models["openvino-bf16"].precision != "fp32":
        models[OPENVINO_FP32] = openvino_model(
            into / "openvino-bf16/model.xml", readable_tokens(run.model), "f32")
    report: dict[str, Any] = {
        "run": run.record["name"], "questions": len(asked), "threads": torch.get_num_threads(),
        "mask_file": measure_mask_file(folder / MASK_FILE, *run.masks) if run.masks else None,
        "dead_units": run.removed, "about": about,
        "bytes": {kind: sum(path.stat().st_size for path in (into / kind).iterdir()
                            if path.suffix in WEIGHTS) for kind in about},
        "formats": measure_formats(models, asked, parts["eval windows"], run.tokenizer)}
    if best:
        rows = accuracy_rows({name: models[name] for name in (PLAIN, *about)}, parts["held out"],
                             parts["held out windows"], run.tokenizer)
        rows = {name: rows[name] | {"ms": report["formats"][name]["batch_1"]["ms"]}
                for name in about}
        kind, reason = choose_best(rows, most_lost)
        report["best"] = {"format": kind, "reason": reason, "questions": len(parts["held out"]),
                          "rows": rows, "folder": str(into / kind)}
    if (folder / "config.json").exists():
        replace_text_file(into / "README.md", model_card(run.record))
    replace_text_file(into / "export.json", json.dumps(report, indent=1) + "\n")
    return report
