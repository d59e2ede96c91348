"""Rate limits in the headers of a reply (row 10 of ``tests/apis/test_contradictions.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from airflow_provider_seedance.generations import read_number, read_time

#: Wait that a header may ask for. The longest documented quota window is a day; a longer wait is an error that
#: would defer a task without end, or overflow a date.
MAX_WAIT_SECONDS = 86400.0


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """
    Quota of a key, as a reply reports it.

    :param limit: Requests in the current window.
    :param remaining: Requests left in it.
    :param reset_at: End of the window.
    :param retry_after: Seconds to wait before the next request; only meaningful on a refusal
        (``seedance2api`` sends the field on successful replies too).
    """

    limit: int | None = None
    remaining: int | None = None
    reset_at: datetime | None = None
    retry_after: float | None = None

    @property
    def known(self) -> bool:
        """True if the reply reports a quota."""
        return self.limit is not None or self.remaining is not None or self.reset_at is not None


def limit_wait(wait: float) -> float:
    """Return a wait that a service asks for, limited to :data:`MAX_WAIT_SECONDS`."""
    return min(wait, MAX_WAIT_SECONDS)


def is_plausible_reset(moment: float, now: float) -> bool:
    """Return whether the end of a window, in seconds since 1970, is at most :data:`MAX_WAIT_SECONDS` away."""
    return limit_wait(moment - now) == moment - now


def _number(text: str | None) -> float | None:
    value = read_number(text)
    return value if value is not None and value >= 0 else None


def _date(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def read_retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds of ``Retry-After-Ms`` or ``Retry-After`` (seconds or a date), limited to a day."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return limit_wait(milliseconds / 1000)
    wait = _number(headers.get("retry-after"))
    if wait is None and (date := _date(headers.get("retry-after"))):
        wait = max(0.0, (date - now).total_seconds())
    return limit_wait(wait) if wait is not None else None


def read_rate_limit(headers: Mapping[str, str], now: datetime) -> RateLimit:
    """
    Read every known quota header; an invalid one is ignored.

    The wait is read from ``Retry-After-Ms``, ``Retry-After`` (seconds or a date),
    ``X-RateLimit-RetryAfter``, then ``X-RateLimit-Reset`` minus now.
    """
    limit = _number(headers.get("x-ratelimit-limit"))
    remaining = _number(headers.get("x-ratelimit-remaining"))
    reset_at = read_time(_number(headers.get("x-ratelimit-reset")))
    wait = read_retry_after(headers, now)
    if wait is None:
        wait = _number(headers.get("x-ratelimit-retryafter"))
    if wait is None and reset_at is not None:
        wait = max(0.0, (reset_at - now).total_seconds())
    return RateLimit(
        limit=int(limit) if limit is not None else None,
        remaining=int(remaining) if remaining is not None else None,
        reset_at=reset_at,
        retry_after=limit_wait(wait) if wait is not None else None,
    )
