"""The quota that a submission needs, as the processes of this machine know it, and with a ledger other machines."""

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


def is_given_up(retry_after: float | None, refused_since: float | None) -> bool:
    """Return whether a service that accepts nothing now has been waited for, or names a long wait."""
    if refused_since is None or (retry_after or 0.0) > flows.MAX_FALLBACK_WAIT_SECONDS:
        return True
    return time.time() - refused_since >= flows.FALLBACK_AFTER_SECONDS


def retry_after_refusal(rate: SharedRate, refused_since: float | None, *, has_fallback: bool) -> float:
    """Lower a rate after a refusal, and return the seconds until it has room: booked, unless another connection is tried."""
    max_wait = math.inf
    if has_fallback:
        max_wait = -math.inf if is_given_up(None, refused_since) else flows.MAX_FALLBACK_WAIT_SECONDS
    return rate.refuse(time.time(), max_wait)
