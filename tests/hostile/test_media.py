"""Downloads from a host gone bad: each ends, in bounds, and nothing of it is where it should not be."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scripted_server import serving
from transfers.conftest import host, make_settings, names
from transfers.server import MediaServer, Reply

from airflow_provider_seedance.client import media_client
from airflow_provider_seedance.client.media_client import MediaClient, MediaConnectionError, MediaTooSlowError
from airflow_provider_seedance.exceptions import (
    SeedanceMediaError,
    SeedanceMediaHostError,
    SeedanceMediaTooLargeError,
)
from airflow_provider_seedance.transfers import download as module
from airflow_provider_seedance.transfers.download import Announced, Source, download

from . import fake_transports
from .certificates import listening, self_signed

__all__ = ["host", "names"]  # fixtures

DATA = bytes(range(256)) * 400


@pytest.fixture(autouse=True)
def _small(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(module, "CONFIRMED_URL_BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(media_client, "STALL_TIMEOUT_SECONDS", 0.2)


class Kept:
    """A sink in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data.clear()


def fetch(url: str, kept: Kept | None = None, **extra: Any) -> Any:
    sink = kept or Kept()

    def begin(announced: Announced) -> Kept:
        return sink

    source = Source(label="the output", generation_id="g1", url=url, refresh=lambda: url)
    with MediaClient(make_settings(**{"timeout": 0.25, **extra})) as client:
        return download(
            client,
            source,
            begin,
            progress=lambda received, total: None,
        )


@contextmanager
def bad(script: fake_transports.Script) -> Iterator[str]:
    with serving(script) as server:
        yield f"http://127.0.0.1:{server.port}/a.mp4"


# ---------------------------------------------------------------------- time


@pytest.mark.parametrize(
    "script",
    [fake_transports.endless_interim, fake_transports.dripping_status_line, fake_transports.dripping_headers],
    ids=lambda one: one.__name__,
)
def test_a_reply_that_drips_ends(script: fake_transports.Script) -> None:
    with (
        bad(script) as url,
        MediaClient(make_settings(timeout=0.25)) as client,
        pytest.raises(MediaConnectionError),
    ):
        client.open(url)


def dripping_file(peer: socket.socket) -> None:
    fake_transports.read_request(peer)
    fake_transports.drip(
        peer,
        [
            fake_transports.head("200 OK", "Content-Length: 100000"),
            *[b"a" for _ in range(fake_transports.STEPS)],
        ],
        0.02,
    )


def test_a_file_that_drips_ends_and_what_dripped_is_no_progress() -> None:
    with bad(dripping_file) as url, MediaClient(make_settings(timeout=0.25)) as client:
        with client.open(url) as stream, pytest.raises(MediaTooSlowError, match="less than"):
            list(stream.chunks())
        with pytest.raises(SeedanceMediaError, match="after 5 attempts") as caught:
            fetch(url)
    assert caught.value.retry_helps


def test_what_the_reader_takes_its_time_for_is_not_the_hosts_fault(
    host: MediaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def endless_file(peer: socket.socket) -> None:
    fake_transports.read_request(peer)
    peer.sendall(fake_transports.head("200 OK", "Content-Type: video/mp4"))
    for _ in range(fake_transports.STEPS * 10):
        peer.sendall(b"a" * 10_000)


def test_a_download_without_an_end() -> None:
    kept = Kept()
    with bad(endless_file) as url, pytest.raises(SeedanceMediaTooLargeError) as caught:
        fetch(url, kept, max_media_bytes=100_000)
    assert len(kept.data) <= 100_000
    assert not caught.value.retry_helps
    for said in ("100000", "max_media_bytes", "clear this task", "pays nothing", "127.0.0.1"):
        assert said in caught.value.message


def test_a_file_that_is_announced_as_too_large_is_not_begun(host: MediaServer) -> None:
    kept = Kept()
    url = host.put("/a.mp4", DATA)
    with pytest.raises(SeedanceMediaTooLargeError):
        fetch(url, kept, max_media_bytes=len(DATA) - 1)
    assert not kept.data
    assert len(host.requests) == 1
    assert fetch(url, kept, max_media_bytes=len(DATA)).size == len(DATA)


def test_a_part_that_makes_a_file_too_large(host: MediaServer) -> None:
    """Whatever is announced, what comes is counted."""
    url = host.put("/a.mp4", DATA)
    host.script(
        "/a.mp4", Reply(cut=60_000), Reply(status=206, body=b"a" * 60_000, headers={"Content-Range": "x"})
    )
    with pytest.raises(SeedanceMediaTooLargeError):
        fetch(url, max_media_bytes=100_000)


# ---------------------------------------------------------------------- nonsense


@pytest.mark.parametrize(
    "script",
    [*fake_transports.WRONG, fake_transports.gzip_bomb, fake_transports.gzip_in_gzip],
    ids=lambda one: one.__name__,
)
def test_what_is_no_file_is_an_error_of_ours(script: fake_transports.Script) -> None:
    with bad(script) as url, pytest.raises(SeedanceMediaError):
        fetch(url, max_media_bytes=100_000_000)


def test_an_untrusted_certificate(tmp_path: Path) -> None:
    pem = self_signed(tmp_path / "one.pem", "127.0.0.1")
    with listening(pem) as (url, seen), pytest.raises(SeedanceMediaError, match="certificate"):
        fetch(url, timeout=2)
    assert seen == []


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data/",
        "https://[::ffff:169.254.169.254]/",
        "https://[64:ff9b::7f00:1]/",
        "https://2130706433/",
        "https://017700000001/",
        "https://0x7f.0.0.1/",
        "https://user:password@localhost/",
        "gopher://127.0.0.1/",
        "data:video/mp4;base64,AAAA",
        "https:internal.example/",
    ],
)
def test_a_redirect_into_our_own_network(host: MediaServer, location: str) -> None:
    host.script("/a.mp4", Reply(status=302, headers={"Location": location}))
    with pytest.raises(SeedanceMediaHostError) as caught:
        fetch(host.url("/a.mp4"))
    assert "password" not in str(caught.value)
