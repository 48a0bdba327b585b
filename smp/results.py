# %% [markdown]
# ## Results: one file a run, and tables computed from them
#
# Each run leaves one JSON file in `results/`: what was trained on what, with which settings and
# versions, how much of the model is left, and how many questions it answers. The tables are
# computed from these files and never typed, so a number in the README can be followed back to
# the run it came from.
#
# A run's name ends in six digits of a hash of its settings, its model and its data. The same
# settings therefore give the same name, and a rerun replaces its own record and no other. Settings
# at their defaults do not count, so that a new one leaves the old names as they are.

# %%
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
import subprocess
from pathlib import Path

# %%
from smp.settings import SETTING_DEFAULTS

# %% [markdown]
# `PUBLISHED` holds what the paper reports and `GIVEN_TABLE` the table this project started from.
# Neither was measured here, and the summary says so. "Remaining weights" counts the masked
# matrices only: 10% of BERT-base's 84,934,656 masked weights is 30.2% of the whole model, for
# the embeddings are never pruned. We report both.

# %%
PUBLISHED = {
    "source": "Jiang et al., Pruning Pre-trained Language Models Without Fine-Tuning, ACL 2023, "
    "arXiv 2210.06210 (SMP: mean of 5 seeds; the other methods as it quotes them)",
    "model": "BERT-base",
    "data": "SQuAD v1.1 dev",
    "params_total": 109_482_240,
    "params_masked": 84_934_656,
    "rows": [
        {"method": "fine-tuned", "sharing": None, "density": 1.00, "em": 0.804, "f1": 0.881},
        {"method": "SMP", "sharing": "SMP-L", "density": 0.10, "em": 0.750, "f1": 0.843},
        {"method": "SMP", "sharing": "SMP-S", "density": 0.10, "em": 0.751, "f1": 0.846},
        {"method": "SMP", "sharing": "SMP-L", "density": 0.03, "em": 0.707, "f1": 0.810},
        {"method": "SMP", "sharing": "SMP-S", "density": 0.03, "em": 0.709, "f1": 0.814},
        {"method": "SMP + KD", "sharing": "SMP-L", "density": 0.50, "em": 0.822, "f1": 0.894},
        {"method": "SMP + KD", "sharing": "SMP-S", "density": 0.50, "em": 0.828, "f1": 0.898},
        {"method": "SMP + KD", "sharing": "SMP-L", "density": 0.10, "em": 0.789, "f1": 0.869},
        {"method": "SMP + KD", "sharing": "SMP-S", "density": 0.10, "em": 0.793, "f1": 0.872},
        {"method": "SMP + KD", "sharing": "SMP-L", "density": 0.03, "em": 0.740, "f1": 0.834},
        {"method": "SMP + KD", "sharing": "SMP-S", "density": 0.03, "em": 0.750, "f1": 0.841},
    ] + [
        {"method": method, "sharing": None, "density": density, "em": em, "f1": f1}
        for method, density, em, f1 in (
            ("movement", 0.10, 0.719, 0.817), ("movement", 0.03, 0.652, 0.763),
            ("soft movement", 0.10, 0.713, 0.815), ("soft movement", 0.03, 0.695, 0.799),
            ("magnitude + KD", 0.10, 0.702, 0.801), ("magnitude + KD", 0.03, 0.455, 0.596),
            ("movement + KD", 0.50, 0.798, 0.876), ("movement + KD", 0.10, 0.756, 0.843),
            ("movement + KD", 0.03, 0.675, 0.780), ("soft movement + KD", 0.10, 0.766, 0.849),
            ("soft movement + KD", 0.03, 0.727, 0.823),
        )
    ],
}

GIVEN_TABLE = {
    "source": "the table this project started from; its runs, data and seeds are not on record",
    "rows": [
        {"method": "fine-tuned", "density": 1.00, "size": "~110M", "em": 0.65},
        {"method": "SMP", "density": 0.10, "size": "~85M", "em": 0.75},
        {"method": "SMP + KD", "density": 0.50, "size": "~85M", "em": 0.82},
    ],
}


def whole_model_share(density: float, params_masked: int, params_total: int) -> float:
    """Share of all parameters left when `density` of the masked ones is kept, in [0, 1]."""
    return 1 - params_masked * (1 - density) / params_total


# %% [markdown]
# ### Where results go, and where they come from
#
# The notebooks are opened in the repository, in `Static_Model_Pruning/`, or alone in an empty
# folder. Versions and the commit are read before training starts: afterwards the files may have
# moved on.


