"""Imports: no circles, what a Dag file loads, which modules do I/O."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from source_tree import (
    FUNCTIONS,
    MODULES,
    PACKAGE,
    ROOT,
    name_of,
    nodes_of,
    runtime_nodes,
    source_of,
    tree_of,
)

#: Modules with no place in the layers, and what they may import of the package.
TOOLS = {"get_provider_info": {"apis"}, "emulator": set[str](), "testing": {"emulator", "polling"}}

#: Folders and modules at the root, from the lowest to the highest. Each imports from those before it only.
LAYERS = (
    *(
        "exceptions",
        "version_compat",
        "urls",
        "generations",
        "costs",
        "apis",
        "storage",
        "callbacks",
        "redaction",
    ),
    *("settings", "observability", "client", "polling", "submission", "ledger", "batch"),
    # Faces.
    *("links", "policies", "hooks", "triggers", "sensors", "operators", "decorators", "transfers"),
    # Processes and tools, and what Airflow itself reads.
    *("emulator", "testing", "get_provider_info", "api_server", "plugin", "cli", "__main__"),
)

#: The maximum number of modules at the root, beside `__init__` and `__main__`.
MAX_ROOT_MODULES = 9

#: Modules that a Dag file imports by name.
FACES = (
    "decorators.seedance",
    "exceptions",
    "operators.seedance",
    "policies.retry",
    "sensors.seedance",
    "transfers.seedance_to_object_storage",
)

#: Modules that only a worker or a triggerer needs.
RUN_TIME = ("client", "emulator", "hooks.seedance", "polling", "submission.submitter", "triggers.seedance")

# ---------------------------------------------------------------------- reading imports


def imports_of(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the modules that these nodes import, ours and those of other packages."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = whole & module_names()
            found |= modules if modules == whole else modules | {str(node.module)}
    return found


@cache
def module_names() -> frozenset[str]:
    """Return the full names of all modules of the package."""
    return frozenset(f"{PACKAGE}.{name_of(path)}" for path in MODULES)


def ours(names: set[str]) -> set[str]:
    """Return the modules of the package among these, by their names below it."""
    return {name.removeprefix(PACKAGE).lstrip(".") for name in names if within(name, {PACKAGE})} - {""}


def within(name: str, groups: Iterable[str]) -> bool:
    return any(name == group or name.startswith(f"{group}.") for group in groups)


@cache
def import_graph() -> dict[str, set[str]]:
    """Return what each module imports of the package, imports in functions and under TYPE_CHECKING included."""
    names = {name_of(path) for path in MODULES}
    found = {}
    for path in MODULES:
        imported = ours(imports_of(nodes_of(tree_of(path))))
        modules = {other if other in names else other.rpartition(".")[0] for other in imported}
        found[name_of(path)] = modules - {"", name_of(path)}
    return found


# ---------------------------------------------------------------------- layers


def folder_graph() -> dict[str, set[str]]:
    """Return which folders import from which; a module at the root counts as a folder."""
    found: dict[str, set[str]] = {}
    for name, imported in import_graph().items():
        folder = name.partition(".")[0]
        targets = {other.partition(".")[0] for other in imported} - {folder}
        found[folder] = found.get(folder, set()) | targets
    return found


def test_imports_have_no_circle() -> None:
    """An error names the modules of a circle; the order of the layers excludes circles of folders."""
    TopologicalSorter(import_graph()).prepare()
    paths = {path.stem: path for path in (ROOT.parent / "benchmarks").glob("*.py")}
    graph = {name: imports_of(nodes_of(tree_of(path))) & paths.keys() for name, path in paths.items()}
    assert any(graph.values())
    TopologicalSorter(graph).prepare()


def test_imports_point_downwards() -> None:
    graph = folder_graph()
    graph.pop("")  # the package itself, with the version
    assert graph.keys() == set(LAYERS)
    assert graph["ledger"]
    for place, folder in enumerate(LAYERS):
        assert graph[folder] <= set(LAYERS[:place]), folder
    for tool, allowed in TOOLS.items():
        assert graph[tool] <= allowed, tool


def test_the_root_has_few_modules() -> None:
    found = {path.stem for path in MODULES if path.parent == ROOT} - {"__init__", "__main__"}
    assert len(found) <= MAX_ROOT_MODULES, found


#: An import of a module of tests. Syntax trees of all tests would take seconds.
IMPORTED_TEST = re.compile(r"^ *(?:import|from)\b(?:[^(\n]*|[^(\n]*\([^)]*)[ .](test_\w+)", re.MULTILINE)


def test_test_modules_do_not_import_each_other() -> None:
    imports = (
        "import a.test_b\nfrom . import test_c as c\nfrom .test_d import e\nfrom f import (\n    test_g,\n)\n"
    )
    assert IMPORTED_TEST.findall(imports) == ["test_b", "test_c", "test_d", "test_g"]
    assert IMPORTED_TEST.findall("from f import latest_g\ntest_h = 1\n") == []
    paths = sorted(Path(__file__).parent.rglob("*.py"))
    assert [f"{path}: {found}" for path in paths for found in IMPORTED_TEST.findall(source_of(path))] == []


# ---------------------------------------------------------------------- imports in functions

#: The maximum number of imports inside functions. It is only ever lowered.
MAX_INNER_IMPORTS = 41


def inner_imports(tree: ast.AST) -> set[int]:
    """Return the lines of the imports that stand inside functions."""
    functions = [node for node in nodes_of(tree) if isinstance(node, FUNCTIONS)]
    nodes = [node for function in functions for node in ast.walk(function)]
    return {node.lineno for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)}


def test_imports_in_functions_are_few() -> None:
    tree = ast.parse("import a\ndef f():\n    import b\n    def g():\n        from c import d\n")
    assert inner_imports(tree) == {3, 5}
    # Without a tree of the modules that have none.
    paths = [path for path in MODULES if re.search(r"^ +(from|import) ", source_of(path), re.MULTILINE)]
    found = {name_of(path): len(inner_imports(tree_of(path))) for path in paths}
    assert sum(found.values()) <= MAX_INNER_IMPORTS, {name: n for name, n in found.items() if n}


# ---------------------------------------------------------------------- I/O


def test_only_the_client_uses_http_libraries() -> None:
    # Downloads connect to validated addresses, which httpx does not offer; httpcore does.
    allowed = {
        "client.api_client": {"httpx"},
        "client.deadlines": {"httpcore"},
        "client.media_client": {"httpcore"},
    }
    found = {}
    for path in MODULES:
        libraries = {name.partition(".")[0] for name in imports_of(runtime_nodes(tree_of(path)))}
        if used := libraries & {"httpx", "httpcore", "requests", "aiohttp", "urllib3"}:
            found[name_of(path)] = used
    assert found == allowed


@pytest.mark.parametrize("layer", ["exceptions", "generations", "urls", "apis", "client.flows"])
def test_pure_layers_have_no_clock_and_no_io(layer: str) -> None:
    for path in MODULES:
        if within(name_of(path), {layer}):
            libraries = imports_of(runtime_nodes(tree_of(path)))
            assert not libraries & {"time", "asyncio", "socket", "threading", "httpx", "airflow.models"}
            assert {name for name in libraries if name.startswith("airflow.")} <= {
                "airflow.providers.common.compat.sdk"
            }


# ---------------------------------------------------------------------- what a Dag file loads

#: The maximum number of our modules that a Dag file with every operator loads.
MAX_MODULES_OF_A_DAG_FILE = 24


def loaded_on_import(name: str) -> tuple[set[str], set[str]]:
    """
    Return our modules and the other packages that importing a module loads.

    It is read from the source. A process cannot tell: ``airflow.sdk`` up to 3.3 loads httpx, fsspec and
    pydantic itself, so that an import of ours would change nothing.
    """
    paths = {name_of(path): path for path in MODULES}
    modules, packages, left = set[str](), set[str](), [name]
    while left:
        current = left.pop()
        if current in modules or current not in paths:
            continue
        modules.add(current)
        found = imports_of(runtime_nodes(tree_of(paths[current]), in_functions=False))
        packages |= {other.partition(".")[0] for other in found} - {PACKAGE}
        for other in ours(found) | ({current.rpartition(".")[0]} - {""}):
            # A name that is imported from a package, not a module of it.
            left.append(other if other in paths else other.rpartition(".")[0])
    return modules - {""}, packages - sys.stdlib_module_names


@pytest.mark.parametrize("face", FACES)
def test_a_dag_file_loads_no_run_time_module(face: str) -> None:
    modules, packages = loaded_on_import(face)
    assert not {module for module in modules if within(module, RUN_TIME)}
    assert packages <= {"airflow", "pendulum"}


def test_run_time_modules_are_recognized() -> None:
    modules, packages = loaded_on_import("client.api_client")
    assert any(within(module, RUN_TIME) for module in modules)
    assert "httpx" in packages


# ---------------------------------------------------------------------- what a process loads

#: The imports of one process, step by step; starting a process for each step would take seconds more.
STEPS = {
    "provider info": (f"{PACKAGE}.get_provider_info",),
    "airflow": ("airflow.providers.common.compat.sdk",),
    "plugin": (f"{PACKAGE}.plugin",),
    "dag file": tuple(f"{PACKAGE}.{face}" for face in FACES),
    "lineage": (f"{PACKAGE}.observability.lineage",),
}


@cache
def loaded_after_each_step() -> dict[str, set[str]]:
    """Return the modules that a process has loaded after each step."""
    code = f"""
