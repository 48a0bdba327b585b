"""Equal masks are equal files, whatever process writes them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from smp.task.validate import load_masks

SAVE = """
import sys
import numpy as np
from smp.task.mask_file import save_masks

path, backwards = sys.argv[1], sys.argv[2] == "backwards"
chance = np.random.default_rng(0)
masks = {f"layer.{i}.{part}": chance.random((48, 32)) < 0.3 for i in range(11) for part in "ab"}
head = {"weight": np.ones((2, 32), np.float32), "bias": np.zeros(2, np.float32)}
about = {"em": 0.5, "density": 0.3, "name": "ünï\\u2028\\x7f \\\\\\" \\n",
         "settings": {"b": 1, "a": [2]}}
if backwards:
    masks, head, about = (dict(reversed(part.items())) for part in (masks, head, about))
    about["settings"] = dict(reversed(about["settings"].items()))
save_masks(masks, path, head_weights=head, **about)
"""


def test_equal_masks_are_one_file_byte_for_byte(tmp_path):
    """The processes differ in hash seed, order of the dictionaries and number of threads."""
    files = []
    for number, (seed, threads, order) in enumerate(
            [("0", "1", "forwards"), ("1", "2", "backwards"), ("random", "4", "forwards"),
             ("2", "1", "backwards")]):
        files.append(tmp_path / f"{number}.safetensors")
        subprocess.run([sys.executable, "-c", SAVE, files[-1], order], check=True, env={
            **os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONHASHSEED": seed,
            "OMP_NUM_THREADS": threads})
    assert len({path.read_bytes() for path in files}) == 1
    masks, about = load_masks(files[0])
    assert len(masks) == 22 and about["name"] == 'ünï\u2028\x7f \\" \n'
    assert np.count_nonzero(masks["layer.0.a"]) == np.count_nonzero(
        np.random.default_rng(0).random((48, 32)) < 0.3)
