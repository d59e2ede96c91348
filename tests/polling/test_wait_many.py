"""The wait for many generations in simulated time: when enough have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.polling import wait_many as module
from airflow_provider_seedance.polling.wait_many import WaitResult, wait_for_many
from airflow_provider_seedance.polling.wait_state import WaitState, WaitStep
from polling.simulated import CONN, EPOCH, passed, simulate

LATER = EPOCH + 7200.0


async def look_up(conn_id: str) -> Any:
    raise AssertionError("only the hub looks connections up")


class Hub:
    """
    Fake hub.

    :param ends: Seconds and kind of the end of each wait; a wait that is not named never ends.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **ends: tuple[float, str]) -> None:
        self.ends = ends
        #: Seconds until a submission is granted.
        self.grant: float | None = None
        self.waits: list[tuple[WaitState, str, Any, dict[str, Any]]] = []
        self.submissions: list[tuple[float, str | None, Any]] = []
        self.left: list[str] = []
        monkeypatch.setattr(module, "wait_for_generation", self.wait)
        monkeypatch.setattr(module, "wait_for_submission", self.wait_for_submission)

    async def wait(self, state: WaitState, conn_id: str, look_up: Any, **more: Any) -> WaitStep:
        self.waits.append((state, conn_id, look_up, more))
        generation_id = state.generation_id
        try:
            at, kind = self.ends.get(generation_id, (1e9, "ended"))
            await asyncio.sleep(at - passed())
        except asyncio.CancelledError:
            self.left.append(generation_id)
            raise
        return step(state, kind)

    async def wait_for_submission(self, not_before: float, conn_id: str | None, look_up: Any) -> None:
        self.submissions.append((not_before, conn_id, look_up))
        await asyncio.sleep(1e9 if self.grant is None else self.grant)


def step(state: WaitState, kind: Any) -> WaitStep:
    if kind != "ended":
        return WaitStep(kind, state)
    last = Generation(
        generation_id=state.generation_id, api="ark", media="video", status=GenerationStatus.SUCCEEDED
    )
    return WaitStep("ended", replace(state, last=last))


@pytest.fixture
def collect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[WaitResult, float]]:

    def run(*ids: str, known: dict[str, Any] | None = None, **options: Any) -> tuple[WaitResult, float]:
        pending = [
            WaitState(generation_id=generation_id, media="video", deadline=LATER, **(known or {}))
            for generation_id in ids
        ]
        options = {"min_ended": 1, "max_linger": 30.0, "max_quota_wait": 50.0, **options}

        async def main() -> tuple[WaitResult, float]:
            ends = await wait_for_many([(CONN, state) for state in pending], look_up, **options)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return ends, passed()

        found: tuple[WaitResult, float] = simulate(monkeypatch, main())
        return found

    return run


def ids(ends: WaitResult) -> list[str]:
    return [generation.generation_id for _, generation in ends.ended]


@pytest.mark.parametrize(
    ("min_ended", "max_linger", "expected", "at"),
    [
        # Enough have ended, or some time has passed since the first.
        (1, 30.0, ["a"], 10.0),
        (2, 30.0, ["a", "b"], 25.0),
        (3, 30.0, ["a", "b"], 40.0),
        (3, 5.0, ["a"], 15.0),
        (3, 300.0, ["a", "b", "c"], 100.0),
        # More than there are is all of them.
        (9, 300.0, ["a", "b", "c"], 100.0),
    ],
)
def test_a_wait_ends_when_enough_have_ended(
    monkeypatch: pytest.MonkeyPatch,
    collect: Any,
    min_ended: int,
    max_linger: float,
    expected: list[str],
    at: float,
) -> None:
    hub = Hub(monkeypatch, a=(10.0, "ended"), b=(25.0, "ended"), c=(100.0, "ended"))
    ends, moment = collect("a", "b", "c", min_ended=min_ended, max_linger=max_linger)
    assert (ids(ends), moment) == (expected, at)
    assert len(ends) == len(expected)
    assert (ends.submission_granted, hub.submissions) == (False, [])
    # The other waits have ended, too.
    assert sorted(hub.left) == sorted({"a", "b", "c"} - set(expected))


def test_every_kind_of_end_counts(monkeypatch: pytest.MonkeyPatch, collect: Any) -> None:
    Hub(monkeypatch, a=(1.0, "unknown"), b=(2.0, "deadline"), c=(3.0, "ended"))
    ends, moment = collect("a", "b", "c", min_ended=3)
    assert (ids(ends), ends.unknown, ends.overdue) == (["c"], [(CONN, "a")], [(CONN, "b")])
    assert (len(ends), moment) == (3, 3.0)


def test_generations_that_have_ended_by_the_earliest_time_are_returned_together(
    monkeypatch: pytest.MonkeyPatch, collect: Any
) -> None:
    Hub(monkeypatch, a=(1.0, "ended"), b=(4.0, "ended"), c=(6.0, "ended"))
    ends, moment = collect("a", "b", "c", min_ended=1, min_seconds=5.0)
    assert (ids(ends), moment) == (["a", "b"], 5.0)
    ends, moment = collect("a", "b", "c", min_ended=3, min_seconds=5.0)
    assert (ids(ends), moment) == (["a", "b", "c"], 6.0)


def test_a_granted_submission_ends_the_wait(monkeypatch: pytest.MonkeyPatch, collect: Any) -> None:
    hub = Hub(monkeypatch, a=(10.0, "ended"), b=(50.0, "ended"))
    hub.grant = 20.0
    wanted = {"submit_conn_id": "other", "submit_not_before": EPOCH + 12.0}
    ends, moment = collect("a", "b", min_ended=2, max_linger=1000.0, **wanted)
    assert (ends.submission_granted, ids(ends), moment) == (True, ["a"], 20.0)
    assert hub.submissions == [(EPOCH + 12.0, "other", look_up)]
    # With nothing in flight, it is all there is to wait for.
    ends, moment = collect(submit_not_before=EPOCH)
    assert (ends.submission_granted, len(ends), moment) == (True, 0, 20.0)


def test_every_generation_is_waited_for_as_a_single_one(
    monkeypatch: pytest.MonkeyPatch, collect: Any
) -> None:
    hub = Hub(monkeypatch, a=(10.0, "ended"))
    known = {"submitted_at": EPOCH - 50.0, "estimated_wait": 90.0, "result_defaults": {"model": "m"}}
    collect("a", min_seconds=3.0, known=known)
    state = WaitState(generation_id="a", media="video", deadline=LATER, max_quota_wait=50.0, **known)
    assert hub.waits == [(state, CONN, look_up, {"not_before": 3.0})]


def test_the_number_of_ended_generations_is_reported_every_minute(
    monkeypatch: pytest.MonkeyPatch, collect: Any
) -> None:
    Hub(monkeypatch, a=(50.0, "ended"), b=(130.0, "ended"), c=(250.0, "ended"))
    reports: list[tuple[float, int, int]] = []

    def report(ended: int, total: int) -> None:
        reports.append((passed(), ended, total))

    ends, _ = collect("a", "b", "c", min_ended=3, max_linger=1000.0, report=report)
    assert len(ends) == 3
    assert reports == [(60.0, 1, 3), (120.0, 1, 3), (180.0, 2, 3), (240.0, 2, 3)]
    assert len(collect("a", "b", "c", min_ended=3, max_linger=1000.0)[0]) == 3
