"""Format numbers, names, tables, errors and progress for display."""

import re
import sys
from typing import Any

from tqdm import tqdm


def first_line(error: object) -> str:
    """Return the text of an error as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def is_number(value: Any, low: float = 0.0, high: float = 1e18) -> bool:
    """Return whether the value is a number (not a bool) in [low, high]."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def as_percent(share: float) -> str:
    """Format a fraction with three digits: 0.1 -> 10%, 0.5512 -> 55.1%, 1.0 -> 100%."""
    return f"{100 * share:.3g}%"


def as_millions(count: float) -> str:
    """Format a count in millions: 12_960_000 -> 13.0M."""
    return f"{count / 1e6:.1f}M"


def short_name(name: str) -> str:
    """Return a Hub name unchanged, and the last part of a path."""
    is_path = name.count("/") > 1 or name.startswith(("/", ".", "~")) or "\\" in name
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if is_path else name


def file_part(text: str) -> str:
    """Return the last part of a Hub name or path with letters, digits, . + - only."""
    last = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    last = re.sub(r"\.json(\.gz|\.xz)?$", "", last)
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", last).strip("-.")[:60] or "unnamed"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table whose columns are padded to one width each."""
    rows = [[str(c).replace("|", "\\|").replace("\n", " ") for c in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    rows.insert(1, ["-" * width for width in widths])
    lines = (" | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


def progress_bar(total: int, description: str, unit: str, **options: Any) -> tqdm:
    """Return a bar of tqdm; in a notebook on stdout, because stderr is shown as an error there."""
    stream = sys.stdout if "ipykernel" in sys.modules else sys.stderr
    return tqdm(total=total, desc=description, unit=f" {unit}", file=stream, **options)
