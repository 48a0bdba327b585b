"""Detect edited method cells, so that the run gets another name."""

import ast
import hashlib
from collections.abc import Iterable


def code_digest(node: ast.AST) -> str:
    """Return 8 hex digits of a syntax tree, the same in all versions of Python.

    Comments and layout have no effect.
    """
    parts = [[type(part).__name__, *(value for _, value in ast.iter_fields(part)
                                     if isinstance(value, str | int | float))]
             for part in ast.walk(node)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def definitions(source: str) -> dict[str, ast.AST]:
    """Return {name: syntax tree} of the functions and classes of a cell; {} if it is not Python."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a magic
        return {}
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def edited_method(cells: Iterable[str], digests: dict[str, str]) -> str:
    """Return "edited" if a definition of the method is not the notebook's own, else "".

    cells: the source of the cells that were run, in their order; digests: {name: `code_digest`}.
    """
    last = {name: node for cell in cells for name, node in definitions(cell).items()}
    edited = [name for name, digest in digests.items()
              if name in last and code_digest(last[name]) != digest]
    if edited:
        print(f"edited: {', '.join(edited)}. The record and its name contain the variant 'edited'.")
    return "edited" if edited else ""
