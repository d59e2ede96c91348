"""Result, log lines and final error of a batch; pure functions of its items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import product
from math import isfinite
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.estimates import BatchEstimate
from airflow_provider_seedance.batch.items import BatchItem, Phase, Totals
from airflow_provider_seedance.generations import Unit, counted, iso
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission.decisions import listed
from airflow_provider_seedance.submission.preflight import no_price_error
from airflow_provider_seedance.urls import MediaInput, redact_url

#: Maximum items in the report of a batch that goes on, which is an XCom.
MAX_REPORTED_ITEMS = 1000

#: Nesting of the arguments that is shown.
_MAX_DEPTH = 20


def refusal_of(
    connections: Sequence[Settings], items: Sequence[BatchItem], *, keep: bool, limits: Mapping[Unit, float]
) -> errors.SeedanceError | None:
    """
    Return why a batch must not start: invalid requests, or a limit that cannot be enforced.

    :param keep: Whether an invalid request fails its item only.
    """
    invalid = [item for item in items if not item.prepared]
    if invalid and not keep:
        names = " or ".join(dict.fromkeys(settings.api.name for settings in connections))
        return errors.SeedanceRequestError(
            f"{len(invalid)} of {len(items)} requests cannot be sent to {names}, so none was: {_named(invalid)}. "
            "Nothing was sent, nothing is billed. Correct them, or set on_item_failure='keep' to render the others."
        )
    for unit, settings in product(limits, connections):
        found = {item.key: item.prepared.get(settings.conn_id) for item in items}
        unpriced = [key for key, one in found.items() if one and getattr(one.result_defaults, unit) is None]
        if unpriced:
            which = "for some of the requests"
            return no_price_error(settings.api, unit, limits[unit], which, f" ({listed(unpriced)})")
    return None


def result_of(items: Sequence[BatchItem], manifest: Any) -> dict[str, Any]:
    """
    Return the result of the task.

    :param manifest: Path of the manifest that holds the entries instead, if there is one.
    """
    totals = Totals.of(items)
    listed = items if manifest is None else ()
    return {
        "succeeded": [item.result() for item in listed if item.phase is Phase.SUCCEEDED],
        "failed": [item.result() for item in listed if item.phase is Phase.FAILED],
        "not_submitted": [item.key for item in listed if item.phase is Phase.WAITING],
        "counts": totals.counts(),
        "credits": totals.credits,
        "cost_usd": totals.cost_usd,
        "manifest": None if manifest is None else str(manifest),
    }


def report_of(items: Sequence[BatchItem], *, ends_at: float | None) -> dict[str, Any]:
    """
    Return the state of a batch that goes on, for the Renders page.

    Its ``items`` are lines as in the manifest: of a large batch, those that were submitted come first.

    :param ends_at: Estimated end, in seconds since 1970.
    """
    submitted_first = sorted(items, key=lambda item: item.phase is Phase.WAITING)
    totals, reported = Totals.of(items), {id(item) for item in submitted_first[:MAX_REPORTED_ITEMS]}
    return {
        "items": [item.line() for item in items if id(item) in reported],
        "counts": {**totals.counts(), "in_flight": totals.in_flight},
        "credits": totals.credits,
        "cost_usd": totals.cost_usd,
        "ends_at": None if ends_at is None else iso(datetime.fromtimestamp(ends_at, UTC)),
    }


def request_of(item: BatchItem) -> dict[str, Any]:
    """Return the request of an item as JSON for people: links without their queries, no embedded data."""
    # Without what only some of the connections add.
    first, *rest = [one.as_requested.arguments() for one in item.prepared.values()] or [item.arguments]
    arguments = {name: value for name, value in first.items() if all(one.get(name) == value for one in rest)}
    take = {"take": item.take} if item.take else {}
    return {name: _readable(value) for name, value in {**arguments, **take}.items()}


def _readable(value: Any, depth: int = 0) -> Any:
    if depth > _MAX_DEPTH:
        return "…"
    if isinstance(value, str):
        scheme = value.lstrip()[:8].lower()
        if scheme.startswith("data:"):
            return "data:…"
        return redact_url(value) if scheme.startswith(("http://", "https://")) else value
    if isinstance(value, MediaInput):
        return _readable(value.url if value.role is None else {"url": value.url, "role": value.role})
    if isinstance(value, Mapping):
        return {str(name): _readable(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_readable(inner, depth + 1) for inner in value]
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and isfinite(value)):
        return value
    return str(value)[:200]  # of a request that is refused


def estimate_result(items: Sequence[BatchItem], estimate: BatchEstimate) -> dict[str, Any]:
    """Return the result of a task with ``dry_run=True``."""
    return {
        **result_of(items, None),
        "credits": estimate.credits,
        "cost_usd": estimate.cost_usd,
        "estimate": estimate.as_dict(),
    }


def error_of(
    items: Sequence[BatchItem], *, stopped: errors.SeedanceError | None, keep: bool
) -> errors.SeedanceError | None:
    """
    Return the final error of the task, or ``None``.

    :param stopped: The error that ruled out every further submission.
    :param keep: Whether failures of items are part of the result.
    """
    failed = [item for item in items if item.phase is Phase.FAILED]
    totals = Totals.of(items)
    limited = isinstance(stopped, errors.SeedanceMaxCreditsError)
    no_credits = isinstance(stopped, errors.SeedanceInsufficientCreditsError) and totals.succeeded
    over_budget = isinstance(stopped, errors.SeedanceBudgetError)
    if stopped is not None and not limited and not (keep and (no_credits or over_budget)):
        # Not an item's failure: the owner of the API key has to act.
        error = type(stopped)(
            f"{stopped.message} {totals.summary()} What succeeded is kept; when that is fixed, clear the task to "
            "submit the rest.",
            **stopped.details(),
        )
        error.__cause__ = stopped
        return error
    if keep or not (failed or limited):
        return None
    retried = [item for item in failed if item.failure and not item.failure.final]
    lines = [f"{len(failed)} of {totals.total} renders failed: {_named(failed)}."] if failed else []
    if stopped is not None:
        lines.append(limit_notice(items, stopped))
    lines.append(f"{totals.succeeded} succeeded and are not paid for again.")
    if retried:
        lines.append(f"A retry submits {len(retried)} of the failed ones again, and nothing else.")
    lines.append(totals.summary())
    return (errors.SeedanceBatchError if retried else errors.SeedanceBatchFinalError)(" ".join(lines))


def limit_notice(items: Sequence[BatchItem], refusal: errors.SeedanceError) -> str:
    """Return the line for a batch that a limit of the task stops."""
    waiting = [item for item in items if item.phase is Phase.WAITING]
    return f"{refusal.message} {counted(len(waiting), 'render')} not submitted: {listed([item.key for item in waiting])}."


def _named(items: Iterable[BatchItem]) -> str:
    shown = [
        f"{item.key} ({item.failure.kind}: {item.failure.error})" if item.failure else item.key
        for item in items
    ]
    return listed(shown, separator="; ")
