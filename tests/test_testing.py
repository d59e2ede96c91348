"""The public tools for tests of users."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from versions import ENDING_FROM_TRIGGERS, needs

from airflow_provider_seedance import testing
from airflow_provider_seedance.exceptions import SeedanceInsufficientCreditsError
from airflow_provider_seedance.operators.batch import SeedanceGenerateVideoBatchOperator
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator
from airflow_provider_seedance.testing import SeedanceEmulator, SeedanceEmulatorClient, run_operator

ROOT = Path(testing.__file__).parents[1]


@pytest.fixture
def emulator() -> Iterator[SeedanceEmulator]:
    with SeedanceEmulator(media=False, render_seconds=0) as running:
        yield running


@pytest.fixture
def remote(emulator: SeedanceEmulator) -> SeedanceEmulatorClient:
    return SeedanceEmulatorClient(emulator.url)


def submit(emulator: SeedanceEmulator, prompt: str = "kite") -> str:
    reply = httpx.post(
        emulator.base_url("runbase") + "/runs",
        json={"model": "bytedance/seedance-1.5-pro", "input": {"prompt": prompt}},
        headers={"Authorization": f"Bearer {emulator.key}"},
        trust_env=False,
        verify=False,  # its certificates take longer to read than most tests run
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


@pytest.mark.seedance_emulator(api="ark", media=False, speed=7)
def test_the_fixture_and_its_marker(seedance_emulator: SeedanceEmulator) -> None:
    assert seedance_emulator.speed == 7
    connection = json.loads(os.environ["AIRFLOW_CONN_SEEDANCE_DEFAULT"])
    assert connection["host"].startswith(seedance_emulator.url)
    assert connection["extra"]["api"] == "ark"


@pytest.mark.parametrize("deferrable", [True, False])
def test_an_operator_without_a_dag(seedance_emulator: SeedanceEmulator, deferrable: bool) -> None:
    """A poll interval that was kept would let the test run into its time limit."""
    for day in ("2026-01-01", "2026-01-02"):
        operator = SeedanceGenerateVideoOperator(
            task_id="render", prompt="A kite on {{ ds }}", deferrable=deferrable, poll_interval=3000
        )
        result = run_operator(operator, ds=day)
        submission = seedance_emulator.ledger.submissions[-1]
        assert (result["generation_id"], submission.prompt) == (submission.generation_id, f"A kite on {day}")


@needs(ENDING_FROM_TRIGGERS)
def test_an_operator_that_its_trigger_ends(seedance_emulator: SeedanceEmulator) -> None:
    operator = SeedanceGenerateVideoOperator(task_id="render", prompt="A kite", end_from_trigger=True)
    assert run_operator(operator)["status"] == "succeeded"


def test_an_operator_that_is_not_to_be_nested(
    seedance_emulator: SeedanceEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    operator = SeedanceGenerateVideoOperator(task_id="render", prompt="A kite", allow_nested_operators=False)
    assert run_operator(operator)["status"] == "succeeded"
    assert "outside of the Task Runner" not in caplog.text


def test_a_batch_without_a_dag(seedance_emulator: SeedanceEmulator) -> None:
    operator = SeedanceGenerateVideoBatchOperator(task_id="batch", requests=["a", "b"], max_in_flight=1)
    assert run_operator(operator)["counts"]["succeeded"] == 2


def test_the_error_of_an_operator_is_raised(seedance_emulator: SeedanceEmulator) -> None:
    seedance_emulator.fault("refuse", status=402)
    with pytest.raises(SeedanceInsufficientCreditsError):
        run_operator(SeedanceGenerateVideoOperator(task_id="render", prompt="A kite"))


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
