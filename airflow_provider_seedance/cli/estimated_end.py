"""Estimated end of a generation: from its progress, the durations in the ledger, or the estimate of the service."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow_provider_seedance.cli.connection import airflows_database
from airflow_provider_seedance.exceptions import SeedanceError
from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.ledger import account
from airflow_provider_seedance.ledger.configuration import read_config
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.polling.duration_model import DurationModel
from airflow_provider_seedance.settings import Settings

#: Share by which a duration is uncertain that was read once.
_PRECISION = 0.03

#: Progress in percent from which it says something about the end.
_MIN_PROGRESS = 10.0


class EndEstimate:
    """
    Estimate of the end of one generation.

    :param generation: As it was read first, with what its request says about it.
    :param since: Time of its submission.
    """

    def __init__(self, settings: Settings, generation: Generation, since: datetime) -> None:
        self._since = since
        known = _durations(settings, generation)
        model = DurationModel()
        for seconds in known:
            model = model.updated(seconds * (1 - _PRECISION), seconds)
        estimated = generation.estimated_wait
        #: ``None`` if nothing is known: the prior of the polls is not an estimate for people.
        self._model = model.with_estimate(estimated) if known or estimated else None

    def at(self, reading: Generation, now: datetime) -> datetime | None:
        """Return the estimated end by the latest reading; ``None`` if nothing is known."""
        elapsed = max(0.0, (now - self._since).total_seconds())
        if reading.progress is not None and reading.progress >= _MIN_PROGRESS:
            return self._since + timedelta(seconds=elapsed * 100.0 / reading.progress)
        end = self._model.median_end(elapsed) if self._model else None
        return None if end is None else self._since + timedelta(seconds=end)


def _durations(settings: Settings, generation: Generation) -> list[float]:
    """Return the durations of such generations in the ledger, if there is one that can be read."""
    kind = {name: getattr(generation, name) for name in ("model", "duration", "resolution")}
    config = read_config()
    if config is None or generation.model is None:
        return []
    try:
        with airflows_database():
            return account.durations(
                Database(config),
                config.namespace,
                base_url=settings.base_url,
                media=generation.media,
                **kind,
            )
    except SeedanceError:
        return []  # the render is paid for, and goes on without an estimate
