"""The private Airflow itself: it tells of errors, and leaves no process behind."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from harness import TestAirflow
from local_airflow import DagImportError, LocalAirflow, LocalAirflowError

SLEEPING = """
import time
from airflow.sdk import DAG, task

with DAG("sleeping", schedule=None):
    @task
    def sleep():
        time.sleep(600)

    sleep()
"""


def test_import_error(airflow: TestAirflow) -> None:
    path = airflow.write_dag("broken", "from airflow.sdk import DAG\nraise ValueError('not today')\n")
    try:
        with pytest.raises(DagImportError, match="not today"):
            airflow.wait_parsed("broken", filename=path.name)
    finally:
        path.unlink()


@pytest.mark.variant
def test_stop_leaves_nothing(tmp_path: Path, database_template: Path) -> None:
    local = TestAirflow(
        home=tmp_path / "home",
        dags_folder=tmp_path / "dags",
        connections={},
        database_template=database_template,
    )
    with local:
        local.load_dag("sleeping", SLEEPING)
        local.task_process("sleeping", local.trigger("sleeping"), "sleep", timeout=180)
        everything = [psutil.Process(pid) for pid in local.processes()]
        assert len(everything) > 6
        local.stop(grace=5)
    _, alive = psutil.wait_procs(everything, timeout=15)
    assert alive == []


@pytest.mark.variant
def test_a_component_that_dies_is_reported(tmp_path: Path, database_template: Path) -> None:
    local = LocalAirflow(
        home=tmp_path / "home",
        dags_folder=tmp_path / "dags",
        connections={},
        database_template=database_template,
        config={("core", "executor"): "no.such.Executor"},
        api_server=False,
    )

    def start_and_end() -> None:
        local.start()
        try:
            # It may have noted itself as running before it died.
            local.wait_until(lambda: False, 60.0, "the end of the scheduler")
        finally:
            local.stop()

    with pytest.raises(LocalAirflowError, match=r"(?s)the scheduler ended with .*no\.such"):
        start_and_end()
    assert local.processes() == []
