"""The real clock, and the emulated time that renders follow."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """The real clock, and emulated seconds counted from it.

    :param speed: emulated seconds in a real one.
    :param source: gives the real time in seconds since the epoch.
    """

    def __init__(self, *, speed: float, source: Callable[[], float] = time.time) -> None:
        self.speed = speed
        self._source = source
        self._origin = source()
        self._held_since: float | None = None
        self._held = 0.0

    @property
    def held(self) -> bool:
        """Whether renders stand still."""
        return self._held_since is not None

    def wall(self) -> float:
        """Real time, seconds since the epoch."""
        return self._source()

    def elapsed(self) -> float:
        """Emulated seconds since the start."""
        return (self._source() - self._origin) * self.speed

    def rendered(self) -> float:
        """Emulated seconds that renders have been going on: those while held don't count."""
        now = self._source() if self._held_since is None else self._held_since
        return (now - self._origin - self._held) * self.speed

    def hold(self) -> None:
        """Stop the time of renders."""
        if self._held_since is None:
            self._held_since = self._source()

    def release(self) -> None:
        """Let the time of renders go on."""
        if self._held_since is not None:
            self._held += self._source() - self._held_since
            self._held_since = None
