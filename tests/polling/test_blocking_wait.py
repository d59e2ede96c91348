"""Blocking waits, and signals whose handlers raise at any moment of them."""

from __future__ import annotations

import asyncio
import contextvars
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from support import on_loop, task_timeout

from airflow_provider_seedance.polling.blocking_wait import run_blocking


def spin(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


async def busy(ended: list[str]) -> None:
    """Wait in callbacks and in tasks that hardly ever leave the processor."""

    async def spin_in_a_task() -> None:
        spin(0.001)

    try:
        while True:
            asyncio.get_running_loop().call_soon(spin, 0.002)
            await asyncio.gather(spin_in_a_task(), asyncio.sleep(0), return_exceptions=True)
    finally:
        ended.append("cancelled")


def test_a_result_and_an_error_are_passed_on() -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("of the caller")

    async def result() -> str:
        return f"{variable.get()}, {threading.current_thread() is threading.main_thread()}"

    async def error() -> None:
        raise ValueError("no")

    assert run_blocking(result) == "of the caller, False"
    with pytest.raises(ValueError, match="no") as caught:
        run_blocking(error)
    assert caught.value.__context__ is None


def test_a_caller_may_run_an_event_loop() -> None:
    async def caller() -> str:
        return run_blocking(lambda: asyncio.sleep(0, "done"))

    assert on_loop(caller()) == "done"


# The exception is lost if the signal arrives in the callback of a weak reference; then the next signal ends the wait.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_signal_is_lost() -> None:
    moments = random.Random(1)
    for _ in range(20):
        ended: list[str] = []
        with pytest.raises(AirflowTaskTimeout) as caught, task_timeout(moments.uniform(0.0002, 0.02)):
            run_blocking(lambda ended=ended: busy(ended))  # type: ignore[misc]
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        assert ended in (["cancelled"], [])  # it may not have begun


def test_a_signal_while_the_thread_starts_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        started.append(thread)
        raise AirflowTaskTimeout("the time is over")

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(AirflowTaskTimeout):
        run_blocking(lambda: asyncio.sleep(60))
    started[0].join(10)
    assert not started[0].is_alive()


class InterruptedLock:
    """A lock during whose acquisition a signal arrives, so that its handler raises before the with block begins."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.signals = 1

    def __enter__(self) -> None:
        self._lock.acquire()
        if self.signals:
            self.signals -= 1
            signal.raise_signal(signal.SIGALRM)

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_a_signal_in_the_start_of_the_thread_leaves_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = InterruptedLock(threading.RLock())
    monkeypatch.setattr(threading, "_active_limbo_lock", lock)
    with pytest.raises(AirflowTaskTimeout), task_timeout(60):
        run_blocking(lambda: asyncio.sleep(60))
    assert lock.signals == 0
    ran = threading.Event()
    threading.Thread(target=ran.set, daemon=True).start()
    assert ran.wait(10)


def test_a_thread_that_does_not_start_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    calls: list[Callable[[], Any]] = []
    with pytest.raises(RuntimeError, match="new thread"):
        run_blocking(lambda: calls.append(lambda: None) or asyncio.sleep(0))  # type: ignore[func-returns-value]
    assert calls == []
