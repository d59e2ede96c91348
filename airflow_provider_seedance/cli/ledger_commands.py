"""``airflow seedance ledger``: the spend, the submissions, and corrections by a person."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import wraps
from types import SimpleNamespace
from typing import Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.cli.connection import airflows_database, open_hook
from airflow_provider_seedance.cli.result_stream import result_stream
from airflow_provider_seedance.generations import counted, iso, utc_now
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.ledger import account, reconciliation, spending
from airflow_provider_seedance.ledger.account import MAX_SUBMISSION_SECONDS, Filter
from airflow_provider_seedance.ledger.configuration import (
    LedgerConfig,
    default_timezone,
    local_now,
    read_config,
)
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import TaskIdentity

#: Fields of a group of `spend`.
_GROUPS = {
    "day": ("day",),
    "dag": ("dag_id",),
    "task": ("dag_id", "task_id"),
    "model": ("model",),
    "connection": ("conn_id",),
    "namespace": ("namespace",),
}

_UNITS = {"d": "days", "h": "hours", "m": "minutes"}

#: Columns of the table of `list`; JSON has all.
_LISTED = (
    *("state", "status", "generation_id", "dag_id", "run_id", "task_id", "map_index", "loop_index"),
    *("key", "model", "credits", "cost_usd", "created_at"),
)

#: Between the time of an intent and the time that the service gives to its generation, in whole seconds.
_CLOCK_DIFFERENCE = timedelta(minutes=1)


def _command(
    lines: Callable[[argparse.Namespace, Database, LedgerConfig], Iterable[str]],
) -> Callable[[argparse.Namespace], int]:
    """Make a function that prints the lines and returns the exit code: 2 if the command cannot be carried out."""

    @wraps(lines)
    def run(args: argparse.Namespace) -> int:
        try:
            with result_stream() as result, airflows_database():
                config = read_config()
                if config is None:
                    raise errors.SeedanceConfigurationError(
                        "No ledger is configured: set [seedance] ledger (AIRFLOW__SEEDANCE__LEDGER)."
                    )
                for line in lines(args, Database(config), config):
                    print(line, file=result)
        except errors.SeedanceError as error:
            print(error.message, file=sys.stderr)
            return 2
        return 0

    return run


# ---------------------------------------------------------------------- commands


@_command
def spend(args: argparse.Namespace, database: Database, config: LedgerConfig) -> Iterable[str]:
    """Print the spend."""
    timezone = default_timezone()
    chosen = Filter(
        namespace=None if args.by == "namespace" else config.namespace,
        since=_date(args.since, timezone) if args.since else None,
        until=_date(args.until, timezone) + timedelta(days=1) if args.until else None,
    )
    fields = _GROUPS[args.by]
    found = [
        {args.by: f"{row['dag_id']}.{row['task_id']}" if args.by == "task" else row[fields[0]], **row}
        for row in spending.spend(database, chosen, fields, timezone)
    ]
    if args.output != "json":  # JSON has the fields of the group, too
        found = [{name: row[name] for name in row if name == args.by or name not in fields} for row in found]
    return _formatted(found, args.output)


@_command
def list_submissions(args: argparse.Namespace, database: Database, config: LedgerConfig) -> Iterable[str]:
    """Print submissions, the latest first."""
    chosen = Filter(
        namespace=config.namespace,
        state=args.state,
        dag_id=args.dag,
        run_id=args.run,
        since=_age_or_date(args.since) if args.since else None,
        text=args.text,
    )
    found = account.list_submissions(database, chosen, args.limit)
    if args.output != "json":
        found = [{name: row[name] for name in _LISTED} for row in found]
    return _formatted(found, args.output)


@_command
def resolve(args: argparse.Namespace, database: Database, config: LedgerConfig) -> Iterable[str]:
    """Settle an uncertain submission."""
    generation_id = (args.generation_id or "").strip() or None
    if bool(generation_id) == args.not_billed:
        raise errors.SeedanceRequestError("Give either --generation-id or --not-billed.")
    task = TaskIdentity(
        namespace=config.namespace,
        dag_id=args.dag,
        run_id=args.run,
        task_id=args.task,
        map_index=args.map_index,
        loop_index=args.loop_index,
    )
    account.resolve(database, task, args.key, generation_id)
    then = f"takes generation {generation_id}" if generation_id else "submits anew"
    return [f"Recorded. Clear the task: its next try {then}."]


def reconcile(args: argparse.Namespace) -> int:
    """Print the differences between the ledger and the list of the service; return the exit code: 1 if there are any."""
    found: list[dict[str, Any]] = []

    @_command
    def compare(args: argparse.Namespace, database: Database, config: LedgerConfig) -> Iterable[str]:
        found.extend(_reconcile(args, database, config))
        return _formatted(found, args.output, empty="The ledger and the service agree.")

    return compare(args) or int(bool(found))


def _reconcile(args: argparse.Namespace, database: Database, config: LedgerConfig) -> list[dict[str, Any]]:
    hook, now = open_hook(args.conn_id), utc_now()
    since = max(_age_or_date(args.since), now - reconciliation.MAX_LISTED_AGE)
    with hook.get_conn() as client:
        listed = client.run(hook.settings.api.list_flow(args.limit, now))
    if len(listed) >= args.limit and (oldest := listed[-1].created_at) is not None and oldest > since:
        since = oldest + _CLOCK_DIFFERENCE
        print(
            f"The service lists more than {counted(args.limit, 'generation')}: those before {iso(since)} are not "
            "compared. Raise --limit.",
            file=sys.stderr,
        )
    until = now - timedelta(seconds=MAX_SUBMISSION_SECONDS)
    return reconciliation.reconcile(database, config.namespace, hook.seedance_conn_id, listed, since, until)


@_command
def prune(args: argparse.Namespace, database: Database, config: LedgerConfig) -> Iterable[str]:
    """Delete old submissions."""
    before = _age_or_date(args.older_than)
    question = f"Delete what ended before {before.isoformat(timespec='minutes')}? [y/N] "
    if sys.stdin.isatty() and not args.yes and input(question).strip().lower() not in ("y", "yes"):
        return ["Nothing was deleted."]
    deleted = account.prune(database, config.namespace, before, _counted_since(database, config))
    return [f"Deleted {counted(deleted, 'submission')}."]


def _counted_since(database: Database, config: LedgerConfig) -> dict[str, datetime | None]:
    """Return the start of the longest budget period of each connection that has budgets, ``None`` for one in total."""
    found, now = dict[str, datetime | None](), local_now()
    for conn_id in account.connection_ids(database, config.namespace):
        try:
            budgets = SeedanceHook(conn_id).settings.budgets
        except AirflowNotFoundException:
            continue  # it bills nothing any more
        if starts := [budget.starts_at(now) for budget in budgets]:
            found[conn_id] = None if None in starts else min(start for start in starts if start)
    return found


@_command
def export(_: argparse.Namespace, database: Database, config: LedgerConfig) -> Iterable[str]:
    """Print all submissions as JSON lines."""
    return (json.dumps(row) for row in account.export(database, Filter(namespace=config.namespace)))


# ---------------------------------------------------------------------- formats


def _formatted(rows: Sequence[dict[str, Any]], output: str, empty: str = "No submissions.") -> Iterable[str]:
    if output == "json":
        return [json.dumps(rows, indent=2)]
    if not rows:
        return [empty] if output == "table" else []
    names = list(rows[0])
    if output == "csv":
        lines: list[str] = []
        # Below Python 3.13 the characters of the writer's own line end are quoted, and no others that end a line.
        texts = (map(_inert, row.values()) for row in rows)
        csv.writer(SimpleNamespace(write=lines.append)).writerows([names, *texts])
        return [line.removesuffix("\r\n") for line in lines]
    cells = [names, *([" ".join(_cell(row[name]).split()) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _inert(value: object) -> str:
    """Return a cell of CSV, which a spreadsheet must not take for a formula."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else _cell(value)


# ---------------------------------------------------------------------- times


def _date(text: str, timezone: Any, alternative: str = "") -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        why = f"{text!r} is not a date such as 2026-01-31{alternative}."
        raise errors.SeedanceRequestError(why) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone)


def _age_or_date(text: str) -> datetime:
    """Return the time of an age such as ``90d`` or ``12h``, or of an ISO date."""
    number, unit = text[:-1], _UNITS.get(text[-1:])
    if number.isdecimal() and unit:
        try:
            return datetime.now(UTC) - timedelta(**{unit: int(number)})
        except (OverflowError, ValueError):
            raise errors.SeedanceRequestError(f"{text[:40]!r} is too long ago.") from None
    return _date(text, default_timezone(), ", and not an age such as 90d or 12h")
