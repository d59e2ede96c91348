"""The hub in simulated time: quota, turns of submissions, notes of other processes, what is learned and told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.rate_limits import RateLimit
from airflow_provider_seedance.client.api_client import MAX_CONNECTIONS
from airflow_provider_seedance.polling import hub as module
from airflow_provider_seedance.polling.duration_model import DurationModels
from airflow_provider_seedance.polling.hub import wait_for_submission
from airflow_provider_seedance.polling.quota import POLICY
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.settings import Settings
from polling.simulated import (
    CONN,
    EPOCH,
    HOUR,
    Connections,
    Request,
    Service,
    connection,
    leave,
    passed,
    refusal,
    wait,
    wait_for_all,
)

# ---------------------------------------------------------------------- quota


def test_a_refusal_stops_everybody_and_is_said_once(
    service: Service, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"g{number}" for number in range(30)]
    service.ends = dict.fromkeys(names, 0.0)
    service.latency = 1.0
    service.answer = lambda request: refusal(600.0) if request.at < 300.0 else None
    look_up = Connections(connection())

    async def main() -> list[Any]:
        return await wait_for_all(*(wait(look_up, name) for name in names))

    steps = run(main)
    assert {(step.kind, step.state.failures) for step in steps} == {("ended", 0)}
    refused = [at for at in service.times() if at < 300.0]
    assert len(refused) <= MAX_CONNECTIONS  # what was on its way
    assert min(at for at in service.times() if at > 300.0) == pytest.approx(11.0 + 600.0, abs=2.0)
    (line,) = caplog.messages
    assert "30 polls and submissions" in line
    assert "600 s" in line


def test_whoever_was_refused_keeps_the_place(service: Service, run: Any) -> None:
    service.ends = {"first": 0.0, "second": 0.0}
    service.slow = {"first": 8.0, "second": 1.0}  # the refusal of the second comes before that of the first
    asked: list[str] = []

    def answer(request: Request) -> Any:
        asked.append(request.ids[0])
        service.slow.clear()
        return refusal(100.0) if request.at < 50.0 else None

    service.answer = answer
    look_up = Connections(connection())

    async def main() -> list[Any]:
        return await wait_for_all(wait(look_up, "first"), wait(look_up, "second", interval=12.0))

    assert {step.kind for step in run(main)} == {"ended"}
    assert asked == ["second", "first", "first", "second"]


@pytest.mark.parametrize(("api", "at"), [("runbase", 10.0), ("seedance2api", 300.0)])
def test_a_reading_has_room_for_all_of_its_requests(service: Service, run: Any, api: str, at: float) -> None:
    """The one that finds a render finished asks for its result, too, where that stands elsewhere."""
    service.ends["g"] = 0.0
    look_up = Connections(connection(api))

    async def main() -> Any:
        task = asyncio.create_task(wait(look_up))
        await asyncio.sleep(5.0)
        (hub,) = module._hubs.values()
        reset = datetime.fromtimestamp(EPOCH + 300.0, UTC)
        # One of them is kept for a submission.
        hub.answered(RateLimit(limit=4, remaining=2, reset_at=reset), refused=False)
        return await task

    assert run(main).kind == "ended"
    assert service.times()[0] == pytest.approx(at, abs=2.0)


def test_one_whose_patience_ends_while_the_quota_is_used_up(service: Service, run: Any) -> None:
    """A deadline does not fail a task that our own quota kept from reading: the waiter is told."""
    service.ends["g"] = 0.0
    service.answer = lambda request: refusal(600.0) if request.at < 300.0 else None
    step = run(lambda: wait(Connections(connection()), patience=60.0))
    assert (step.kind, step.state.rate_limited, step.state.failures) == ("deadline", True, 0)


@pytest.mark.parametrize(("rates", "most"), [((20,), 20), ((20, None), 20), ((None, 40, 20), 20)])
def test_the_smallest_plan_that_is_known_bounds_the_requests(
    service: Service, run: Any, rates: tuple[int | None, ...], most: int
) -> None:
    names = [f"c{number}" for number in range(len(rates))]
    look_up = Connections(
        *(connection(conn_id=name, requests_per_hour=rate) for name, rate in zip(names, rates, strict=True))
    )
    service.ends = dict.fromkeys(names, 9 * HOUR)

    async def main() -> None:
        tasks = [asyncio.create_task(wait(look_up, name, name, patience=9 * HOUR)) for name in names]
        await asyncio.sleep(HOUR - 60.0)
        await leave(*tasks)

    run(main)
    # But for what is kept for submissions; those that came before the plan was known count, too.
    assert most * 0.75 - 1 <= len(service.requests) <= most


def test_renders_that_were_submitted_elsewhere_count_in_the_plan(service: Service, run: Any) -> None:
    look_up = Connections(connection(requests_per_hour=40))
    names = [f"g{number}" for number in range(10)]
    service.ends = dict.fromkeys(names, 9 * HOUR)

    async def main() -> None:
        tasks = [
            asyncio.create_task(
                wait(
                    look_up,
                    name,
                    patience=9 * HOUR,
                    submitted_at=time.time() - 5.0,
                    submitted_at_known=name != "g0",
                )
            )
            for name in names
        ]
        await asyncio.sleep(HOUR - 60.0)
        await leave(*tasks)

    run(main)
    # What is reserved for submissions is released towards the end of the hour.
    assert 40 * 0.75 - 9 <= len(service.requests) <= 40 - 9


def headers(limit: int, window: float) -> Callable[[float], dict[str, str]]:
    """Say what is left of a quota with fixed windows, one request being counted with each reply."""
    used: dict[int, int] = {}

    def told(at: float) -> dict[str, str]:
        number = int(at // window)
        used[number] = used.get(number, 0) + 1
        return {
            "x-ratelimit-limit": str(limit),
            "x-ratelimit-remaining": str(max(0, limit - used[number])),
            "x-ratelimit-reset": str(int(EPOCH + (number + 1) * window)),
        }

    return told


def test_what_headers_say_is_left_is_never_exceeded(service: Service, run: Any) -> None:
    service.headers = headers(30, HOUR)
    look_up = Connections(connection("seedance2api"))
    names = [f"g{number}" for number in range(5)]
    service.ends = dict.fromkeys(names, 9 * HOUR)

    async def main() -> None:
        tasks = [asyncio.create_task(wait(look_up, name, patience=9 * HOUR)) for name in names]
        await asyncio.sleep(3 * HOUR - 1.0)
        await leave(*tasks)

    run(main)
    by_hour = [sum(HOUR * hour <= at < HOUR * (hour + 1) for at in service.times()) for hour in range(3)]
    assert all(20 <= count <= 30 for count in by_hour)


def test_waits_are_longer_where_the_quota_is_short_but_for_the_users_own(service: Service, run: Any) -> None:
    def count(interval: float | None, limit: int) -> int:
        service.requests.clear()
        service.headers = headers(limit, HOUR)
        names = [f"g{number}" for number in range(8)]
        service.ends = dict.fromkeys(names, 9 * HOUR)
        look_up = Connections(connection("seedance2api"))

        async def main() -> None:
            tasks = [
                asyncio.create_task(
                    wait(look_up, name, interval=interval, patience=9 * HOUR, submitted_at=time.time())
                )
                for name in names
            ]
            await asyncio.sleep(120.0)
            await leave(*tasks)

        run(main)
        return len(service.requests)

    plenty, short = count(None, 1000), count(None, 40)
    assert short < plenty / 2
    assert count(60.0, 40) == count(60.0, 1000)


def test_a_stretched_wait_ends_at_the_deadline(service: Service, run: Any) -> None:
    service.headers = headers(20, HOUR)
    service.ends = dict.fromkeys("abc", 9 * HOUR)
    look_up = Connections(connection("seedance2api"))

    async def main() -> list[float]:
        async def ended(name: str) -> float:
            assert (await wait(look_up, name, interval=None, patience=200.0)).kind == "deadline"
            return passed()

        return await wait_for_all(*(ended(name) for name in "abc"))

    assert run(main) == [200.0] * 3
    assert len(service.requests) < 15


# ---------------------------------------------------------------------- submissions


def test_a_submission_waits_for_its_moment(service: Service, run: Any) -> None:
    async def main() -> float:
        await wait_for_submission(EPOCH + 50.0, CONN, Connections(connection()))
        return passed()

    assert run(main) == 50.0
    assert service.requests == []


def test_submissions_have_what_is_left_and_the_rest_waits_for_the_window(service: Service, run: Any) -> None:
    look_up = Connections(connection("seedance2api"))
    done: list[tuple[float, int]] = []

    async def submit(number: int) -> None:
        await wait_for_submission(EPOCH + 10.0 + number / 100, CONN, look_up)
        done.append((passed(), number))

    async def main() -> None:
        tasks = [asyncio.create_task(submit(number)) for number in range(5)]
        await asyncio.sleep(5.0)
        (hub,) = module._hubs.values()
        told = RateLimit(limit=4, remaining=3, reset_at=datetime.fromtimestamp(EPOCH + 600.0, UTC))
        hub.answered(told, refused=False)
        await asyncio.gather(*tasks)

    run(main)
    assert [number for _, number in done] == [0, 1, 2, 3, 4]
    assert [at < 12.0 for at, _ in done] == [True, True, True, False, False]
    assert done[3][0] == pytest.approx(600.0 + POLICY.reset_margin, abs=0.1)


def test_unusable_connection_does_not_delay_a_submission(
    service: Service, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def look_up(conn_id: str) -> Settings:
        raise errors.SeedanceConfigurationError("no API key")

    async def wait_until(conn_id: str | None, look_up: Any, not_before: float) -> float:
        await wait_for_submission(EPOCH + not_before, conn_id, look_up)
        return passed()

    assert run(lambda: wait_until(None, look_up, 30.0)) == 30.0
    assert caplog.messages == []
    assert run(lambda: wait_until(CONN, look_up, 30.0)) == 30.0
    assert caplog.messages[-1] == f"The quota of connection {CONN!r} could not be waited for: no API key"
    caplog.clear()
    assert run(lambda: wait_until(CONN, Connections(connection()), 30.0)) == 30.0
    assert run(lambda: wait_until(None, look_up, -30.0)) == 0.0
    assert caplog.messages == []


# ---------------------------------------------------------------------- the note of other processes


def note(look_up: Connections) -> SharedQuota:
    (known,) = look_up.known.values()
    return SharedQuota(known.identity)


def test_what_another_process_was_told_is_heard(service: Service, run: Any) -> None:
    """A worker on this machine was told that nothing is left."""
    look_up = Connections(connection("seedance2api"))
    service.ends["g"] = 0.0

    async def main() -> Any:
        task = asyncio.create_task(wait(look_up))
        await asyncio.sleep(5.0)
        reset = datetime.fromtimestamp(EPOCH + 300.0, UTC)
        note(look_up).learn(RateLimit(limit=10, remaining=0, reset_at=reset), time.time())
        return await task

    assert run(main).kind == "ended"
    assert min(service.times()) == pytest.approx(300.0 + POLICY.reset_margin, abs=0.1)


def test_what_this_process_is_told_others_hear(service: Service, run: Any) -> None:
    look_up = Connections(connection("seedance2api"))
    service.ends["g"] = 0.0
    service.headers = headers(10, HOUR)

    async def main() -> Any:
        await wait(look_up)
        return note(look_up).read(time.time())

    heard = run(main)
    assert (heard.limit, heard.remaining, heard.reset_at) == (10, 9, EPOCH + HOUR)


def test_a_refusal_is_not_noted(service: Service, run: Any) -> None:
    look_up = Connections(connection("seedance2api"))

    async def main() -> Any:
        task = asyncio.create_task(wait(look_up))
        await asyncio.sleep(1.0)
        (hub,) = module._hubs.values()
        reset = datetime.fromtimestamp(EPOCH + 300.0, UTC)
        hub.answered(RateLimit(limit=10, remaining=0, reset_at=reset, retry_after=5.0), refused=True)
        await leave(task)
        return note(look_up).read(time.time())

    assert run(main).limit is None


def test_others_stand_behind_submissions_that_wait_here(service: Service, run: Any) -> None:
    look_up = Connections(connection("seedance2api"))

    async def main() -> None:
        tasks = [asyncio.create_task(wait_for_submission(EPOCH + 10.0, CONN, look_up)) for _ in range(2)]
        await asyncio.sleep(1.0)
        (hub,) = module._hubs.values()
        reset = datetime.fromtimestamp(EPOCH + 300.0, UTC)
        hub.answered(RateLimit(limit=10, remaining=1, reset_at=reset), refused=False)
        assert note(look_up).reserve(time.time()) == 0
        for moment in (100.0, 200.0, 290.0):
            await asyncio.sleep(moment - passed())
            # Said again as long as they wait.
            assert note(look_up).reserve(time.time()) == POLICY.queue_lifetime
        await asyncio.gather(*tasks)
        await asyncio.sleep(320.0 - passed())
        assert note(look_up).reserve(time.time()) == 0

    run(main)


# ---------------------------------------------------------------------- what is learned and told


def test_progress_is_reported(service: Service, run: Any) -> None:
    readings: list[Any] = []
    service.ends["g"] = 35.0
    service.bodies = lambda generation_id, at: {"progress": int(at)} if at > 15.0 else {}
    look_up = Connections(connection("seedance2api"))
    assert run(lambda: wait(look_up, more={"report": readings.append})).kind == "ended"
    assert [reading.progress for reading in readings] == [None, 20, 30, 40]
    assert [reading.status.terminal for reading in readings] == [False, False, False, True]


def iso(at: float) -> str:
    return datetime.fromtimestamp(EPOCH + at, UTC).isoformat()


@pytest.mark.parametrize(("completed", "delay"), [(22.0, 8.0), (None, None), (31.0, 0.0)])
def test_the_end_of_a_render_is_counted(
    service: Service,
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    completed: float | None,
    delay: float | None,
) -> None:
    counted: list[dict[str, Any]] = []
    monkeypatch.setattr(module.metrics, "render_ended", lambda **told: counted.append(told))
    service.ends["g"] = 22.0
    if completed is not None:
        service.bodies = lambda generation_id, at: {"completed_at": iso(completed)} if at > 22.0 else {}
    run(lambda: wait(Connections(connection())))
    assert counted == [{"api": "runbase", "outcome": "succeeded", "polls": 3, "delay": delay}]


def test_a_render_that_goes_on_beyond_the_deadline_has_not_ended(
    service: Service, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[dict[str, Any]] = []
    monkeypatch.setattr(module.metrics, "render_ended", lambda **told: counted.append(told))
    service.ends["g"] = 9 * HOUR
    service.latency = 5.0
    assert run(lambda: wait(Connections(connection()), patience=12.0)).kind == "deadline"
    assert service.times() == [15.0]
    assert counted == []


def test_what_took_how_long_is_learned(service: Service, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module._durations, "observe", lambda *told: learned.append(told))
    service.ends = {"a": 25.0, "quick": 5.0, "nobody-knows": 5.0, "failed": 5.0, "bare": 5.0}
    service.bodies = lambda generation_id, at: {"status": "failed"} if generation_id == "failed" else {}
    result_defaults = {"model": "m", "duration": 5, "resolution": "720p", "credits": 9}
    known = connection()
    look_up = Connections(known)

    async def main() -> None:
        told: dict[str, Any] = {"submitted_at": EPOCH - 100.0, "submitted_at_known": True}
        await wait_for_all(
            wait(look_up, "a", result_defaults=result_defaults, **told),
            wait(look_up, "quick", result_defaults=result_defaults, **told),
            wait(look_up, "failed", result_defaults=result_defaults, **told),
            wait(look_up, "nobody-knows", result_defaults=result_defaults, submitted_at=EPOCH - 100.0),
            wait(look_up, "bare", interval=15.0, **told),
        )

    run(main)
    kind = (known.base_url, ("video", "m", 5, "720p"))
    bare = (known.base_url, ("video", None, None, None))
    # Not ended when it was read last, or when it was submitted; ended now.
    assert learned == [(kind, 0.0, 110.0), (bare, 0.0, 115.0), (kind, 120.0, 130.0)]


def test_what_was_learned_of_a_kind_is_gone_by(service: Service, run: Any, durations: DurationModels) -> None:
    known = connection()
    result_defaults = {"model": "m", "duration": 5, "resolution": "720p"}
    for _ in range(60):
        durations.observe((known.base_url, ("video", "m", 5, "720p")), 395.0, 405.0)

    def first(result_defaults: dict[str, Any]) -> list[float]:
        service.requests.clear()
        service.ends["g"] = 400.0
        submitted = {"submitted_at": EPOCH, "submitted_at_known": True}
        run(lambda: wait(Connections(known), interval=None, result_defaults=result_defaults, **submitted))
        return service.times()

    like, other = first(result_defaults), first({**result_defaults, "model": "another"})
    assert like[0] > 250.0
    assert len(like) < len(other)
    assert other[0] < 20.0


def test_what_others_took_is_known_from_the_next_reading_on(
    service: Service, run: Any, durations: DurationModels
) -> None:
    known = connection()
    service.ends["g"] = 400.0

    async def main() -> Any:
        submitted = {"submitted_at": EPOCH, "submitted_at_known": True}
        task = asyncio.create_task(wait(Connections(known), interval=None, **submitted))
        await asyncio.sleep(5.0)
        for _ in range(60):
            durations.observe((known.base_url, ("video", None, None, None)), 395.0, 405.0)
        return await task

    assert run(main).kind == "ended"
    first, second, *_ = service.times()
    assert first < 15.0
    assert second > 250.0
