"""The commands as people run them: in processes of their own, with exit codes and what they print."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import psutil
import pytest

from airflow_provider_seedance.testing import SeedanceEmulator

ROOT = Path(__file__).parents[2]

#: Seconds for anything that must happen: only a test that fails waits that long.
TIMEOUT_SECONDS = 480.0


@pytest.fixture
def service() -> Iterator[SeedanceEmulator]:
    """A service of its own for each test, rendering in about a second."""
    with SeedanceEmulator(speed=50) as emulator:
        yield emulator


def environment(home: Path, **variables: str) -> dict[str, str]:
    """An environment without the traces of another Airflow."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW", "_AIRFLOW", "SEEDANCE"))
    }
    return {**kept, "PYTHONPATH": str(ROOT), "AIRFLOW_HOME": str(home), "COLUMNS": "120", **variables}


def start(
    arguments: list[str], env: dict[str, str], cwd: Path, stderr: int = subprocess.STDOUT
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "airflow_provider_seedance", *arguments],
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = TIMEOUT_SECONDS) -> tuple[int, str]:
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def until(look: Callable[[], bool], process: subprocess.Popen[str], timeout: float = TIMEOUT_SECONDS) -> None:
    deadline = time.monotonic() + timeout
    while not look():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)


def render(
    service: SeedanceEmulator, tmp_path: Path, *arguments: str, stderr: int = subprocess.STDOUT
) -> subprocess.Popen[str]:
    env = environment(
        tmp_path / "home", AIRFLOW_CONN_SEEDANCE_DEFAULT=service.connection_json("seedanceapi-v1")
    )
    return start(["render", *arguments, "--poll-interval", "0.5"], env, tmp_path, stderr)


def test_render_from_prompt_to_file(service: SeedanceEmulator, tmp_path: Path) -> None:
    """Standard output is the result, and nothing else."""
    line = ("A kite", "-o", "kite.mp4", "--duration", "4", "--output", "json")
    process = render(service, tmp_path, *line, stderr=subprocess.PIPE)
    output, said = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0, said
    result = json.loads(output)
    assert result["credits"] == 14
    assert result["files"][0]["bytes"] == (tmp_path / "kite.mp4").stat().st_size
    for part in ("Submitting to", "is billed from now on", "download"):
        assert part in said
    with av.open(str(tmp_path / "kite.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4 * 24
    assert len(service.ledger.posts()) == 1


def test_render_interrupted_after_paying_can_be_fetched(service: SeedanceEmulator, tmp_path: Path) -> None:
    service.hold()
    process = render(service, tmp_path, "A kite", "-o", "kite.mp4")
    until(lambda: service.ledger.count("status") > 0, process)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130, output
    assert "paid for and not lost" in output
    generation_id = re.search(r"--generation-id (\S+)", output)
    assert generation_id is not None
    service.release()
    again = ("--generation-id", generation_id[1], "-o", "kite.mp4", "--quiet")
    code, output = finish(render(service, tmp_path, *again))
    assert code == 0, output
    assert not re.search("Submitting|billed|download", output), output
    assert "kite.mp4: " in output
    assert (tmp_path / "kite.mp4").stat().st_size > 1000
    process = render(service, tmp_path, *again, stderr=subprocess.PIPE)
    output, said = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, output) == (1, "")
    assert "kite.mp4 exists" in said
    assert len(service.ledger.posts()) == 1


def test_render_pays_nothing_for_a_file_it_cannot_write(service: SeedanceEmulator, tmp_path: Path) -> None:
    code, output = finish(render(service, tmp_path, "A kite", "-o", "missing/kite.mp4"))
    assert code == 1
    assert "Nothing was sent" in output
    assert service.ledger.requests == []


def test_render_takes_service_and_key_from_the_environment(service: SeedanceEmulator, tmp_path: Path) -> None:
    env = environment(
        tmp_path / "home",
        SEEDANCE_API="ark",
        SEEDANCE_API_KEY="a-wrong-secret-key",
        SEEDANCE_BASE_URL=service.base_url("ark"),
    )
    code, output = finish(start(["render", "A kite", "-o", "kite.mp4"], env, tmp_path))
    assert code == 1
    assert "401" in output
    assert "a-wrong-secret-key" not in output
    assert len(service.ledger.posts()) == 1
    assert service.ledger.submissions == []


def test_demo_ends_with_a_playable_video_its_price_and_the_kept_airflow(tmp_path: Path) -> None:
    env = environment(tmp_path / "home")
    process = start(["demo", "--output", "out", "--speed", "30", "--keep"], env, tmp_path)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Renders: " in line:
            break
    address = re.search(r"still running: (http://\S+)", "".join(lines))
    assert address is not None, "".join(lines)
    assert lines[-1] == f"Renders: {address[1]}/plugin/seedance-run\n"
    with urllib.request.urlopen(address[1], timeout=TIMEOUT_SECONDS) as page:
        assert page.status == 200
    children = _airflow_below(process.pid)
    process.send_signal(signal.SIGINT)
    code, rest = finish(process)
    output = "".join(lines) + rest
    assert code == 0, output
    _, alive = psutil.wait_procs(children, timeout=TIMEOUT_SECONDS)
    assert alive == []
    path = re.search(r"^Video: +(\S+\.mp4)$", output, re.MULTILINE)
    assert path is not None, output
    with av.open(path[1]) as container:
        assert sum(1 for _ in container.decode(video=0)) > 0
    assert "28 credits ($0.14)" in output
    assert "deferred: waiting in the triggerer" in output


def test_demo_interrupted_leaves_no_process(tmp_path: Path) -> None:
    env = environment(tmp_path / "home", SEEDANCE_DEMO_TEST="1")
    process = start(["demo", "--output", "out"], env, tmp_path)
    until(lambda: len(_airflow_below(process.pid)) >= 3, process)
    children = _airflow_below(process.pid)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130, output
    _, alive = psutil.wait_procs(children, timeout=TIMEOUT_SECONDS)
    assert alive == []


def test_demo_refuses_to_spend_money_without_confirmation(service: SeedanceEmulator, tmp_path: Path) -> None:
    env = environment(
        tmp_path / "home",
        SEEDANCE_API="seedanceapi-v1",
        SEEDANCE_API_KEY=service.key,
        SEEDANCE_BASE_URL=service.base_url("seedanceapi-v1"),
    )
    code, output = finish(start(["demo", "--output", "out"], env, tmp_path))
    assert code == 1
    assert "28 credits" in output
    assert "--yes" in output
    assert service.ledger.requests == []


def test_emulator_command_serves_and_stops(tmp_path: Path) -> None:
    env = environment(tmp_path / "home")
    process = start(["emulator", "--port", "0"], env, tmp_path)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "/_emulator/ledger" in line:
            break
    assert any("export AIRFLOW_CONN_SEEDANCE_DEFAULT=" in line for line in lines)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 0, output
    assert "has stopped" in output


def _airflow_below(pid: int) -> list[psutil.Process]:
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # one that has just ended
                if "airflow" in " ".join(child.cmdline()):
                    found.append(child)
    return found
