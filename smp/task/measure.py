"""Measure the formats of an export on the same questions, and choose the fastest accurate one."""

import time
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from smp.data.answers import SquadMetric, decode_answers
from smp.data.windows import make_loader
from smp.model.predict import MODEL_INPUTS
from smp.runs.result import em_half_interval
from smp.text import first_line, markdown_table

TIMED = 200  # windows
PLAIN = "fp32 model"  # the run's model in torch, as it is saved
OPENVINO_FP32 = "OpenVINO fp32"  # timed only, where openvino-bf16 computes in bf16


def window_batches(features: Dataset, tokenizer: Any, size: int) -> list[dict[str, torch.Tensor]]:
    """Return at most TIMED windows in batches of `size` of similar length, shortest first."""
    lengths = np.array([len(ids) for ids in features["input_ids"][:]])
    order = np.argsort(lengths, kind="stable")
    order = order[np.unique(np.linspace(0, len(order) - 1, TIMED).astype(int))]
    names = [name for name in MODEL_INPUTS if name in features.column_names]
    batches = []
    for first in range(0, len(order), size):
        rows = features.select(order[first : first + size])
        batch = tokenizer.pad({name: rows[name][:] for name in names}, padding_side="right",
                              return_tensors="pt")
        batches.append({name: batch[name] for name in names})
    return batches


@torch.inference_mode()
def time_in_turns(models: dict[str, nn.Module], batches: list[dict]) -> dict[str, np.ndarray]:
    """Return {name: milliseconds of each batch}; the models take turns on each batch."""
    for model in models.values():
        model(**batches[-1])  # warm-up
    times, order = {name: np.zeros(len(batches)) for name in models}, list(models)
    for row, batch in enumerate(batches):
        for name in order:
            began = time.perf_counter()
            models[name](**batch)
            times[name][row] = 1000 * (time.perf_counter() - began)
        order = order[1:] + order[:1]  # so that each is first equally often
    return times


def speed_rows(models: dict[str, nn.Module], precisions: dict[str, str],
               batches: list[dict]) -> dict[str, dict]:
    """Return {name: {"ms", "over_plain", "over_best"}} for one batch size.

    ms: median; the others: quartiles of the speed-up, paired by batch, over PLAIN and over the
    dense fp32 form with the lowest median.
    """
    times = time_in_turns(models, batches)
    dense = [name for name in models if precisions[name] == "fp32" and name != "csr"]
    best = min(dense, key=lambda name: float(np.median(times[name])))

    def quartiles(over, name):
        return [float(q) for q in np.percentile(times[over] / times[name], (25, 50, 75))]

    return {name: {"ms": float(np.median(own)), "best_dense": best,
                   "over_plain": quartiles(PLAIN, name), "over_best": quartiles(best, name)}
            for name, own in times.items()}


@torch.inference_mode()
def answer_on_cpu(model: nn.Module, examples: Dataset, features: Dataset,
                  tokenizer: Any) -> tuple[dict, list[str]]:
    """Return ({"em", "f1", "exact_matches", "n_eval"}, answers); formats run on the CPU only."""
    logits = np.full((2, len(features), max(map(len, features["input_ids"]))), -np.inf, np.float32)
    for batch in make_loader(features, tokenizer, 32, shuffle=False):
        inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
        out = model(**inputs)
        pair = np.stack([out.start_logits.numpy(), out.end_logits.numpy()])
        logits[:, batch["row"].numpy(), : pair.shape[2]] = np.where(
            inputs["attention_mask"] == 1, pair, -np.inf)
    answers = decode_answers(examples, features, *logits)
    references = examples.with_format(None).select_columns(["id", "answers"]).to_list()
    scores = SquadMetric().compute(predictions=answers, references=references)
    return (scores | {"n_eval": len(examples)}, [one["prediction_text"] for one in answers])


def accuracy_rows(models: dict[str, nn.Module], examples: Dataset, features: Dataset,
                  tokenizer: Any) -> dict[str, dict]:
    """Return {name: {"em", "f1", "same_answers", "em_difference", "half_interval"}}.

    em_difference: EM minus that of PLAIN; half_interval: half of its paired 95% interval.
    """
    found = {name: answer_on_cpu(model, examples, features, tokenizer)
             for name, model in models.items()}
    plain, wanted = found[PLAIN]
    return {
        name: {"em": own["em"], "f1": own["f1"], "em_difference": own["em"] - plain["em"],
               "half_interval": em_half_interval(own, [plain]),
               "same_answers": sum(map(str.__eq__, answers, wanted))}
        for name, (own, answers) in found.items()
    }


