"""Copy the masks of runs into results/reference/masks/: mask file, model card, two snapshots.

    python tools/keep_masks.py results/models/RUN ...

The snapshots are the first and the last one of the training, for the explorer.
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import save_file

from smp.files import replace_text_file, replaced_file
from smp.look.snapshots import SNAPSHOT_FORMAT, Snapshots
from smp.task.cards import mask_card
from smp.task.mask_file import MASK_FILE
from smp.task.validate import load_any_masks

MASKS = Path(__file__).parents[1] / "results" / "reference" / "masks"


def keep_snapshots(source: Path, target: Path) -> None:
    """Write the first and the last snapshot of a file into another file."""
    saved = Snapshots(source)
    steps = [saved.steps[0], saved.steps[-1]]
    held = {"steps": steps, "about": saved.about, "matrices": saved.matrices}
    with safe_open(source, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()
                   if int(name.split(".")[0]) in steps}
    # counts[:, 0]: weights that the previous snapshot keeps too; here that is the first, with all
    tensors[f"{steps[-1]}.counts"][:, 0] = saved.parts[steps[-1]]["kept"]
    with replaced_file(target) as draft:
        save_file(tensors, draft, {SNAPSHOT_FORMAT: json.dumps(held)})


def keep_masks(run: Path) -> Path:
    """Copy the masks of a saved run; return the folder."""
    _, about = load_any_masks(run / MASK_FILE)
    folder = MASKS / run.name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / MASK_FILE, folder / MASK_FILE)
    size = (folder / MASK_FILE).stat().st_size
    replace_text_file(folder / "README.md", mask_card(about, size))
    snapshots = run.parents[1] / "snapshots" / f"{run.name}.safetensors"
    keep_snapshots(snapshots, folder / "snapshots.safetensors")
    return folder


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(keep_masks(Path(name)))
