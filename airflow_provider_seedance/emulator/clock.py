"""Real time, and the emulated time of renders."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """
    Real time, and emulated seconds derived from it.

    :param speed: Emulated seconds per real second.
    :param source: Returns the real time in seconds since the epoch.
    """

    def __init__(self, *, speed: float, source: Callable[[], float] = time.time) -> None:
        self.speed = speed
        self._source = source
        self._origin = source()
        self._held_since: float | None = None
        self._held = 0.0

    @property
    def held(self) -> bool:
        """True while the time of renders is stopped."""
        return self._held_since is not None

    def wall(self) -> float:
        """Return the real time in seconds since the epoch."""
        return self._source()

    def elapsed(self) -> float:
        """Return the emulated seconds since the start."""
        return (self._source() - self._origin) * self.speed

    def rendered(self) -> float:
        """Return the emulated seconds since the start, without those on hold."""
        now = self._source() if self._held_since is None else self._held_since
        return (now - self._origin - self._held) * self.speed

    def hold(self) -> None:
        """Stop the time of renders."""
        if self._held_since is None:
            self._held_since = self._source()

    def release(self) -> None:
        """Continue the time of renders."""
        if self._held_since is not None:
            self._held += self._source() - self._held_since
            self._held_since = None
