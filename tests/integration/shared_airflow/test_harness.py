"""The private Airflow itself: what the other integration tests take for granted."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from harness import TestAirflow
from local_airflow import DagImportError, LocalAirflow, LocalAirflowError
from versions import STATE_STORE, needs

TRIGGERS = """
    import asyncio, os

    from airflow.sdk import BaseOperator
    from airflow.triggers.base import BaseTrigger, TriggerEvent


    class FileTrigger(BaseTrigger):
        '''Fires when a file exists.'''

        def __init__(self, path):
            super().__init__()
            self.path = path

        def serialize(self):
            return ("harness_triggers.FileTrigger", {"path": self.path})

        async def run(self):
            # A trigger that fires at once may be resumed before the scheduler has seen the deferral.
            await asyncio.sleep(5)
            while not os.path.exists(self.path):
                await asyncio.sleep(0.2)
            yield TriggerEvent("seen")

        async def on_kill(self):
            with open(self.path + ".killed", "w"):
                pass


    class WaitForFileOperator(BaseOperator):
        def __init__(self, path, **kwargs):
            super().__init__(**kwargs)
            self.path = path

        def execute(self, context):
            self.defer(trigger=FileTrigger(self.path), method_name="resume")

        def resume(self, context, event):
            return event
"""


def deferring_dag(airflow: TestAirflow, dag_id: str, file: Path) -> str:
    airflow.write_module("harness_triggers", TRIGGERS)
    return airflow.load_dag(
        dag_id,
        f"""
        from airflow.sdk import DAG
        from harness_triggers import WaitForFileOperator

        with DAG({dag_id!r}, schedule=None):
            WaitForFileOperator(task_id="wait", path={str(file)!r})
        """,
    )


def sleeping_dag(airflow: TestAirflow, dag_id: str, folder: Path) -> str:
    """Two mapped tasks that hang in their first try and succeed in the next one."""
    return airflow.load_dag(
        dag_id,
        f"""
        import time
        from datetime import timedelta
        from airflow.sdk import DAG, task

        with DAG({dag_id!r}, schedule=None):
            @task(retries=2, retry_delay=timedelta(seconds=0))
            def sleep(item, ti=None):
                with open({str(folder)!r} + f"/{{item}}-{{ti.try_number}}", "w"):
                    pass
                if ti.try_number == 1:
                    time.sleep(600)
                return ti.try_number

            sleep.expand(item=["a", "b"])
        """,
    )


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + 180
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, paths
        time.sleep(0.1)


def test_run_and_xcom(airflow: TestAirflow) -> None:
    airflow.load_dag(
        "plain",
        """
        from airflow.sdk import DAG, task

        with DAG("plain", schedule=None):
            @task
            def first(params=None, dag_run=None):
                print("hello from the task")
                return {"conf": dag_run.conf, "list": [1, None, "two"]}

            @task
            def second(value):
                return value["list"][2]

            second(first())
        """,
    )
    changes: list[dict[str, str | None]] = []
    run_id = airflow.trigger("plain", conf={"answer": 42}, run_id="by+hand:~1")
    assert airflow.wait_run("plain", run_id, on_change=changes.append) == "success"
    assert changes[-1] == {"first": "success", "second": "success"}
    assert airflow.xcom("plain", run_id, "first") == {"conf": {"answer": 42}, "list": [1, None, "two"]}
    assert airflow.xcom("plain", run_id, "second") == "two"
    assert airflow.xcom("plain", run_id, "second", key="missing") is None
    assert "hello from the task" in airflow.task_log("plain", run_id, "first")
    assert airflow.task_instance("plain", run_id, "first")["try_number"] == 1


def test_import_error(airflow: TestAirflow) -> None:
    path = airflow.write_dag("broken", "from airflow.sdk import DAG\nraise ValueError('not today')\n")
    try:
        with pytest.raises(DagImportError, match="not today"):
            airflow.wait_parsed("broken", filename=path.name)
    finally:
        path.unlink()


def test_a_file_written_again_takes_effect(airflow: TestAirflow) -> None:
    source = """
        from airflow.sdk import DAG, task

        with DAG("rewritten", schedule=None):
            @task
            def {name}():
                return "{name}"
            {name}()
    """
    for name in ("one", "two"):
        airflow.load_dag("rewritten", source.format(name=name))
        run_id, state = airflow.run("rewritten")
        assert state == "success"
        assert [row["task_id"] for row in airflow.task_instances("rewritten", run_id)] == [name]


@pytest.mark.parametrize("supervisor", [False, pytest.param(True, marks=pytest.mark.variant)])
def test_a_killed_task_is_retried(airflow: TestAirflow, tmp_path: Path, supervisor: bool) -> None:
    dag_id = sleeping_dag(airflow, f"killed_{supervisor}", tmp_path)
    run_id = airflow.trigger(dag_id)
    wait_for(tmp_path / "a-1", tmp_path / "b-1")
    processes = {task.map_index: task for task in airflow.task_processes() if task.dag_id == dag_id}
    assert set(processes) == {0, 1}

    killed = airflow.kill_task(dag_id, run_id, "sleep", map_index=1, supervisor=supervisor)
    assert killed.runner.pid == processes[1].runner.pid
    wait_for(tmp_path / "b-2")
    assert airflow.wait_task(dag_id, run_id, "sleep", {"success"}, map_index=1) == "success"
    assert airflow.xcom(dag_id, run_id, "sleep", map_index=1) == 2
    # The other one was left alone.
    assert airflow.task_state(dag_id, run_id, "sleep", map_index=0) == "running"
    assert processes[0].runner.is_running()

    airflow.kill_task(dag_id, run_id, "sleep", map_index=0)
    assert airflow.wait_run(dag_id, run_id) == "success"


def test_a_deferred_task_outlives_the_triggerer(airflow: TestAirflow, tmp_path: Path) -> None:
    file = tmp_path / "done"
    dag_id = deferring_dag(airflow, "deferred", file)
    run_id = airflow.trigger(dag_id)
    airflow.wait_task(dag_id, run_id, "wait", {"deferred"})
    airflow.kill("triggerer")
    file.touch()
    airflow.restart("triggerer")
    assert airflow.wait_run(dag_id, run_id) == "success"
    assert airflow.xcom(dag_id, run_id, "wait") == "seen"


def test_mark_failed_while_deferred_and_clear(airflow: TestAirflow, tmp_path: Path) -> None:
    file = tmp_path / "done"
    dag_id = deferring_dag(airflow, "marked", file)
    run_id = airflow.trigger(dag_id)
    airflow.wait_task(dag_id, run_id, "wait", {"deferred"})
    airflow.mark(dag_id, run_id, "wait", "failed")
    assert airflow.wait_run(dag_id, run_id) == "failed"

    file.touch()
    airflow.clear(dag_id, run_id, ["wait"], only_failed=True)
    airflow.wait_task(dag_id, run_id, "wait", {"success"}, try_number=2)
    assert airflow.wait_run(dag_id, run_id) == "success"

    airflow.clear(dag_id, run_id)
    airflow.wait_task(dag_id, run_id, "wait", {"success"}, try_number=3)


def test_run_set_to_failed(airflow: TestAirflow, tmp_path: Path) -> None:
    dag_id = sleeping_dag(airflow, "run_failed", tmp_path)
    run_id = airflow.trigger(dag_id)
    wait_for(tmp_path / "a-1", tmp_path / "b-1")
    airflow.set_run_state(dag_id, run_id, "failed")
    assert airflow.wait_run(dag_id, run_id) == "failed"
    airflow.wait_task(dag_id, run_id, "sleep", {"failed"}, map_index=0)


@needs(STATE_STORE)
def test_state_store(airflow: TestAirflow) -> None:
    airflow.load_dag(
        "state_store",
        """
        from datetime import timedelta
        from airflow.sdk import DAG, task, get_current_context

        with DAG("state_store", schedule=None):
            @task(retries=1, retry_delay=timedelta(seconds=0))
            def remember():
                context = get_current_context()
                store = context["task_state_store"]
                tries = (store.get("tries") or []) + [context["ti"].try_number]
                store.set("tries", tries)
                if len(tries) == 1:
                    raise ValueError("again")
                return tries

            remember()
        """,
    )
    run_id, state = airflow.run("state_store")
    assert state == "success"
    assert airflow.xcom("state_store", run_id, "remember") == [1, 2]
    airflow.clear("state_store", run_id)
    airflow.wait_task("state_store", run_id, "remember", {"success"}, try_number=3)
    assert airflow.xcom("state_store", run_id, "remember") == [1, 2, 3]
    assert airflow.state_store("state_store", run_id, "remember") == {"tries": [1, 2, 3]}


def test_cli(airflow: TestAirflow) -> None:
    done = airflow.cli("config", "get-value", "core", "executor")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "LocalExecutor"


@pytest.mark.variant
def test_stop_leaves_nothing(tmp_path: Path, database_template: Path) -> None:
    lines: list[tuple[str, str]] = []
    local = TestAirflow(
        home=tmp_path / "home",
        dags_folder=tmp_path / "dags",
        connections={},
        database_template=database_template,
        on_line=lambda component, line: lines.append((component, line)),
    )
    with local:
        dag_id = sleeping_dag(local, "unfinished", tmp_path)
        local.trigger(dag_id)
        wait_for(tmp_path / "a-1")
        everything = [psutil.Process(pid) for pid in local.processes()]
        assert len(everything) > 6
        local.stop(grace=5)
    _, alive = psutil.wait_procs(everything, timeout=15)
    assert alive == []
    components = {"api-server", "execution-api", "scheduler", "dag-processor", "triggerer"}
    assert {component for component, _ in lines} == components


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


@pytest.mark.variant
def test_nothing_outlives_a_killed_parent(tmp_path: Path, database_template: Path) -> None:
    script = textwrap.dedent(
        """
        import json, sys, time
        from pathlib import Path

        home, template, tests = map(Path, sys.argv[1:])
        sys.path.insert(0, str(tests))
        from local_airflow import LocalAirflow

        local = LocalAirflow(
            home=home, dags_folder=home / "dags", connections={}, database_template=template, api_server=False
        )
        local.start()
        print(json.dumps(local.processes()), flush=True)
        time.sleep(600)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), str(database_template), str(Path(__file__).parents[1])],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().strip("[]\n").split(",")]
        processes = [psutil.Process(pid) for pid in pids]
        parent.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(processes, timeout=15)
    assert alive == []
