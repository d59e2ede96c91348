"""Failures after a submission: they name the paid generations, and below Airflow 3.3 no retry pays for them again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.submission.decisions import MAX_LISTED, NOTHING_SENT, listed, unrecorded_error
from airflow_provider_seedance.submission.records import UNKNOWN_ID, Record, paid_ids
from airflow_provider_seedance.version_compat import forbid_retry

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_provider_seedance.operators.base import SeedanceOperator
    from airflow_provider_seedance.submission.store import RecordStore

log = logging.getLogger(__name__)

#: Ids in a line of the log.
_IDS_PER_LINE = 100


@contextmanager
def paid_generations(
    operator: SeedanceOperator, context: Context, store: RecordStore, paid: Callable[[], Sequence[str]]
) -> Iterator[None]:
    """
    Name the paid generations in final failures, and make every failure final where a retry could not find them.

    :param paid: Returns the ids of what was submitted, as far as they are known, when the block has ended.
    """
    keeps_retries = store.durable or operator.on_uncertain_submit == "resubmit"
    try:
        yield
    except (Exception, AirflowTaskTimeout) as error:
        ids = paid()
        known = [one for one in ids if one != UNKNOWN_ID]
        final, would_pay_again = isinstance(error, AirflowFailException), ids and not keeps_retries
        if (final or would_pay_again) and len(known) > MAX_LISTED:
            for start in range(0, len(known), _IDS_PER_LINE):
                log.error("Submitted and billed: %s", ", ".join(known[start : start + _IDS_PER_LINE]))
        # Of many, the log has all and the message some.
        named = all(one in str(error) for one in (known[:1] if len(known) > MAX_LISTED else known))
        if final and not named and not would_pay_again and isinstance(error, errors.SeedanceError):
            raise _naming(error, ids) from error
        names_it = not known or (named and getattr(error, "generation_id", None) in known)
        if not would_pay_again or (final and names_it):
            raise
        raise unrecorded_error(error, ids if known else ()) from error
    if not keeps_retries and paid():
        # Later steps of Airflow, such as pushing the result, may fail.
        forbid_retry(context["ti"])


def raise_with_paid_ids(error: errors.SeedanceError, records: Iterable[Record | None]) -> NoReturn:
    """Raise an error about the requests, which names the submissions on record."""
    if ids := paid_ids(records):
        raise _naming(error, ids) from error
    raise error


def _naming(error: errors.SeedanceError, ids: Sequence[str]) -> errors.SeedanceError:
    """Return an error that names submissions, and does not claim that nothing is billed."""
    what = "generation was" if len(ids) == 1 else "generations were"
    return type(error)(
        f"{NOTHING_SENT.sub('', error.message)} {len(ids)} {what} submitted by this task before and may be billed "
        f"({listed(ids)}).",
        **error.details(),
    )
