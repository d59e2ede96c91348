"""Size and names of modules, classes and functions."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

from source_tree import FUNCTIONS, MODULES, definitions, name_of, source_of, tree_of

#: Maximum lines; the last 2,450 of the package are those of the ledger, its prices and its budgets.
MAX_PACKAGE_LINES = 34_735
MAX_MODULE_LINES = 500
MAX_CLASS_LINES = 300
MAX_FUNCTION_LINES = 50

#: Module names that each folder may have of its own.
COMMON_MODULE_NAMES = {"__init__", "base", "batch", "seedance"}


def test_the_package_stays_small() -> None:
    assert sum(len(source_of(path).splitlines()) for path in MODULES) <= MAX_PACKAGE_LINES


def test_modules_classes_and_functions_stay_short() -> None:
    for path in MODULES:
        tree = tree_of(path)
        assert len(source_of(path).splitlines()) <= MAX_MODULE_LINES, path
        assert [found for found in definitions(tree, ast.ClassDef) if found[1] > MAX_CLASS_LINES] == [], path
        assert [found for found in definitions(tree, *FUNCTIONS) if found[1] > MAX_FUNCTION_LINES] == [], path


def test_test_modules_stay_short() -> None:
    paths = list(Path(__file__).parent.rglob("*.py"))
    assert len(paths) > len(MODULES)
    assert [path for path in paths if len(path.read_text().splitlines()) > MAX_MODULE_LINES] == []


def test_lines_are_counted() -> None:
    tree = ast.parse("class A:\n    def f(self):\n        return 1\n")
    assert list(definitions(tree, ast.ClassDef)) == [("A", 3)]
    assert list(definitions(tree, *FUNCTIONS)) == [("f", 2)]


#: Modules but the emulator's counterparts of the services' adapters.
OWN = [path for path in MODULES if not name_of(path).startswith("emulator.services")]


def repeated(names: list[str]) -> set[str]:
    return {name for name, times in Counter(names).items() if times > 1}


def test_modules_have_names_of_their_own() -> None:
    assert repeated([path.stem for path in OWN]) - COMMON_MODULE_NAMES == set()


def class_names(tree: ast.Module) -> list[str]:
    """Return the names of the public classes and type aliases of a module."""
    names = [name for name, _ in definitions(tree, ast.ClassDef)]
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names += [node.targets[0].id]
    return [name for name in names if name[0].isupper() and name.upper() != name]


def test_classes_and_type_aliases_have_names_of_their_own() -> None:
    assert repeated([name for path in OWN for name in class_names(tree_of(path))]) == set()


def test_repeated_names_are_found() -> None:
    assert repeated(["a", "b", "a"]) == {"a"}
    source = "class Aa: ...\nclass _B: ...\nCc = int\nd = LIMIT = 1\nLIMIT = 2\n"
    assert class_names(ast.parse(source)) == ["Aa", "Cc"]
