"""What modules and cells may hold so that they can be pasted into one flat notebook."""

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
    """ValueError for what a notebook cannot hold, or another way to use smp."""
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
    """The `Module` of a file's text; ValueError where it uses smp in another way than at its top."""
    tree, lines = ast.parse(text, filename=where), text.splitlines()
    own = check_tree(tree, where)
    rule(all(node in tree.body for node in own), where, FORM)
    docstring = ast.get_docstring(tree) or ""
    rule(docstring, where, "a module begins with a docstring")
    for node in [tree.body[0], *own]:
        lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    code = re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines)).strip()
    body = [node for node in tree.body[1:] if node not in own]
    wanted = [(node.module[4:], {alias.name for alias in node.names}) for node in own]
    return Module(where, docstring, body, wanted, code)


def read_story_cell(source, where):
    """(module, names) that a cell takes from smp, None where it takes nothing."""
    tree = ast.parse(source, filename=where)
    own = check_tree(tree, where)
    rule(not own or len(tree.body) == 1, where, FORM)
    return (own[0].module[4:], {alias.name for alias in own[0].names}) if own else None


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


def defined_names(module):
    """The names a module defines itself; what it imports is not its own."""
    found = [bound_names(node) for node in module.body]
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

    modules: {name: `Module`}. Raises ValueError, one line.
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
