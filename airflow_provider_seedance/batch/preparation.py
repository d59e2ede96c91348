"""Validation of the requests of a batch, and the keys of their records; nothing is sent."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.validation import Prepared, prepare_request
from airflow_provider_seedance.batch.items import BatchItem
from airflow_provider_seedance.generations import VideoRequest
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission.records import Attempt, Fingerprint, count_signed_twins, record_keys

log = logging.getLogger(__name__)


def prepare_items(settings: Settings, items: Sequence[BatchItem], attempt: Attempt) -> Counter[str]:
    """
    Validate every request and name its record; an invalid request fails its item.

    :param attempt: The running try, without a request.
    :return: Applied defaults and warnings, with the number of requests that each is about.
    """
    notes = Counter[str]()
    valid: list[tuple[BatchItem, Fingerprint]] = []
    for item in items:
        try:
            item.prepared = prepared = prepare_item(settings, item)
        except errors.SeedanceRequestError as error:
            item.fail(error)
            continue
        notes.update([*(f"Default applied: {line}" for line in prepared.defaults), *prepared.warnings])
        fingerprint = Fingerprint.of(prepared.as_requested, api=settings.api.name, base_url=settings.base_url)
        item.attempt = replace(attempt, fingerprint=fingerprint)
        valid.append((item, fingerprint))
    fingerprints = [fingerprint for _, fingerprint in valid]
    if twins := count_signed_twins(fingerprints):
        log.warning(
            "%d requests differ from others in the signatures of their links only: they count as identical.",
            twins,
        )
    for (item, _), key in zip(valid, record_keys(fingerprints), strict=True):
        item.record_key = key
    return notes


def prepare_item(settings: Settings, item: BatchItem) -> Prepared:
    """
    Validate one request.

    :raises SeedanceRequestError: the service does not accept it.
    """
    try:
        return prepare_request(settings, VideoRequest.from_arguments(item.arguments))
    except (TypeError, ValueError) as error:
        raise errors.SeedanceRequestError(
            f"An argument is of a type that no service accepts ({error})."
        ) from error
