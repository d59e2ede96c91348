"""``airflow seedance emulator``: an emulator that runs until it is interrupted and prints its requests."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from airflow_provider_seedance.cli.interrupts import interruptible
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.emulator.interface import APIS

_print = partial(print, flush=True)


def emulator(args: argparse.Namespace) -> int:
    """Serve the emulator until Ctrl-C or SIGTERM; return the exit code."""
    try:
        given = {name: getattr(args, name) for name in ("host", "port", "speed", "key", "strict")}
        running = SeedanceEmulator(**given, log=_print)
        serve(running, echo=_print)
    except ImportError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"The emulator cannot listen on {args.host}:{args.port}: {error}", file=sys.stderr)
        return 1
    return 0


def serve(
    emulator: SeedanceEmulator, *, echo: Callable[[str], None], stop: threading.Event | None = None
) -> None:
    """
    Serve until Ctrl-C, SIGTERM or ``stop``.

    :param echo: Prints a line.
    :param stop: Ends it from another thread.
    :raises OSError: The port is in use.
    """
    with suppress(KeyboardInterrupt), interruptible(), emulator:
        for line in _describe(emulator):
            echo(line)
        (stop or threading.Event()).wait()
    echo("The emulator has stopped.")


def _describe(emulator: SeedanceEmulator) -> Iterator[str]:
    """Yield the addresses, and the connection to each service."""
    yield f"Seedance emulator at {emulator.url}, renders {emulator.speed:g} times faster than real ones."
    yield "Point Airflow at one of its services with:"
    for api in APIS:
        yield ""
        yield f"# {api}: {emulator.base_url(api)}"
        yield f"export AIRFLOW_CONN_SEEDANCE_DEFAULT='{emulator.connection_json(api)}'"
    yield ""
    yield f"Requests and bills: {emulator.url}/_emulator/ledger"
