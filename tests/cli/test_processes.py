"""Standard output and standard error of the commands, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator


def run(services: SeedanceEmulator, folder: Path, *line: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))
    }
    environment |= {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW_CONN_SEEDANCE_DEFAULT": services.connection_json("ark"),
    }
    command = [sys.executable, "-m", "airflow_provider_seedance", *line]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_standard_output_is_the_result_and_nothing_else(services: SeedanceEmulator, tmp_path: Path) -> None:
    done = run(services, tmp_path, "render", "A lamp", "-o", "lamp.mp4", "--output", "json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["files"][0]["bytes"] == (tmp_path / "lamp.mp4").stat().st_size
    for part in ("Submitting to", "is billed from now on", "download"):
        assert part in done.stderr

    again = ("render", "--generation-id", result["generation_id"], "-o", "again.mp4", "--quiet")
    done = run(services, tmp_path, *again)
    assert done.returncode == 0, done.stderr
    assert not re.search("Submitting|billed|download", done.stderr), done.stderr
    assert "again.mp4: " in done.stdout

    done = run(services, tmp_path, *again)
    assert (done.returncode, done.stdout) == (1, "")
    assert "again.mp4 exists" in done.stderr
