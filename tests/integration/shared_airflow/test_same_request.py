"""Two Dags that ask for the same render at the same moment pay once; if the one that pays fails, the other one submits."""

from __future__ import annotations

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

Ended = dict[str, tuple[str, Any]]


@pytest.fixture(scope="module")
def ended(
    airflow: TestAirflow, emulator: SeedanceEmulator, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Ended]:
    """The state and the result of each Dag; all run at the same time."""
    names = ("same_request", "same_failing")
    airflow.connect("same_v1", emulator.connection("seedanceapi-v1"))
    emulator.fault("fail", prompt="same_failing", times=1)
    for name in names:
        # The second one asks while the first one submits.
        emulator.fault("delay", on="submit", prompt=name, seconds=3, times=None)
        ledger = tmp_path_factory.mktemp(name) / "ledger.db"
        airflow.write_dag(name, DAGS.format(name=name, ledger=ledger))
    dag_ids = [f"{name}_{letter}" for name in names for letter in "ab"]
    for dag_id in dag_ids:
        airflow.wait_parsed(dag_id, filename=f"{dag_id[:-2]}.py")
    runs = {dag_id: airflow.trigger(dag_id) for dag_id in dag_ids}
    results: dict[str, Ended] = {name: {} for name in names}
    for dag_id, run_id in runs.items():
        state = airflow.wait_run(dag_id, run_id)
        results[dag_id[:-2]][dag_id] = state, airflow.xcom(dag_id, run_id, "render")
    return results


def paid(emulator: SeedanceEmulator, name: str) -> list[str]:
    return [one.generation_id for one in emulator.ledger.submissions if one.prompt == name]


def test_two_dags_pay_once(ended: dict[str, Ended], emulator: SeedanceEmulator) -> None:
    both = ended["same_request"]
    assert {state for state, _ in both.values()} == {"success"}
    (generation_id,) = paid(emulator, "same_request")
    results = [result for _, result in both.values()]
    assert {result["generation_id"] for result in results} == {generation_id}
    payer, reuser = sorted(results, key=lambda result: result["reused_from"] is not None)
    assert payer["reused_from"] is None
    assert payer["credits"] > 0
    assert both[reuser["reused_from"]["dag_id"]][1] == payer
    assert (reuser["credits"], reuser["cost_usd"]) == (0, 0)


def test_the_other_one_submits_if_the_render_fails(
    ended: dict[str, Ended], emulator: SeedanceEmulator
) -> None:
    both = ended["same_failing"]
    assert sorted(state for state, _ in both.values()) == ["failed", "success"]
    failed, delivered = paid(emulator, "same_failing")
    (result,) = (result for state, result in both.values() if state == "success")
    assert failed != delivered
    assert (result["generation_id"], result["reused_from"]) == (delivered, None)
