"""
Check the output of `python -m build`, and that Airflow discovers the provider.

    python tools/check_dist.py dist 3.4          # contents, then installed with the newest Airflow 3.4
    python tools/check_dist.py dist 3.4 3.3 3.2  # with each of them
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections import Counter
from pathlib import Path

NAME = "airflow-provider-seedance"
PACKAGE = "airflow_provider_seedance"
ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run all checks, and stop at the first failure."""
    directory, versions = Path(sys.argv[1]), sys.argv[2:]
    (wheel,), (sdist,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    version = check_wheel(wheel)
    check_sdist(sdist)
    check_changelog(version)
    for airflow in versions:
        check_installed(wheel, airflow, version)


def check_wheel(wheel: Path) -> str:
    """Check that the wheel contains the package, its types and its license only; return the version."""
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        text = file.read(metadata).decode()
    tell(wheel, names)
    info = metadata.partition("/")[0]
    demand({name.partition("/")[0] for name in names} == {PACKAGE, info}, "the wheel holds something else")
    pages = [
        f"{PACKAGE}/api_server/static/{file.name}"
        for file in (ROOT / PACKAGE / "api_server/static").iterdir()
    ]
    example = f"{PACKAGE}/example_dags/example_seedance_daily.py"
    for needed in (f"{PACKAGE}/py.typed", f"{info}/licenses/LICENSE", example, *pages):
        demand(needed in names, f"{needed} is missing")
    demand(
        not [name for name in names if "test" in name and not name.endswith("/testing.py")], "tests are in it"
    )
    demand(
        not [name for name in names if name.endswith((".pyc", ".so", ".pth"))], "something compiled is in it"
    )
    (version,) = re.findall(r"^Version: (.+)$", text, flags=re.MULTILINE)
    source = (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    demand(f'"{version}"' in source, "the version is not that of the package")
    return str(version)


def check_sdist(sdist: Path) -> None:
    """Check that the sdist contains what builds, tests and documentation need."""
    with tarfile.open(sdist) as file:
        names = [name.partition("/")[2] for name in file.getnames()]
    tell(sdist, names)
    for needed in ("pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile"):
        demand(needed in names, f"{needed} is missing")
    for needed in ("tests/integration/harness.py", "docs/conf.py", "docs/index.md", "tools/check_dist.py"):
        demand(needed in names, f"{needed} is missing")


def check_changelog(version: str) -> None:
    """Check that the first entry of the changelog is this version."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (first, *_) = re.findall(r"^## (\S+)", text, flags=re.MULTILINE)
    demand(first == version, f"the first entry of the changelog is {first}, not {version}")


def check_installed(wheel: Path, airflow: str, version: str) -> None:
    """Install the wheel with the newest patch of an Airflow, and check that Airflow discovers it."""
    with tempfile.TemporaryDirectory(prefix="seedance-dist-") as directory:
        home = Path(directory)
        venv.create(home / "venv", with_pip=True)
        python, command = home / "venv" / "bin" / "python", home / "venv" / "bin" / "airflow"
        # Nothing that is set here may help.
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "PYTHON"))
        }
        environment["AIRFLOW_HOME"] = str(home / "airflow")

        def run(*arguments: str | Path) -> str:
            done = subprocess.run(arguments, env=environment, cwd=home, capture_output=True, text=True)
            demand(done.returncode == 0, f"{arguments} failed\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
            return done.stdout

        run(ROOT / "tests" / "install_airflow.sh", python, airflow, wheel.resolve())
        run(python, "-m", "pip", "check")
        print(f"\nAirflow {run(command, 'version').strip().splitlines()[-1]}")
        found = run(command, "providers", "get", NAME, "--output", "plain")
        print(found.strip())
        demand(NAME in found and version in found, f"Airflow {airflow} has not found {NAME} {version}")
        hooks = run(command, "providers", "hooks", "--output", "plain")
        demand("SeedanceHook" in hooks, f"Airflow {airflow} has not found the connection type")
        run(python, "-c", f"import {PACKAGE}.operators.seedance, {PACKAGE}.triggers.seedance")


def tell(archive: Path, names: list[str]) -> None:
    """Say what is in an archive, by directory."""
    folders = Counter("/".join(name.split("/")[:2]) if name.count("/") > 1 else "./" for name in names)
    print(f"\n{archive.name}: {len(names)} files, {archive.stat().st_size // 1024} KiB")
    for folder, count in sorted(folders.items()):
        print(f"  {count:4}  {folder}")


def demand(met: bool, otherwise: str) -> None:
    """Stop where something is not as it has to be."""
    if not met:
        sys.exit(f"Not fit to be published: {otherwise}")


if __name__ == "__main__":
    main()
