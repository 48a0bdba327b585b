"""The package: version, lazy names, content of the wheel, version ranges and the lock."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import smp

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
RANGES = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
REQUIREMENTS = [line for name in ("requirements.txt", "tools/openvino.txt")
                for line in (ROOT / name).read_text("utf-8").splitlines()
                if line and not line.startswith("#")]
PINNED = {canonicalize_name(name): version for name, version in
          (line.split("#")[0].strip().split("==") for line in REQUIREMENTS)}
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
LOCKED = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK, flags=re.M))
COLAB = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "tools/colab.txt").read_text("utf-8"), re.M))
NOTEBOOKS = ("BERT_FINETUNE_QA", "BERT_SMP", "BERT_SMP_KD")


def test_version_is_written_only_in_smp_init():
    assert "version" in PROJECT["dynamic"] and "version" not in PROJECT
    assert f'__version__ = "{smp.__version__}"' in (ROOT / "smp/__init__.py").read_text("utf-8")
    for name in ("README.md", "CITATION.cff", "pyproject.toml"):
        assert smp.__version__ not in (ROOT / name).read_text("utf-8"), name


def test_import_smp_imports_neither_torch_nor_transformers():
    code = "import smp, sys; print(*{'torch', 'transformers', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("\n", "")


@pytest.mark.parametrize("name", smp.__all__)
def test_lazy_name_resolves(name):
    value = getattr(smp, name)
    assert value.__module__ == smp.LAZY[name] and value.__name__ == name and value.__doc__


def test_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'load_nothing'"):
        smp.load_nothing  # noqa: B018
    assert {*smp.__all__, "__version__"} <= set(dir(smp))


def test_type_checkers_see_the_lazy_names():
    tree = ast.parse((ROOT / "smp/__init__.py").read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == smp.LAZY


def test_wheel_contains_smp_and_notebooks_only(tmp_path):
    from hatchling.builders.wheel import WheelBuilder

    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(f"bert_smp-{smp.__version__}.dist-info/METADATA").decode()
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "smp").rglob("*.py")}
    notebooks = {f"smp/notebooks/{name}.ipynb" for name in NOTEBOOKS}
    assert names == modules | notebooks | {"smp/py.typed", "smp/look/explorer.js"}
    assert f"Name: bert-smp\nVersion: {smp.__version__}\n" in metadata


def test_each_range_contains_the_pinned_version():
    for wanted in map(Requirement, RANGES):
        assert {item.operator for item in wanted.specifier} == {">=", "<"}, wanted
        assert PINNED[canonicalize_name(wanted.name)] in wanted.specifier, wanted


def test_each_range_contains_the_version_of_colab():
    ranges = {wanted.name: wanted.specifier for wanted in map(Requirement, RANGES)}
    assert {"torch", "transformers", "datasets", "ipywidgets", "ipykernel"} <= COLAB.keys()
    for name in COLAB.keys() & ranges.keys():
        assert COLAB[name] in ranges[name], name


def test_each_requirement_has_a_version_a_reason_and_a_range():
    for line in REQUIREMENTS:
        assert re.fullmatch(r"[\w-]+==[\w.]+ +# \w[^#]{3,}", line), line
    assert PINNED.keys() == {canonicalize_name(Requirement(text).name) for text in RANGES}


def test_lock_contains_the_pinned_versions_with_hashes():
    elsewhere = {"torch", "openvino", "nncf"}
    assert LOCKED.items() >= {(name, PINNED[name]) for name in PINNED.keys() - elsewhere}
    assert not {"torch", "sentence-transformers"} & set(LOCKED)
    hashed = re.findall(r"^([a-z0-9-]+)==[^\n]*\\\n    --hash=sha256:[0-9a-f]{64}", LOCK, re.M)
    assert set(hashed) == set(LOCKED)


def test_contributing_page_names_the_pinned_torch():
    page = (ROOT / "docs/contributing.md").read_text("utf-8")
    assert re.findall(r"torch==([\w.]+)", page) == [PINNED["torch"]]


def test_lock_names_no_index():
    assert not re.search(r"https?://|file:|^ *--(?!hash)", LOCK, flags=re.M)


@pytest.mark.parametrize("arguments, expected", [
    (["run", "DENSITY=0.3"], "DENSITY=0.3: settings are options of .venv/bin/smp run, see"),
    (["sweep", "N_TRAIN=5"], "N_TRAIN=5: settings are options of .venv/bin/smp sweep, see"),
    (["bench", "ONLY=a"], "ONLY=a: settings are options of .venv/bin/python -m benchmarks, see"),
])
def test_an_unknown_make_variable_prints_one_line(arguments, expected):
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    run = subprocess.run(["make", *arguments], cwd=ROOT, env=outer, capture_output=True, text=True)
    assert run.returncode == 2 and run.stdout == ""
    assert f"unknown variable {expected}" in run.stderr and run.stderr.count("\n") == 1
