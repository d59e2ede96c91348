"""Triggerer and scheduler killed with SIGKILL, and others in their place; each test has the stage to itself."""

from __future__ import annotations

import pytest

from .stage import Stage, Task


def _fleet(stage: Stage) -> list[Task]:
    boats = [stage.video("ark_queue"), stage.video("ark"), stage.video("seedance2api")]
    boats += [stage.video("seedanceapi_v1", arguments={"end_from_trigger": True})]
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
    for boat in boats:
        boat.until("success")
        boat.check_delivered(boat.generations[0])
        assert boat.tries == 1


@pytest.mark.parametrize("orderly", [False, True], ids=["SIGKILL", "SIGTERM"])
def test_a_triggerer_is_lost_and_replaced(stage: Stage, orderly: bool) -> None:
    boats = _fleet(stage)
    if not orderly:
        stage.airflow.kill("triggerer")
    stage.airflow.restart("triggerer")
    _arrive(boats)


def test_renders_that_end_while_there_is_no_triggerer_are_delivered(stage: Stage) -> None:
    boats = _fleet(stage)
    stage.airflow.kill("triggerer")
    for boat in boats:
        boat.finish()
    stage.airflow.restart("triggerer")
    for boat in boats:
        boat.until("success")
        boat.check_delivered(boat.generations[0])


def test_the_scheduler_and_all_workers_are_lost_while_tasks_are_deferred(stage: Stage) -> None:
    boats = _fleet(stage)
    stage.airflow.kill("scheduler")
    stage.airflow.restart("scheduler")
    _arrive(boats)
