"""Reports of ``tools/audit.py``, without a request to the advisory database."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "audit.py"
    module = ModuleType("audit")
    exec(compile(path.read_text(), path, "exec"), vars(module))
    return module


def test_direct_dependencies_are_recognized(audit: ModuleType) -> None:
    requirements = ["httpx>=0.27", "Apache_Airflow>=3.1", 'av>=13; extra == "emulator"']
    assert audit.direct_dependencies(requirements) == {"httpx", "apache-airflow"}


def late(*arguments: Any, **options: Any) -> Any:
    raise subprocess.TimeoutExpired("pip-audit", 1)


def report(name: str) -> Any:
    found = '[{"id": "CVE-1", "fix_versions": ["2"]}]'
    text = f'{{"dependencies": [{{"name": "{name}", "version": "1", "vulns": {found}}}]}}'
    return lambda *a, **o: SimpleNamespace(stdout=text, stderr="", returncode=1)


@pytest.mark.parametrize(
    ("run", "status", "says"),
    [
        (report("HTTPX"), 1, "CVE-1 (fixed in 2)"),
        (report("other"), 0, "CVE-1 (fixed in 2)"),
        (late, 0, "SKIPPED"),
        (lambda *a, **o: SimpleNamespace(stdout="", stderr="no route", returncode=1), 0, "SKIPPED"),
    ],
    ids=["direct dependency", "other", "timeout", "no route"],
)
def test_only_direct_dependencies_fail_the_audit(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Any, run: Any, status: int, says: str
) -> None:
    monkeypatch.setattr(subprocess, "run", run)
    assert audit.main() == status
    assert says in capsys.readouterr().out
