from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import connection
from support import SECRET

from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.settings import Settings, read_settings
from airflow_provider_seedance.transfers import download
from airflow_provider_seedance.transfers.download import DownloadTiming
from transfers.results import Transfer
from transfers.server import MediaServer


@pytest.fixture(autouse=True)
def no_pauses(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMING", DownloadTiming(first_backoff=0.0, confirmed_url_backoff=0.0))


@pytest.fixture
def host() -> Iterator[MediaServer]:
    with MediaServer() as running:
        yield running


@pytest.fixture
def other_host() -> Iterator[MediaServer]:
    with MediaServer() as running:
        yield running


@pytest.fixture
def transfer(host: MediaServer, tmp_path: Path) -> Transfer:
    return Transfer(host, tmp_path)


def make_settings(**extra: Any) -> Settings:
    """Settings of a connection that trusts the media host of the tests, unless ``extra`` says otherwise."""
    return read_settings(
        "seedance_default", connection(password=SECRET, extra={"media_hosts": ["127.0.0.1"], **extra})
    )


@pytest.fixture
def conn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the same connection as Airflow reads it from the environment."""
    fields = {"conn_type": "seedance", "password": SECRET, "extra": {"media_hosts": "127.0.0.1"}}
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", json.dumps(fields))


class Service:
    """Answers of the service to requests for the generation."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.requests: list[tuple[str, str]] = []

    def __call__(self, hook: SeedanceHook, generation_id: str, media: Any = "video") -> Generation:
        self.requests.append((generation_id, media))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return Generation.from_result(answer)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    """Replace the requests of the hook."""
    fake = Service()
    monkeypatch.setattr(SeedanceHook, "get_generation", lambda self, *args: fake(self, *args))
    return fake


@pytest.fixture
def info(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Capture the log from level INFO."""
    caplog.set_level(logging.INFO, "airflow_provider_seedance")
    return caplog
