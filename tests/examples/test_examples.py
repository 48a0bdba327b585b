"""Each example runs from an empty folder without a network and prints the expected results."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def output_of(name, folder):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TMPDIR": str(folder),
             "ACCELERATE_USE_CPU": "true"})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_trainer_example_prunes_and_loads_a_task(tmp_path):
    found = re.search(r"(\d+) of 12 sentences right, density 50%, ([\d,]+) bytes in (\S+)",
                      output_of("prune_trainer.py", tmp_path))
    assert int(found[1]) >= 11 and int(found[2].replace(",", "")) < 2_500_000
    assert {path.name for path in Path(found[3]).iterdir()} >= {
        "masks.safetensors", "smp_config.json", "README.md"}


def test_the_tasks_example_switches_three_tasks(tmp_path):
    lines = output_of("many_tasks.py", tmp_path).splitlines()
    assert lines[-5] == "maria" and lines[-4].startswith("moods: switched in ")
    assert lines[-3] == "['good']" and lines[-2].startswith("entities: switched in ")
    assert lines[-1] == "['person', 'other', 'other', 'place']"
    assert len([*tmp_path.rglob("masks.safetensors")]) == 3


def test_the_examples_have_at_most_60_lines():
    for path in (ROOT / "examples").glob("*.py"):
        assert len(path.read_text("utf-8").splitlines()) <= 60, path.name
