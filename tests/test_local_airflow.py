"""The parts of the private Airflow that need no Airflow to be tested."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from local_airflow import LocalAirflow, LocalAirflowError, environment, processes
from local_airflow.database import moment, native
from local_airflow.logs import task_log

TESTS = Path(__file__).parent


def test_nothing_of_another_airflow_gets_in(tmp_path: Path) -> None:
    base = {
        "AIRFLOW_HOME": "/theirs",
        "AIRFLOW_CONN_SECRET": "{}",
        "AIRFLOW_VAR_X": "1",
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "_AIRFLOW__AS_LIBRARY": "1",
        "PYTHONWARNINGS": "error",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(["relative", "", "/absolute"]),
        "PATH": "/bin",
        "no_proxy": "example.org",
    }
    built = environment.build(
        base,
        home=tmp_path,
        config={("core", "executor"): "LocalExecutor"},
        connections={"seedance_default": "{}"},
        python_path=[tmp_path / "dags"],
        extra={"MORE": "yes"},
    )
    assert {name: value for name, value in built.items() if "AIRFLOW" in name} == {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW_CONFIG": str(tmp_path / "airflow.cfg"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW_CONN_SEEDANCE_DEFAULT": "{}",
    }
    assert (built["PATH"], built["MORE"]) == ("/bin", "yes")
    assert built["no_proxy"] == "example.org,127.0.0.1,localhost"
    assert not {"PYTHONWARNINGS", "PYTHONDONTWRITEBYTECODE"} & set(built)
    ours = [str(tmp_path / "dags"), str(Path("relative").absolute()), "/absolute"]
    assert built["PYTHONPATH"].split(os.pathsep) == ours


def test_everything_is_below_home_and_two_do_not_clash(tmp_path: Path) -> None:
    both = [
        LocalAirflow(
            home=tmp_path / name,
            dags_folder=tmp_path / "dags",
            connections={},
            config={("core", "parallelism"): "2"},
            env={"AIRFLOW__CORE__LOAD_EXAMPLES": "True"},
        )
        for name in "ab"
    ]
    ports = [port for each in both for key, port in each.config.items() if key[1].endswith("port")]
    assert len(ports) == len(set(ports)) == 6
    assert len({each.config["api_auth", "jwt_secret"] for each in both}) == 2
    for each in both:
        assert str(each.home) in each.config["database", "sql_alchemy_conn"]
        assert each.environment["AIRFLOW__API__PORT"] == each.url.rpartition(":")[2]
        # Settings of the caller win.
        assert each.environment["AIRFLOW__CORE__PARALLELISM"] == "2"
        assert each.environment["AIRFLOW__CORE__LOAD_EXAMPLES"] == "True"
        # Nothing was started, so nothing is to be stopped.
        each.stop()
        with pytest.raises(LocalAirflowError, match="does not run"):
            each.pid("scheduler")
    assert list(tmp_path.iterdir()) == []


def family() -> subprocess.Popen[str]:
    """A session of three: one process that ignores SIGTERM, its child, and an orphan in another group."""
    script = textwrap.dedent(
        """
        import os, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = [sys.executable, "-c", "import time; time.sleep(600)"]
        first = subprocess.Popen(child)
        orphan = subprocess.run(
            [sys.executable, "-c", f"import subprocess, sys; print(subprocess.Popen("
             f"{child!r}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0).pid)"],
            capture_output=True, text=True,
        ).stdout
        print(first.pid, int(orphan), flush=True)
        time.sleep(600)
        """
    )
    command = [sys.executable, "-W", "ignore", "-c", script]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def test_a_session_ends_with_its_orphans() -> None:
    with family() as leader:
        pids = {leader.pid, *(int(pid) for pid in leader.stdout.readline().split())}
        assert set(processes.session_members([leader.pid])) == pids
        processes.end_sessions([leader.pid])
        assert processes.session_members([leader.pid]) == []
    processes.end_sessions([leader.pid])


def test_the_guard_acts_when_its_parent_is_killed() -> None:
    with family() as leader:
        pids = [leader.pid, *(int(pid) for pid in leader.stdout.readline().split())]
        script = (
            "import time; from processes import Guard;"
            f"guard = Guard(); guard.add({leader.pid});"
            "print('ready', flush=True); time.sleep(600)"
        )
        members = [psutil.Process(pid) for pid in pids]
        # Not the package, which imports Airflow.
        env = os.environ | {"PYTHONPATH": str(TESTS / "local_airflow")}
        command = [sys.executable, "-c", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as parent:
            assert parent.stdout.readline() == "ready\n"
            assert all(member.is_running() for member in members)
            parent.send_signal(signal.SIGKILL)
        leader.wait(timeout=120)
        _, alive = psutil.wait_procs(members, timeout=120)
        assert alive == []


def test_a_dismissed_guard_kills_nothing() -> None:
    with family() as leader:
        leader.stdout.readline()
        guard = processes.Guard()
        guard.add(leader.pid)
        guard.dismiss()
        assert len(processes.session_members([leader.pid])) == 3
        processes.end_sessions([leader.pid])


def test_a_task_log_is_text_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "dag_id=d" / "run_id=r" / "task_id=t"
    mapped = folder / "map_index=3"
    mapped.mkdir(parents=True)
    detail = [{"exc_type": "E", "exc_value": "v"}]
    record = {"timestamp": "T", "level": "error", "event": 'say "x"', "error_detail": detail}
    (folder / "attempt=10.log").write_text("last\n")
    (folder / "attempt=2.log").write_text(json.dumps(record) + "\nnot json\n")
    (folder / "attempt=2.log.trigger.7.log").write_text('{"event": "from the trigger"}\n')
    (mapped / "attempt=1.log").write_text("mapped\n")
    lines = ['T error say "x"', "  E: v", "not json", "  from the trigger", "last"]
    assert task_log(tmp_path, "d", "r", "t", None, -1).splitlines() == lines
    assert task_log(tmp_path, "d", "r", "t", 10, -1) == "last"
    assert task_log(tmp_path, "d", "r", "t", 1, 3) == "mapped"
    assert task_log(tmp_path, "d", "r", "missing", None, -1) == ""


def test_values_from_the_database() -> None:
    stored_tuple = {"__classname__": "builtins.tuple", "__version__": 1, "__data__": [1, "x"]}
    assert native({"a": stored_tuple}) == {"a": [1, "x"]}
    stored = moment("2026-01-02 03:04:05.600000")
    assert stored.isoformat() == "2026-01-02T03:04:05.600000+00:00"
    assert moment(None) is None
