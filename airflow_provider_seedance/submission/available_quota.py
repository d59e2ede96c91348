"""The quota that a submission needs, as the processes of this machine know it."""

from __future__ import annotations

import math
import time

from airflow_provider_seedance.client import flows
from airflow_provider_seedance.exceptions import SeedanceRateLimitError
from airflow_provider_seedance.polling.shared_quota import SharedQuota, SharedRate

_QUOTA_USED_UP = "The quota at {} is used up, by its latest rate-limit headers."
_RATE_USED_UP = "{} accepts no more submissions of this model in this minute."


def reserve_quota(
    quota: SharedQuota | None, rate: SharedRate | None, service: str, *, inline: bool, has_fallback: bool
) -> SeedanceRateLimitError | None:
    """
    Reserve one request of a quota and of a rate; return an error with the time until there is room for it.

    :param quota: ``None`` if the submission has waited for the quota before; then nothing is reserved.
    :param service: Name of the service, for messages.
    :param inline: Whether a short wait is spent here.
    :param has_fallback: Whether another connection is tried after a long wait; then no time is reserved here.
    """
    if quota is None:
        return None
    wait, why = quota.reserve(time.time()), _QUOTA_USED_UP
    if inline and 0.0 < wait <= flows.MAX_INLINE_WAIT_SECONDS:
        time.sleep(wait)
        wait = quota.reserve(time.time())
    if not wait and rate:
        max_wait = flows.MAX_FALLBACK_WAIT_SECONDS if has_fallback else math.inf
        wait, why = rate.reserve(time.time(), max_wait), _RATE_USED_UP
        if inline and wait <= flows.MAX_INLINE_WAIT_SECONDS:
            time.sleep(wait)
            return None
    return SeedanceRateLimitError(why.format(service), retry_after=wait) if wait else None