def measure_formats(models: dict[str, nn.Module], examples: Dataset, features: Dataset,
                    tokenizer: Any) -> dict[str, dict]:
    """Return {name: its accuracy and its speed at "batch_1" and "batch_8"}.

    models: those of `load_format`, and PLAIN.
    """
    precisions = {name: getattr(model, "precision", "fp32") for name, model in models.items()}
    accuracy = accuracy_rows({name: model for name, model in models.items()
                              if name != OPENVINO_FP32}, examples, features, tokenizer)
    speed = {size: speed_rows(models, precisions, window_batches(features, tokenizer, size))
             for size in (1, 8)}
    return {name: {"precision": precisions[name], **accuracy.get(name, {}),
                   "batch_1": speed[1][name], "batch_8": speed[8][name]} for name in models}


def choose_best(rows: dict[str, dict], most_lost: float) -> tuple[str, str]:
    """Return (format, reason): the fastest whose EM on held-out questions is close enough.

    rows: {format: {"ms", "em_difference", "half_interval"}}. Close enough: the upper bound of the
    paired 95% interval of the lost EM is at most `most_lost`. Without one it is dense.
    """
    lost = {name: row["half_interval"] - row["em_difference"] for name, row in rows.items()}
    near = [name for name in rows if lost[name] <= most_lost]
    if not near:
        return "dense", (f"no format is certain to lose at most {100 * most_lost:g} EM: the lowest "
                         f"upper bound is {100 * min(lost.values()):.2f}")
    best = min(near, key=lambda name: rows[name]["ms"])
    return best, (f"{rows[best]['ms']:.1f} ms at batch 1, the fastest of {len(near)} formats that "
                  f"lose at most {100 * most_lost:g} EM (upper bound {100 * lost[best]:.2f})")


def tables_markdown(report: dict) -> str:
    """Return a table of accuracy and size, and a table of speed, of a report of `export_run`."""
    rows, accuracy = report["formats"], []
    for name, row in rows.items():
        if "em" in row:
            size, about = report["bytes"].get(name), report["about"].get(name, {})
            accuracy.append([
                name, row["precision"], f"{row['em']:.4f}", f"{row['f1']:.4f}",
                f"{100 * row['em_difference']:+.2f} ± {100 * row['half_interval']:.2f}",
                f"{row['same_answers']} of {report['questions']}",
                f"{size / 1e6:.2f} MB" if size else "–", ", ".join(about.get("packages", ["–"]))])
    header, speed = ["Format"], [[name] for name in rows]
    for size in (1, 8):
        fastest = rows[PLAIN][f"batch_{size}"]["best_dense"]
        header += [f"ms, batch {size}", f"over {PLAIN}", f"over {fastest}"]
        for line, row in zip(speed, rows.values()):
            own = row[f"batch_{size}"]
            line += [f"{own['ms']:.1f}", *(
                f"{middle:.2f} ({low:.2f}–{high:.2f})"
                for low, middle, high in (own["over_plain"], own["over_best"]))]
    return "\n\n".join([
        markdown_table(["Format", "Precision", "EM", "F1", "EM difference", "Answer agreement",
                        "Size on disk", "Packages"], accuracy),
        markdown_table(header, speed)])


def export_markdown(report: dict) -> str:
    """Return the tables and notes of a report of `export_run`, for a terminal."""
    lines = [
        f"{first_line(report['run'])}: {report['questions']} evaluation questions, CPU, "
        f"{report['threads']} threads. Differences and answers are compared with the {PLAIN}. ± is "
        "half of the paired 95% interval. Times are medians over batches, the formats in turns; "
        "speed-ups are medians (quartiles).",
        tables_markdown(report)]
    if masks := report["mask_file"]:
        lines.append(
            f"Mask file: {masks['bytes']:,} bytes, of which the head takes {masks['bytes_head']:,} "
            f"and biases and LayerNorms {masks['bytes_vectors']:,}. The rest is "
            f"{masks['above_bound']:.3f} times the entropy of the masks, "
            f"{masks['bytes_entropy_bound']:,} bytes.")
    if removed := report["dead_units"]:
        before, after = removed["parameters"]
        lines.append(f"Dead units removed: {before:,} parameters became {after:,}.")
    if csr := report["about"].get("csr"):
        lines.append(f"csr: {len(csr['products'])} of {csr['matrices']} matrices are faster as CSR "
                     "products; the others are multiplied dense.")
    if "openvino-int8" in report["about"]:
        tried = report["about"]["openvino-int8"]["int8"]
        steps = "; ".join(f"{one['left_out']} layers left out: {100 * one['lost_em']:+.2f} EM lost"
                          for one in tried["tried"])
        names = f" Left out: {', '.join(tried['left_out'])}." * bool(tried["left_out"])
        lines.append(f"openvino-int8, {tried['windows']} calibration windows, on held-out "
                     f"training questions: {steps}.{names}")
    if best := report.get("best"):
        row = report["formats"][best["format"]]
        lines.append(f"Best on {best['questions']} held-out training questions: {best['reason']}. "
                     f"Evaluation EM {row['em']:.4f}, F1 {row['f1']:.4f}: {best['folder']}")
    return "\n\n".join(lines)
