"""The rules for modules and cells that are pasted into one flat notebook."""

import ast
import re
from typing import NamedTuple

FORM = "smp is used by `from smp.room.x import a, b`, alone in its cell or at the top of a module"
HARMLESS = set(
    "dict float frozenset len list max min range re.compile set sorted str.maketrans tuple".split()
)
IMPORTS = ast.Import | ast.ImportFrom
DEFINITIONS = IMPORTS | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def rule(holds, where, message):
    """Raise ValueError, one line, unless the rule holds."""
    if not holds:
        raise ValueError(f"{where}: {message}")


class Module(NamedTuple):
    """A module of smp/: wanted is [(other module, names)], code what is left without them."""

    where: str
    docstring: str
    body: list
    wanted: list
    code: str


def check_tree(tree, where):
    """Return the imports from smp; raise ValueError for what a notebook cannot contain."""
    dump = ast.dump(tree)
    rule(not re.search("'__(file|future)__'", dump), where, "no __file__ and no __future__ here")
    plain = [node for node in ast.walk(tree)
             if isinstance(node, ast.ImportFrom) and re.match(r"smp\.\w", node.module or "")]
    rule(not any(alias.asname or alias.name == "*" for node in plain for alias in node.names),
         where, FORM)
    uses = re.findall(r"(?:module|name|id)='smp['.]|level=[1-9]", dump)
    rule(len(uses) == len(plain), where, FORM)
    return plain


def read_module(text, where):
    """Return the `Module` of a file's text; raise ValueError for a form that is refused."""
    tree, lines = ast.parse(text, filename=where), text.splitlines()
    own = check_tree(tree, where)
    rule(all(node in tree.body for node in own), where, FORM)
    docstring = ast.get_docstring(tree) or ""
    rule(docstring, where, "a module begins with a docstring")
    taken = [n for node in tree.body for n in range(node.lineno, node.end_lineno + 1)]
    rule(len(set(taken)) == len(taken), where, "one statement a line")  # imports go line by line
    for node in [tree.body[0], *own]:
        lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    code = re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines)).strip()
    body = [node for node in tree.body[1:] if node not in own]
    wanted = [(node.module[4:], {alias.name for alias in node.names}) for node in own]
    return Module(where, docstring, body, wanted, code)


def read_story_cell(source, where):
    """Return (module, names) that a cell imports from smp, None if it imports nothing."""
    tree = ast.parse(source, filename=where)
    own = check_tree(tree, where)
    rule(not own or len(own) == 1 and own == tree.body, where, FORM)
    return (own[0].module[4:], {alias.name for alias in own[0].names}) if own else None


def assigned_to(node):
    """Return the targets of an assignment, [] for anything else."""
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def bound_names(node):
    """Return {name: imported object, None for a definition} of a top-level statement."""
    if isinstance(node, IMPORTS):
        source = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        top = {a: a.name if source or a.asname else a.name.split(".")[0] for a in node.names}
        return {a.asname or name: source + name for a, name in top.items()}
    if isinstance(node, DEFINITIONS):
        return {node.name: None}
    stored = [n for target in assigned_to(node) for n in ast.walk(target)]
    return {n.id: None for n in stored if isinstance(n, ast.Name)}


def defined_names(module):
    """Return the names that a module defines itself, without those that it imports."""
    found = [bound_names(node) for node in module.body]
    return {name for names in found for name in names if names[name] is None}


def does_nothing(node, own):
    """Return whether a top-level statement only defines; its module may call the names in `own`."""
    if assigned_to(node):
        calls = {ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)
                 and not isinstance(getattr(call.func, "value", None), ast.Constant)}  # "".split()
        names = all(isinstance(target, ast.Name | ast.Tuple) for target in assigned_to(node))
        return names and calls <= HARMLESS | own
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or isinstance(node, DEFINITIONS)


def check_modules(modules):
    """Raise ValueError, one line, for a module that acts when imported or a name with two meanings.

    modules: {name: `Module`}.
    """
    seen = {}
    for module in modules.values():
        own = {name for node in module.body for name in bound_names(node)}
        for node in module.body:
            line = ast.unparse(node).split("\n")[0]
            rule(does_nothing(node, own), module.where, f"`{line}` does something when imported")
            for name, meaning in bound_names(node).items():
                first, there = seen.setdefault(name, (meaning, module.where))
                same = there == module.where or (meaning and meaning == first)
                rule(same, module.where, f"the name {name} is taken by {there}")
