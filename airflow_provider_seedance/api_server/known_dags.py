"""Dags that have generated something: only the first look of a process reads everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from threading import Lock

from airflow_provider_seedance.generations import utc_now

#: Time between the creation of a row and the moment from which another process sees it, and the difference of two clocks.
MAX_LAG = timedelta(minutes=10)


class KnownDags:
    """Memory of Dag ids, which only grows: Airflow knows which of them are still there."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._dag_ids: set[str] = set()
        self._since: datetime | None = None

    def update(self, read: Callable[[datetime | None], Iterable[str]]) -> set[str]:
        """
        Return all Dag ids.

        :param read: Reads those of the rows since a time; ``None`` for all.
        """
        with self._lock:
            now = utc_now()
            self._dag_ids.update(read(self._since))
            self._since = now - MAX_LAG
            return set(self._dag_ids)
