"""Two Dags that ask for the same render at the same moment pay once; if the one that pays fails, the other one submits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import TestAirflow

from airflow_provider_seedance.testing import SeedanceEmulator

# Only the processes of these tasks have a ledger: they load this file.
DAGS = """
import os

from airflow.sdk import DAG
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator

os.environ["AIRFLOW__SEEDANCE__LEDGER"] = "sqlite:///{ledger}"

for letter in "ab":
    with DAG(f"{name}_{{letter}}", schedule=None):
        SeedanceGenerateVideoOperator(
            task_id="render", seedance_conn_id="same_v1", prompt="{name}", duration=4, reuse="any", poll_interval=1
        )
"""

RunBoth = Callable[[str], dict[str, tuple[str, Any]]]


@pytest.fixture
def run_both(airflow: TestAirflow, emulator: SeedanceEmulator, tmp_path: Path) -> Iterator[RunBoth]:
    """Run two Dags at the same time; return the state and the result of each."""
    airflow.connect("same_v1", emulator.connection("seedanceapi-v1"))

    def run(name: str) -> dict[str, tuple[str, Any]]:
        # The second one asks while the first one submits.
        emulator.fault("delay", on="submit", prompt=name, seconds=3, times=None)
        airflow.write_dag(name, DAGS.format(name=name, ledger=tmp_path / "ledger.db"))
        dag_ids = [f"{name}_a", f"{name}_b"]
        for dag_id in dag_ids:
            airflow.wait_parsed(dag_id)
        runs = {dag_id: airflow.trigger(dag_id) for dag_id in dag_ids}
        states = {dag_id: airflow.wait_run(dag_id, run_id) for dag_id, run_id in runs.items()}
        return {dag_id: (states[dag_id], airflow.xcom(dag_id, runs[dag_id], "render")) for dag_id in dag_ids}

    yield run
    airflow.rest("DELETE", "/connections/same_v1")


def paid(emulator: SeedanceEmulator, name: str) -> list[str]:
    return [one.generation_id for one in emulator.ledger.submissions if one.prompt == name]


def test_two_dags_pay_once(run_both: RunBoth, emulator: SeedanceEmulator) -> None:
    ended = run_both("same_request")
    assert {state for state, _ in ended.values()} == {"success"}
    (generation_id,) = paid(emulator, "same_request")
    results = [result for _, result in ended.values()]
    assert {result["generation_id"] for result in results} == {generation_id}
    payer, reuser = sorted(results, key=lambda result: result["reused_from"] is not None)
    assert payer["reused_from"] is None
    assert payer["credits"] > 0
    assert ended[reuser["reused_from"]["dag_id"]][1] == payer
    assert (reuser["credits"], reuser["cost_usd"]) == (0, 0)


def test_the_other_one_submits_if_the_render_fails(run_both: RunBoth, emulator: SeedanceEmulator) -> None:
    emulator.fault("fail", prompt="same_failing", times=1)
    ended = run_both("same_failing")
    assert sorted(state for state, _ in ended.values()) == ["failed", "success"]
    failed, delivered = paid(emulator, "same_failing")
    (result,) = (result for state, result in ended.values() if state == "success")
    assert failed != delivered
    assert (result["generation_id"], result["reused_from"]) == (delivered, None)
