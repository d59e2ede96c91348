"""The hub in simulated time: the durations that it observes, and what it reports of a wait."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_seedance.polling import hub as module
from airflow_provider_seedance.polling.duration_model import DurationModels, kind_of, prior_model
from polling.simulated import (
    EPOCH,
    HOUR,
    Connections,
    Service,
    connection,
    leave,
    passed,
    wait,
    wait_for_a_while,
    wait_for_all,
    wait_for_each,
)

KNOWN = connection()
DEFAULTS = {"model": "m", "duration": 5, "resolution": "720p"}
KIND = (KNOWN.base_url, kind_of("video", DEFAULTS))
BARE_KIND = (KNOWN.base_url, kind_of("video", {}))
SUBMITTED = {"submitted_at": EPOCH, "submitted_at_known": True}


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    ended: list[dict[str, Any]] = []
    monkeypatch.setattr(module.metrics, "render_ended", lambda **labels: ended.append(labels))
    return ended


def test_progress_is_reported(service: Service, run: Any) -> None:
    readings: list[Any] = []
    service.ends["g"] = 35.0
    service.bodies = lambda generation_id, at: {"progress": int(at)} if at > 15.0 else {}
    look_up = Connections(connection("seedance2api"))
    assert run(wait(look_up, report=readings.append)).kind == "ended"
    assert [reading.progress for reading in readings] == [None, 20, 30, 40]
    assert [reading.status.terminal for reading in readings] == [False, False, False, True]


@pytest.mark.parametrize(("completed", "delay"), [(22.0, 8.0), (None, None), (31.0, 0.0)])
def test_the_end_of_a_generation_is_counted(
    service: Service, run: Any, ended: list[Any], completed: float | None, delay: float | None
) -> None:
    service.ends["g"] = 22.0
    if completed is not None:
        completed_at = datetime.fromtimestamp(EPOCH + completed, UTC).isoformat()
        service.bodies = lambda generation_id, at: {"completed_at": completed_at} if at > 22.0 else {}
    run(wait())
    assert ended == [{"api": "runbase", "outcome": "succeeded", "polls": 3, "delay": delay}]


def test_a_deadline_during_a_poll_is_no_end_of_the_generation(
    service: Service, run: Any, ended: list[Any]
) -> None:
    service.ends["g"] = 9 * HOUR
    service.latency = 5.0
    assert run(wait(timeout=12.0)).kind == "deadline"
    assert service.times() == [15.0]
    assert ended == []


def test_the_duration_of_a_successful_generation_is_observed(
    service: Service, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module._durations, "observe", lambda *values: observed.append(values))
    service.ends = {"a": 25.0, "quick": 5.0, "unknown-submission": 5.0, "failed": 5.0, "bare": 5.0}
    service.bodies = lambda generation_id, at: {"status": "failed"} if generation_id == "failed" else {}
    look_up = Connections(KNOWN)
    defaults = {"result_defaults": {**DEFAULTS, "credits": 9}}

    async def main() -> None:
        submitted: dict[str, Any] = {"submitted_at": EPOCH - 100.0, "submitted_at_known": True}
        await wait_for_all(
            wait(look_up, "a", **defaults, **submitted),
            wait(look_up, "quick", **defaults, **submitted),
            wait(look_up, "failed", **defaults, **submitted),
            wait(look_up, "unknown-submission", **defaults, submitted_at=EPOCH - 100.0),
            wait(look_up, "bare", interval=15.0, **submitted),
        )

    run(main())
    # Between the reading before, or the submission, and the last reading.
    assert observed == [(KIND, 0.0, 110.0), (BARE_KIND, 0.0, 115.0), (KIND, 120.0, 130.0)]


def test_durations_that_are_observed_during_a_wait_plan_its_next_poll(
    service: Service, run: Any, durations: DurationModels
) -> None:
    service.ends["g"] = 400.0

    async def main() -> Any:
        task = asyncio.create_task(wait(interval=None, **SUBMITTED))
        await asyncio.sleep(5.0)
        for _ in range(60):
            durations.observe(BARE_KIND, 395.0, 405.0)
        return await task

    assert run(main()).kind == "ended"
    first, second, *_ = service.times()
    assert first < 15.0
    assert second > 250.0


def test_a_restarted_triggerer_polls_as_if_it_had_learned(
    service: Service, run: Any, durations: DurationModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.5)
    service.ends["g"] = 400.0
    read = tuple(380.0 + number for number in range(30))
    known = {"interval": None, "result_defaults": DEFAULTS, **SUBMITTED}
    run(wait(durations=read, **known))
    restarted = service.times()
    service.requests.clear()
    monkeypatch.setattr(module, "_durations", learned := DurationModels())
    for seconds in read:
        learned.observe(KIND, seconds * 0.97, seconds)
    run(wait(**known))
    assert service.times() == restarted
    assert restarted[0] > 250.0


# ---------------------------------------------------------------------- queue of the service


def one_at_a_time(service: Service, count: int, seconds: float, word: str = "queued") -> list[str]:
    """Let the service render one generation after the other; those that wait have this status."""
    begins = {f"g{number}": number * seconds for number in range(count)}
    service.ends |= {name: begin + seconds for name, begin in begins.items()}
    service.bodies = lambda name, at: {"status": word} if at < begins.get(name, 0.0) else {}
    return list(begins)


async def wait_for_queue(ids: list[str], **options: Any) -> list[Any]:
    return await wait_for_each(Connections(), ids, interval=None, timeout=24 * HOUR, **SUBMITTED, **options)


async def delay_of_another(service: Service, seconds: float) -> float:
    """Return how late the end of a generation is noticed that does not queue."""
    service.ends["other"] = passed() + seconds
    submitted = {"submitted_at": time.time(), "submitted_at_known": True}
    await wait(generation_id="other", interval=None, **submitted)
    return passed() - service.ends["other"]


def test_durations_of_the_ledger_contain_the_queue(service: Service, run: Any) -> None:
    service.ends["g"] = 1500.0
    service.bodies = lambda name, at: {"status": "queued"} if at < 1440.0 else {}
    read = tuple(60.0 * number for number in range(1, 31))
    run(wait(durations=read, interval=None, **SUBMITTED))
    assert service.times()[-1] - 1500.0 <= 20.0  # it was 259 s


@pytest.mark.parametrize("starts_again", [False, True])
def test_time_in_the_queue_is_not_learned_as_time_of_the_render(
    service: Service, run: Any, starts_again: bool
) -> None:
    """A batch waits anew after each of its submissions."""
    ids = one_at_a_time(service, 15, 60.0)

    async def main() -> float:
        while ids:
            waits = [asyncio.create_task(wait_for_queue([name])) for name in ids]
            await asyncio.wait(waits, timeout=70.0 if starts_again else None)
            await leave(*(one for one in waits if not one.done()))
            ids[:] = [name for name, one in zip(ids, waits, strict=True) if one.cancelled()]
        return await delay_of_another(service, 60.0)

    assert run(main()) <= 20.0  # it was 65 to 235 s


@pytest.mark.parametrize("starts_again", [False, True])
def test_a_service_that_calls_every_generation_queued_teaches_nothing(
    service: Service, run: Any, durations: DurationModels, starts_again: bool
) -> None:
    service.bodies = lambda name, at: {"status": "queued"} if at < service.ends[name] else {}
    (name,) = service.add(1, ends=100.0)

    async def main() -> None:
        if starts_again:
            await wait_for_a_while(95.0, wait(generation_id=name, interval=None, **SUBMITTED))
            await asyncio.sleep(10.0)
        assert (await wait(generation_id=name, interval=None, **SUBMITTED)).kind == "ended"

    run(main())
    assert durations.of(BARE_KIND) is prior_model()


@pytest.mark.parametrize(("more", "most"), [({}, 500), ({"expects_callback": True}, 40)])
def test_a_queue_of_half_a_day_takes_few_polls(
    service: Service, run: Any, more: dict[str, Any], most: int
) -> None:
    """Offline inference takes up to two days."""
    service.ends["g"] = 12 * HOUR
    service.bodies = lambda name, at: {"status": "queued"} if at < service.ends["g"] - 60.0 else {}
    assert run(wait(interval=None, timeout=20 * HOUR, **SUBMITTED, **more)).kind == "ended"
    assert len(service.requests) <= most  # they were 3600, and 180 with a callback
    if not more:
        assert service.times()[-1] - service.ends["g"] <= 0.011 * service.ends["g"]


def test_the_queue_is_forgotten_when_the_render_has_ended(service: Service, run: Any) -> None:
    run(wait_for_queue(one_at_a_time(service, 3, 60.0)))
    assert module._queued_at == {}


def test_the_renders_that_were_polled_last_are_remembered(
    service: Service, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 2)
    service.bodies = lambda name, at: {"status": "queued"}

    async def main() -> None:
        await wait_for_a_while(95.0, wait(generation_id="a"), wait(generation_id="b"))
        await wait_for_a_while(15.0, wait(generation_id="a"), wait(generation_id="c"))

    service.ends = dict.fromkeys("abc", 9 * HOUR)
    run(main())
    assert set(module._queued_at) == {"a", "c"}
