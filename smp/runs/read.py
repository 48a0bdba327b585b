"""Read the records of a folder."""

import json
from pathlib import Path

from smp.runs.names import record_group, record_order
from smp.runs.record import check_record

NOT_RECORDS = ("bench.json",)


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
