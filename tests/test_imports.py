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

#: The layers from the bottom up. A module imports from its own layer and from those below.
LAYERS = (
    {"closing", "exceptions", "compat", "lineage_facets", "metrics", "services", "task_states"},
    {"lineage"},
    {"urls", "generations", "callbacks.tokens", "callbacks.signatures", "callbacks.mailbox"},
    {"apis"},
    {"flows", "limits", "settings"},
    {"client"},
    {"records", "media", "polling.planning", "polling.quota"},
    {"polling.beliefs", "polling.notes", "polling.turns"},
    {"polling.progress"},
    {"polling.schedule"},
    {"polling.waiting"},
    {"durability", "polling"},
    {"hooks"},
    {"links", "policies", "triggers", "operators.submission", "transfers.download"},
    {"transfers.storage"},
    {"campaigns"},
    {"operators", "sensors", "transfers"},
    {"decorators"},
    {"callbacks"},
    {"ui.ranges", "ui.renders"},
    {"ui.guards", "ui.queries"},
    {"ui"},
    {"plugin"},
)

#: What stands beside the layers, and what it may import.
BESIDE = {
    "": set[str](),
    "get_provider_info": {"services"},
    "emulator": {"emulator"},
    "local_airflow": {"local_airflow"},
    "testing": {"emulator"},
    "cli": {"cli", "emulator", "local_airflow", "testing"}.union(*LAYERS),
    "__main__": {"cli"},
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


def imported(tree: ast.Module) -> set[str]:
    """Every module that is imported anywhere at run time, ours and others'."""
    found = set()
    for node in runtime_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                path = ROOT.parent / whole.replace(".", "/")
                found.add(whole if path.is_dir() or path.with_suffix(".py").exists() else str(node.module))
    return found


def ours(tree: ast.Module) -> set[str]:
    return {
        name.removeprefix(PACKAGE).lstrip(".")
        for name in imported(tree)
        if name == PACKAGE or name.startswith(f"{PACKAGE}.")
    } - {""}


def within(name: str, group: set[str]) -> bool:
    return any(name == member or name.startswith(f"{member}.") for member in group)


def layer_of(name: str) -> int:
    """Return the layer of a module; a more specific entry wins."""
    found = [
        (len(member), number)
        for number, layer in enumerate(LAYERS)
        for member in layer
        if name == member or name.startswith(f"{member}.")
    ]
    assert found, f"{name} is in no layer: add it to LAYERS"
    return max(found)[1]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    name = name_of(path)
    beside = [
        allowed for member, allowed in BESIDE.items() if name == member or (member and within(name, {member}))
    ]
    for other in sorted(ours(tree_of(path))):
        if beside:
            assert within(other, beside[0]), f"{name} imports {other}"
        else:
            assert layer_of(other) <= layer_of(name), f"{name} imports {other}, which is above it"


def test_every_layer_exists() -> None:
    names = {name_of(path) for path in MODULES}
    for layer in LAYERS:
        assert layer <= names


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_client_speaks_http(path: Path) -> None:
    libraries = {name.partition(".")[0] for name in imported(tree_of(path))}
    found = libraries & {"httpx", "httpcore", "requests", "aiohttp", "urllib3"}
    # Downloads connect to addresses that were judged before; that is done below httpx.
    allowed = {"client": {"httpx"}, "limits": {"httpcore"}, "media": {"httpcore"}}
    assert found == allowed.get(name_of(path), set())


@pytest.mark.parametrize("layer", ["exceptions", "generations", "urls", "apis", "flows"])
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
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


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
heavy = {{"client", "emulator", "hooks.seedance", "triggers.seedance", "polling.hub", "operators.submission"}}
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
assert ours == {{"{PACKAGE}", "{PACKAGE}.get_provider_info", "{PACKAGE}.services"}}
assert "airflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
