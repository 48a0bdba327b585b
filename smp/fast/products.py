"""Products with a sparse W on a CPU, in C, compiled on first use.

A pruned matrix in CSR (the kept weights of each row and their columns) needs no product with zeros.
With few kept weights this is faster than the dense product, if the activations stay in the cache,
in tiles of 64 tokens. torch's own CSR product has no tiles.
"""

import ctypes
import functools
import os
import shlex
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

from smp.fast.c_source import SPARSE_PRODUCTS
from smp.text import first_line


@functools.cache
def compiled_products() -> ctypes.CDLL | None:
    """Return the functions of SPARSE_PRODUCTS, compiled for this machine's vector units.

    Returns None, after a warning, without a C compiler that supports OpenMP (CC, otherwise cc), or
    if the library cannot be loaded from the folder for temporary files. It takes about a second,
    once per process.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    try:
        with tempfile.TemporaryDirectory(prefix="sparse-", ignore_cleanup_errors=True) as folder:
            source, library = Path(folder) / "sparse.c", Path(folder) / "sparse.so"
            source.write_text(SPARSE_PRODUCTS, "utf-8")
            subprocess.run([*compiler, "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC",
                            source, "-o", library], capture_output=True, check=True)
            products = ctypes.CDLL(str(library))  # stays loaded without its file
    except (OSError, subprocess.CalledProcessError) as error:
        printed = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip()
        warnings.warn("sparse products are slower, because their C source was not compiled "
                      f"({first_line(printed or error)}); install a C compiler with OpenMP (gcc), "
                      "or set CC to one", stacklevel=2)
        return None
    size, pointer, count = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
    products.sparse_linear.argtypes = [size] * 3 + [pointer] * 6 + [count]
    products.kept_as_csr.argtypes = [size] * 3 + [pointer] * 5 + [count]
    products.kept_as_csr.restype = size
    products.turn_csr.argtypes = [size] * 2 + [pointer] * 6
    return products


def sparse_product(x: Tensor, csr: tuple, bias: Tensor | None, out_features: int) -> Tensor:
    """Return x W'^T + b for a W (out, in) in CSR: x (tokens, in) -> (tokens, out), fp32 on the CPU.

    csr: (first entry of each row, int32; columns, uint16; values, fp32); bias: (out,) or None.
    Raises MemoryError if a tile cannot be allocated, RuntimeError without a compiler.
    """
    products = compiled_products()
    if products is None:
        raise RuntimeError("sparse products need a C compiler with OpenMP: install gcc or set CC")
    y = x.new_empty(len(x), out_features)
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in (x, *csr, bias, y)]
    if products.sparse_linear(*x.shape, out_features, *pointers, torch.get_num_threads()):
        raise MemoryError(f"a tile of {x.shape[1]} x 64 numbers cannot be allocated")
    return y
