"""The sdist and the wheel: built, installed into an empty environment, and discovered by Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


def test_sdist_and_wheel_hold_what_they_should(
    built: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import check_dist

    check_dist.check_sdist(built[0])
    check_dist.check_wheel(built[1])


#: Commands of Airflow in one process, with what each prints.
AIRFLOW_COMMANDS = """
import contextlib, io, json, sys
from airflow.__main__ import main

for line in json.loads(sys.argv[1]):
    sys.argv = ["airflow", *line]
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        main()
    print(json.dumps(printed.getvalue()))
"""


def test_airflow_discovers_the_provider_its_plugin_and_its_commands(installed: Path, tmp_path: Path) -> None:
    listed = (["providers", "list"], ["providers", "hooks"], ["plugins"])
    lines = [[*line, "-o", "json"] for line in listed] + [["seedance", "--help"]]
    commands = json.dumps(lines if PROVIDER_COMMANDS.there else lines[:-1])
    printed = _run(str(installed / "python"), "-c", AIRFLOW_COMMANDS, commands, home=tmp_path).splitlines()
    answers = [json.loads(line) for line in printed[-len(json.loads(commands)) :]]
    providers, hooks, plugins = (json.loads(answer) for answer in answers[:3])
    assert [row["package_name"] for row in providers].count("airflow-provider-seedance") == 1
    assert any(row["connection_type"] == "seedance" for row in hooks)
    assert [row["name"] for row in plugins].count("seedance") == 1
    beside = _run(str(installed / "python"), "-m", "airflow_provider_seedance", "--help", home=tmp_path)
    for command in ("demo", "emulator", "render", "estimate"):
        assert all(command in one for one in (beside, *answers[3:]))


#: Imports of production, which has neither the codec nor the extra of the emulator.
EXTRAS = """
import importlib.util
import airflow_provider_seedance.operators.seedance
import airflow_provider_seedance.transfers.seedance_to_object_storage
import airflow_provider_seedance.triggers.seedance

assert importlib.util.find_spec("av") is None
from airflow_provider_seedance.testing import SeedanceEmulator
try:
    SeedanceEmulator().start()
except ImportError as error:
    print(error)
"""


def test_production_needs_no_codec_and_the_emulator_names_its_extra(installed: Path, tmp_path: Path) -> None:
    said = _run(str(installed / "python"), "-c", EXTRAS, home=tmp_path)
    assert "airflow-provider-seedance[emulator]" in said
