"""The hub in simulated time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from airflow_provider_seedance.polling import hub
from airflow_provider_seedance.polling.duration_model import DurationModels
from polling.simulated import Service, simulate


@pytest.fixture
def durations(monkeypatch: pytest.MonkeyPatch) -> DurationModels:
    """What is learned in one test is not known in another."""
    known = DurationModels()
    monkeypatch.setattr(hub, "_durations", known)
    return known


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, durations: DurationModels) -> Service:
    """A service that every hub speaks to."""
    return Service().serve(monkeypatch)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, service: Service) -> Iterator[Callable[..., Any]]:
    """Run in simulated time; nothing of a hub is left after it."""

    def in_time(main: Callable[[], Awaitable[Any]], **more: Any) -> Any:
        result = simulate(monkeypatch, main, **more)
        assert all(client.closed for client in service.clients)
        return result

    yield in_time
    assert hub._hubs == {}
    assert hub._connections == {}
