"""The hub in simulated time: the durations that it observes, and what it reports of a wait."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_seedance.polling import hub as module
from airflow_provider_seedance.polling.duration_model import DurationModels, kind_of, prior_model
from polling.simulated import EPOCH, HOUR, Connections, Service, connection, leave, passed, wait_for_a_while

BASE_URL = connection().base_url
DEFAULTS = {"model": "m", "duration": 5, "resolution": "720p"}
KIND = (BASE_URL, kind_of("video", DEFAULTS))
BARE_KIND = (BASE_URL, kind_of("video", {}))
#: A wait that is planned by the durations.
PLANNED = {"interval": None, "submitted_at": EPOCH, "submitted_at_known": True}


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    ended: list[dict[str, Any]] = []
    monkeypatch.setattr(module.metrics, "render_ended", lambda **labels: ended.append(labels))
    return ended


def test_progress_is_reported(service: Service) -> None:
    readings: list[Any] = []
    service.ends["g"] = 35.0
    service.bodies = lambda generation_id, at: {"progress": int(at)} if at > 15.0 else {}
    service.look_up = Connections(connection("seedance2api"))
    assert service.run(service.wait(report=readings.append)).kind == "ended"
    assert [reading.progress for reading in readings] == [None, 20, 30, 40]
    assert [reading.status.terminal for reading in readings] == [False, False, False, True]


@pytest.mark.parametrize(("completed", "delay"), [(22.0, 8.0), (None, None), (31.0, 0.0)])
def test_the_end_of_a_generation_is_counted(
    service: Service, ended: list[Any], completed: float | None, delay: float | None
) -> None:
    service.ends["g"] = 22.0
    if completed is not None:
        completed_at = datetime.fromtimestamp(EPOCH + completed, UTC).isoformat()
        service.bodies = lambda generation_id, at: {"completed_at": completed_at} if at > 22.0 else {}
    service.run(service.wait())
    assert ended == [{"api": "runbase", "outcome": "succeeded", "polls": 3, "delay": delay}]


def test_a_deadline_during_a_poll_is_no_end_of_the_generation(service: Service, ended: list[Any]) -> None:
    service.ends["g"] = 9 * HOUR
    service.latency = 5.0
    assert service.run(service.wait(timeout=12.0)).kind == "deadline"
    assert (service.times(), ended) == ([15.0], [])


def test_the_duration_of_a_successful_generation_is_observed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module._durations, "observe", lambda *values: observed.append(values))
    service.ends = {"a": 25.0, "quick": 5.0, "unknown-submission": 5.0, "failed": 5.0, "bare": 5.0}
    service.bodies = lambda generation_id, at: {"status": "failed"} if generation_id == "failed" else {}
    defaults = {"result_defaults": {**DEFAULTS, "credits": 9}}
    submitted: dict[str, Any] = {"submitted_at": EPOCH - 100.0, "submitted_at_known": True}
    service.run_all(
        *(service.wait(name, **defaults, **submitted) for name in ("a", "quick", "failed")),
        service.wait("unknown-submission", **defaults, submitted_at=EPOCH - 100.0),
        service.wait("bare", interval=15.0, **submitted),
    )
    # Between the reading before, or the submission, and the last reading.
    assert observed == [(KIND, 0.0, 110.0), (BARE_KIND, 0.0, 115.0), (KIND, 120.0, 130.0)]


def test_durations_that_are_observed_during_a_wait_plan_its_next_poll(
    service: Service, durations: DurationModels
) -> None:
    service.ends["g"] = 400.0

    def observe() -> None:
        for _ in range(60):
            durations.observe(BARE_KIND, 395.0, 405.0)

    assert service.run(service.wait(**PLANNED), at={5.0: observe}).kind == "ended"
    first, second, *_ = service.times()
    assert first < 15.0
    assert second > 250.0


def test_a_restarted_triggerer_polls_as_if_it_had_learned(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.5)
    service.ends["g"] = 400.0
    read = tuple(380.0 + number for number in range(30))
    service.run(service.wait(durations=read, result_defaults=DEFAULTS, **PLANNED))
    restarted = service.times()
    service.requests.clear()
    monkeypatch.setattr(module, "_durations", learned := DurationModels())
    for seconds in read:
        learned.observe(KIND, seconds * 0.97, seconds)
    service.run(service.wait(result_defaults=DEFAULTS, **PLANNED))
    assert service.times() == restarted
    assert restarted[0] > 250.0


# ---------------------------------------------------------------------- queue of the service


def queue_until(service: Service, moment: float) -> None:
    """Let the service call every generation queued until then."""
    service.bodies = lambda name, at: {"status": "queued"} if at < moment else {}


def one_at_a_time(service: Service, count: int) -> list[str]:
    """Let the service render one generation after the other, each for a minute; those that wait are queued."""
    begins = {f"g{number}": number * 60.0 for number in range(count)}
    service.ends |= {name: begin + 60.0 for name, begin in begins.items()}
    service.bodies = lambda name, at: {"status": "queued"} if at < begins.get(name, 0.0) else {}
    return list(begins)


def test_durations_of_the_ledger_contain_the_queue(service: Service) -> None:
    service.ends["g"] = 1500.0
    queue_until(service, 1440.0)
    service.run(service.wait(durations=tuple(60.0 * number for number in range(1, 31)), **PLANNED))
    assert service.times()[-1] - 1500.0 <= 20.0  # it was 259 s


@pytest.mark.parametrize("starts_again", [False, True])
def test_time_in_the_queue_is_not_learned_as_time_of_the_render(service: Service, starts_again: bool) -> None:
    """A batch waits anew after each of its submissions."""
    ids = one_at_a_time(service, 15)

    async def main() -> float:
        while ids:
            waits = [asyncio.create_task(service.wait(name, timeout=24 * HOUR, **PLANNED)) for name in ids]
            await asyncio.wait(waits, timeout=70.0 if starts_again else None)
            await leave(*(one for one in waits if not one.done()))
            ids[:] = [name for name, one in zip(ids, waits, strict=True) if one.cancelled()]
        # One that does not queue.
        service.ends["other"] = passed() + 60.0
        await service.wait("other", **{**PLANNED, "submitted_at": time.time()})
        return passed() - service.ends["other"]

    assert service.run(main()) <= 30.0  # it was 65 to 235 s


@pytest.mark.parametrize("starts_again", [False, True])
def test_a_service_that_calls_every_generation_queued_teaches_nothing(
    service: Service, durations: DurationModels, starts_again: bool
) -> None:
    service.ends["g"] = 100.0
    queue_until(service, 100.0)

    async def main() -> None:
        if starts_again:
            await wait_for_a_while(95.0, service.wait(**PLANNED))
            await asyncio.sleep(10.0)
        assert (await service.wait(**PLANNED)).kind == "ended"

    service.run(main())
    assert durations.of(BARE_KIND) is prior_model()


@pytest.mark.parametrize(("more", "most"), [({}, 500), ({"expects_callback": True}, 40)])
def test_a_queue_of_half_a_day_takes_few_polls(service: Service, more: dict[str, Any], most: int) -> None:
    """Offline inference takes up to two days."""
    service.ends["g"] = end = 12 * HOUR
    queue_until(service, end - 60.0)
    assert service.run(service.wait(timeout=20 * HOUR, **PLANNED, **more)).kind == "ended"
    assert len(service.requests) <= most  # they were 3600, and 180 with a callback
    if not more:
        assert service.times()[-1] - end <= 0.011 * end


def test_the_queue_is_forgotten_when_the_render_has_ended(service: Service) -> None:
    service.run_each(one_at_a_time(service, 3), **PLANNED)
    assert module._queued_at == {}


def test_the_renders_that_were_polled_last_are_remembered(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 2)
    service.ends = dict.fromkeys("abc", 9 * HOUR)
    queue_until(service, 9 * HOUR)

    async def main() -> None:
        await wait_for_a_while(95.0, service.wait("a"), service.wait("b"))
        await wait_for_a_while(15.0, service.wait("a"), service.wait("c"))

    service.run(main())
    assert set(module._queued_at) == {"a", "c"}
