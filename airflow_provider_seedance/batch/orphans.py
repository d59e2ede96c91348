"""Renders of a batch task that were paid for, and whose requests are not in its list any more."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.items import BatchItem, Phase, failure_of
from airflow_provider_seedance.batch.requests import Item
from airflow_provider_seedance.generations import GenerationStatus, iso
from airflow_provider_seedance.submission import decisions
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import RecordStore

log = logging.getLogger(__name__)


def reconcile_orphans(
    renders: Sequence[BatchItem], ledger: RecordStore, attempt: rec.Attempt, *, resubmits: bool
) -> tuple[list[BatchItem], float]:
    """
    Deal with submissions of requests that are not in the list any more.

    Their records stay: the list may have been read while it was being written, and a later clear finds
    them again. In an automatic retry they are failures of the campaign, and nothing new is submitted.

    :param attempt: The try that is running.
    :param resubmits: Whether the Dag author takes a changed list for another order.
    :returns: Renders that stand for what is missing in the list; and what all that is left behind has cost,
        in credits.
    """
    others = ledger.orphans(render.name for render in renders if render.name)
    cost = sum(record.credits for record in others.values())
    paid = [record for record in others.values() if _may_be_paid(record)]
    cleared = [record for record in paid if resubmits or decisions.is_cleared(record, attempt)]
    if cleared:
        log.warning(
            "%d renders that were paid for are of requests that are not in the list any more: they are left behind "
            "(%s). They are delivered if the list names them again.",
            len(cleared),
            _some(record.generation_id for record in cleared),
        )
    missing = [] if resubmits else [record for record in paid if not decisions.is_cleared(record, attempt)]
    if missing:
        for render in renders:
            if render.name and not ledger.is_registered(render.name):
                render.phase, render.failure = Phase.FAILED, failure_of(_new_in_a_retry(missing))
    return [_stand_in(record, len(renders)) for record in missing], cost


def _stand_in(record: rec.Record, index: int) -> BatchItem:
    which = record.generation_id or f"submitted {iso(record.intended_at)}"
    return BatchItem(
        item=Item(index=index, key=f"not in the list: {which}", arguments={}),
        phase=Phase.FAILED,
        generation_id=record.generation_id,
        failure=failure_of(_gone_in_a_retry(record)),
    )


def _may_be_paid(record: rec.Record) -> bool:
    """Return whether a generation was or may have been paid for, and was not seen to fail."""
    return record.state is not rec.RecordState.ENDED or record.status is GenerationStatus.SUCCEEDED


def _new_in_a_retry(missing: Iterable[rec.Record]) -> errors.SeedanceError:
    return errors.SeedanceRequestChangedError(
        "This request is new in a retry, while others that were paid for are not in the list any more "
        f"({_some(record.generation_id for record in missing)}): nothing was submitted for it. Clear the task to "
        "submit the changed requests (and pay for them), or set on_uncertain_submit='resubmit'."
    )


def _gone_in_a_retry(record: rec.Record) -> errors.SeedanceError:
    return errors.SeedanceRequestChangedError(
        f"Generation {record.generation_id or 'of unknown id'} was submitted by this task and is billed, but its "
        "request is not in the list any more, so it is not waited for. Put the request back and clear the task to "
        "have it delivered, at no cost.",
        generation_id=record.generation_id,
    )


def _some(ids: Iterable[str | None], most: int = 5) -> str:
    known = [item or "an unknown id" for item in ids]
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more
