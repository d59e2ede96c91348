"""A standing quota of requests, as the vendors' plans have."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What a request did to the quota.

    :param allowed: whether it was within the quota.
    :param reset: when the quota is full again, seconds since the epoch.
    """

    allowed: bool
    limit: int
    remaining: int
    reset: float


class Quota:
    """So many requests per window, service and key. Windows are fixed and begin with the first request.

    :param rate_limit: limit and window (in real seconds), or ``None`` for no quota.
    """

    def __init__(self, rate_limit: tuple[int, float] | None = None) -> None:
        self._lock = threading.Lock()
        self._rate_limit = rate_limit
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}

    def set(self, rate_limit: tuple[int, float] | None) -> None:
        """Change the quota; all windows begin anew."""
        with self._lock:
            self._rate_limit = rate_limit
            self._windows.clear()

    def spend(self, api: str, key: str, now: float) -> Allowance | None:
        """Count a request.

        :param now: seconds since the epoch.
        :return: ``None`` if there is no quota.
        """
        with self._lock:
            if self._rate_limit is None:
                return None
            limit, window = self._rate_limit
            begun, used = self._windows.get((api, key), (now, 0))
            if now >= begun + window:
                begun, used = now, 0
            allowed = used < limit
            used += 1 if allowed else 0
            self._windows[api, key] = (begun, used)
            return Allowance(allowed=allowed, limit=limit, remaining=limit - used, reset=begun + window)
