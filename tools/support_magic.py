import importlib.util
import sys
import tempfile
from pathlib import Path

from IPython.core.magic import register_cell_magic

SUPPORT = globals().get("SUPPORT") or tempfile.TemporaryDirectory(prefix="smp-")  # ends with Python
sys.path[:] = [SUPPORT.name, *(folder for folder in sys.path if folder != SUPPORT.name)]


def forget_modules():
    """Let the next import of smp read the files again, of this folder and of no other."""
    for name in [name for name in sys.modules if name.split(".")[0] == "smp"]:
        del sys.modules[name]
    importlib.invalidate_caches()


@register_cell_magic
def support(line, cell):
    """Write the cell, without its title, to a file of this folder; `from smp.…` then imports it."""
    path = Path(SUPPORT.name, line.strip())
    text = cell.partition("\n")[2]
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    changed = path.is_file()
    for folder in reversed(Path(line.strip()).parents[:-1]):
        (Path(SUPPORT.name) / folder).mkdir(exist_ok=True)
        (Path(SUPPORT.name) / folder / "__init__.py").touch()
    path.write_text(text, encoding="utf-8")
    Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
    forget_modules()
    if changed:
        print(f"{line.strip()} changed: run the experiment (section 3) again")


forget_modules()
