"""`smp export`: export a trained run and benchmark each format."""

import os
from pathlib import Path
from typing import Any

from smp.files import results_folder
from smp.task.export import export_run
from smp.task.measure import export_markdown


def export(options: Any) -> int:
    """Export a run of results/models/, or of any folder; print the table; return the exit code."""
    models = results_folder() / "models"
    folder = Path(options.run if os.path.isdir(options.run) else models / options.run)
    is_model = (folder / "config.json").exists()
    report = export_run(
        folder, options.data, options.base, options.format, options.questions,
        folder if is_model else models / folder.resolve().name, options.best, options.most_lost,
        options.held_out)
    print(export_markdown(report))
    return 0
