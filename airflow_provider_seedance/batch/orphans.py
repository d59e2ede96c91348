"""Orphans: submitted items whose request has disappeared from the request list."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.items import BatchItem
from airflow_provider_seedance.generations import GenerationStatus, iso
from airflow_provider_seedance.submission import decisions
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import RecordStore

log = logging.getLogger(__name__)


def reconcile_orphans(
    items: Sequence[BatchItem], records: RecordStore, attempt: rec.Attempt, *, resubmits: bool
) -> list[BatchItem]:
    """
    Find submissions whose requests are not in the list any more.

    Their records stay: the list may have been read while it was being written, and a later clear finds
    them again. In an automatic retry they are failures of the batch, and no new request is submitted.

    :param attempt: The running try.
    :param resubmits: Whether ``on_uncertain_submit="resubmit"`` allows to pay for a changed list.
    :returns: Placeholder items for the missing requests.
    """
    orphans = records.orphans(item.record_key for item in items if item.record_key)
    paid = [record for record in orphans.values() if _may_be_billed(record)]
    abandoned = [record for record in paid if resubmits or decisions.is_cleared(record, attempt)]
    if abandoned:
        log.warning(
            "%d paid renders have no request in the list any more: they are left behind (%s). They are delivered if "
            "the list names them again.",
            len(abandoned),
            _ids(abandoned),
        )
    missing = [] if resubmits else [record for record in paid if not decisions.is_cleared(record, attempt)]
    if missing:
        for item in items:
            if item.record_key and item.record_key not in records.records():
                item.fail(_new_in_a_retry(missing))
    return [_placeholder_item(record) for record in missing]


def _placeholder_item(record: rec.Record) -> BatchItem:
    which = record.generation_id or f"submitted {iso(record.intended_at)}"
    item = BatchItem(key=f"not in the list: {which}", arguments={}, generation_id=record.generation_id)
    item.fail(_gone_in_a_retry(record))
    return item


def _may_be_billed(record: rec.Record) -> bool:
    """Return whether a generation was or may have been billed, and did not fail."""
    return record.state is not rec.RecordState.ENDED or record.status is GenerationStatus.SUCCEEDED


def _new_in_a_retry(missing: Iterable[rec.Record]) -> errors.SeedanceError:
    return errors.SeedanceRequestChangedError(
        "This request is new in a retry, while paid requests are not in the list any more "
        f"({_ids(missing)}): nothing was submitted for it. Clear the task to "
        "submit the changed requests (and pay for them), or set on_uncertain_submit='resubmit'."
    )


def _gone_in_a_retry(record: rec.Record) -> errors.SeedanceError:
    return errors.SeedanceRequestChangedError(
        f"Generation {record.generation_id or 'of unknown id'} was submitted by this task and is billed, but its "
        "request is not in the list any more, so it is not waited for. Put the request back and clear the task to "
        "have it delivered, at no cost.",
        generation_id=record.generation_id,
    )


def _ids(records: Iterable[rec.Record]) -> str:
    return decisions.listed([record.generation_id or rec.UNKNOWN_ID for record in records])
