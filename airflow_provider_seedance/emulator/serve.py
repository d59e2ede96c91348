"""An emulator for people: runs until it is interrupted and says what it is asked."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.emulator.models import APIS


def run(
    host: str = "127.0.0.1",
    port: int = 8123,
    speed: float = 60.0,
    key: str = "emulator-key",
    *,
    echo: Callable[[str], None],
    stop: threading.Event | None = None,
    **options: Any,
) -> None:
    """Serve until Ctrl-C, SIGTERM or ``stop``.

    :param echo: prints a line.
    :param stop: ends it from another thread.
    :param options: more of :class:`SeedanceEmulator`.
    :raises OSError: if the port is taken.
    """
    stopped = stop or threading.Event()
    with (
        _stopped_by_signals(stopped),
        SeedanceEmulator(host=host, port=port, speed=speed, key=key, log=echo, **options) as emulator,
    ):
        for line in describe(emulator):
            echo(line)
        # In slices: a wait without a timeout would not let signal handlers run on every platform.
        while not stopped.wait(0.5):
            continue
    echo("The emulator has stopped.")


def describe(emulator: SeedanceEmulator) -> Iterator[str]:
    """What to tell the user: addresses, and how to point Airflow at each."""
    yield f"Seedance emulator at {emulator.url}, renders {emulator.speed:g} times faster than real ones."
    yield "Point Airflow at one of its services with:"
    for api in APIS:
        yield ""
        yield f"# {api}: {emulator.base_url(api)}"
        yield f"export AIRFLOW_CONN_SEEDANCE_DEFAULT='{emulator.connection_json(api)}'"
    yield ""
    yield f"What was asked and billed: {emulator.url}/_emulator/ledger"


@contextmanager
def _stopped_by_signals(stopped: threading.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM stop the emulator; elsewhere than in the main thread they cannot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {
        number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
