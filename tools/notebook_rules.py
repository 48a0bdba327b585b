"""The rules for modules and cells of the notebooks; each breach is a one-line ValueError."""

import ast
import io
import tokenize
from typing import NamedTuple

MOST_LINES = 60  # of an open cell
DEFINITION = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
IMPORT = ast.Import | ast.ImportFrom


def rule(holds, where, message):
    """Raise ValueError, one line, unless the rule holds."""
    if not holds:
        raise ValueError(f"{where}: {message}")


def is_support(cell):
    """Return whether a cell has the tag `support`."""
    return "support" in cell.metadata.get("tags", [])


def docstring_lines(tree):
    """Return the numbers of the lines that docstrings take."""
    owners = [node for node in ast.walk(tree)
              if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    found = [owner.body[0] for owner in owners if ast.get_docstring(owner, clean=False) is not None]
    return {number for node in found for number in range(node.lineno, node.end_lineno + 1)}


def code_lines(source):
    """Return how many lines are code: not blank, not only a comment, not a docstring."""
    empty = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
             tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {number for token in tokens if token.type not in empty
             for number in range(token.start[0], token.end[0] + 1)}
    return len(lines - docstring_lines(ast.parse(source)))


def own_imports(tree):
    """Return the modules of smp that a syntax tree imports, also inside functions."""
    return [node.module for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("smp.")]


def check_form(tree, where):
    """Raise ValueError unless every use of smp is `from smp.room.module import names`."""
    for node in ast.walk(tree):
        plain = [alias.name for alias in getattr(node, "names", []) if isinstance(node, ast.Import)]
        rule(not any(name.split(".")[0] == "smp" for name in plain), where,
             "smp is imported by `from smp.room.module import names`")
        if isinstance(node, ast.ImportFrom):
            rule(node.level == 0 and node.module != "smp", where,
                 "smp is imported by `from smp.room.module import names`")


class MethodModule(NamedTuple):
    """A module of smp/method/: its imports and its definitions, {name: source}."""

    where: str
    imports: list
    definitions: dict


def bound_name(node):
    """Return the name that a definition binds."""
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", node)
    return target.id if isinstance(target, ast.Name) else target.name


def read_method(text, where):
    """Return the `MethodModule` of a file; it uses no module of smp outside smp/method/."""
    tree, lines = ast.parse(text, filename=where), text.splitlines()
    check_form(tree, where)
    imports, definitions = [], {}
    for node in tree.body[1:]:  # without the docstring
        if isinstance(node, IMPORT):
            module = getattr(node, "module", None) or ""
            rule(not module.startswith("smp.") or module.startswith("smp.method."), where,
                 f"the method imports {module}: it uses torch, numpy and Python only")
            imports += [] if module.startswith("smp.") else [node]
        else:
            rule(isinstance(node, DEFINITION), where,
                 f"`{ast.unparse(node).splitlines()[0]}` is no import, function, class or constant")
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            source = "\n".join(lines[first - 1 : node.end_lineno])
            definitions[bound_name(node)] = source
    return MethodModule(where, imports, definitions)


def used_names(source):
    """Return all names that a piece of code mentions."""
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


def import_lines(module, used, done):
    """Return the lines of a method module's imports that `used` needs and `done` lacks."""
    lines = []
    for node in module.imports:
        wanted = []
        for alias in node.names:
            name = alias.asname or alias.name.split(".")[0]
            if name in used and name not in done:
                done.add(name)
                wanted.append(alias)
        if wanted:
            kind = ast.Import(wanted) if isinstance(node, ast.Import) else ast.ImportFrom(
                node.module, wanted, 0)
            lines.append(ast.unparse(kind))
    return lines


def check_open_cells(cells, where):
    """Raise ValueError unless each open code cell has prose above it and at most 60 lines."""
    for before, cell in zip([None, *cells], cells):
        if cell.cell_type == "code" and not is_support(cell):
            name = f"{where}, the cell `{cell.source.strip().splitlines()[0]}`"
            rule(before is not None and before.cell_type == "markdown", name,
                 "an open cell has prose above it")
            count = cell.source.count("\n") + 1
            rule(count <= MOST_LINES, name, f"{count} lines; an open cell has at most {MOST_LINES}")
