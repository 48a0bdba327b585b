"""`smp ship`: export a trained run and measure each format."""

import os
import sys

from smp.cli.paths import ROOT
from smp.task.export import export_markdown, export_run


def export(options):
    """Ships a run of results/models/, or one in any folder, and prints the table. -> exit code"""
    results = ROOT / "results"
    folder = options.run if os.path.isdir(options.run) else results / "models" / options.run
    try:
        report = export_run(folder, options.data, options.base, options.onnx, options.questions)
    except (OSError, ValueError) as error:
        print(f"ship: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    print(export_markdown(report))
    return 0
