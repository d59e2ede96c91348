"""Waiting for many: when there is enough to tell, in simulated time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.polling import wait_many as module
from airflow_provider_seedance.polling.schedule import Knowledge
from airflow_provider_seedance.polling.wait_many import (
    PendingGeneration,
    ResumeWhen,
    WaitResult,
    wait_for_many,
)
from airflow_provider_seedance.polling.wait_state import WaitState, WaitStep
from polling.simulated import EPOCH, passed, simulate

CONN = "seedance_default"
LATER = EPOCH + 7200.0


async def look_up(conn_id: str) -> Any:
    raise AssertionError("only the hub looks connections up")


class Hub:
    """
    Stands in for the hub.

    :param ends: Seconds and kind of the end of each wait; a wait that is not named never ends.
    :param turn: Seconds until a submission has its turn.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **ends: tuple[float, str]) -> None:
        self.ends = ends
        self.turn: float | None = None
        self.waits: list[tuple[WaitState, str, Any, dict[str, Any]]] = []
        self.turns: list[tuple[float, str | None, Any]] = []
        self.broken = 0
        self.left: list[str] = []
        monkeypatch.setattr(module, "wait_for_generation", self.wait)
        monkeypatch.setattr(module, "wait_for_turn", self.wait_for_turn)

    async def wait(self, waiting: WaitState, conn_id: str, look_up: Any, **more: Any) -> WaitStep:
        self.waits.append((waiting, conn_id, look_up, more))
        generation_id = waiting.generation_id
        if self.broken:
            self.broken -= 1
            raise ConnectionError("the connection cannot be looked up")
        try:
            at, kind = self.ends.get(generation_id, (1e9, "ended"))
            await asyncio.sleep(at - passed())
        except asyncio.CancelledError:
            self.left.append(generation_id)
            raise
        return step(waiting, kind)

    async def wait_for_turn(self, moment: float, conn_id: str | None, look_up: Any, *, complain: Any) -> None:
        self.turns.append((moment, conn_id, look_up))
        complain("%s", "is a log line")
        await asyncio.sleep(1e9 if self.turn is None else self.turn)


def step(waiting: WaitState, kind: Any) -> WaitStep:
    if kind != "ended":
        return WaitStep(kind, waiting)
    last = Generation(
        generation_id=waiting.generation_id, api="ark", media="video", status=GenerationStatus.SUCCEEDED
    )
    return WaitStep(
        "ended",
        WaitState(
            generation_id=waiting.generation_id, media="video", deadline=0.0, known=waiting.known, last=last
        ),
    )


@pytest.fixture
def collect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[WaitResult, float]]:
    """Wait, and return what came of it and when."""

    def run(
        *ids: str,
        enough: int = 1,
        linger: float = 30.0,
        moment: float | None = None,
        not_before: float = 0.0,
        report: Callable[[int, int], None] | None = None,
        **more: Any,
    ) -> tuple[WaitResult, float]:
        patience = ResumeWhen(enough=enough, linger=linger, moment=moment, not_before=not_before)
        awaited = [
            PendingGeneration(generation_id=generation_id, deadline=LATER, **more) for generation_id in ids
        ]

        async def main() -> tuple[WaitResult, float]:
            ends = await wait_for_many(awaited, patience, CONN, look_up, poll_interval=7.0, report=report)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return ends, passed()

        found: tuple[WaitResult, float] = simulate(monkeypatch, main)
        return found

    return run


def ids(ends: WaitResult) -> list[str]:
    return [generation.generation_id for generation in ends.ended]


@pytest.mark.parametrize(
    ("enough", "linger", "expected", "at"),
    [
        # Enough have ended, or some time has passed since the first; whatever comes first.
        (1, 30.0, ["a"], 10.0),
        (2, 30.0, ["a", "b"], 25.0),
        (3, 30.0, ["a", "b"], 40.0),
        (3, 5.0, ["a"], 15.0),
        (3, 300.0, ["a", "b", "c"], 100.0),
        # More than there are is all of them.
        (9, 300.0, ["a", "b", "c"], 100.0),
    ],
)
def test_enough_have_ended(
    monkeypatch: pytest.MonkeyPatch, collect: Any, enough: int, linger: float, expected: list[str], at: float
) -> None:
    hub = Hub(monkeypatch, a=(10.0, "ended"), b=(25.0, "ended"), c=(100.0, "ended"))
    ends, moment = collect("a", "b", "c", enough=enough, linger=linger)
    assert (ids(ends), moment) == (expected, at)
    assert len(ends) == len(expected)
    assert not ends.turn
    # Nobody waits on.
    assert sorted(hub.left) == sorted({"a", "b", "c"} - set(expected))


