"""Validation of the requests of a batch, and the keys of their records; nothing is sent."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.validation import prepare_request
from airflow_provider_seedance.batch.items import BatchItem
from airflow_provider_seedance.generations import VideoRequest, counted
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission.records import Attempt, Fingerprint, count_signed_twins, record_keys

log = logging.getLogger(__name__)


def validate_items(settings: Settings, items: Iterable[BatchItem]) -> list[BatchItem]:
    """Return the items with a valid request, which is kept in them; an invalid request fails its item."""
    valid = []
    for item in items:
        if item.failure is not None:  # it could not even be read
            continue
        try:
            item.prepared = prepare_request(settings, VideoRequest.from_arguments(item.arguments))
        except errors.SeedanceRequestError as error:
            item.fail(error)
        except (TypeError, ValueError) as error:
            what = f"An argument is of a type that no service accepts ({error})."
            item.fail(errors.SeedanceRequestError(what))
        else:
            valid.append(item)
    return valid


def prepare_items(settings: Settings, items: Iterable[BatchItem], attempt: Attempt) -> Counter[str]:
    """
    Validate every request and name its record; an invalid request fails its item.

    :param attempt: The running try, without a request.
    :return: Applied defaults and warnings, with the number of requests that each is about.
    """
    notes = Counter[str]()
    valid, fingerprints = validate_items(settings, items), list[Fingerprint]()
    for item in valid:
        assert item.prepared is not None
        notes.update(f"Default applied: {line}" for line in item.prepared.defaults)
        notes.update(item.prepared.warnings)
        fingerprints.append(
            Fingerprint.of(item.prepared.as_requested, api=settings.api.name, base_url=settings.base_url)
        )
        item.attempt = replace(attempt, fingerprint=fingerprints[-1])
    if twins := count_signed_twins(fingerprints):
        log.warning(
            "%s of the batch, apart from the signatures of links, equal to another: counted as identical.",
            counted(twins, "request"),
        )
    owners: dict[str, BatchItem] = {}
    for item, key in zip(valid, record_keys(fingerprints, [item.take for item in valid]), strict=True):
        if owners.setdefault(key, item) is item:
            item.record_key = key
            continue
        item.prepared = None
        item.fail(
            errors.SeedanceRequestError(
                f"It is take {item.take} of a request, as item {owners[key].key!r} is. Nothing was sent for it, nothing "
                "is billed. Give each take of the same request a number of its own."
            )
        )
    return notes
