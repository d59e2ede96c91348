"""The environment of a private Airflow's processes: functions without effects, except for random keys and ports."""

from __future__ import annotations

import base64
import contextlib
import os
import random
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

Config = Mapping[tuple[str, str], str]

# Settings of the user's own Airflow, variables that change the output of child processes, and the one for which every
# process of a task would compile this package.
_FOREIGN_PREFIXES = ("AIRFLOW_", "_AIRFLOW_", "AIRFLOW__")
_FOREIGN_NAMES = frozenset(
    {"PYTHONWARNINGS", "PYTHONSTARTUP", "PYTEST_CURRENT_TEST", "FORCE_COLOR", "PYTHONDONTWRITEBYTECODE"}
)


def free_ports(count: int) -> list[int]:
    """
    Return free ports that no other process gets by chance until they are used, or while a server restarts.

    They are below those that the system gives away, each worker of the tests has a range of its own, and none is
    returned twice.
    """
    found: list[int] = []
    while len(found) < count:
        port = _candidates.pop()
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
    return found


def _own_ports() -> list[int]:
    start = 20_000 + 1000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 10)
    return random.sample(range(start, start + 1000), 1000)


_candidates = _own_ports()


def default_config(
    *, home: Path, dags_folder: Path, port: int, execution_port: int
) -> dict[tuple[str, str], str]:
    """Return Airflow's defaults with short intervals, private paths and ports, and little output."""
    url = f"http://127.0.0.1:{port}"
    return {
        ("core", "dags_folder"): str(dags_folder),
        ("core", "plugins_folder"): str(home / "plugins"),
        ("core", "load_examples"): "False",
        ("core", "executor"): "LocalExecutor",
        ("core", "parallelism"): "8",
        ("core", "dags_are_paused_at_creation"): "False",
        ("core", "fernet_key"): base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        ("core", "simple_auth_manager_all_admins"): "True",
        ("core", "execution_api_server_url"): f"http://127.0.0.1:{execution_port}/execution/",
        # A changed Dag file takes effect at once, not half a minute later.
        ("core", "min_serialized_dag_update_interval"): "0",
        ("core", "min_serialized_dag_fetch_interval"): "0",
        # The processes share one file: a locked file makes them wait instead of fail.
        ("database", "sql_alchemy_conn"): f"sqlite:///{home / 'airflow.db'}?timeout=30",
        ("database", "load_default_connections"): "False",
        ("api", "host"): "127.0.0.1",
        ("api", "port"): str(port),
        ("api", "base_url"): url,
        ("api", "workers"): "1",
        ("api", "secret_key"): secrets.token_urlsafe(32),
        ("api_auth", "jwt_secret"): secrets.token_urlsafe(48),
        ("scheduler", "scheduler_idle_sleep_time"): "0.5",
        ("scheduler", "job_heartbeat_sec"): "1",
        ("scheduler", "scheduler_heartbeat_sec"): "1",
        # There is one scheduler. A busy machine delays its heartbeat for a minute, and it must not take itself for dead,
        # which resets its tasks.
        ("scheduler", "scheduler_health_check_threshold"): "3600",
        ("scheduler", "orphaned_tasks_check_interval"): "5",
        # Timeout of a task whose supervisor is gone: low enough to test with, high enough that a busy
        # machine does not lose a supervisor that is merely slow.
        ("scheduler", "task_instance_heartbeat_timeout"): "60",
        ("scheduler", "task_instance_heartbeat_timeout_detection_interval"): "2",
        ("scheduler", "trigger_timeout_check_interval"): "2",
        ("scheduler", "catchup_by_default"): "False",
        ("scheduler", "enable_health_check"): "False",
        # A dozen tasks that start at once on two cores keep the API server busy for longer than the default of 5 s.
        ("workers", "execution_api_timeout"): "60",
        ("workers", "min_heartbeat_interval"): "2",
        # A restart of the API server takes longer than three heartbeats; tasks must survive it.
        ("workers", "max_failed_heartbeats"): "20",
        ("triggerer", "job_heartbeat_sec"): "1",
        # The triggers of a killed triggerer move to the next one after this time.
        ("triggerer", "triggerer_health_check_threshold"): "6",
        ("dag_processor", "refresh_interval"): "1",
        ("dag_processor", "bundle_refresh_check_interval"): "1",
        # A changed file is parsed at once regardless; an unchanged one need not be parsed again.
        ("dag_processor", "min_file_process_interval"): "86400",
        ("dag_processor", "parsing_processes"): "2",
        ("dag_processor", "print_stats_interval"): "0",
        ("logging", "base_log_folder"): str(home / "logs" / "tasks"),
        ("logging", "dag_processor_child_process_log_directory"): str(home / "logs" / "dag_processor"),
        ("logging", "colored_console_log"): "False",
        ("usage_data_collection", "enabled"): "False",
    }


def build(
    base: Mapping[str, str],
    *,
    home: Path,
    config: Config,
    connections: Mapping[str, str],
    python_path: list[Path],
    extra: Mapping[str, str],
) -> dict[str, str]:
    """Return the complete environment: ``base`` without any settings of another Airflow, plus ours."""
    environment = {
        name: value
        for name, value in base.items()
        if not name.startswith(_FOREIGN_PREFIXES) and name not in _FOREIGN_NAMES
    }
    inherited = [os.path.abspath(part) for part in base.get("PYTHONPATH", "").split(os.pathsep) if part]
    search = dict.fromkeys([*(str(part) for part in python_path), *inherited])
    no_proxy = [part for part in (base.get("NO_PROXY") or base.get("no_proxy") or "").split(",") if part]
    no_proxy_value = ",".join(dict.fromkeys([*no_proxy, "127.0.0.1", "localhost"]))
    environment |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONFIG": str(home / "airflow.cfg"),
        "PYTHONPATH": os.pathsep.join(search),
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        # The Execution API listens on loopback: requests must not go through a proxy of the machine.
        "NO_PROXY": no_proxy_value,
        "no_proxy": no_proxy_value,
        "SCARF_ANALYTICS": "false",
        "DO_NOT_TRACK": "1",
    }
    environment |= {
        f"AIRFLOW__{section.upper()}__{key.upper()}": value for (section, key), value in config.items()
    }
    environment |= {f"AIRFLOW_CONN_{name.upper()}": value for name, value in connections.items()}
    return environment | dict(extra)
