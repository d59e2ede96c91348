"""Triggerer stopped or killed, scheduler killed, and others in their place; the test has the airflow to itself."""

from __future__ import annotations

from itertools import chain

from .airflow_fixture import AirflowFixture, Task


def _fleet(airflow: AirflowFixture) -> list[Task]:
    boats = [airflow.video("ark_queue"), airflow.video("ark"), airflow.video("seedance2api")]
    return [*boats, airflow.video("seedanceapi_v1", arguments={"end_from_trigger": True})]


def _check_under_way(boats: list[Task]) -> None:
    """Nothing was submitted again or cancelled."""
    for boat in boats:
        boat.check("deferred", posts=1)


def _arrive(boats: list[Task], *, ended: bool = False) -> None:
    for boat in boats:
        if not ended:
            boat.finish()
    for boat in boats:
        boat.until("success", try_number=1)
        boat.check_delivered(boat.generations[0])


def test_renders_outlive_triggerers_a_scheduler_and_all_workers(airflow: AirflowFixture) -> None:
    """Some arrive after each loss, the others wait on."""
    fleets = [_fleet(airflow) for _ in range(4)]
    for boat in chain(*fleets):
        boat.start()
    for boat in chain(*fleets):
        boat.until_deferred()
        boat.until_says("starting")  # the trigger
    stopped, ending, killed, scheduler = fleets

    airflow.airflow.restart("triggerer")  # with SIGTERM
    _check_under_way(stopped)
    _arrive(stopped)

    airflow.airflow.kill("triggerer")
    for boat in ending:
        boat.finish()
    airflow.airflow.restart("triggerer")
    _check_under_way(killed)
    _arrive(ending, ended=True)
    _arrive(killed)

    airflow.airflow.kill("scheduler")
    airflow.airflow.restart("scheduler")
    _check_under_way(scheduler)
    _arrive(scheduler)
