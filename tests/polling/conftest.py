"""The hub in simulated time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from airflow_provider_seedance.polling import hub
from airflow_provider_seedance.polling.duration_model import DurationModels
from polling.simulated import Service, simulate


@pytest.fixture
def durations(monkeypatch: pytest.MonkeyPatch) -> DurationModels:
    known = DurationModels()
    monkeypatch.setattr(hub, "_durations", known)
    return known


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, durations: DurationModels) -> Service:
    """The service of every hub, with no generation queued so far."""
    monkeypatch.setattr(hub, "_queued_at", {})
    return Service().serve(monkeypatch)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, service: Service) -> Iterator[Callable[..., Any]]:
    """Run in simulated time; no hub is left after it."""

    def in_time(main: Coroutine[Any, Any, Any]) -> Any:
        result = simulate(monkeypatch, main)
        assert all(client.closed for client in service.clients)
        return result

    yield in_time
    assert hub._hubs == {}
    assert hub._connections == {}
