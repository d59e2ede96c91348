"""The source of the package as syntax trees, for the tests of its structure and language."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import airflow_provider_seedance

ROOT = Path(airflow_provider_seedance.__file__).parent
PACKAGE = ROOT.name
MODULES = sorted(ROOT.rglob("*.py"))

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def name_of(path: Path) -> str:
    """Return the name of a module, below the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def source_of(path: Path) -> str:
    """Return the text of a file."""
    return path.read_text(encoding="utf-8")


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(source_of(path))


@cache
def nodes_of(tree: ast.AST) -> tuple[ast.AST, ...]:
    """Return every node of a tree, which tests read several times."""
    return tuple(ast.walk(tree))


def runtime_nodes(tree: ast.AST, *, in_functions: bool = True) -> Iterator[ast.AST]:
    """
    Return every node but those that only type checkers see.

    :param in_functions: Include the bodies of functions, which do not run on import.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for other in node.orelse:
                yield from (other, *runtime_nodes(other, in_functions=in_functions))
            continue
        yield node
        if in_functions or not isinstance(node, FUNCTIONS):
            yield from runtime_nodes(node, in_functions=in_functions)


def definitions(tree: ast.AST, *kinds: type[ast.AST]) -> Iterator[tuple[str, int]]:
    """Return the name and the number of lines of each definition of these kinds."""
    for node in nodes_of(tree):
        if isinstance(node, kinds):
            yield node.name, node.end_lineno - node.lineno + 1  # type: ignore[attr-defined]
