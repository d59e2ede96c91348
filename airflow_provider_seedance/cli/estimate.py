"""``airflow seedance estimate``: what a file of requests, or a Dag over a range of dates, will cost."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from airflow_provider_seedance import __version__
from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.validation import prepare_request
from airflow_provider_seedance.batch.estimates import UNKNOWN, BatchEstimate, estimate
from airflow_provider_seedance.batch.requests import read_requests
from airflow_provider_seedance.cli.connection import (
    API_VARIABLE,
    KEY_VARIABLE,
    airflows_database,
    connection_from_environment,
)
from airflow_provider_seedance.generations import GenerationRequest, VideoRequest
from airflow_provider_seedance.settings import Settings

_FOOTNOTE = (
    "An estimate: each request counted as one render that succeeds at once, nothing that a retry or a cleared task "
    "renders again. The service's own bill is what counts. Nothing was sent, nothing is billed."
)


_DEFAULTS = ("model", "duration", "resolution", "aspect_ratio")

#: So many remarks are told.
_TOLD = 20


@dataclass
class _Sum:
    """Requests to one service; the first of each pair names them in a refusal."""

    settings: Settings
    requests: list[tuple[str, GenerationRequest]] = field(default_factory=list)
    unpriced: int = 0
    several: list[tuple[str, GenerationRequest]] = field(default_factory=list)

    def estimate(self) -> BatchEstimate:
        return self._priced(self.requests, self.unpriced)

    def each(self) -> dict[str, BatchEstimate]:
        """Return the price of one render of each kind of which nobody knows the number, by task."""
        found: dict[str, list[tuple[str, GenerationRequest]]] = {}
        for one in self.several:
            if one not in found.setdefault(one[0], []):
                found[one[0]].append(one)
        return {task_id: self._priced(requests) for task_id, requests in found.items()}

    def _priced(self, requests: Iterable[tuple[str, GenerationRequest]], unknown: int = 0) -> BatchEstimate:
        prepared, problems = [], []
        for key, request in requests:
            try:
                prepared.append(prepare_request(self.settings, request))
            except errors.SeedanceRequestError as error:
                problems.append((key, error.message))
        return estimate(self.settings, prepared, problems, unknown=unknown)


def estimate_command(args: argparse.Namespace) -> int:
    """Print the estimate; returns the exit code: 0 if there is one, otherwise 2."""
    logging.getLogger("airflow_provider_seedance").setLevel(logging.ERROR)
    try:
        if bool(args.requests) == bool(args.dag):
            raise errors.SeedanceConfigurationError("Give either a file of requests or --dag.")
        # Dag files, templates and Airflow may talk; what is printed here is for others to read.
        with contextlib.redirect_stdout(sys.stderr), airflows_database():
            sums, notes = _of_dag(args) if args.dag else _of_file(args)
    except errors.SeedanceError as error:
        print(error.message, file=sys.stderr)
        return 2
    print(_json(sums, notes) if args.output == "json" else _table(sums, notes))
    return 0


def _json(sums: Sequence[_Sum], notes: Sequence[str]) -> str:
    found = {
        "estimates": [{"prices": _source(one.settings), **one.estimate().as_dict()} for one in sums],
        "unknown_number": [
            {"task_id": task_id, "each": priced.as_dict()}
            for one in sums
            for task_id, priced in one.each().items()
        ],
        "notes": list(notes),
        "version": __version__,
    }
    return json.dumps(found, indent=2)


def _table(sums: Sequence[_Sum], notes: Sequence[str]) -> str:
    blocks = [f"{one.settings.api.name}\n{one.estimate().table()}" for one in sums]
    each = [
        f"  {task_id}: {_each(row.credits, row.cost_usd)} ({row.model or 'default model'}, "
        f"{row.resolution or 'default resolution'})"
        for one in sums
        for task_id, priced in one.each().items()
        for row in _units(one, task_id, priced)
    ]
    if each:
        blocks.append("\n".join(["Of unknown number and in no total; each render costs", *each]))
    if notes:
        blocks.append("\n".join(f"Note: {note}." for note in notes))
    sources = dict.fromkeys(_source(one.settings) for one in sums)
    return "\n\n".join([*blocks, "\n".join([*sources, _FOOTNOTE])])


def _units(one: _Sum, task_id: str, priced: BatchEstimate) -> Iterable[Any]:
    """Return a row for each kind of render; those of one model and resolution may differ in length."""
    if not priced.rows:
        return
    for key, request in one.several:
        if key == task_id:
            yield from one._priced([(key, request)]).rows


def _each(credits: float | None, usd: float | None) -> str:
    return UNKNOWN if credits is None or usd is None else f"{credits:g} credits, ${usd:g}"


def _source(settings: Settings) -> str:
    api = settings.api
    if not api.publishes_prices:
        return f"{api.name}: version {__version__} of this package knows no price list of {api.title}."
    return f"{api.name}: prices as published by {api.title}, as version {__version__} of this package knows them."


# ---------------------------------------------------------------------- a file


def _of_file(args: argparse.Namespace) -> tuple[list[_Sum], list[str]]:
    defaults = {name: getattr(args, name) for name in _DEFAULTS}
    items = read_requests(_local(args.requests), defaults)
    if not items:
        raise errors.SeedanceConfigurationError(f"{args.requests} holds no requests. Nothing was sent.")
    one = _Sum(_settings(args, args.conn_id))
    one.requests += [(item.key, VideoRequest.from_arguments(item.arguments)) for item in items]
    return [one], []


def _local(path: str) -> str:
    """Return a path of this machine as object storage takes it."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def _settings(args: argparse.Namespace, conn_id: str | None) -> Settings:
    """Read the connection; an estimate needs no key, so naming the service is enough."""
    from airflow_provider_seedance.hooks.seedance import SeedanceHook
    from airflow_provider_seedance.settings import read_settings

    if args.api:
        extra = json.dumps({"api": args.api})
        nothing = dict.fromkeys(("host", "port", "schema"))
        return read_settings("(none)", SimpleNamespace(password="-", extra=extra, **nothing))  # noqa: S106
    name = conn_id or "seedance_default"
    if name == "seedance_default" and (connection := connection_from_environment()):
        os.environ["AIRFLOW_CONN_SEEDANCE_DEFAULT"] = connection
    try:
        return SeedanceHook(name).settings
    except errors.SeedanceError:
        raise
    except Exception as error:
        raise errors.SeedanceConfigurationError(
            f"There is no usable connection {name!r} ({error}). Create it, set {KEY_VARIABLE} and "
            f"{API_VARIABLE}, or name the service with --api: an estimate needs no key. Nothing was sent."
        ) from error


