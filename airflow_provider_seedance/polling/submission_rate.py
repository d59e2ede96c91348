"""
Rate of the submissions of one kind, which a service limits by the minute.

Pure bookkeeping: times are passed in. A submission that has to wait gets a time of its own, so that those which wait do not
return together. Other machines with the same key are seen in refusals only: after one, the limit is what was accepted
before it, and grows back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_MINUTE = 60.0
#: Submissions are counted in steps of this many seconds.
_STEP_SECONDS = 10.0
#: Shortest wait after a refusal, and the time in which further ones are those of submissions that were on their way.
MIN_REFUSED_SECONDS = 15.0
#: Limit after a refusal, as a share of what was sent in the minute before; its minimum, as a share of the whole limit; and
#: its growth in a minute.
_SHARE_AFTER_REFUSAL, _MIN_SHARE, _GROWTH = 0.7, 0.05, 1.1
#: Times further ahead are those of a clock that was set back, or of a damaged file.
MAX_AHEAD_SECONDS = 86_400.0


@dataclass(slots=True)
class SubmissionRate:
    """
    Submissions of one kind by one account.

    :param per_minute: Limit of the account.
    :param learned: Limit after the latest refusal, and when that was.
    :param booked: Beginning of each step, and the submissions in it; steps may be ahead.
    """

    per_minute: float
    learned: tuple[float, float] | None = None
    booked: list[tuple[float, int]] = field(default_factory=list)

    def limit(self, now: float) -> float:
        """Return the submissions a minute at a time."""
        if self.learned is None:
            return self.per_minute
        limit, since = self.learned
        # A day of growth is more than any limit, and the power of a longer time overflows.
        grown: float = limit * _GROWTH ** (min(now - since, MAX_AHEAD_SECONDS) / _MINUTE)
        return min(self.per_minute, grown)

    def reserve(self, now: float, count: int = 1) -> float:
        """Book submissions at the first time that has room for them; return the seconds until then."""
        self._forget(now)
        at = max(now, self.booked[-1][0]) if self.booked else now
        while (used := self._sent_before(at)) and used + count > self.limit(at):
            oldest = next(start for start, _ in self.booked if start + _STEP_SECONDS + _MINUTE > at)
            at = oldest + _STEP_SECONDS + _MINUTE
        step = at - at % _STEP_SECONDS
        if self.booked and self.booked[-1][0] >= step:
            step, before = self.booked.pop()
            count += before
        self.booked.append((step, count))
        return max(0.0, at - now)

    def refuse(self, now: float) -> None:
        """Lower the limit after a refusal."""
        if self.learned is None or now - self.learned[1] >= MIN_REFUSED_SECONDS:
            self._forget(now)
            sent = sum(count for start, count in self.booked if start <= now)
            least = _MIN_SHARE * self.per_minute
            self.learned = max(least, _SHARE_AFTER_REFUSAL * min(sent, self.limit(now))), now

    def _sent_before(self, at: float) -> int:
        return sum(count for start, count in self.booked if start + _STEP_SECONDS + _MINUTE > at)

    def _forget(self, now: float) -> None:
        self.booked = [
            (start, count)
            for start, count in self.booked
            if now - _STEP_SECONDS - _MINUTE < start <= now + MAX_AHEAD_SECONDS
        ]
        if self.learned and self.learned[1] > now:
            self.learned = None
