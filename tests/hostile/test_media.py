"""Downloads from a hostile host: each ends, within limits, with an error of the package."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from scripted_server import at_once, serving
from transfers.conftest import host, make_settings
from transfers.server import MediaServer, Reply

from airflow_provider_seedance.client import media_client
from airflow_provider_seedance.client.media_client import MediaClient, MediaConnectionError, MediaTooSlowError
from airflow_provider_seedance.exceptions import (
    SeedanceMediaError,
    SeedanceMediaTooLargeError,
)
from airflow_provider_seedance.transfers import download as module
from airflow_provider_seedance.transfers.download import DownloadTiming, Source, download

from .fake_transports import BOMBS, SLOW_HEADS, STEPS, WRONG, Script, drips, head, sends

__all__ = ["host"]  # a fixture

DATA = bytes(range(256)) * 400


@pytest.fixture(autouse=True)
def _small(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMING", DownloadTiming(first_backoff=0.0, confirmed_url_backoff=0.0))
    monkeypatch.setattr(media_client, "STALL_TIMEOUT_SECONDS", 0.1)


class Kept:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data.clear()


def fetch(url: str, kept: Kept | None = None, **extra: Any) -> Any:
    sink = kept or Kept()

    source = Source(label="the output", generation_id="g1", url=url, refresh=lambda: url)
    with MediaClient(make_settings(**{"timeout": 0.25, **extra})) as client:
        return download(client, source, lambda announced: sink, progress=lambda received, total: None)


@contextmanager
def file_of(script: Script) -> Iterator[str]:
    with serving(script) as server:
        yield f"http://127.0.0.1:{server.port}/a.mp4"


# ---------------------------------------------------------------------- time


def test_slow_replies_time_out() -> None:
    def check(script: Script) -> None:
        with (
            file_of(script) as url,
            MediaClient(make_settings(timeout=0.1)) as client,
            pytest.raises(MediaConnectionError),
        ):
            client.open(url)

    at_once(check, SLOW_HEADS)


def test_a_slow_file_times_out_and_its_bytes_are_no_progress() -> None:
    slow_file = drips(head("200 OK", "Content-Length: 100000"), [b"a"] * STEPS, gap=0.02)
    with file_of(slow_file) as url, MediaClient(make_settings(timeout=0.25)) as client:
        with client.open(url) as stream, pytest.raises(MediaTooSlowError, match="less than"):
            list(stream.chunks())
        with pytest.raises(SeedanceMediaError, match="after 5 attempts") as caught:
            fetch(url)
    assert caught.value.retry_helps


def test_the_time_of_a_slow_reader_does_not_count(host: MediaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_client, "STALL_TIMEOUT_SECONDS", 5.0)
    url = host.put("/a.mp4", DATA * 4)
    pause = threading.Event()
    with MediaClient(make_settings()) as client, client.open(url) as stream:
        received = 0
        for number, chunk in enumerate(stream.chunks()):
            if not number:
                monkeypatch.setattr(media_client, "STALL_TIMEOUT_SECONDS", 0.0)
                pause.wait(0.05)
            received += len(chunk)
            monkeypatch.setattr(media_client, "STALL_TIMEOUT_SECONDS", 5.0)
    assert received == len(DATA) * 4


# ---------------------------------------------------------------------- size


def test_an_endless_download_is_too_large() -> None:
    kept = Kept()
    endless_file = sends(head("200 OK", "Content-Type: video/mp4"), *[b"a" * 10_000] * (STEPS * 10))
    with file_of(endless_file) as url, pytest.raises(SeedanceMediaTooLargeError) as caught:
        fetch(url, kept, max_media_bytes=100_000)
    assert len(kept.data) <= 100_000
    assert not caught.value.retry_helps
    for said in ("100000", "max_media_bytes", "clear this task", "pays nothing", "127.0.0.1"):
        assert said in caught.value.message


def test_a_file_that_is_announced_as_too_large_is_not_downloaded(host: MediaServer) -> None:
    kept = Kept()
    url = host.put("/a.mp4", DATA)
    with pytest.raises(SeedanceMediaTooLargeError):
        fetch(url, kept, max_media_bytes=len(DATA) - 1)
    assert not kept.data
    assert len(host.requests) == 1
    assert fetch(url, kept, max_media_bytes=len(DATA)).size == len(DATA)


def test_a_file_may_become_too_large_in_a_later_part(host: MediaServer) -> None:
    """The received bytes count, not the announced ones."""
    url = host.put("/a.mp4", DATA)
    host.script(
        "/a.mp4", Reply(cut=60_000), Reply(status=206, body=b"a" * 60_000, headers={"Content-Range": "x"})
    )
    with pytest.raises(SeedanceMediaTooLargeError):
        fetch(url, max_media_bytes=100_000)


# ---------------------------------------------------------------------- invalid replies


@pytest.mark.parametrize("script", [*WRONG.values(), *BOMBS.values()], ids=[*WRONG, *BOMBS])
def test_an_invalid_reply_is_an_error_of_the_package(script: Script) -> None:
    with file_of(script) as url, pytest.raises(SeedanceMediaError):
        fetch(url, max_media_bytes=100_000_000)
