"""The hub in simulated time: a quota that stays used up, and ends of windows that nobody believes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from airflow_provider_seedance.polling.hub import wait_for_submission
from airflow_provider_seedance.polling.wait_many import wait_for_many
from airflow_provider_seedance.polling.wait_state import WaitState
from polling.simulated import CONN, EPOCH, HOUR, Connections, Service, connection, passed, wait


def used_up(seconds: float) -> Callable[[float], dict[str, str]]:
    """Say that nothing is left, and that there will be more after so many seconds."""
    return lambda at: {
        "x-ratelimit-limit": "10",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": str(int(EPOCH + at + seconds)),
    }


def test_a_wait_ends_while_no_reading_is_allowed(service: Service, run: Any) -> None:
    service.headers = used_up(10 * HOUR)
    service.ends["g"] = 9 * HOUR
    look_up = Connections(connection("seedance2api"))

    async def main() -> Any:
        step = await wait(look_up, patience=100.0, max_quota_wait=50.0)
        return step.kind, passed()

    assert run(main) == ("deadline", 150.0)
    assert len(service.requests) == 1


def test_so_does_a_wait_for_many(service: Service, run: Any) -> None:
    service.headers = used_up(10 * HOUR)
    service.ends = dict.fromkeys("ab", 9 * HOUR)
    awaited = [WaitState(generation_id=name, media="video", deadline=EPOCH + 100.0) for name in "ab"]
    look_up = Connections(connection("seedance2api"))

    async def main() -> Any:
        ends = await wait_for_many(awaited, CONN, look_up, min_ended=2, max_linger=1.0, max_quota_wait=50.0)
        return sorted(ends.overdue), passed()

    assert run(main) == (["a", "b"], 150.0)


def test_the_end_of_a_window_in_the_far_future_holds_nobody_up(service: Service, run: Any) -> None:
    told = used_up(1e9)
    service.headers = lambda at: told(at) if at < 50.0 else {}
    service.ends["g"] = 50.0
    look_up = Connections(connection("seedance2api"))

    async def main() -> Any:
        step, _ = await asyncio.gather(wait(look_up), wait_for_submission(EPOCH + 20.0, CONN, look_up))
        return step.kind, passed()

    kind, ended = run(main)
    assert kind == "ended"
    assert ended < 300.0
