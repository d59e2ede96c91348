"""The sdist and the wheel: built, installed into an empty environment, and discovered by Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from versions import AIRFLOW, PROVIDER_COMMANDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from the sdist."""
    target = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--outdir", str(target), str(ROOT))
    return next(target.glob("*.tar.gz")), next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, built: tuple[Path, Path]) -> Path:
    """The executables of an environment that holds the wheel and what it needs, and nothing else."""
    home = tmp_path_factory.mktemp("empty")
    _run(sys.executable, "-m", "venv", "--without-pip", str(home))
    # Left alone, pip takes the newest Airflow; what is tested is the one that all other tests run on.
    airflow = f"apache-airflow=={AIRFLOW}"
    # Python compiles the modules that are imported; pip would compile all of them.
    pip = (sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"))
    _run(*pip, "install", "--quiet", "--no-compile", str(built[1]), airflow)
    return home / "bin"


def _run(*command: str, home: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    if home is not None:
        environment["AIRFLOW_HOME"] = str(home)
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
    assert run.returncode == 0, f"{command}\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}"
    return run.stdout


def test_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    names = zipfile.ZipFile(built[1]).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"airflow_provider_seedance"}
    assert "airflow_provider_seedance/py.typed" in names
    page = ROOT / "airflow_provider_seedance" / "api_server" / "static"
    assert {f"airflow_provider_seedance/api_server/static/{file.name}" for file in page.iterdir()} <= set(
        names
    )
    assert "airflow_provider_seedance/example_dags/example_seedance_daily.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_sdist_can_be_tested(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    assert {"pyproject.toml", "LICENSE", "README.md", "Makefile", "tests/integration/harness.py"} <= names


def test_airflow_discovers_the_provider(installed: Path, tmp_path: Path) -> None:
    listed = json.loads(_run(str(installed / "airflow"), "providers", "list", "-o", "json", home=tmp_path))
    ours = [row for row in listed if row["package_name"] == "airflow-provider-seedance"]
    assert len(ours) == 1
    hooks = json.loads(_run(str(installed / "airflow"), "providers", "hooks", "-o", "json", home=tmp_path))
    assert any(row["connection_type"] == "seedance" for row in hooks)


def test_airflow_discovers_the_plugin(installed: Path, tmp_path: Path) -> None:
    listed = json.loads(_run(str(installed / "airflow"), "plugins", "-o", "json", home=tmp_path))
    assert [row["name"] for row in listed if row["name"] == "seedance"] == ["seedance"]


def test_commands_exist_in_airflow_and_beside_it(installed: Path, tmp_path: Path) -> None:
    said = [_run(str(installed / "python"), "-m", "airflow_provider_seedance", "--help", home=tmp_path)]
    if PROVIDER_COMMANDS.there:
        said.append(_run(str(installed / "airflow"), "seedance", "--help", home=tmp_path))
    for command in ("demo", "emulator", "render", "estimate"):
        assert all(command in one for one in said)


def test_production_needs_no_codec(installed: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.util as u, airflow_provider_seedance.operators.seedance, "
        "airflow_provider_seedance.transfers.seedance_to_object_storage, airflow_provider_seedance.triggers.seedance;"
        "assert u.find_spec('av') is None; print('ok')"
    )
    assert _run(str(installed / "python"), "-c", code, home=tmp_path).strip().endswith("ok")


def test_emulator_names_its_extra_where_it_is_missing(installed: Path, tmp_path: Path) -> None:
    code = (
        "from airflow_provider_seedance.testing import SeedanceEmulator\n"
        "try:\n    SeedanceEmulator().start()\n"
        "except ImportError as error:\n    print(error)"
    )
    assert "airflow-provider-seedance[emulator]" in _run(str(installed / "python"), "-c", code, home=tmp_path)
