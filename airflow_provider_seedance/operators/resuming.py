"""
What a task goes by whose deferral ended without an answer: its trigger broke, or was lost.

Airflow then drops what the task had deferred with, so that only the record tells what it waited for.
"""

from __future__ import annotations

import time
from typing import Any

from airflow_provider_seedance.submission.decisions import is_of_this_try
from airflow_provider_seedance.submission.records import NO_REQUEST, Attempt, Fingerprint, Record, RecordState


def attempt_of(ti: Any, fingerprint: Fingerprint = NO_REQUEST) -> Attempt:
    """Return the try that is running; ``fingerprint`` is that of its request."""
    return Attempt(
        fingerprint=fingerprint,
        max_tries=int(getattr(ti, "max_tries", 0) or 0),
        try_number=int(getattr(ti, "try_number", 0) or 0),
    )


def waited_to_submit(record: Record | None, ti: Any) -> bool:
    """
    Whether the deferral was one for quota, with no submission under way.

    A record with an id that another try has written is what was paid for then: it was put back when the
    service took no submission, and a changed request, or another take, must not be answered with it.
    """
    if record is None:
        return False
    if record.generation_id is None:
        return record.state is RecordState.NOT_SUBMITTED
    return not is_of_this_try(record, attempt_of(ti))


def patience_ended(record: Record | None, timeout: float) -> float:
    """
    Return the seconds since 1970 since when nothing but a quota is waited for.

    That of the submission where it is over already: a trigger that always breaks must not renew it.
    """
    now = time.time()
    if record is None or record.submitted_at is None:
        return now
    return min(now, record.submitted_at.timestamp() + timeout)
