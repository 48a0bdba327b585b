"""A short run of tools/recovery.py."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_disturbed_runs_end_with_the_files_of_an_undisturbed_run():
    done = subprocess.run(
        [sys.executable, ROOT / "tools/recovery.py", "--kill=1", "--stop=1", "--harm=1",
         "--together=1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("all ended with the same files\n") and done.stdout.count("\n") == 5