# %%
def results_folder(start: str | Path = ".") -> Path:
    """The results/ folder of the project that `start` or its parent is; else start/results.

    A project folder holds BERT_FINETUNE_QA.ipynb beside results/. Nothing is created here.
    """
    start = Path(start)
    parent = start / ".." if start.name in ("", "..") else start.parent
    for folder in (start, parent):
        if (folder / "BERT_FINETUNE_QA.ipynb").is_file() and (folder / "results").is_dir():
            return folder / "results"
    return start / "results"


# %%
def ask_git(folder: Path, *arguments: str) -> str | None:
    """What `git …` prints in the folder; None without git or when git refuses."""
    # Inside a git hook these variables point at the repository of the hook, not of the folder.
    hook = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
    environment = {key: value for key, value in os.environ.items() if key not in hook}
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    except OSError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


# %%
def provenance(folder: str | Path = ".") -> dict:
    """{"versions": {package: version or None}, "commit": hex or None, "dirty": bool or None}.

    commit and dirty are None unless the folder lies in a git clone of this project (one that
    tracks BERT_FINETUNE_QA.ipynb). dirty: uncommitted changes outside results/ and README.md,
    which the runs themselves write; new files in smp/, notebooks/ and tools/ count too.
    Call it once, before training.
    """
    versions = {"python": platform.python_version()}
    for package in ("torch", "transformers", "datasets", "evaluate", "accelerate", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None

    folder = Path(folder).absolute()
    while not folder.is_dir():
        folder = folder.parent
    top = ask_git(folder, "rev-parse", "--show-toplevel")
    if not top or not ask_git(top, "ls-files", "--", "BERT_FINETUNE_QA.ipynb"):
        return {"versions": versions, "commit": None, "dirty": None}
    outside = ("--", ".", ":(exclude)results", ":(exclude)README.md")
    changed = ask_git(top, "status", "--porcelain", "--untracked-files=no", *outside)
    code = ("smp", "notebooks", "tools")
    new = ask_git(top, "ls-files", "--others", "--exclude-standard", "--", *code)
    dirty = None if changed is None or new is None else bool(changed or new)
    commit = ask_git(top, "rev-parse", "--verify", "--quiet", "HEAD")
    return {"versions": versions, "commit": commit, "dirty": dirty}


# %% [markdown]
# ### A record
#
# Shares are fractions in [0, 1]; `density` is of the masked matrices, `params_kept` counts what
# they keep, `remaining_of_model` is of the whole model. A record that is incomplete or holds a
# number that is not finite is refused, when it is written and again when it is read.

# %%
RECORD_FIELDS = (
    "name method sharing model data model_sha data_sha profile seed density_target density "
    "remaining_of_model params_total params_masked params_kept bytes_mask_file em f1 n_train "
    "n_eval epochs steps seconds device precision versions commit dirty interrupted teacher "
    "settings layers history"
).split()
RECORD_TEXTS = "name method model data profile device precision".split()
RECORD_NAMES = "model model_sha data data_sha".split()  # in the headings of the tables
RECORD_SHARES = "density remaining_of_model em f1".split()
RECORD_COUNTS = "seed params_total params_masked params_kept n_train n_eval epochs steps seconds"
RECORD_OPTIONAL = "bytes_mask_file bytes_model ms_per_question threads".split()  # None: unknown
RECORD_METHODS = (
    "fine-tuned", "SMP", "SMP + KD", "magnitude", "magnitude + KD", "movement", "movement + KD",
    "soft movement", "soft movement + KD",
)
NOT_RECORDS = ("bench.json",)


def plain_value(value, where: str):
    """The value in plain JSON types. ValueError for a number that is not finite, or no JSON."""
    if hasattr(value, "tolist"):  # numpy and torch
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, expected a finite number; did the run diverge?")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): plain_value(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise ValueError(f"{where} is of type {type(value).__name__}, expected plain JSON values")


# %%
def is_number(value, low=0.0, high=1e18) -> bool:
    """Whether the value is a number (not a bool) in [low, high]."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def is_layer(entry) -> bool:
    """Whether it is {layer, matrix, kept, total} of one matrix, with counts that can be."""
    return (
        isinstance(entry, dict) and {"layer", "matrix", "kept", "total"} <= entry.keys()
        and isinstance(entry["layer"], int) and isinstance(entry["matrix"], str)
        and is_number(entry["total"], 1) and is_number(entry["kept"], 0, entry["total"])
    )


def check_record(record: dict) -> dict:
    """The record in plain JSON types and the order of RECORD_FIELDS; ValueError in one line."""
    if not isinstance(record, dict):
        raise ValueError(f"a record is expected to be a JSON object, not {type(record).__name__}")
    missing = [field for field in RECORD_FIELDS if field not in record]
    if missing:
        raise ValueError(f"missing {', '.join(missing)}; a record has all fields of RECORD_FIELDS")
    more = sorted(record.keys() - set(RECORD_FIELDS))
    record = {field: plain_value(record[field], field) for field in [*RECORD_FIELDS, *more]}

    wrong = [f"{f} is {record[f]!r}, expected text" for f in RECORD_TEXTS
             if not (isinstance(record[f], str) and record[f])]
    wrong += [f"{f} is {record[f]!r}, expected a fraction in [0, 1]" for f in RECORD_SHARES
              if not is_number(record[f], 0, 1)]
    wrong += [f"{f} is {record[f]!r}, expected a number from 0 to 1e18"
              for f in RECORD_COUNTS.split() if not is_number(record[f])]
    wrong += [f"{f} is {record[f]!r}, expected null or a number from 0 to 1e18"
              for f in RECORD_OPTIONAL if not (record.get(f) is None or is_number(record[f]))]
    wrong += [f"{f} is {record[f]!r}, expected a name, without < or line breaks"
              for f in RECORD_NAMES if not isinstance(record[f], str | None)
              or re.search(r"[<\x00-\x1f]", record[f] or "")]
    for field in ("versions", "settings", "history"):
        if not isinstance(record[field], dict):
            wrong.append(f"{field} is {record[field]!r}, expected a dict")
    if not isinstance(record["layers"], list) or not all(map(is_layer, record["layers"])):
        wrong.append("layers is expected to be a list of {layer, matrix, kept, total}")
    if not isinstance(record["interrupted"], bool):
        wrong.append(f"interrupted is {record['interrupted']!r}, expected true or false")
    without = record["density_target"] is None and record["method"] == "fine-tuned"
    if not without and not is_number(record["density_target"], 0, 1):
        wrong.append(f"density_target is {record['density_target']!r}, expected in [0, 1]")
    if record["teacher"] is not None and not (
        isinstance(record["teacher"], dict) and {"name", "em"} <= record["teacher"].keys()
        and isinstance(record["teacher"]["name"], str)
    ):
        wrong.append(f"teacher is {record['teacher']!r}, expected null or a name and its em")
    if record["method"] not in RECORD_METHODS:
        wrong.append(f"method is {record['method']!r}, expected one of {RECORD_METHODS}")
    if record["sharing"] not in (None, "SMP-L", "SMP-S"):
        wrong.append(f"sharing is {record['sharing']!r}, expected null, 'SMP-L' or 'SMP-S'")
    if not wrong and not re.fullmatch(r"[\w+-][\w.+-]*", record["name"], re.ASCII):
        wrong.append(f"name {record['name']!r} is no safe file name; use run_name(record)")
    if not wrong and record["layers"]:
        kept = sum(entry["kept"] for entry in record["layers"])
        total = sum(entry["total"] for entry in record["layers"])
        if abs(kept - record["density"] * total) > 1e-6 * total:
            wrong.append(f"density is {record['density']}, but layers keep {kept} of {total}")
    if wrong:
        raise ValueError(wrong[0])
    return record


# %%
def file_part(text: str) -> str:
    """The last part of a Hub name or path as a piece of a file name: letters, digits, . + -"""
    last = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    last = re.sub(r"\.json(\.gz|\.xz)?$", "", last)
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", last).strip("-.")[:60] or "unnamed"


def changed_from_defaults(settings: dict) -> dict:
    """The settings that are not at the default, whichever there were when the run was made."""
    return {name: value for name, value in settings.items()
            if name not in SETTING_DEFAULTS or value != SETTING_DEFAULTS[name]}


def with_defaults(settings: dict) -> dict:
    """A record's settings, and those newer than it, which had their defaults' effect."""
    return SETTING_DEFAULTS | settings


def told_settings(record: dict) -> dict:
    """What tells a run from others: `with_defaults`, and its teacher, where that is another than
    the run's own encoder, fine-tuned. A seed at the end of a teacher's name does not count."""
    settings = with_defaults(record["settings"])
    name = (record.get("teacher") or {"name": ""})["name"]
    kind = re.sub(r"_seed\d+_[0-9a-f]{6}$", "", name)
    own = kind.startswith(f"{file_part(record['model'])}_") and kind.endswith("_fine-tuned")
    return settings if own or not kind else settings | {"teacher": kind}


def shown_settings(record: dict) -> dict:
    """`told_settings` as a table shows them: of a teacher's name without the encoder and data at
    its beginning, where they are the table's own."""
    told, own = told_settings(record), f"{file_part(record['model'])}_{file_part(record['data'])}_"
    short = {"teacher": told["teacher"].removeprefix(own) or own} if "teacher" in told else {}
    return told | short


def run_name(record: dict) -> str:
    """Name of a run, e.g. all-MiniLM-L6-v2_almanac_smp-l-kd_0.50_seed0_1a2b3c.

    The last six hex digits are of a sha256 over settings, profile, model_sha, data_sha, method
    and the teacher's name. An interrupted run has a name of its own, so that it never replaces
    a finished one.
    """
    keys = ("profile", "model_sha", "data_sha", "method")
    identity = {key: record[key] for key in keys}
    identity["settings"] = changed_from_defaults(record["settings"])
    if record.get("teacher"):
        identity["teacher"] = record["teacher"]["name"]
    text = json.dumps(plain_value(identity, "record"), sort_keys=True, separators=(",", ":"))
    parts = [file_part(record["model"]), file_part(record["data"])]
    if record["method"] == "fine-tuned":
        parts.append("fine-tuned")
    else:
        kd = "-kd" if "KD" in record["method"] else ""
        target = record["density_target"]
        method = record["method"].removesuffix(" + KD").replace(" ", "-")
        parts.append((record["sharing"] or method).lower() + kd)
        parts.append(f"{target:.2f}" if round(target, 2) == target else f"{target:g}")
    parts += [f"seed{record['seed']}", hashlib.sha256(text.encode()).hexdigest()[:6]]
    return "_".join(parts + ["interrupted"] * bool(record.get("interrupted")))


# %%
def thin_history(history: dict, most: int = 400) -> dict:
    """The history with at most `most` steps, small enough for a record.

    Of each run of neighbouring steps it keeps the mean loss and, at its last step, the density
    and λ. The validation scores stay as they are.
    """
    n = len(history["step"])
    size = max(1, math.ceil(n / most))
    ends = [min(start + size, n) for start in range(0, n, size)]
    thin = {key: [history[key][end - 1] for end in ends] for key in ("step", "density", "lambda")}
    loss = [statistics.fmean(history["loss"][i * size : end]) for i, end in enumerate(ends)]
    return history | thin | {"loss": loss}


# %%
def replace_text_file(path: str | Path, text: str) -> Path:
    """Write the text so that the file is the old one or the whole new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


# %%
def record_json(record: dict) -> str:
    """The record as JSON that diffs well: one line for a field, layer entry or history list."""
    lines = []
    for field, value in record.items():
        if field == "layers" and value:
            items = ",\n".join(f"  {json.dumps(entry)}" for entry in value)
            text = f"[\n{items}\n ]"
        elif field == "history" and value:
            items = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            text = f"{{\n{items}\n }}"
        else:
            text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
            text = text.replace("\n", "\n ")
        lines.append(f" {json.dumps(field)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_record(record: dict, folder: str | Path) -> Path:
    """Write folder/<name>.json in one step and return its path; ValueError for a bad record."""
    try:
        record = check_record(record)
    except ValueError as error:
        name = record.get("name") if isinstance(record, dict) else None
        raise ValueError(f"record {name}: {error}; nothing was written") from None
    path = replace_text_file(Path(folder) / f"{record['name']}.json", record_json(record))
    path.with_name(f"{record['name']}_interrupted.json").unlink(missing_ok=True)
    return path


# %%
def record_group(record: dict) -> tuple:
    """What two records must share before their numbers may stand in one table."""
    keys = ("model", "model_sha", "data", "data_sha", "n_eval", "n_train")
    return tuple(record[key] for key in keys)


def group_records(records: list[dict], key=record_group) -> list[list[dict]]:
    """The records in groups of the same key, in the order in which they come."""
    groups = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return list(groups.values())


def record_order(record: dict) -> tuple:
    """Sorting key: most questions first, then group, fine-tuned before SMP before SMP + KD, dense
    before sparse, small values of settings before large ones, short before long, seed."""
    group = (-record["n_eval"], -record["n_train"])
    group += tuple(part or "" for part in record_group(record))  # a sha may be unknown
    rank = (RECORD_METHODS.index(record["method"]), -round(record["density"], 3))
    settings = told_settings(record)
    values = [settings[name] for name in sorted(SETTING_DEFAULTS.keys() - TOLD_ELSEWHERE)]
    values += [settings.get(name, "") for name in ("teacher", "variant")]
    told = [(0, value) if isinstance(value, (int, float)) else (1, str(value)) for value in values]
    length = (record["steps"], record["seed"], record["name"])
    return group + rank + (record_label(record), told) + length


def read_records(folder: str | Path) -> list[dict]:
    """All records directly in the folder, sorted; [] where there is none or no folder.

    ValueError, one line with the file in it, for a file that is not a whole record.
    """
    records = []
    for path in sorted(Path(folder).glob("*.json")):
        if path.name in NOT_RECORDS:
            continue
        try:
            record = check_record(json.loads(path.read_text(encoding="utf-8")))
            if record["name"] != path.stem:
                raise ValueError(f"its name says {record['name']}, so it is a copy")
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{path.name} is not a result record: {error}; run it again or move the file away"
            ) from None
        records.append(record)
    return sorted(records, key=record_order)


def read_results(folder: str | Path) -> list[dict]:
    """The records of the folder and, of the sweeps in it, those that share a table with one of
    them: a baseline on the same questions as the notebooks' models stands beside them. A run that
    both have, by its name, counts once.

    Raises ValueError as `read_records` does.
    """
    records = read_records(folder)
    groups, names = set(map(record_group, records)), {record["name"] for record in records}
    cells = [cell for cell in read_records(Path(folder) / "sweep")
             if record_group(cell) in groups and cell["name"] not in names]
    return sorted(records + cells, key=record_order)


# %% [markdown]
# ### The table
#
# Records of different models, data or numbers of questions never share a table: their numbers
# do not compare. Runs that differ in nothing but the seed become one row, mean ± sample standard
# deviation. *EM Kept* is the share of the EM that the best fine-tuned model of the table has, which
# has thus learned from as many questions.


# %%
def as_percent(share: float) -> str:
    """0.1 -> 10%, 0.5512 -> 55.1%, 1.0 -> 100%."""
    return f"{100 * share:.3g}%"


def as_millions(count: float) -> str:
    """12_960_000 -> 13.0M."""
    return f"{count / 1e6:.1f}M"


def shipped_bytes(record: dict) -> int | None:
    """What must be on disk for this task: the mask file, where the weights are the base model's;
    else the model. None where it was not measured."""
    masks = record["bytes_mask_file"]
    return record.get("bytes_model") if masks is None else masks


def measured_mean(values: list, form: str) -> str:
    """The mean in that form; "not measured" where one of the runs did not measure it."""
    return "not measured" if None in values else form.format(statistics.fmean(values))


def method_label(method: str, sharing: str | None) -> str:
    """SMP + KD, SMP-S -> SMP-S + KD."""
    return method.replace("SMP", sharing) if sharing else method


def short_name(name: str) -> str:
    """A Hub name as it is, of a path only the last part (whose machine it lay on is no matter)."""
    is_path = name.count("/") > 1 or name.startswith(("/", ".", "~")) or "\\" in name
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if is_path else name


def data_label(record: dict) -> str:
    """The data a run read, and what of it, where long passages were left out."""
    most = record["settings"].get("longest_passage")
    return short_name(record["data"]) + (f" (passages of at most {most} words)" if most else "")


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, padded so that it reads well in a terminal too."""
    rows = [[str(c).replace("|", "\\|").replace("\n", " ") for c in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    rows.insert(1, ["-" * width for width in widths])
    lines = (" | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


# %%
def mean_and_spread(values: list[float]) -> str:
    """0.653 of one value, 0.653 ± 0.004 of several (mean, sample standard deviation)."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


def density_missed(runs: list[dict]) -> str:
    """" at 12.6%", the mean, where one of the runs missed the density it aimed at; else ""."""
    reached, target = [run["density"] for run in runs], runs[0]["density_target"]
    missed = any(abs(density - target) > 0.01 * target for density in reached)
    return f" at {as_percent(statistics.fmean(reached))}" if missed else ""


def em_kept(em: float, dense: float | None) -> str:
    """How much of the fine-tuned model's EM is kept, 0.793 of 0.804 -> 98.6%; "—" without one."""
    return f"{100 * em / dense:.1f}%" if dense else "—"


def dense_em(rows: list[list[dict]]) -> float | None:
    """EM of the best fine-tuned row, the mean over its seeds; None where none was fine-tuned to
    the end."""
    return max((statistics.fmean(run["em"] for run in runs) for runs in rows
                if runs[0]["method"] == "fine-tuned" and not runs[0].get("interrupted")),
               default=None)


def record_label(record: dict) -> str:
    """The method of a run, and what was learned from or trained besides."""
    settings = record.get("settings", {})
    competes = record["sharing"] is None and settings.get("sharing") == "shared"
    return (
        method_label(record["method"], record["sharing"])
        + " + hidden states" * bool(settings.get("hidden_weight"))
        + " + biases, LayerNorms" * bool(settings.get("vector_learning_rate"))
        + ", layers compete" * competes
    )


def disagreeing(settings: list[dict]) -> set[str]:
    """Names of the settings that do not have the same value in all of them."""
    return {name for name in {name for one in settings for name in one}
            if len({json.dumps(one.get(name)) for one in settings}) > 1}


def setting_text(name: str, value) -> str:
    """regulariser 40000, density_ramp 0.819 (three digits count), head teacher."""
    return f"{name} {float(f'{value:.3g}'):g}" if isinstance(value, float) else f"{name} {value}"


TOLD_ELSEWHERE = set(  # by a table's heading or its other columns; or of no effect on a model
    "profile task method sharing density model data n_train n_valid n_eval longest_passage epochs "
    "seed precision n_snapshots n_masks".split()
)


def what_differs(records: list[dict]) -> dict[str, str]:
    """{name of a record: "setting value, ..."}: the settings, seeds apart, in which several records
    of its label differ at one density; "" where there are none."""
    told = {}
    for alike in group_records(records, record_label):
        settings = {one["name"]: told_settings(one) for one in alike}
        shown = {one["name"]: shown_settings(one) for one in alike}
        telling = set()
        for rivals in group_records(alike, lambda record: record["density_target"]):
            telling |= disagreeing([settings[one["name"]] for one in rivals]) - TOLD_ELSEWHERE
        told |= {name: ", ".join(setting_text(n, one[n]) for n in sorted(telling) if n in one)
                 for name, one in shown.items()}
    return told


def marks(record: dict) -> str:
    """" (interrupted)" and the like, for a run that does not count as one of today's commit."""
    words = ["interrupted"] * record["interrupted"]
    words += ["uncommitted changes"] * bool(record["dirty"])
    return f" ({', '.join(words)})" if words else ""


def result_row(runs: list[dict], dense: float | None, differs: str = "") -> list[str]:
    """One row of the table from the records of runs that differ in their seeds only.

    dense: EM of the fine-tuned model of the same table; differs: of `what_differs`.
    """
    first = runs[0]
    total = first["params_total"]
    whole = statistics.fmean(run["remaining_of_model"] for run in runs)
    density = statistics.fmean(run["density"] for run in runs)
    seeds = sorted({run["seed"] for run in runs})
    seeds = ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds))
    if len(runs) > 1:
        seeds += f" ({len(runs)} runs)"
    epochs = f"{first['epochs']:g} epoch" + "s" * (first["epochs"] != 1)
    minutes = statistics.fmean(run["seconds"] for run in runs) / 60
    return [
        record_label(first) + marks(first),
        f"{as_percent(density)} ({as_percent(whole)} of the model)",
        f"{as_millions(whole * total)} of {as_millions(total)}",
        mean_and_spread([run["em"] for run in runs]),
        mean_and_spread([run["f1"] for run in runs]),
        em_kept(statistics.fmean(run["em"] for run in runs), dense),
        measured_mean([bytes_ / 1e6 if bytes_ is not None else None
                       for bytes_ in map(shipped_bytes, runs)], "{:.2f} MB"),
        measured_mean([run.get("ms_per_question") for run in runs], "{:.1f}"),
        f"{epochs}, {first['steps']:,} steps, {seeds}" + f", {differs}" * bool(differs),
        f"{minutes:.0f} min, {first['device']} {first['precision']}",
    ]


# %%
def seedless(record: dict) -> str:
    """What makes two records the same experiment, whatever their seeds."""
    keys = "method sharing density_target profile params_total epochs steps interrupted".split()
    settings = changed_from_defaults(told_settings(record) | {"seed": 0})
    return json.dumps([[record[key] for key in keys], bool(record["dirty"]), settings],
                      sort_keys=True)


def group_heading(record: dict) -> str:
    """What the records of one group have in common, as a heading."""
    return (f"### {short_name(record['model'])} on {data_label(record)}: "
            f"{record['n_train']:,} training questions, {record['n_eval']:,} evaluation questions")


def group_markdown(records: list[dict]) -> str:
    """Heading and table of one group of comparable records."""
    first = records[0]
    rows = group_records(sorted(records, key=record_order), seedless)
    dense, apart = dense_em(rows), what_differs(records)
    header = ["Model", "Remaining Weights", "Model Size", "Accuracy (EM)", "F1", "EM Kept",
              "To Ship", "ms/Question", "Trained for", "Training"]
    return "\n\n".join([
        group_heading(first),
        f"Model `{first['model_sha'] or 'unknown'}`, data `{first['data_sha'] or 'unknown'}`.",
        markdown_table(header, [result_row(runs, dense, apart[runs[0]["name"]]) for runs in rows]),
    ])


# %%
def kept_row(record: dict) -> tuple[int, str, str]:
    """The row of `kept_markdown` that a record belongs to: (its place, what it says, its teacher's
    whole name)."""
    shown = shown_settings(record)
    also = [f", {name} {shown[name]}" for name in ("teacher", "variant") if name in shown]
    return (RECORD_METHODS.index(record["method"]),
            "".join([record_label(record), *also, marks(record)]),
            told_settings(record).get("teacher", ""))


def kept_of_group(records: list[dict]) -> dict[tuple[int, str, str], dict[float, str]]:
    """{`kept_row`: {density aimed at: EM kept}}, of several runs by the longest, of equally long
    ones the best; one that missed its density counts only where all did."""
    rows = group_records(records, seedless)
    dense, best = dense_em(rows), {}
    for runs in rows if dense else ():
        first, em = runs[0], statistics.fmean(run["em"] for run in runs)
        if first["method"] == "fine-tuned":
            continue
        missed, target = density_missed(runs), first["density_target"]
        cells = best.setdefault(kept_row(first), {})
        this = (not missed, first["epochs"], em, em_kept(em, dense) + missed)
        cells[target] = max(cells.get(target, ()), this)
    return {row: {d: cell[-1] for d, cell in cells.items()} for row, cells in best.items()}


def kept_markdown(groups: list[list[dict]]) -> str:
    """What each method keeps at each density, ours and the paper's SMP, as one small table; ""
    where nothing of ours has both a fine-tuned model and a pruned one."""
    found = []
    for group in groups:
        first, rows = group[0], kept_of_group(group)
        where = (f"{short_name(first['model'])} on {data_label(first)}, "
                 f"{first['n_train']:,} / {first['n_eval']:,}")
        if any(where == other for other, _ in found):  # two encoders or data of one name
            where += f", model {first['model_sha']}, data {first['data_sha']}"
        found += [(where, rows)] * bool(rows)
    if not found:
        return ""
    theirs, dense = {}, dense_em([[row] for row in PUBLISHED["rows"]])
    for row in PUBLISHED["rows"]:
        if row["method"] in ("SMP", "SMP + KD"):
            label = method_label(row["method"], row["sharing"])
            cells = theirs.setdefault((RECORD_METHODS.index(row["method"]), label, ""), {})
            cells[row["density"]] = em_kept(row["em"], dense)
    found.append((f"{PUBLISHED['model']} on {PUBLISHED['data']}, published", theirs))
    densities = sorted({d for _, rows in found for cells in rows.values() for d in cells},
                       reverse=True)
    lines = []
    for where, rows in found:
        names = [where] + [""] * (len(rows) - 1)
        lines += [[name, row[1], *(rows[row].get(density, "—") for density in densities)]
                  for name, row in zip(names, sorted(rows), strict=True)]
    return "\n\n".join([
        "### EM Kept, at each share of the encoder's weights",
        "Of the EM of the fine-tuned model that learned from as many questions (training / "
        "evaluation). A cell is the longest of a method's runs, of equally long ones the best; "
        "lengths and settings differ, see the tables below. Movement and magnitude train the "
        "weights too.",
        markdown_table(["Encoder and questions", "Model", *map(as_percent, densities)], lines),
    ])


# %%
def reference_markdown() -> str:
    """The paper's numbers and the table this project started from, marked as not measured here."""
    total, masked = PUBLISHED["params_total"], PUBLISHED["params_masked"]
    published = []
    dense = dense_em([[row] for row in PUBLISHED["rows"]])
    for row in PUBLISHED["rows"]:
        whole = whole_model_share(row["density"], masked, total)
        published.append([
            method_label(row["method"], row["sharing"]),
            f"{as_percent(row['density'])} ({as_percent(whole)} of the model)",
            f"{as_millions(whole * total)} of {as_millions(total)}",
            f"{row['em']:.3f}",
            f"{row['f1']:.3f}",
            em_kept(row["em"], dense),
        ])
    given = [[row["method"], as_percent(row["density"]), row["size"], f"{row['em']:.2f}"]
             for row in GIVEN_TABLE["rows"]]
    header = ["Model", "Remaining Weights", "Model Size", "Accuracy (EM)", "F1", "EM Kept"]
    return "\n\n".join([
        f"### {PUBLISHED['model']} on {PUBLISHED['data']}: published, not measured here",
        f"Source: {PUBLISHED['source']}. Remaining of the model and sizes are our arithmetic.",
        markdown_table(header, published),
        f"### {PUBLISHED['model']}: given at the start, not measured here",
        f"Source: {GIVEN_TABLE['source']}. ~85M is the number of weights in the masked matrices "
        f"({masked:,}) before any is removed.",
        markdown_table(header[:4], given),
    ])


# %%
def summary_markdown(records: list[dict]) -> str:
    """All tables as Markdown: ours, one for each `record_group`; then what others report."""
    groups = group_records(sorted(records, key=record_order))
    kept = kept_markdown(groups)
    parts = [kept] * bool(kept) + [group_markdown(group) for group in groups]
    if records:
        parts.append("Remaining Weights: of the encoder's matrices, for embeddings are never "
                     "pruned. EM: answers that match exactly; F1: overlap of their words. EM Kept: "
                     "of the EM of the table's fine-tuned row, of several the best. To Ship: masks "
                     "and head, beside the base model; of a fine-tuned model all of it. "
                     "ms/Question: with the zeros multiplied, on the run's machine and beside "
                     "whatever else it did; what pruning gains, `python -m smp ship` measures side "
                     "by side. Training: the steps; a teacher of whom only answers are wanted "
                     "is asked before them, and that is not in it.")
    else:
        parts.append("Nothing was measured yet: `make run` trains the three models and fills this.")
    if any("±" in part for part in parts):
        parts.append("± is the sample standard deviation over the runs of a row.")
    if not any(
        "bert-base-uncased" in record["model"].lower()
        and "squad" in record["data"].lower()
        and not record["interrupted"]
        for record in records
    ):
        parts.append("BERT-base on SQuAD: not measured yet; `make run PROFILE=paper` on a GPU "
                     "with a network does it.")
    return "\n\n".join([*parts, reference_markdown()]) + "\n"


# %%
def between_markers(page: str, text: str, name: str = "README") -> str:
    """The page with the text between <!-- results --> and <!-- /results -->, the rest as it was."""
    first, last = "<!-- results -->", "<!-- /results -->"
    if page.count(first) != 1 or page.count(last) != 1 or page.index(first) > page.index(last):
        raise ValueError(f"{name}: expected {first} and, after it, {last}, once each, around the "
                         "results; put them where the tables belong")
    newline = "\r\n" if "\r\n" in page else "\n"
    text = f"{first}\n{text.rstrip()}\n{last}".replace("\n", newline)
    return page[: page.index(first)] + text + page[page.index(last) + len(last):]


def write_summary(folder: str | Path, readme: str | Path | None = None) -> str:
    """Write folder/summary.md, and the same tables into the readme; return the text.

    ValueError, with nothing written, when a record is broken or the readme lacks its markers.
    """
    text = summary_markdown(read_results(folder))
    if readme is not None:
        with open(readme, encoding="utf-8", newline="") as file:
            page = between_markers(file.read(), text, Path(readme).name)
    replace_text_file(Path(folder) / "summary.md", text)
    if readme is not None:
        replace_text_file(readme, page)
    return text
