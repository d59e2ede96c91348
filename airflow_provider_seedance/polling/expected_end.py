"""Expected end of a generation, for people: from its progress, earlier durations, or the estimate of the service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.polling.duration_model import DurationModel
from airflow_provider_seedance.polling.wait_state import WaitState

#: Progress in percent from which it says something about the end.
_MIN_PROGRESS = 10.0


class ExpectedEnd:
    """
    Expected end of one generation, or of several that are alike.

    :param durations: Seconds that such generations took, oldest first.
    :param estimated_wait: Seconds the service expected the generation to take.
    """

    def __init__(self, durations: Sequence[float], estimated_wait: float | None = None) -> None:
        #: ``None`` if nothing is known: the prior of the polls is not an estimate for people.
        self._model = (
            DurationModel.of(durations).with_estimate(estimated_wait) if durations or estimated_wait else None
        )

    def at(self, since: datetime, now: datetime, progress: float | None = None) -> datetime | None:
        """
        Return the expected end; ``None`` if nothing is known.

        :param since: Time of the submission.
        :param progress: The latest progress in percent.
        """
        elapsed = max(0.0, (now - since).total_seconds())
        if progress is not None and progress >= _MIN_PROGRESS:
            return since + timedelta(seconds=elapsed * 100.0 / progress)
        end = self._model.median_end(elapsed) if self._model else None
        return None if end is None else since + timedelta(seconds=end)


class KnownDurations:
    """
    Durations of the kinds of a batch, each read once.

    :param read: Returns the seconds that the latest generations of kinds took at a base URL, oldest first.
    """

    def __init__(self, read: Callable[[str, Iterable[str]], dict[str, list[float]]]) -> None:
        self._read = read
        self._known: dict[tuple[str, str], list[float]] = {}

    def of(self, base_url: str, waits: Iterable[WaitState]) -> dict[str, list[float]]:
        """Return the durations of the kinds of waits, as far as they are known."""
        kinds = {wait.kind for wait in waits}
        if new := {kind for kind in kinds if (base_url, kind) not in self._known}:
            read = self._read(base_url, new)
            self._known |= {(base_url, kind): read.get(kind, []) for kind in new}
        return {kind: known for kind in kinds if (known := self._known[base_url, kind])}

    def last_end(self, waits: Sequence[tuple[str, WaitState]]) -> float | None:
        """
        Return when the last of some waits is expected to end, in seconds since 1970; ``None`` if that is not known.

        :param waits: With the base URLs of their connections.
        """
        latest, now = dict[tuple[str, str], WaitState](), utc_now()
        for base_url, wait in waits:
            before = latest.setdefault((base_url, wait.kind), wait)
            if (wait.submitted_at or now.timestamp()) > (before.submitted_at or now.timestamp()):
                latest[base_url, wait.kind] = wait
        ends = [
            ExpectedEnd(self.of(base_url, [wait]).get(kind, ())).at(
                datetime.fromtimestamp(wait.submitted_at or now.timestamp(), UTC), now
            )
            for (base_url, kind), wait in latest.items()
        ]
        found = [end.timestamp() for end in ends if end is not None]
        return max(found) if found and len(found) == len(ends) else None
