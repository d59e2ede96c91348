"""A wait for a generation with its progress on standard error."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import datetime

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from airflow_provider_seedance.cli.estimated_end import EndEstimate
from airflow_provider_seedance.generations import Generation, utc_now
from airflow_provider_seedance.hooks.seedance import SeedanceHook


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
    estimate = EndEstimate(hook.settings, generation, min(generation.created_at or now, now))
    expected = estimate.at(generation, now)
    if expected:
        say_to_stderr(quiet=args.quiet)(f"{generation.generation_id}: expected to end {_clock(expected)}.")
    columns = (TextColumn("{task.description:<10}"), BarColumn(), TimeElapsedColumn())
    bar = Progress(
        *columns, TextColumn("{task.fields[end]}"), console=Console(stderr=True), disable=args.quiet
    )
    with bar:
        task = bar.add_task(generation.status.value, total=None, end=_clock(expected))

        def show(reading: Generation) -> None:
            percent = 100.0 if reading.status.terminal else reading.progress
            total = None if percent is None else 100.0
            end = "" if reading.status.terminal else _clock(estimate.at(reading, utc_now()))
            bar.update(task, description=reading.status.value, completed=percent or 0.0, total=total, end=end)

        return hook.wait_for_end(
            generation.generation_id,
            args.timeout,
            media=generation.media,
            poll_interval=args.poll_interval,
            estimated_wait=generation.estimated_wait,
            report=show,
        )


def _clock(moment: datetime | None) -> str:
    """Return a time of the local clock."""
    return f"at about {moment.astimezone():%H:%M:%S}" if moment else ""
