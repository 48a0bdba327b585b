"""All tables as one Markdown text: our records, then the numbers that others report."""

from pathlib import Path

from smp.files import replace_text_file
from smp.runs.names import group_records, method_label, record_order
from smp.runs.published import GIVEN_TABLE, PUBLISHED, whole_model_share
from smp.runs.read import read_results
from smp.runs.retained import retained_markdown
from smp.runs.tables import dense_em, em_retained, group_markdown
from smp.text import as_millions, as_percent, markdown_table


def reference_markdown() -> str:
    """Return the paper's numbers and the table this project started from, marked as such."""
    total, masked = PUBLISHED["params_total"], PUBLISHED["params_masked"]
    dense, published = dense_em([[row] for row in PUBLISHED["rows"]]), []
    for row in PUBLISHED["rows"]:
        whole = whole_model_share(row["density"], masked, total)
        published.append([
            method_label(row["method"], row["sharing"]),
            f"{as_percent(row['density'])} ({as_percent(whole)} of the model)",
            f"{as_millions(whole * total)} of {as_millions(total)}",
            f"{row['em']:.3f}", f"{row['f1']:.3f}", em_retained(row["em"], dense),
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


def summary_markdown(records: list[dict]) -> str:
    """Return all tables: ours, one for each `record_group`, and those of others."""
    groups = group_records(sorted(records, key=record_order))
    kept = retained_markdown(groups)
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
    if not any("bert-base-uncased" in record["model"].lower()
               and "squad" in record["data"].lower() for record in records):
        parts.append("BERT-base on SQuAD: not measured yet; `make run PROFILE=paper` on a GPU "
                     "with a network does it.")
    return "\n\n".join([*parts, reference_markdown()]) + "\n"


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


def write_summary(folder: str | Path, readme: str | Path | None = None) -> str:
    """Write folder/summary.md, and the same tables into the readme; return the text.

    Raises ValueError, with nothing written, for a broken record or a readme without its markers.
    """
    text = summary_markdown(read_results(folder))
    pages = {Path(folder) / "summary.md": text}
    if readme is not None:
        readme = Path(readme)
        pages[readme] = between_markers(readme.read_bytes().decode(), text, readme.name)
    for path, page in pages.items():
        replace_text_file(path, page)
    return text
