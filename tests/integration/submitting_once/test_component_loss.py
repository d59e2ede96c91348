"""Triggerer stopped or killed, scheduler killed, and others in their place; each test has the airflow to itself."""

from __future__ import annotations

from .airflow_fixture import AirflowFixture, Task


def _fleet(airflow: AirflowFixture) -> list[Task]:
    boats = [airflow.video("ark_queue"), airflow.video("ark"), airflow.video("seedance2api")]
    boats += [airflow.video("seedanceapi_v1", arguments={"end_from_trigger": True})]
    for boat in boats:
        boat.start()
    for boat in boats:
        boat.until_deferred()
        boat.until_says("starting")  # the trigger
    return boats


def _arrive(boats: list[Task]) -> None:
    """Nothing was submitted or cancelled; the renders end, and are delivered."""
    for boat in boats:
        boat.check("deferred", posts=1)
        boat.finish()
    _check_delivered(boats)


def _check_delivered(boats: list[Task]) -> None:
    for boat in boats:
        boat.until("success")
        boat.check_delivered(boat.generations[0])
        assert boat.tries == 1


def test_a_triggerer_is_stopped_and_replaced(airflow: AirflowFixture) -> None:
    boats = _fleet(airflow)
    airflow.airflow.restart("triggerer")
    _arrive(boats)


def test_a_triggerer_is_killed_and_replaced(airflow: AirflowFixture) -> None:
    """Renders that end while there is no triggerer are delivered, and so are those that end later."""
    ending, going_on = _fleet(airflow), _fleet(airflow)
    airflow.airflow.kill("triggerer")
    for boat in ending:
        boat.finish()
    airflow.airflow.restart("triggerer")
    _arrive(going_on)
    _check_delivered(ending)


def test_the_scheduler_and_all_workers_are_lost_while_tasks_are_deferred(airflow: AirflowFixture) -> None:
    boats = _fleet(airflow)
    airflow.airflow.kill("scheduler")
    airflow.airflow.restart("scheduler")
    _arrive(boats)
