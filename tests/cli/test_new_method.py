"""docs/new-method.md: its file and its line add a method to a sweep with other methods."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from helpers import attach_masks
from smp.cli.main import main
from smp.cli.options import parse
from smp.method.masks import kept_count
from smp.runs import methods
from smp.runs.read import read_records
from smp.runs.sweep_curves import plot_sweep

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "new-method.md").read_text("utf-8")
FILE, LINE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(COMMAND,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def row_product(tmp_path, monkeypatch):
    """Install the page's file as a module of smp/method/ and its line in the table."""
    path = tmp_path / "row_product.py"
    path.write_text(FILE, "utf-8")
    spec = importlib.util.spec_from_file_location("smp.method.row_product", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "smp.method.row_product", module)
    spec.loader.exec_module(module)
    name, text = re.match(r'\s*"([\w-]+)": Method\((.*)\),\n', LINE).groups()
    first, masks, frozen = text.split(", ")
    assert frozen == "freezes_weights=True"
    monkeypatch.setitem(methods.METHODS, name, methods.Method(
        first.strip('"'), masks.strip('"'), freezes_weights=True))
    return module


def test_each_row_keeps_its_largest_products(row_product, tiny_qa):
    masks = attach_masks(tiny_qa, start=1.0, kind=row_product.RowProductMasks)
    masks.refresh(0.3)
    for name, _, _, linear in masks.matrices:
        product = (linear.parametrizations.weight.original * masks.masks[name].scores).abs()
        k = kept_count(0.3, product.shape[1])
        for row, mask in zip(product, masks.masks[name].mask):
            assert mask.sum() == k and row[mask].min() >= row[~mask].max()
        assert not linear.parametrizations.weight.original.requires_grad


def test_a_sweep_trains_the_method_and_the_table_has_it(row_product, base, tmp_path, capsys):
    """Run the page's command with other methods, densities and sizes."""
    program, *command = COMMAND.split()
    assert program == "smp" and "row-product" in parse(command)[1].methods
    results = tmp_path / "results"
    assert main([command[0], "--profile=quick", f"--model={base}", f"--results={results}",
                 "--methods", "smp-l", "row-product", "--densities", "0.3", "--n-train=24",
                 "--n-valid=0", "--n-eval=4", "--max-length=96", "--stride=32",
                 "--precision=fp32"]) == 0
    printed = capsys.readouterr().out
    assert "| row product" in printed and "| SMP-L" in printed
    records = {record["method"]: record for record in read_records(results)}
    assert records.keys() == {"smp-l", "row-product"}
    assert records["row-product"]["label"] == "row product"
    assert records["row-product"]["density"] == pytest.approx(0.3, abs=0.02)
    masks = list((results / "models").glob("*row-product*/masks.safetensors"))
    assert len(masks) == 1  # frozen weights, so the run has a mask file
    tables = set(re.findall(r"`results/(\S+)`", PAGE)) - {""}
    assert tables and all((results / name).is_file() for name in tables)
    legend = plot_sweep(list(records.values())).legends[0]
    assert {text.get_text() for text in legend.get_texts()} == {"SMP-L", "row product"}
    assert torch.isfinite(torch.tensor(records["row-product"]["history"]["loss"])).all()
