"""``airflow seedance estimate``: the cost of a file of requests, or of a Dag over a range of dates."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

from airflow_provider_seedance import __version__
from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.registry import SERVICES
from airflow_provider_seedance.apis.validation import prepare_request
from airflow_provider_seedance.batch.estimates import BatchEstimate, estimate
from airflow_provider_seedance.batch.requests import read_requests
from airflow_provider_seedance.cli import dag_requests
from airflow_provider_seedance.cli.connection import airflows_database, open_hook
from airflow_provider_seedance.cli.dag_requests import TaskRequests
from airflow_provider_seedance.cli.result_stream import result_stream
from airflow_provider_seedance.generations import GenerationRequest, VideoRequest, did_you_mean
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.settings import Settings, read_settings

_FOOTNOTE = (
    "This is an estimate: each request counts as one render that succeeds. Failed renders, retries and cleared tasks can "
    "cost more; the service's bill decides. Nothing was sent, nothing is billed."
)

_DEFAULTS = ("model", "duration", "resolution", "aspect_ratio")

#: Limit of the notes that are printed, so that the totals stay visible.
_MAX_NOTES = 20


@dataclass
class _ConnectionRequests:
    """The requests of one connection with their names in messages, and the number of unpriced ones."""

    settings: Settings
    requests: list[tuple[str, GenerationRequest]] = field(default_factory=list)
    unpriced: int = 0

    def estimate(self) -> BatchEstimate:
        prepared, problems = [], []
        for task_id, request in self.requests:
            try:
                prepared.append(prepare_request(self.settings, request))
            except errors.SeedanceRequestError as error:
                problems.append((task_id, error.message))
        return estimate(self.settings, prepared, problems, unknown=self.unpriced)


def estimate_command(args: argparse.Namespace) -> int:
    """Print the estimate; return the exit code: 0 if there is one, otherwise 2."""
    logging.getLogger("airflow_provider_seedance").setLevel(logging.ERROR)
    with result_stream() as result:
        try:
            if bool(args.requests) == bool(args.dag):
                raise errors.SeedanceConfigurationError("Give either a file of requests or --dag.")
            with airflows_database():
                groups, notes = _of_dag(args) if args.dag else _of_file(args)
        except errors.SeedanceError as error:
            print(error.message, file=sys.stderr)
            return 2
        print(_json(groups, notes) if args.output == "json" else _table(groups, notes), file=result)
    return 0


def _json(groups: Sequence[_ConnectionRequests], notes: Sequence[str]) -> str:
    estimates = [{"prices": _price_source(each.settings), **each.estimate().as_dict()} for each in groups]
    return json.dumps({"estimates": estimates, "notes": list(notes), "version": __version__}, indent=2)


def _table(groups: Sequence[_ConnectionRequests], notes: Sequence[str]) -> str:
    blocks = [f"{each.settings.api.name}\n{each.estimate().table()}" for each in groups]
    if notes:
        blocks.append("\n".join(f"Note: {note}." for note in notes))
    sources = dict.fromkeys(_price_source(each.settings) for each in groups)
    return "\n\n".join([*blocks, "\n".join([*sources, _FOOTNOTE])])


def _price_source(settings: Settings) -> str:
    api = settings.api
    if not api.published.prices.rules:
        return f"{api.name}: version {__version__} of this package knows no prices of {api.title}."
    return f"{api.name}: prices as published by {api.title} ({api.published.source}, {api.published.date})."


def _of_file(args: argparse.Namespace) -> tuple[list[_ConnectionRequests], list[str]]:
    defaults = {name: getattr(args, name) for name in _DEFAULTS}
    path = str(args.requests)
    items = read_requests(path if "://" in path else os.path.abspath(os.path.expanduser(path)), defaults)
    if not items:
        raise errors.SeedanceConfigurationError(f"{args.requests} holds no requests. Nothing was sent.")
    requests: list[tuple[str, GenerationRequest]] = [
        (item.key, VideoRequest.from_arguments(item.arguments)) for item in items
    ]
    return [_ConnectionRequests(_settings(args, args.conn_id), requests)], []


def _settings(args: argparse.Namespace, conn_id: str | None) -> Settings:
    """Read the connection; ``--api`` is enough, because an estimate needs no key."""
    if args.api:
        if args.api not in SERVICES:
            similar = did_you_mean(args.api, SERVICES)
            raise errors.SeedanceConfigurationError(
                f"--api is {args.api!r}; it takes {', '.join(SERVICES)}.{similar}"
            )
        extra = json.dumps({"api": args.api})
        nothing = dict.fromkeys(("host", "port", "schema"))
        return read_settings("(none)", SimpleNamespace(password="-", extra=extra, **nothing))  # noqa: S106
    name = None if conn_id == SeedanceHook.default_conn_name else conn_id
    advice = ", or name the service with --api: an estimate needs no key"
    return open_hook(name, advice=advice).settings


def _of_dag(args: argparse.Namespace) -> tuple[list[_ConnectionRequests], list[str]]:
    if given := [f"--{name.replace('_', '-')}" for name in _DEFAULTS if getattr(args, name)]:
        raise errors.SeedanceConfigurationError(
            f"{', '.join(given)} cannot be used with --dag: the tasks have their own arguments. Nothing was sent."
        )
    if bool(args.since) != bool(args.until):
        raise errors.SeedanceConfigurationError("--from and --to belong together. Nothing was sent.")
    days = dag_requests.day_range(args.since, args.until) if args.since else None
    dag = dag_requests.load_dag(args.dag, args.file)
    runs: Sequence[dag_requests.DagRunDates | None] = [None]
    if days:
        runs = dag_requests.runs_between(dag, *days)
        if not runs:
            raise errors.SeedanceConfigurationError(
                f"{args.dag} has no run between {args.since} and {args.until}. Nothing was sent."
            )
    tasks = [task for run in runs for task in dag_requests.requests_of_run(dag, run)]
    if not tasks:
        raise errors.SeedanceConfigurationError(
            f"No task of {args.dag} generates anything: it has no operator of this package. Nothing was sent."
        )
    notes = [f"{len(runs)} run{'' if len(runs) == 1 else 's'} of {args.dag}"]
    if uncounted := ", ".join(dict.fromkeys(task.task_id for task in tasks if task.uncounted)):
        notes.append(f"not in the totals, because their number is unknown until they run: {uncounted}")
    return _by_connection(args, tasks), [*notes, *_notes(tasks)]


def _by_connection(args: argparse.Namespace, tasks: Iterable[TaskRequests]) -> list[_ConnectionRequests]:
    groups: dict[str, _ConnectionRequests] = {}

    def group_of(conn_id: str) -> _ConnectionRequests:
        name = args.api or args.conn_id or conn_id
        if name not in groups:
            groups[name] = _ConnectionRequests(_settings(args, args.conn_id or conn_id))
        return groups[name]

    for task in tasks:
        for conn_id, arguments in task.requests:
            request = task.operator.request_class.from_arguments(arguments)
            group_of(conn_id).requests.append((task.task_id, request))
        for conn_id in task.unpriced:
            group_of(conn_id).unpriced += 1
    return list(groups.values())


def _notes(tasks: Sequence[TaskRequests]) -> list[str]:
    counts = Counter((task.task_id, note) for task in tasks for note in task.notes)
    runs = Counter(task.task_id for task in tasks)
    notes = [
        f"{task_id}: {note.rstrip('.')}"
        + ("" if count == runs[task_id] else f" ({count} of {runs[task_id]} runs)")
        for (task_id, note), count in counts.items()
    ]
    omitted = len(notes) - _MAX_NOTES
    return [*notes[:_MAX_NOTES], *([f"and {omitted} more notes"] if omitted > 0 else [])]
