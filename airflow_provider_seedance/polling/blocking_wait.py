"""Blocking waits, such as that of an operator without a trigger."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

#: Timeout of a cancelled wait, after which its thread is left to itself.
CANCEL_TIMEOUT_SECONDS = 5.0

#: Interval at which a signal is noticed that arrived just before its thread blocked, and so did not interrupt it.
SIGNAL_INTERVAL_SECONDS = 0.5

#: Signals whose handlers raise in a task or a command.
_RAISING = {signal.SIGALRM, signal.SIGINT, signal.SIGTERM}


@contextmanager
def held_signals() -> Iterator[None]:
    """
    Deliver signals only after the block.

    An exception of a signal handler within ``Thread.start`` can leave a lock of the interpreter acquired, after which
    no new thread of the process would run; within the callback of a weak reference it would be lost.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _RAISING)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_blocking(make_wait: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """
    Run a wait on the event loop of another thread, and block until it has ended.

    An event loop only logs what a signal handler raises in one of its callbacks, such as the ``execution_timeout`` of a
    task, and waits on. Here the handler interrupts a thread without a loop, so the exception ends the wait.
    """
    outcome, cancels, cancelled = Future[T](), list[Callable[[], object]](), threading.Event()
    # Not the future's own wait: an exception between the acquisition of its lock and the with block would leave it
    # acquired, and the other thread could not set the outcome.
    running = threading.Lock()
    running.acquire()

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
        finally:
            running.release()

    threads: list[threading.Thread] = []
    try:
        with held_signals():
            thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
            thread.start()
            threads.append(thread)
        while not running.acquire(timeout=SIGNAL_INTERVAL_SECONDS):
            pass
        return outcome.result()
    except BaseException:
        cancelled.set()
        for cancel in cancels:
            with suppress(RuntimeError):  # the loop is closed
                cancel()
        for thread in threads:
            thread.join(CANCEL_TIMEOUT_SECONDS)
        raise
