"""A wait for a generation with its progress on standard error."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import datetime

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from airflow_provider_seedance.cli.connection import airflows_database
from airflow_provider_seedance.exceptions import SeedanceError
from airflow_provider_seedance.generations import Generation, utc_now
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.ledger import account
from airflow_provider_seedance.ledger.configuration import read_config
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.polling.duration_model import kind_of
from airflow_provider_seedance.polling.expected_end import ExpectedEnd


def say_to_stderr(*, quiet: bool) -> Callable[[str], None]:
    """Return a function that prints a line to standard error, or none if the command is to be quiet."""

    def say(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr, flush=True)

    return say


def wait_with_progress(hook: SeedanceHook, generation: Generation, args: argparse.Namespace) -> Generation:
    """
    Wait until a generation has ended; print its status, and when its end is expected if that is known.

    :raises SeedanceError: its end could not be read, or the timeout has passed.
    """
    now = utc_now()
    since = min(generation.created_at or now, now)
    durations = _durations(hook.settings.base_url, generation)
    end = ExpectedEnd(durations, generation.estimated_wait)
    expected = end.at(since, now, generation.progress)
    if expected:
        say_to_stderr(quiet=args.quiet)(f"{generation.generation_id}: expected to end {_clock(expected)}.")
    end_column = TextColumn("{task.fields[end]}")
    columns = (TextColumn("{task.description:<10}"), BarColumn(), TimeElapsedColumn(), end_column)
    bar = Progress(*columns, console=Console(stderr=True), disable=args.quiet)
    with bar:
        task = bar.add_task(generation.status.value, total=None, end=_clock(expected))

        def show(reading: Generation) -> None:
            percent = 100.0 if reading.status.terminal else reading.progress
            total = None if percent is None else 100.0
            shown = None if reading.status.terminal else end.at(since, utc_now(), reading.progress)
            bar.update(
                task,
                description=reading.status.value,
                completed=percent or 0.0,
                total=total,
                end=_clock(shown),
            )

        return hook.wait_for_end(
            generation.generation_id,
            args.timeout,
            media=generation.media,
            poll_interval=args.poll_interval,
            estimated_wait=generation.estimated_wait,
            result_defaults=generation.result(),
            durations=durations,
            report=show,
        )


def _durations(base_url: str, generation: Generation) -> list[float]:
    """Return the durations of such generations in the ledger, if there is one that can be read."""
    config = read_config()
    if config is None:
        return []
    try:
        with airflows_database():
            database, namespace = Database(config), config.namespace
            requested = account.kind_of_generation(database, namespace, generation.generation_id)
            kind = requested or kind_of(generation.media, generation.result())
            return account.known_durations(database, namespace, base_url, [kind]).get(kind, [])
    except SeedanceError:
        return []  # the render is paid for, and goes on without an estimate


def _clock(moment: datetime | None) -> str:
    """Return a time of the local clock."""
    return f"at about {moment.astimezone():%H:%M:%S}" if moment else ""
