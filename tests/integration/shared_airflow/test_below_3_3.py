"""Below Airflow 3.3, with no state store: what fails after the submission costs one render, not one for each try."""

from __future__ import annotations

import pytest
from harness import TestAirflow
from versions import PROVIDER_COMMANDS, below_3_3

from airflow_provider_seedance.testing import SeedanceEmulator

pytestmark = below_3_3

DAG = """
from datetime import timedelta

from airflow.sdk import DAG
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator

with DAG("{dag_id}", schedule=None, default_args={{"retries": 2, "retry_delay": timedelta(seconds=0)}}):
    SeedanceGenerateVideoOperator(
        task_id="render", seedance_conn_id="below_v1", prompt="{dag_id}", duration=4, {arguments}
    )
"""


@pytest.fixture(scope="module")
def airflow(airflow: TestAirflow, emulator: SeedanceEmulator) -> TestAirflow:
    """The shared Airflow with the connection of these Dags."""
    airflow.connect("below_v1", emulator.connection("seedanceapi-v1"))
    return airflow


def paid(emulator: SeedanceEmulator, prompt: str) -> list[str]:
    return [one.generation_id for one in emulator.ledger.submissions if one.prompt == prompt]


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_render_is_delivered(airflow: TestAirflow, emulator: SeedanceEmulator, deferrable: bool) -> None:
    dag_id = f"below_delivered_{deferrable}".lower()
    airflow.load_dag(dag_id, DAG.format(dag_id=dag_id, arguments=f"deferrable={deferrable}"))
    run_id, state = airflow.run(dag_id)
    assert state == "success"
    result = airflow.xcom(dag_id, run_id, "render")
    assert paid(emulator, dag_id) == [result["generation_id"]]
    assert result["urls"]
    airflow.wait_log(dag_id, run_id, "render", "no task state store")


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_failed_render_is_final(airflow: TestAirflow, emulator: SeedanceEmulator, deferrable: bool) -> None:
    dag_id = f"below_final_{deferrable}".lower()
    emulator.fault("fail", prompt=dag_id, times=None)
    airflow.load_dag(dag_id, DAG.format(dag_id=dag_id, arguments=f"deferrable={deferrable}"))
    run_id, state = airflow.run(dag_id)
    assert state == "failed"
    assert airflow.task_instance(dag_id, run_id, "render")["try_number"] == 1
    (generation_id,) = paid(emulator, dag_id)
    airflow.wait_log(dag_id, run_id, "render", generation_id, "it is not retried")


def test_a_failed_render_is_rendered_again_with_resubmit(
    airflow: TestAirflow, emulator: SeedanceEmulator
) -> None:
    dag_id = "below_resubmit"
    emulator.fault("fail", prompt=dag_id, times=1)
    airflow.load_dag(dag_id, DAG.format(dag_id=dag_id, arguments='on_uncertain_submit="resubmit"'))
    run_id, state = airflow.run(dag_id)
    assert state == "success"
    assert airflow.task_instance(dag_id, run_id, "render")["try_number"] == 2
    assert len(paid(emulator, dag_id)) == 2


def test_a_cleared_task_submits_again(airflow: TestAirflow, emulator: SeedanceEmulator) -> None:
    dag_id = "below_cleared"
    airflow.load_dag(dag_id, DAG.format(dag_id=dag_id, arguments=""))
    run_id, state = airflow.run(dag_id)
    assert state == "success"
    airflow.clear(dag_id, run_id)
    airflow.wait_task(dag_id, run_id, "render", {"success"}, try_number=2)
    first, second = paid(emulator, dag_id)
    assert first != second
    assert airflow.xcom(dag_id, run_id, "render")["generation_id"] == second


def test_a_trigger_cannot_end_the_task(airflow: TestAirflow, emulator: SeedanceEmulator) -> None:
    dag_id = "below_from_trigger"
    with pytest.raises(Exception, match=r"end_from_trigger needs Airflow 3\.3"):
        airflow.load_dag(dag_id, DAG.format(dag_id=dag_id, arguments="end_from_trigger=True"))
    (airflow.dags_folder / f"{dag_id}.py").unlink()
    assert paid(emulator, dag_id) == []


@pytest.mark.skipif(PROVIDER_COMMANDS.there, reason="this Airflow has commands of providers")
def test_airflow_has_no_commands_of_ours(airflow: TestAirflow) -> None:
    done = airflow.cli("seedance", "--help")
    assert done.returncode != 0
    assert "invalid choice" in done.stderr
