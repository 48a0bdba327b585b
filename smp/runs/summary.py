"""All tables as one Markdown text: the records, then published numbers."""

from pathlib import Path

from smp.files import replace_text_file
from smp.runs.grouping import group_records, model_and_data, record_order, seedless
from smp.runs.methods import method_label
from smp.runs.published import GIVEN_TABLE, PUBLISHED, whole_model_share
from smp.runs.read import read_records
from smp.runs.retained import (
    FEWEST_QUESTIONS,
    dense_runs,
    mean_em,
    published_retained,
    retained_markdown,
)
from smp.runs.tables import HEADER, group_markdown, result_row
from smp.text import as_millions, as_percent, markdown_table

COLUMNS = (
    "Remaining Weights: share of the encoder's matrices; embeddings are never pruned. EM: share of "
    "answers that match exactly; F1: overlap of their words. ± in EM and F1: sample standard "
    "deviation over the runs of a row. EM retained: EM divided by the EM of the table's best "
    "fine-tuned row. Its ± is half of the 95% interval of the difference over the evaluation "
    "questions, or, with (seeds), the sample standard deviation over seeds. EM retained is "
    f"withheld below {FEWEST_QUESTIONS} evaluation questions. Size on disk: the mask file, which "
    "needs the base model, or the whole model when its weights were trained. ms per question: "
    "dense arithmetic on the run's machine, possibly with other jobs; `smp export` measures the "
    "gain of pruning. Training time: the steps, without the teacher's logits."
)


def reference_markdown() -> str:
    """Return the paper's numbers and the table this project started from, marked as such."""
    total, masked = PUBLISHED["params_total"], PUBLISHED["params_masked"]
    published = []
    for row in PUBLISHED["rows"]:
        whole = whole_model_share(row["density"], masked, total)
        published.append([
            method_label(row["method"], row["distill"]),
            f"{as_percent(row['density'])} ({as_percent(whole)} of the model)",
            f"{as_millions(whole * total)} of {as_millions(total)}",
            f"{row['em']:.3f}", f"{row['f1']:.3f}", published_retained(row["em"]),
        ])
    given = [[row["label"], as_percent(row["density"]), row["size"], f"{row['em']:.2f}"]
             for row in GIVEN_TABLE["rows"]]
    header = ["Model", "Remaining Weights", "Model Size", "Accuracy (EM)", "F1", "EM retained"]
    return "\n\n".join([
        f"### {PUBLISHED['model']} on {PUBLISHED['data']}: published, not measured here",
        f"Source: {PUBLISHED['source']}. Remaining of the model and sizes are our arithmetic.",
        markdown_table(header, published),
        f"### {PUBLISHED['model']}: given at the start, not measured here",
        f"Source: {GIVEN_TABLE['source']}. ~85M is the number of weights in the masked matrices "
        f"({masked:,}) before any is removed.",
        markdown_table(header[:4], given),
    ])


def summary_markdown(records: list[dict]) -> str:
    """Return all tables: one for each `record_group` of the records, and published numbers."""
    groups = group_records(sorted(records, key=record_order))
    kept = retained_markdown(groups)
    parts = [kept] * bool(kept) + [group_markdown(group) for group in groups]
    if records:
        parts.append(COLUMNS)
    else:
        parts.append("Nothing was measured yet: `smp run` trains the three models and fills this.")
    if not any("bert-base-uncased" in record["model"].lower()
               and "squad" in record["data"].lower() for record in records):
        parts.append("BERT-base on SQuAD: not measured yet; `smp run --profile paper` measures it "
                     "on a GPU with a network.")
    return "\n\n".join([*parts, reference_markdown()]) + "\n"


def headline_rows(records: list[dict]) -> list[list[dict]]:
    """Return the fine-tuned row of a group, and its longest, then best SMP row at each density."""
    rows = group_records(sorted(records, key=record_order), seedless)
    best: dict[float, list[dict]] = {}
    for runs in rows:
        first = runs[0]
        if first["method"].startswith("smp") and not first["variant"]:
            now = best.setdefault(first["density_target"], runs)
            best[first["density_target"]] = max(
                now, runs, key=lambda one: (one[0]["epochs"], mean_em(one)))
    return [dense_runs(rows), *(best[density] for density in sorted(best, reverse=True))]


def readme_markdown(records: list[dict]) -> str:
    """Return the README's tables: each model's group with most questions, large models first."""
    groups = [group for group in group_records(sorted(records, key=record_order))
              if dense_runs(group_records(group, seedless))]
    chosen = {group[0]["model"]: group for group in reversed(groups)}.values()
    parts = []
    for group in sorted(chosen, key=lambda group: -group[0]["params_total"]):
        rows = headline_rows(group)
        first = group[0]
        parts += [
            f"**{model_and_data(first)}**: {first['n_train']:,} training questions, "
            f"{first['n_eval']:,} evaluation questions",
            markdown_table(HEADER[:7], [result_row(runs, rows[0])[:7] for runs in rows]),
        ]
    return "\n\n".join(parts)


def between_markers(page: str, text: str, name: str = "README") -> str:
    """Return the page with the text between <!-- results --> and <!-- /results -->.

    The rest stays as it is. Raises ValueError unless the page contains each marker once.
    """
    first, last = "<!-- results -->", "<!-- /results -->"
    if page.count(first) != 1 or page.count(last) != 1 or page.index(first) > page.index(last):
        raise ValueError(f"{name}: expected {first} and, after it, {last}, once each, around the "
                         "results; put them where the tables belong")
    newline = "\r\n" if "\r\n" in page else "\n"
    text = f"{first}\n{text.rstrip()}\n{last}".replace("\n", newline)
    return page[: page.index(first)] + text + page[page.index(last) + len(last):]


def write_summary(records: list[dict], folder: str | Path) -> str:
    """Write the tables of a folder's records into folder/summary.md and return them."""
    text = summary_markdown(records)
    replace_text_file(Path(folder) / "summary.md", text)
    return text


def write_readme(folder: str | Path, readme: Path) -> None:
    """Write `readme_markdown` of the records of a folder into the readme, between its markers."""
    text = readme_markdown(read_records(folder))
    page = between_markers(readme.read_bytes().decode(), text, readme.name)
    replace_text_file(readme, page)
