"""The example runs alone and offline, in an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_answers_its_own_questions(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "examples/answer_questions.py"], cwd=tmp_path, text=True,
        capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    one, pair, *listed, several = done.stdout.splitlines()
    assert "'answer': 'Henrik Dahl'" in one and "'answer': '1893'" in pair
    for line, answer in zip(listed, ("Clara Voss", "Henrik Dahl", "1893", "140 metres", "the Lenn",
                                     "Ostby"), strict=True):
        assert f"? {answer} (" in line
    assert several.startswith("[{'score': ") and several.count("'answer'") == 3
    assert not [*tmp_path.iterdir()]
