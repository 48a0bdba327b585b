"""Read the records of a folder."""

from pathlib import Path

from smp.runs.grouping import record_order
from smp.runs.record import read_record


def read_records(folder: str | Path) -> list[dict]:
    """Return all records directly in the folder, sorted; [] without any or without the folder.

    Raises ValueError, one line with the file's name, for a file that is not a whole record.
    """
    records = []
    for path in sorted(Path(folder).glob("*.json")):
        if path.name == "bench.json":
            continue
        try:
            record = read_record(path)
            if record["name"] != path.stem:
                raise ValueError(f"it is a copy of {record['name']}")
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{path.name} is not a result record: {error}; run it again or move the file away"
            ) from None
        records.append(record)
    return sorted(records, key=record_order)
