"""``airflow seedance status``, ``wait``, ``cancel`` and ``list``: generations by their ids."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.registry import SERVICES
from airflow_provider_seedance.cli.connection import airflows_database, open_hook
from airflow_provider_seedance.cli.interrupts import interruptible
from airflow_provider_seedance.cli.render_options import media_of
from airflow_provider_seedance.cli.result_stream import result_stream
from airflow_provider_seedance.cli.waiting import wait_with_progress
from airflow_provider_seedance.generations import (
    Generation,
    GenerationStatus,
    cost_text,
    counted,
    read_time,
    utc_now,
)
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.ledger.account import Filter, list_submissions
from airflow_provider_seedance.ledger.configuration import read_config
from airflow_provider_seedance.ledger.database import Database

_Row = Mapping[str, Any]

#: Columns of the ledger beside those of a generation.
_TASK = ("dag_id", "run_id", "task_id", "map_index", "key")


def status(args: argparse.Namespace) -> int:
    """Print generations as the service reports them; return the exit code."""
    return _for_each(args, lambda hook, id_: _row(hook.get_generation(id_, media_of(args))), _line)


def wait(args: argparse.Namespace) -> int:
    """Wait until generations have ended; return the exit code: 1 if one did not succeed."""

    def end_of(hook: SeedanceHook, generation_id: str) -> _Row:
        reading = hook.get_generation(generation_id, media_of(args))
        return _row(reading if reading.status.terminal else wait_with_progress(hook, reading, args))

    succeeded = GenerationStatus.SUCCEEDED.value
    return _for_each(args, end_of, _line, succeeded=lambda row: row["status"] == succeeded)


def cancel(args: argparse.Namespace) -> int:
    """Cancel generations; return the exit code: 1 if one goes on."""

    def cancelled(hook: SeedanceHook, generation_id: str) -> _Row:
        if not hook.settings.api.can_cancel:
            hook.get_generation(generation_id, media_of(args))  # an unknown id is not billed
        done = hook.cancel(generation_id, media_of(args))
        return {"generation_id": generation_id, "cancelled": done.cancelled, "reason": done.reason}

    return _for_each(args, cancelled, _reason, succeeded=lambda row: bool(row["cancelled"]))


def list_generations(args: argparse.Namespace) -> int:
    """Print the latest generations of the account, or of the connection in the ledger; return the exit code."""

    def rows(hook: SeedanceHook) -> Iterable[_Row]:
        if not hook.settings.api.can_list:
            return _from_ledger(hook, args.limit)
        with hook.get_conn() as client:
            found = client.run(hook.settings.api.list_flow(args.limit, utc_now()))
        if not found:
            print(f"{hook.settings.api.name} lists no generations of this account.", file=sys.stderr)
        return map(_row, found)

    return _run(args, rows, _line)


def _from_ledger(hook: SeedanceHook, limit: int) -> Iterable[_Row]:
    name, config = hook.settings.api.name, read_config()
    if config is None:
        raise errors.SeedanceConfigurationError(
            f"{name} does not list generations, and no ledger is configured that has those of this Airflow. Set "
            "[seedance] ledger (AIRFLOW__SEEDANCE__LEDGER), or look in the console of the service."
        )
    chosen = Filter(namespace=config.namespace, conn_id=hook.seedance_conn_id, accepted=True)
    with airflows_database():
        found = list_submissions(Database(config), chosen, limit)
    print(
        f"{name} does not list generations. The ledger has {counted(len(found), 'generation')} of connection "
        f"{hook.seedance_conn_id!r}; `status` with an id asks the service.",
        file=sys.stderr,
    )
    return map(_ledger_row, found)


def _ledger_row(row: _Row) -> _Row:
    generation = Generation(
        status=GenerationStatus(row["status"] or GenerationStatus.RUNNING),
        created_at=read_time(row["submitted_at"] or row["created_at"]),
        completed_at=read_time(row["ended_at"]),
        **{name: row[name] for name in ("generation_id", "api", "media", "model")},
        **{name: row[name] for name in ("duration", "resolution", "credits", "cost_usd")},
    )
    return {**_row(generation), **{name: row[name] for name in _TASK}}


def _for_each(
    args: argparse.Namespace,
    act: Callable[[SeedanceHook, str], _Row],
    text: Callable[[_Row], str],
    succeeded: Callable[[_Row], bool] = bool,
) -> int:
    failed = []

    def rows(hook: SeedanceHook) -> Iterable[_Row]:
        for generation_id in args.generation_ids:
            try:
                row = act(hook, generation_id)
            except errors.SeedanceError as error:
                failed.append(generation_id)
                print(error, file=sys.stderr)
                continue
            if not succeeded(row):
                failed.append(generation_id)
            yield row

    return _run(args, rows, text) or int(bool(failed))


def _run(
    args: argparse.Namespace, command: Callable[[SeedanceHook], Iterable[_Row]], text: Callable[[_Row], str]
) -> int:
    """Print the rows of a command, in JSON all at once; return the exit code."""
    logging.getLogger("airflow_provider_seedance").setLevel(logging.ERROR)
    try:
        with result_stream() as result, interruptible():
            rows = command(open_hook(args.conn_id))
            if args.output == "json":
                print(json.dumps(list(rows), indent=2), file=result)
            else:
                for row in rows:
                    print(text(row), file=result, flush=True)
    except KeyboardInterrupt:
        print("\nInterrupted. This cancels nothing: what runs goes on and is billed.", file=sys.stderr)
        return 130
    except errors.SeedanceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _row(generation: Generation) -> _Row:
    ended = {"error_message": generation.error_message, "error_code": generation.error_code}
    return {**generation.result(), "progress": generation.progress, **ended}


def _line(row: _Row) -> str:
    """Return a generation in lines for people: what is known of it, then its outputs."""
    progress = None if row["progress"] is None or row["completed_at"] else f"{row['progress']:g} %"
    times = [f"{at} {row[f'{at}_at']}" for at in ("created", "completed", "expires") if row[f"{at}_at"]]
    cost = cost_text(row["credits"], row["cost_usd"])
    task = f"task {row['dag_id']}.{row['task_id']}" if "task_id" in row else None
    known = [row["status"], progress, row["model"], cost, *times, task, row["error_message"]]
    return "\n  ".join([f"{row['generation_id']}: {', '.join(filter(None, known))}", *row["urls"]])


def _reason(row: _Row) -> str:
    reason: str = row["reason"]
    return f"{reason if reason.split()[0] in SERVICES else reason[:1].upper() + reason[1:]}."