# ---------------------------------------------------------------------- a Dag


def _of_dag(args: argparse.Namespace) -> tuple[list[_Sum], list[str]]:
    from airflow_provider_seedance.cli import dag_requests

    if given := [f"--{name.replace('_', '-')}" for name in _DEFAULTS if getattr(args, name)]:
        raise errors.SeedanceConfigurationError(
            f"{', '.join(given)} cannot be used with --dag: the tasks say what they ask. Nothing was sent."
        )
    if bool(args.since) != bool(args.until):
        raise errors.SeedanceConfigurationError("--from and --to belong together. Nothing was sent.")
    days = dag_requests.day_range(args.since, args.until) if args.since else None
    dag = dag_requests.load_dag(args.dag, args.file)
    moments: Sequence[Any] = [None]
    if days:
        moments = dag_requests.runs_between(dag, *days)
        if not moments:
            raise errors.SeedanceConfigurationError(
                f"{args.dag} has no run between {args.since} and {args.until}. Nothing was sent."
            )
    asked = [one for moment in moments for one in dag_requests.asked_in(dag, moment)]
    if not asked:
        raise errors.SeedanceConfigurationError(
            f"No task of {args.dag} generates anything: it has no operator of this package. Nothing was sent."
        )
    left_out = dict.fromkeys(one.task_id for one in asked if one.uncounted)
    also = (
        [f"not in the totals, because their number is not known: {', '.join(left_out)}"] if left_out else []
    )
    runs = f"{len(moments)} run{'' if len(moments) == 1 else 's'} of {args.dag}"
    return _sums(args, asked), [runs, *also, *_notes(asked)]


def _sums(args: argparse.Namespace, asked: Iterable[Any]) -> list[_Sum]:
    sums: dict[str, _Sum] = {}

    def sum_of(conn_id: str) -> _Sum:
        name = args.api or args.conn_id or conn_id
        if name not in sums:
            sums[name] = _Sum(_settings(args, args.conn_id or conn_id))
        return sums[name]

    for one in asked:
        for conn_id, arguments in one.requests:
            sum_of(conn_id).requests.append(_named(one, arguments))
        for conn_id in one.unpriced:
            sum_of(conn_id).unpriced += 1
        for conn_id, arguments in one.several:
            several = sum_of(conn_id).several
            if (named := _named(one, arguments)) not in several:
                several.append(named)
    return list(sums.values())


def _named(one: Any, arguments: Mapping[str, Any]) -> tuple[str, GenerationRequest]:
    return one.task_id, one.operator.request_class.from_arguments(arguments)


def _notes(asked: Sequence[Any]) -> list[str]:
    counts = Counter((one.task_id, note) for one in asked for note in one.notes)
    runs = Counter(one.task_id for one in asked)
    notes = [
        f"{task_id}: {note.rstrip('.')}"
        + ("" if count == runs[task_id] else f" ({count} of {runs[task_id]} runs)")
        for (task_id, note), count in counts.items()
    ]
    return [*notes[:_TOLD], *([f"and {len(notes) - _TOLD} more of the kind"] if len(notes) > _TOLD else [])]
