from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from airflow_provider_seedance import testing
from airflow_provider_seedance.testing import SeedanceEmulator, SeedanceEmulatorClient

ROOT = Path(testing.__file__).parents[1]


@pytest.fixture
def emulator() -> Iterator[SeedanceEmulator]:
    with SeedanceEmulator(media=False, render_seconds=0) as running:
        yield running


@pytest.fixture
def remote(emulator: SeedanceEmulator) -> SeedanceEmulatorClient:
    return SeedanceEmulatorClient(emulator.url)


#: One client for all tests: its TLS context takes longer to create than most tests run.
HTTP = httpx.Client(trust_env=False)


def submit(emulator: SeedanceEmulator, prompt: str = "kite") -> str:
    reply = HTTP.post(
        emulator.base_url("runbase") + "/runs",
        json={"model": "bytedance/seedance-1.5-pro", "input": {"prompt": prompt}},
        headers={"Authorization": f"Bearer {emulator.key}"},
    )
    return str(reply.raise_for_status().json()["id"])


def test_the_module_loads_little_and_the_emulator_none_of_the_adapters() -> None:
    """pytest loads the module in every session of an environment with the provider."""
    code = """
import sys
import airflow_provider_seedance.testing
heavy = {"av", "PIL", "httpx", "airflow", "airflow_provider_seedance.emulator"} & set(sys.modules)
assert not heavy, heavy
from airflow_provider_seedance.testing import SeedanceEmulator
SeedanceEmulator(media=False)
loaded = [name for name in sys.modules if name.startswith("airflow_provider_seedance.")]
assert all(name.split(".")[1] in ("emulator", "testing") for name in loaded), loaded
assert not {"av", "PIL", "httpx", "airflow"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})


def test_the_fixture_and_its_marker(tmp_path: Path) -> None:
    (tmp_path / "test_dag.py").write_text(
        """
import pytest

@pytest.mark.seedance_emulator(media=False, speed=7)
def test_marked(seedance_emulator):
    assert seedance_emulator.speed == 7
    assert seedance_emulator.url.startswith("http://127.0.0.1:")
"""
    )
    command = [
        *(sys.executable, "-m", "pytest", "-q", "--strict-markers"),
        *("-W", "error", "-p", "no:cacheprovider"),
    ]
    loaded = subprocess.run(
        [*command, "-p", "airflow_provider_seedance.testing", "-c", "/dev/null", "--rootdir", ".", "."],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stdout + loaded.stderr
    assert "1 passed" in loaded.stdout


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Lunch'"):
        _ = testing.Lunch


def test_a_client_reads_the_state_of_the_emulator(
    emulator: SeedanceEmulator, remote: SeedanceEmulatorClient
) -> None:
    generation_id = submit(emulator)
    assert remote.ledger.requests == emulator.ledger.requests
    assert remote.ledger.submissions == emulator.ledger.submissions
    assert remote.generations == emulator.generations
    assert remote.generation(generation_id) == emulator.generation(generation_id)
    assert remote.connection("ark", model="m") == emulator.connection("ark", model="m")
    assert remote.connection_json("ark") == emulator.connection_json("ark")
    assert remote.base_url("runbase") == emulator.base_url("runbase")


def test_a_client_adds_faults(emulator: SeedanceEmulator, remote: SeedanceEmulatorClient) -> None:
    fault = remote.fault("refuse", api="runbase", prompt="kite", times=None, status=503)
    with pytest.raises(httpx.HTTPStatusError):
        submit(emulator)
    assert fault.wait()
    assert fault.used == 1
    assert not fault.wait(timeout=0, used=2)
    fault.release()
    fault.remove()
    assert submit(emulator)


def test_a_client_changes_renders() -> None:
    with SeedanceEmulator(media=False, render_seconds=1000) as emulator:
        remote = SeedanceEmulatorClient(emulator.url)
        remote.hold()
        ids = [submit(emulator) for _ in range(5)]
        remote.finish(ids[0])
        remote.fail(ids[1], "no", code="X")
        remote.expire(ids[2])
        remote.cancel_remote(ids[3])
        remote.forget(ids[4])
        statuses = [generation.status for generation in remote.generations]
        assert statuses == ["succeeded", "failed", "expired", "cancelled"]
        failure = remote.generation(ids[1]).failure
        assert (failure.message, failure.code) == ("no", "X")
        with pytest.raises(KeyError):
            remote.finish(ids[4])
        with pytest.raises(ValueError, match="already"):
            remote.finish(ids[0])
        remote.release()
        remote.expire_urls()
        remote.set_rate_limit(0)
        with pytest.raises(httpx.HTTPStatusError):
            submit(emulator)
        remote.set_rate_limit(None)
        submit(emulator)
