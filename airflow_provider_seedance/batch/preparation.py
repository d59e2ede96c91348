"""Validation of the requests of a batch for its connections, and the keys of their records; nothing is sent."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.validation import prepare_request
from airflow_provider_seedance.batch.items import BatchItem
from airflow_provider_seedance.generations import VideoRequest, counted
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission.records import Fingerprint, count_signed_twins, record_keys
from airflow_provider_seedance.submission.submission_result import combined

log = logging.getLogger(__name__)


def validate_items(
    connections: Sequence[Settings], items: Iterable[BatchItem]
) -> list[tuple[BatchItem, VideoRequest]]:
    """Return the items that a connection can make, and their requests; any other request fails its item."""
    valid = []
    for item in items:
        if item.failure is not None:  # it could not even be read
            continue
        try:
            request = VideoRequest.from_arguments(item.arguments)
            _prepare(connections, item, request)
        except errors.SeedanceRequestError as error:
            item.fail(error)
        except (TypeError, ValueError) as error:
            what = f"An argument is of a type that no service accepts ({error})."
            item.fail(errors.SeedanceRequestError(what))
        else:
            valid.append((item, request))
    return valid


def _prepare(connections: Sequence[Settings], item: BatchItem, request: VideoRequest) -> None:
    for settings in connections:
        try:
            item.prepared[settings.conn_id] = prepare_request(settings, request)
        except errors.SeedanceRequestError as error:
            item.unfit[settings.conn_id] = error
    if not item.prepared:
        first = item.unfit[connections[0].conn_id]
        raise combined(first, item.unfit) if len(connections) > 1 else first


def prepare_items(connections: Sequence[Settings], items: Iterable[BatchItem]) -> Counter[str]:
    """
    Validate every request and name its record; an invalid request fails its item.

    The name does not depend on the connections, so that an item has one record wherever it is made.

    :return: Applied defaults and warnings, with the number of requests that each is about.
    """
    notes, valid = Counter[str](), validate_items(connections, items)
    for item, _ in valid:
        for prepared in item.prepared.values():
            notes.update(f"Default applied: {line}" for line in prepared.defaults)
            notes.update(prepared.warnings)
    fingerprints = [Fingerprint.of(request, api="", base_url="") for _, request in valid]
    if twins := count_signed_twins(fingerprints):
        log.warning(
            "%s of the batch, apart from the signatures of links, equal to another: counted as identical.",
            counted(twins, "request"),
        )
    owners: dict[str, BatchItem] = {}
    keys = record_keys(fingerprints, [item.take for item, _ in valid])
    for (item, _), key in zip(valid, keys, strict=True):
        if owners.setdefault(key, item) is item:
            item.record_key = key
            continue
        item.prepared = {}
        item.fail(
            errors.SeedanceRequestError(
                f"It is take {item.take} of a request, as item {owners[key].key!r} is. Nothing was sent for it, nothing "
                "is billed. Give each take of the same request a number of its own."
            )
        )
    return notes
