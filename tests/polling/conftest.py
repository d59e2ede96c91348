"""The hub in simulated time."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from airflow_provider_seedance.polling import hub
from airflow_provider_seedance.polling.duration_model import DurationModels
from polling.simulated import Client, Service


@pytest.fixture
def durations(monkeypatch: pytest.MonkeyPatch) -> DurationModels:
    known = DurationModels()
    monkeypatch.setattr(hub, "_durations", known)
    return known


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, durations: DurationModels) -> Iterator[Service]:
    """The service of every hub, with no generation queued so far; no hub is left after the test."""
    jitter = random.Random(1)
    monkeypatch.setattr("random.random", jitter.random)
    monkeypatch.setattr("random.uniform", jitter.uniform)
    service = Service(monkeypatch=monkeypatch)
    monkeypatch.setattr(hub, "AsyncClient", lambda settings, observer: Client(service, settings, observer))
    monkeypatch.setattr(hub, "_queued_at", {})
    yield service
    assert (hub._hubs, hub._connections) == ({}, {})
