"""The rooms of smp/: docstrings, sizes, type hints, and the imports of the method."""

import ast
from pathlib import Path

import pytest

SMP = Path(__file__).resolve().parents[1] / "smp"
MODULES = sorted(path for path in SMP.rglob("*.py"))
ROOMS = sorted(path.parent for path in SMP.glob("*/__init__.py"))
LONGEST = 250  # lines of a module
DATA = {"words.py", "c_source.py"}  # word lists, and a program in C


def short(path):
    return path.relative_to(SMP).as_posix()


def is_public(node):
    """Return whether a node is a public function; autograd calls those with a ctx."""
    return isinstance(node, ast.FunctionDef) and (
        node.name == "__init__" or not node.name.startswith("_")
    ) and not any(argument.arg == "ctx" for argument in node.args.args)


def public_functions(tree):
    """Yield (name, node) of the public functions and methods of a module."""
    for node in tree.body:
        if is_public(node):
            yield node.name, node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in filter(is_public, node.body):
                yield f"{node.name}.{inner.name}", inner


@pytest.mark.parametrize("room", ROOMS, ids=short)
def test_a_room_states_purpose_imports_and_public_names(room):
    lines = ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8"))).split("\n")
    assert len(lines) == 3 and all(lines), f"{short(room)}: expected three lines"


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_a_module_has_a_docstring_and_at_most_250_lines(path):
    text = path.read_text("utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert path.name in DATA or text.count("\n") <= LONGEST


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_public_functions_have_type_hints(path):
    bare = []
    for name, node in public_functions(ast.parse(path.read_text("utf-8"))):
        of_method = name.count(".") and not any(
            ast.unparse(decorator) == "staticmethod" for decorator in node.decorator_list)
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs][of_method:]
        if any(argument.annotation is None for argument in arguments):
            bare.append(name)
        elif node.returns is None and node.name != "__init__":
            bare.append(name)
    assert not bare, f"{short(path)}: no hints for {', '.join(bare)}"


def test_the_method_imports_torch_numpy_and_the_standard_library():
    for path in (SMP / "method").glob("*.py"):
        allowed = {"torch", "numpy", "math", "fractions", "collections", "typing"}
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
                [node.module] if isinstance(node, ast.ImportFrom) else [])
            for name in names:
                known = name.startswith("smp.method.") or name.split(".")[0] in allowed
                assert known, f"{path.name} imports {name}"
