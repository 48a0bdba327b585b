"""Progress bars: on stdout in a notebook, where stderr is shown as an error."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(total: int, description: str, unit: str, **options: Any) -> tqdm:
    """Return a bar of tqdm, for use as a context manager or with update and close."""
    stream = sys.stdout if "ipykernel" in sys.modules else sys.stderr
    return tqdm(total=total, desc=description, unit=f" {unit}", file=stream, **options)
