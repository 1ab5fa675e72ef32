"""Which experiment a result belongs to: a claim is measured again when its experiment changes, and only then."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any


def fingerprint(experiment: Callable[..., Any], *conditions: object) -> str:
    """12 hex digits that change with the experiment's code, with that of the functions and constants of its file which it
    uses, and with `conditions`; not with decorators (what a claim states, and where), docstrings, comments or layout."""
    return hashlib.sha256(f"{_code(experiment)}{conditions}".encode()).hexdigest()[:12]


def _code(experiment: Callable[..., Any]) -> str:
    scope = inspect.unwrap(experiment).__globals__
    parts: dict[str, str] = {}
    waiting = [(experiment.__name__, experiment)]
    while waiting:
        name, function = waiting.pop()
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        parts[name] = _bare(tree)
        for used in sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - parts.keys()):
            value = scope.get(used)
            if isinstance(value, FunctionType) and value.__module__ == experiment.__module__:
                waiting.append((used, value))
            elif isinstance(value, (bool, int, float, str, tuple, list, dict)):
                parts[used] = repr(value)
    return "\n".join(f"{name}: {text}" for name, text in sorted(parts.items()))


def _bare(tree: ast.AST) -> str:
    """The code of a function without decorators and docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.decorator_list = []
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
