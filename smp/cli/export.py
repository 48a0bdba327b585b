"""`smp ship`: export a trained run and measure each format."""

import os
from argparse import Namespace

from smp.cli.paths import ROOT
from smp.task.export import export_markdown, export_run


def export(options: Namespace) -> int:
    """Export a run of results/models/, or of any folder; print the table; return the exit code."""
    is_folder = os.path.isdir(options.run)
    folder = options.run if is_folder else ROOT / "results" / "models" / options.run
    report = export_run(folder, options.data, options.base, options.onnx, options.questions)
    print(export_markdown(report))
    return 0