import importlib, json, sys
loaded = {{}}
for step, names in {STEPS!r}.items():
    modules = [importlib.import_module(name) for name in names]
    if step == "provider info":
        modules[0].get_provider_info()
    if step == "airflow":
        modules[0].AirflowPlugin
    loaded[step] = list(sys.modules)
print(json.dumps(loaded))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    return {step: set(names) for step, names in json.loads(done.stdout.splitlines()[-1]).items()}


def test_the_provider_info_loads_only_the_list_of_services() -> None:
    """Airflow reads the provider info in every process that it starts."""
    loaded = loaded_after_each_step()["provider info"]
    assert ours(loaded) == {"get_provider_info", "apis", "apis.registry"}
    assert "airflow" not in loaded


def test_loading_the_plugin_imports_nothing_else() -> None:
    """Every process of Airflow loads the plugin."""
    loaded = loaded_after_each_step()
    added = loaded["plugin"] - loaded["airflow"]
    assert ours(added) <= {"plugin"}
    assert not {name.partition(".")[0] for name in added} & {"fastapi", "starlette", "httpx", "fsspec"}
    assert "airflow.api_fastapi.core_api.security" not in loaded["plugin"]


def test_a_dag_file_loads_few_modules() -> None:
    """A process that imports all faces loads exactly what the source says."""
    # Airflow itself reads the provider info, which lists the services.
    by_airflow = {"get_provider_info", "apis", "apis.registry"}
    loaded = ours(loaded_after_each_step()["dag file"]) - {"plugin"}
    assert loaded - by_airflow == set().union(*(loaded_on_import(face)[0] for face in FACES)) - by_airflow
    assert len(loaded) <= MAX_MODULES_OF_A_DAG_FILE


def test_the_operators_import_nothing_of_openlineage() -> None:
    loaded = loaded_after_each_step()["lineage"]
    assert not [name for name in loaded if "openlineage.client" in name or "lineage_facets" in name]
