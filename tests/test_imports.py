"""What imports what: layers, what a Dag file pays for, and where HTTP may be spoken."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import airflow_provider_seedance

ROOT = Path(airflow_provider_seedance.__file__).parent
PACKAGE = ROOT.name

#: What stands beside the house, and what it may import of it: tools that no Dag and no worker needs.
BESIDE = {
    "get_provider_info": {"apis"},
    "emulator": set[str](),
    "local_airflow": set[str](),
    "testing": {"emulator"},
}

MODULES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    """Return the name of a module, below the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                yield from (other, *runtime_nodes(other))
            continue
        yield node
        yield from runtime_nodes(node)


def imported(tree: ast.Module, *, typing: bool = False) -> set[str]:
    """
    Return every module that is imported anywhere in a file, ours and others'.

    :param typing: Whether imports that only type checkers see count, too.
    """
    found = set()
    for node in ast.walk(tree) if typing else runtime_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                path = ROOT.parent / whole.replace(".", "/")
                found.add(whole if path.is_dir() or path.with_suffix(".py").exists() else str(node.module))
    return found


def ours(tree: ast.Module, *, typing: bool = False) -> set[str]:
    return {
        name.removeprefix(PACKAGE).lstrip(".")
        for name in imported(tree, typing=typing)
        if name == PACKAGE or name.startswith(f"{PACKAGE}.")
    } - {""}


def within(name: str, group: set[str]) -> bool:
    return any(name == member or name.startswith(f"{member}.") for member in group)


def all_imports() -> dict[str, set[str]]:
    """Return what each module imports of the package: anywhere in it, and what only type checkers see, too."""
    names = {name_of(path) for path in MODULES}
    found: dict[str, set[str]] = {}
    for path in MODULES:
        name = name_of(path)
        found[name] = set()
        for other in ours(tree_of(path), typing=True):
            while other and other not in names:
                other = other.rpartition(".")[0]
            found[name] |= {other} - {"", name}
    return found


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the groups of names that reach each other."""
    reach: dict[str, set[str]] = {name: set(others) for name, others in graph.items()}
    for middle in graph:
        for name in graph:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    groups = {
        frozenset({other for other in reach[name] if name in reach.get(other, ())})
        for name in graph
        if name in reach[name]
    }
    return [set(group) for group in groups]


def room_of(name: str) -> str:
    """Return the folder of a module; a module at the root is a room of its own."""
    return name.partition(".")[0]


def rooms(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return which folders import from which."""
    found: dict[str, set[str]] = {room_of(name): set() for name in graph}
    for name, others in graph.items():
        found[room_of(name)] |= {room_of(other) for other in others} - {room_of(name)}
    return found


#: Circles from before the house was sorted; they go one by one, and none may come.
STILL_MODULES = [
    {"apis.validation", "apis.base"},
    {"emulator.control", "emulator.server", "emulator.emulator"},
    {"operators.base", "operators.batch", "operators.checks"},
]
STILL_ROOMS = [{"batch", "storage", "transfers"}]


def test_no_modules_import_each_other() -> None:
    assert [circle for circle in circles(all_imports()) if circle not in STILL_MODULES] == []


def test_no_folders_import_each_other() -> None:
    """Without circles there is an order in which every import points downwards."""
    assert [circle for circle in circles(rooms(all_imports())) if circle not in STILL_ROOMS] == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("beside", BESIDE)
def test_what_stands_beside_the_house_knows_nothing_of_it(beside: str) -> None:
    assert rooms(all_imports())[beside] <= BESIDE[beside]


def test_the_root_is_small() -> None:
    loose = {name_of(path) for path in ROOT.glob("*.py")} - {"", "__main__"}
    assert len(loose - {"closing", "task_states"}) <= 9, loose


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_client_speaks_http(path: Path) -> None:
    libraries = {name.partition(".")[0] for name in imported(tree_of(path))}
    found = libraries & {"httpx", "httpcore", "requests", "aiohttp", "urllib3"}
    # Downloads connect to addresses that were judged before; that is done below httpx.
    allowed = {
        "client.api_client": {"httpx"},
        "client.deadlines": {"httpcore"},
        "client.media_client": {"httpcore"},
    }
    assert found == allowed.get(name_of(path), set())


@pytest.mark.parametrize("layer", ["exceptions", "generations", "urls", "apis", "client.flows"])
def test_the_core_has_no_input_and_no_output(layer: str) -> None:
    """Pure functions: no client, no clock of its own, no task."""
    for path in MODULES:
        if within(name_of(path), {layer}):
            libraries = imported(tree_of(path))
            assert not libraries & {"time", "asyncio", "socket", "threading", "httpx", "airflow.models"}
            assert {name for name in libraries if name.startswith("airflow.")} <= {
                "airflow.providers.common.compat.sdk"
            }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_stay_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 520


@pytest.mark.parametrize(
    "statement",
    [
        "from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator",
        "from airflow_provider_seedance.operators.seedance import SeedreamGenerateImageOperator",
        "from airflow_provider_seedance.sensors.seedance import SeedanceGenerationSensor",
        "from airflow_provider_seedance.decorators.seedance import seedance_video_task",
        "import airflow_provider_seedance.transfers.seedance_to_object_storage",
        "import airflow_provider_seedance.policies.retry, airflow_provider_seedance.exceptions",
    ],
)
def test_a_dag_file_pays_for_nothing_heavy(statement: str) -> None:
    code = f"""
import sys
from airflow.sdk import DAG, BaseOperator
before = set(sys.modules)
{statement}
loaded = set(sys.modules) - before
ours = {{name for name in loaded if name.startswith("{PACKAGE}.")}}
assert ours
heavy = {{"client.api_client", "emulator", "hooks.seedance", "triggers.seedance", "polling.hub", "submission.submitter"}}
assert not {{f"{PACKAGE}.{{name}}" for name in heavy}} & ours, ours
packages = {{name.partition(".")[0] for name in loaded}}
assert not packages & {{"httpx", "httpcore", "fastapi", "starlette", "av", "PIL", "fsspec", "upath"}}, packages
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_the_description_of_the_provider_imports_the_list_of_services_and_nothing_else() -> None:
    code = f"""
import sys
from {PACKAGE}.get_provider_info import get_provider_info
get_provider_info()
ours = {{name for name in sys.modules if name.startswith("{PACKAGE}")}}
assert ours == {{"{PACKAGE}", "{PACKAGE}.get_provider_info", "{PACKAGE}.apis", "{PACKAGE}.apis.registry"}}
assert "airflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
