"""The rate limits of the emulated services: of the vendors' plans, and of each kind of call."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RateLimitState:
    """State of the rate limit after a request; the window ends at ``reset``, seconds since the epoch."""

    allowed: bool
    limit: int
    remaining: int
    reset: float


class RateLimiter:
    """Counter of requests per window (in real seconds), service and key; the first request starts a window."""

    def __init__(self, rate_limit: tuple[int, float] | None = None) -> None:
        self._lock = threading.Lock()
        self._rate_limit = rate_limit
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}

    def set(self, rate_limit: tuple[int, float] | None) -> None:
        """Change the limit and reset all windows."""
        with self._lock:
            self._rate_limit = rate_limit
            self._windows.clear()

    def spend(self, api: str, key: str, now: float) -> RateLimitState | None:
        """Count a request; return ``None`` without a limit."""
        with self._lock:
            if self._rate_limit is None:
                return None
            limit, window = self._rate_limit
            start, used = self._windows.get((api, key), (now, 0))
            if now >= start + window:
                start, used = now, 0
            allowed = used < limit
            used += 1 if allowed else 0
            self._windows[api, key] = (start, used)
            return RateLimitState(allowed=allowed, limit=limit, remaining=limit - used, reset=start + window)


class CallLimiter:
    """Counter of the calls of each kind in the latest period, by an account."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, deque[tuple[float, int]]] = {}

    def allows(self, kind: str, limit: int, period: float, now: float, count: int = 1) -> bool:
        """Count a call, unless there were too many in the ``period`` of seconds before it; the first is always allowed."""
        with self._lock:
            calls = self._calls.setdefault(kind, deque())
            while calls and calls[0][0] <= now - period:
                calls.popleft()
            allowed = not calls or sum(number for _, number in calls) + count <= limit
            if allowed:
                calls.append((now, count))
            return allowed
