"""Blocking waits, such as that of an operator without a trigger."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

#: Timeout of a cancelled wait, after which its thread is left to itself.
CANCEL_TIMEOUT_SECONDS = 5.0

#: Interval at which a signal is noticed that arrived just before its thread blocked, and so did not interrupt it.
SIGNAL_INTERVAL_SECONDS = 0.5


def run_blocking(make_wait: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """
    Run a wait on the event loop of another thread, and block until it has ended.

    An event loop only logs what a signal handler raises in one of its callbacks, such as the ``execution_timeout`` of a
    task, and waits on. Here the handler interrupts a thread without a loop, so the exception ends the wait.
    """
    outcome, cancels, cancelled = Future[T](), list[Callable[[], object]](), threading.Event()

    async def cancellable() -> T:
        task = asyncio.ensure_future(make_wait())
        cancels.append(partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel))
        if cancelled.is_set():  # before there was a task to cancel
            task.cancel()
        return await task

    def run() -> None:
        try:
            outcome.set_result(asyncio.run(cancellable()))
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    try:
        thread.start()
        while not outcome.done():
            wait((outcome,), SIGNAL_INTERVAL_SECONDS)
        return outcome.result()
    except BaseException:
        cancelled.set()
        with suppress(RuntimeError):  # the loop is closed, or the thread was never started
            for cancel in cancels:
                cancel()
            thread.join(CANCEL_TIMEOUT_SECONDS)
        raise
