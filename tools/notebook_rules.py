"""What a cell may hold so that modules can be pasted into one flat notebook."""

import ast
import re

FORM = "smp is used by `from smp.x import a, b`, alone in its cell, and in no other way"
HARMLESS = set(
    "dict float frozenset len list max min range re.compile set sorted str.maketrans tuple".split()
)
IMPORTS = ast.Import | ast.ImportFrom
DEFINITIONS = IMPORTS | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def rule(holds, where, message):
    if not holds:
        raise ValueError(f"{where}: {message}")


def read_code(source, where):
    """A code cell's (statements, wanted); wanted is None or (module, names) taken from smp."""
    tree = ast.parse(source, filename=where)
    dump = ast.dump(tree)
    rule(not re.search("'__(file|future)__'", dump), where, "no __file__ and no __future__ here")
    if not re.search(r"(module|name|id)='smp['.]|level=[1-9]", dump):
        return tree.body, None
    lone = re.fullmatch(r"from smp\.(\w+) import [\w\s,()]+", source)
    rule(lone and len(tree.body) == 1, where, FORM)
    rule(not any(alias.asname for alias in tree.body[0].names), where, FORM)
    return [], (lone[1], {alias.name for alias in tree.body[0].names})


def assigned_to(node):
    """The targets of an assignment, [] of anything else."""
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def bound_names(node):
    """{name: what is imported under it, None for a definition} of a top-level statement."""
    if isinstance(node, IMPORTS):
        source = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        top = {a: a.name if source or a.asname else a.name.split(".")[0] for a in node.names}
        return {a.asname or name: source + name for a, name in top.items()}
    if isinstance(node, DEFINITIONS):
        return {node.name: None}
    stored = [n for target in assigned_to(node) for n in ast.walk(target)]
    return {n.id: None for n in stored if isinstance(n, ast.Name)}


def defined_names(rows):
    """The names a module defines itself; what it imports is not its own."""
    found = [bound_names(node) for _, _, body, _ in rows for node in body]
    return {name for names in found for name in names if names[name] is None}


def does_nothing(node, own):
    """Whether a top-level statement only defines; `own` names what its module may call."""
    if assigned_to(node):
        calls = {ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)
                 and not isinstance(getattr(call.func, "value", None), ast.Constant)}  # "".split()
        names = all(isinstance(target, ast.Name | ast.Tuple) for target in assigned_to(node))
        return names and calls <= HARMLESS | own
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or isinstance(node, DEFINITIONS)


def check_modules(modules):
    """Refuses modules that act when imported, and a name that means two things.

    modules: {name: rows (where, cell, statements, wanted)}. Raises ValueError, one line.
    """
    seen = {}
    for rows in modules.values():
        own = {name for _, _, body, _ in rows for node in body for name in bound_names(node)}
        for where, node in [(where, node) for where, _, body, _ in rows for node in body]:
            line = ast.unparse(node).split("\n")[0]
            rule(does_nothing(node, own), where, f"`{line}` does something when imported")
            for name, meaning in bound_names(node).items():
                first, there = seen.setdefault(name, (meaning, where))
                same = there == where or (meaning and meaning == first)
                rule(same, where, f"the name {name} is taken by {there}")
