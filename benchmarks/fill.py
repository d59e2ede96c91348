"""
Filler of a metadata database: deferred task instances, as if their renders had been submitted.

    python benchmarks/fill.py KIND COUNT [POLL_INTERVAL]

Run by ``deferred.py`` inside its private Airflow: ten thousand submissions through workers would take hours.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta

from airflow.models.dagbag import DBDagBag
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.triggers.base import BaseTrigger
from airflow.utils import timezone
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import delete
from waiters import IdleTrigger, OwnClientTrigger

from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger

CONNECTIONS = ("seedance_seedance2api", "seedance_runbase", "seedance_ark")

#: Seconds between two requests of what polls at a fixed interval.
INTERVAL = 10.0


def idle(*_: object) -> BaseTrigger:
    """Return one that does nothing."""
    return IdleTrigger()


def ours(number: int, poll_interval: float | None) -> BaseTrigger:
    """Return one of ours, as the operator makes it."""
    return SeedanceGenerationTrigger(
        seedance_conn_id=CONNECTIONS[number % len(CONNECTIONS)],
        generation_id=f"generation-{number:06d}",
        deadline=time.time() + 7 * 86400,
        poll_interval=poll_interval,
        submitted_at=time.time(),
        result_defaults={"model": "seedance-1.5-pro", "duration": 5, "resolution": "720p"},
    )


#: The connections to services that call back.
CALLED = ("seedance_seedance2api", "seedance_ark")


def called_id(number: int) -> str:
    """Return the id of a render that is called back for."""
    return f"generation-{number:06d}"


def called_nonce(number: int) -> str:
    """Return what the callback for a render carries."""
    return f"nonce-{number:06d}"


def called(number: int, poll_interval: float | None, *, end_from_trigger: bool = False) -> BaseTrigger:
    """Return one of ours that waits for a callback."""
    return SeedanceGenerationTrigger(
        seedance_conn_id=CALLED[number % len(CALLED)],
        generation_id=called_id(number),
        deadline=time.time() + 7 * 86400,
        poll_interval=poll_interval,
        submitted_at=time.time(),
        end_from_trigger=end_from_trigger,
        result_defaults={"model": "seedance-1.5-pro", "duration": 5, "resolution": "720p"},
        callback_nonce=called_nonce(number),
    )


def called_end(number: int, poll_interval: float | None) -> BaseTrigger:
    """Return one whose task is ended without a worker."""
    return called(number, poll_interval, end_from_trigger=True)


def own_client(number: int, poll_interval: float | None) -> BaseTrigger:
    """Return one that has a client of its own."""
    return OwnClientTrigger(
        conn_id="seedance_runbase", path=f"/runs/{number}", interval=poll_interval or INTERVAL
    )


def http_sensor(number: int, poll_interval: float | None) -> BaseTrigger:
    """Return that of a deferrable ``HttpSensor``, which asks until there is no 404 any more."""
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    return HttpSensorTrigger(
        endpoint=f"unless-404/{number}", http_conn_id="http_status", poke_interval=poll_interval or INTERVAL
    )


def http_operator(number: int, _: float | None) -> BaseTrigger:
    """Return that of a deferrable ``HttpOperator``."""
    from airflow.providers.http.triggers.http import HttpTrigger

    return HttpTrigger(endpoint=f"runbase/runs/{number}", http_conn_id="http_status", method="GET")


KINDS: dict[str, Callable[[int, float | None], BaseTrigger]] = {
    "idle": idle,
    "ours": ours,
    "called": called,
    "called_end": called_end,
    "own_client": own_client,
    "http_sensor": http_sensor,
    "http_operator": http_operator,
}


def fill(kind: str, count: int, poll_interval: float | None) -> None:
    """Defer a number of instances of the task."""
    with create_session() as session:
        dag = DBDagBag().get_latest_version_of_dag("waiting", session=session)
        now = timezone.utcnow()
        run = dag.create_dagrun(
            run_id=kind,
            run_after=now,
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            session=session,
        )
        session.flush()
        session.execute(delete(TaskInstance))
        for number in range(count):
            trigger = Trigger(*KINDS[kind](number, poll_interval).serialize())
            task = TaskInstance(
                dag.get_task("task"),
                dag_version_id=run.created_dag_version_id,
                run_id=run.run_id,
                state=TaskInstanceState.DEFERRED,
                map_index=number,
            )
            task.trigger = trigger
            task.start_date = now
            task.trigger_timeout = now + timedelta(days=8)
            task.next_method = "execute_complete"
            task.next_kwargs = {}
            session.add_all((trigger, task))


if __name__ == "__main__":
    fill(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else None)