def test_each_kind_of_end_counts(monkeypatch: pytest.MonkeyPatch, collect: Any) -> None:
    Hub(monkeypatch, a=(1.0, "unknown"), b=(2.0, "deadline"), c=(3.0, "ended"))
    ends, moment = collect("a", "b", "c", enough=3)
    assert (ids(ends), ends.unknown, ends.overdue, len(ends), moment) == (["c"], ["a"], ["b"], 3, 3.0)


def test_what_has_ended_by_the_first_moment_is_told_together(
    monkeypatch: pytest.MonkeyPatch, collect: Any
) -> None:
    Hub(monkeypatch, a=(1.0, "ended"), b=(4.0, "ended"), c=(6.0, "ended"))
    ends, moment = collect("a", "b", "c", enough=1, not_before=5.0)
    assert (ids(ends), moment) == (["a", "b"], 5.0)
    ends, moment = collect("a", "b", "c", enough=3, not_before=5.0)
    assert (ids(ends), moment) == (["a", "b", "c"], 6.0)


def test_a_submission_that_has_its_turn_is_enough(monkeypatch: pytest.MonkeyPatch, collect: Any) -> None:
    hub = Hub(monkeypatch, a=(10.0, "ended"), b=(50.0, "ended"))
    hub.turn = 20.0
    ends, moment = collect("a", "b", enough=2, linger=1000.0, moment=EPOCH + 12.0)
    assert (ends.turn, ids(ends), moment) == (True, ["a"], 20.0)
    assert hub.turns == [(EPOCH + 12.0, CONN, look_up)]
    # With nothing in flight, it is all there is to wait for.
    ends, moment = collect(moment=EPOCH)
    assert (ends.turn, len(ends), moment) == (True, 0, 20.0)


def test_a_submission_that_does_not_wait_has_no_turn(monkeypatch: pytest.MonkeyPatch, collect: Any) -> None:
    hub = Hub(monkeypatch, a=(10.0, "ended"))
    ends, _ = collect("a")
    assert not ends.turn
    assert hub.turns == []


@pytest.mark.parametrize("submitted_at", [None, EPOCH - 50.0])
def test_each_is_waited_for_as_a_single_one(
    monkeypatch: pytest.MonkeyPatch, collect: Any, submitted_at: float | None
) -> None:
    hub = Hub(monkeypatch, a=(10.0, "ended"))
    result_defaults = {"model": "m"}
    collect(
        "a", submitted_at=submitted_at, estimated_wait=90.0, result_defaults=result_defaults, not_before=3.0
    )
    waiting = WaitState(
        generation_id="a",
        media="video",
        deadline=LATER,
        known=Knowledge(poll_interval=7.0, estimated_wait=90.0),
        submitted_at=submitted_at,
        told=submitted_at is not None,
    )
    assert hub.waits == [(waiting, CONN, look_up, {"not_before": 3.0, "result_defaults": result_defaults})]


def test_how_many_have_ended_is_reported_every_minute(monkeypatch: pytest.MonkeyPatch, collect: Any) -> None:
    Hub(monkeypatch, a=(50.0, "ended"), b=(130.0, "ended"), c=(250.0, "ended"))
    told: list[tuple[float, int, int]] = []

    def report(ended: int, total: int) -> None:
        told.append((passed(), ended, total))

    ends, _ = collect("a", "b", "c", enough=3, linger=1000.0, report=report)
    assert len(ends) == 3
    assert told == [(60.0, 1, 3), (120.0, 1, 3), (180.0, 2, 3), (240.0, 2, 3)]
    assert len(collect("a", "b", "c", enough=3, linger=1000.0)[0]) == 3  # nobody has to listen


def test_a_wait_that_broke_begins_again(
    monkeypatch: pytest.MonkeyPatch, collect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub(monkeypatch, a=(100.0, "ended"))
    hub.broken = 2
    with caplog.at_level(logging.WARNING, logger=module.__name__):
        ends, moment = collect("a")
    assert (ids(ends), moment, len(hub.waits)) == (["a"], 100.0, 3)
    assert (
        caplog.messages
        == ["The wait for generation a broke and begins again: the connection cannot be looked up"] * 2
    )


def test_a_wait_that_stays_broken_ends_with_its_deadline(
    monkeypatch: pytest.MonkeyPatch, collect: Any
) -> None:
    hub = Hub(monkeypatch)
    hub.broken = 10_000
    ends, moment = collect("a")
    assert (ends.overdue, ends.unknown, ids(ends)) == (["a"], [], [])
    # Not before, and as soon as it is begun again.
    assert 7200.0 <= moment <= 7200.0 + module.MENDING
    assert len(hub.waits) == 7200 / module.MENDING + 1
