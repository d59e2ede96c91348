"""How a campaign ends: what it returns, and what it raises; pure functions of its renders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.base import Api
from airflow_provider_seedance.batch.estimates import BatchEstimate
from airflow_provider_seedance.batch.items import BatchItem, Phase, Totals
from airflow_provider_seedance.batch.requests import Item

#: So many items are named in an error.
_NAMED = 10


def refusal_of(
    api: Api, renders: Sequence[BatchItem], *, keep: bool, max_credits: float | None
) -> errors.SeedanceError | None:
    """
    Return why a campaign must not begin: a request that cannot succeed, a bound that cannot be held.

    :param keep: Whether requests that the service does not take are failures of their items only.
    """
    bad = [render for render in renders if render.prepared is None]
    if bad and not keep:
        return errors.SeedanceRequestError(
            f"{len(bad)} of {len(renders)} requests cannot be sent to {api.name}, so none was: {_named(bad)}. "
            "Nothing was sent, nothing is billed. Mend them, or set on_item_failure='keep' to render the others."
        )
    unpriced = [render for render in renders if render.prepared and render.price is None]
    if max_credits is not None and unpriced:
        known = "for some of the requests" if api.publishes_prices else "at all"
        return errors.SeedanceConfigurationError(
            f"max_credits={max_credits:g} cannot be honoured: {api.name} publishes no price {known} "
            f"({_keys(unpriced)}). Remove max_credits or use a service with prices. Nothing was sent."
        )
    return None


def result_of(renders: Sequence[BatchItem], manifest: Any) -> dict[str, Any]:
    """
    Return what the task returns.

    :param manifest: Path of the manifest that holds the items, if there is one.
    """
    totals = Totals.of(renders)
    listed = renders if manifest is None else ()
    return {
        "succeeded": [render.result() for render in listed if render.phase is Phase.SUCCEEDED],
        "failed": [render.result() for render in listed if render.phase is Phase.FAILED],
        "not_submitted": [render.item.key for render in listed if render.phase is Phase.WAITING],
        "counts": totals.counts(),
        "credits": totals.credits,
        "cost_usd": totals.cost_usd,
        "manifest": None if manifest is None else str(manifest),
    }


def estimated(items: Sequence[Item], found: BatchEstimate) -> dict[str, Any]:
    """Return what the task returns that only estimates."""
    refused = dict(found.problems)
    return {
        "succeeded": [],
        "failed": [
            {"key": key, "generation_id": None, "error": error, "kind": "request"}
            for key, error in found.problems
        ],
        "not_submitted": [item.key for item in items if item.key not in refused],
        "counts": {
            "total": len(items),
            "succeeded": 0,
            "failed": len(refused),
            "not_submitted": found.renders,
        },
        "credits": found.credits,
        "cost_usd": found.cost_usd,
        "manifest": None,
        "estimate": found.as_dict(),
    }


def error_of(
    renders: Sequence[BatchItem],
    *,
    stopped: errors.SeedanceError | None,
    keep: bool,
    max_credits: float | None,
) -> errors.SeedanceError | None:
    """
    Return what the task raises at its end, or ``None``.

    :param stopped: What stood against every further submission.
    :param keep: Whether failures of items are part of the result.
    """
    failed = [render for render in renders if render.phase is Phase.FAILED]
    left = [render for render in renders if render.phase is Phase.WAITING]
    totals = Totals.of(renders)
    no_credits = isinstance(stopped, errors.SeedanceInsufficientCreditsError)
    if stopped is not None and not (keep and no_credits and totals.succeeded):
        # Not an item's failure: whoever holds the key has to do something.
        error = type(stopped)(
            f"{stopped.message} {totals.summary()} What succeeded is kept; when that is mended, clear the task to "
            "submit the rest.",
            **stopped.details(),
        )
        error.__cause__ = stopped
        return error
    if keep or not (failed or left):
        return None
    curable = [render for render in failed if render.failure and not render.failure.final]
    said = [f"{len(failed)} of {totals.total} renders failed: {_named(failed)}."] if failed else []
    if left:
        said.append(
            f"{len(left)} were not submitted, because the next could exceed max_credits={max_credits:g}: {_keys(left)}."
        )
    said.append(f"{totals.succeeded} succeeded and are not paid for again.")
    if curable:
        said.append(f"A retry submits {len(curable)} of the failed ones again, and nothing else.")
    said.append(totals.summary())
    return (errors.SeedanceBatchError if curable else errors.SeedanceBatchFinalError)(" ".join(said))


def _named(renders: Iterable[BatchItem]) -> str:
    shown = [
        f"{render.item.key} ({render.failure.kind}: {render.failure.error})"
        if render.failure
        else render.item.key
        for render in renders
    ]
    return _some(shown, separator="; ")


def _keys(renders: Iterable[BatchItem]) -> str:
    return _some([render.item.key for render in renders])


def _some(words: Sequence[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return separator.join(words[:_NAMED]) + more
