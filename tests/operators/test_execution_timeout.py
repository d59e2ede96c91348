"""``execution_timeout`` at any moment of a blocking task: it ends the task, and the paid render stays on record."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from support import make_context, submitted, task_timeout

from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.sensors.seedance import SeedanceGenerationSensor
from operators.generation_task import Task, Tries

# What a signal interrupts while it opens a socket or a file leaves that to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True, scope="module")
def collected() -> Iterator[None]:
    """Collect it before a test of another module, without these filters, does."""
    yield
    gc.collect()


#: Times in seconds, from the first line of a task to the midst of its wait.
MOMENTS = (0.001, 0.003, 0.01, 0.02, 0.05, 0.1)


def test_the_next_try_goes_on_with_the_render(either: Tries) -> None:
    either.services.hold()
    either.defer()
    for moment in MOMENTS:
        either.prepare(deferrable=False, poll_interval=0.01)
        with pytest.raises(AirflowTaskTimeout), task_timeout(moment):
            either.retry()
        either.op.on_kill()  # which Airflow calls then
    either.services.release()
    either.prepare(deferrable=False, poll_interval=0.01)
    result = either.retry()
    delivered = result["succeeded"][0] if "succeeded" in result else result
    assert either.ids == [delivered["generation_id"]]


def sensor(generation_id: str) -> Any:
    return SeedanceGenerationSensor(
        task_id="task", generation_id=generation_id, deferrable=False, poke_interval=0.01
    ).execute(make_context(None))


def hook(generation_id: str) -> Any:
    return SeedanceHook().wait(generation_id, poll_interval=0.01)


@pytest.mark.parametrize("wait", [sensor, hook])
def test_a_wait_for_a_render_ends(task: Task, api: str, wait: Callable[[str], Any]) -> None:
    generation_id = submitted(task.services, api)
    for moment in MOMENTS:
        with pytest.raises(AirflowTaskTimeout), task_timeout(moment):
            wait(generation_id)
