"""Reports of ``tools/audit.py``, without a request to the advisory database."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "audit.py"
    spec = importlib.util.spec_from_file_location("audit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_direct_dependencies_are_recognized(audit: ModuleType) -> None:
    requirements = ["httpx>=0.27", "Apache_Airflow>=3.1", 'av>=13; extra == "emulator"']
    assert audit.direct_dependencies(requirements) == {"httpx", "apache-airflow"}


@pytest.mark.parametrize(("name", "status"), [("HTTPX", 1), ("other", 0)])
def test_only_direct_dependencies_fail_the_audit(
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    status: int,
) -> None:
    found = '[{"id": "CVE-1", "fix_versions": ["2"]}]'
    report = f'{{"dependencies": [{{"name": "{name}", "version": "1", "vulns": {found}}}]}}'
    monkeypatch.setattr(
        subprocess, "run", lambda *a, **o: SimpleNamespace(stdout=report, stderr="", returncode=1)
    )
    assert audit.main() == status
    assert "CVE-1 (fixed in 2)" in capsys.readouterr().out


def test_an_unreachable_database_is_reported_as_skipped(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def late(*arguments: Any, **options: Any) -> Any:
        raise subprocess.TimeoutExpired("pip-audit", 1)

    silent = SimpleNamespace(stdout="", stderr="ConnectionError: no route", returncode=1)
    for run in (lambda *a, **o: silent, late):
        monkeypatch.setattr(subprocess, "run", run)
        assert audit.main() == 0
        assert "SKIPPED" in capsys.readouterr().out
