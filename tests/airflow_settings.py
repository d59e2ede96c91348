"""The `airflow_local_settings.py` of the Airflows that tests start."""

from __future__ import annotations

from pathlib import Path

#: Every task is a fork of the scheduler, and every parse one of the Dag processor: half of their time goes into
#: imports, unless these have done them. The demo and the benchmarks run without this.
PRELOAD = """
import sys

if {"scheduler", "dag-processor"} & set(sys.argv):
    import airflow.sdk.execution_time.supervisor
    import airflow.sdk.execution_time.task_runner
    import airflow_provider_seedance.operators.batch_run
    import airflow_provider_seedance.operators.generation_run
    import airflow_provider_seedance.operators.seedance
    import airflow_provider_seedance.sensors.seedance
    import airflow_provider_seedance.transfers.seedance_to_object_storage
    import airflow_provider_seedance.transfers.transfer_run
"""

#: A scheduler of Airflow 3.4.0b2 that loses a running task sends a callback within a transaction. The sink closes the
#: session that both share; what the scheduler then writes of the attempt is lost, and the next attempt violates
#: `task_instance_current_key`. Here the sink leaves the session open.
REPAIR = """
import sys
from importlib.metadata import version

if "scheduler" in sys.argv and version("apache-airflow-core") == "3.4.0b2":
    from airflow import settings
    from airflow.callbacks.database_callback_sink import DatabaseCallbackSink

    send_in_session = DatabaseCallbackSink.send

    def send(self, callback, *, session=None):
        send_in_session(self, callback, session=session or settings.Session())

    DatabaseCallbackSink.send = send
"""


def write_settings(home: Path, *parts: str) -> None:
    """Write the settings into the home directory of an Airflow."""
    path = home / "config" / "airflow_local_settings.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(parts))
