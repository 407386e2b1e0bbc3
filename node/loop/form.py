"""Which form a task file has: four functions that the node calls, or a script that calls the node.

The file says it itself, and every site has the same file, so no setting can contradict it: a file that binds
`build_model` at its top is a file of functions, and one that does not, and calls something named `join`, is a script.
It is read, not run: whoever only wants to know which it is must not start a training.
"""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE_BYTES_MAX = 1 << 22
"""A file larger than this was not written by hand, and is taken for one of functions, which loading it will judge."""


def is_script(path: Path) -> bool:
    """Whether the task file at `path` is a script. A file that cannot be read or parsed is not: loading it says why."""
    try:
        if path.stat().st_size > SOURCE_BYTES_MAX:
            return False
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return "build_model" not in _bound(tree) and any(_joins(node) for node in ast.walk(tree))


def _joins(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="join")):
            return True
        case ast.Call(func=ast.Attribute(attr="join", value=ast.Name(id="swarm" | "node"))):
            return True  # Not os.path.join, nor ", ".join.
        case _:
            return False


def _bound(tree: ast.Module) -> set[str]:
    """Return the names that statements at the top of a module bind."""
    names: set[str] = set()
    for statement in tree.body:
        match statement:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name for alias in aliases}
            case _:
                pass
    return names
