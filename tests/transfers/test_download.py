"""One download, from a host that misbehaves."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import pytest
from hostile.fake_transports import BOMBS, SLOW_FILE, STEPS, WRONG, Script, head, sends
from scripted_server import serving

from airflow_provider_seedance.client import media_client
from airflow_provider_seedance.client.media_client import MediaClient
from airflow_provider_seedance.exceptions import (
    SeedanceMediaError,
    SeedanceMediaHostError,
    SeedanceMediaTooLargeError,
    SeedanceOutputGoneError,
    SeedanceRateLimitError,
)
from airflow_provider_seedance.transfers import download as module
from airflow_provider_seedance.transfers.download import (
    Announced,
    Downloaded,
    DownloadTiming,
    Source,
    download,
)
from transfers.conftest import make_settings
from transfers.server import MediaServer, Reply

DATA = bytes(range(256)) * 1200  # several pieces
NEW = bytes(reversed(DATA))[:-1000]
FUTILE = module.MAX_FUTILE_ATTEMPTS


def part(first: int, last: int, body: bytes, size: int = len(DATA)) -> Reply:
    return Reply(status=206, body=body, headers={"Content-Range": f"bytes {first}-{last}/{size}"})


CUT = Reply(cut=100_000)


class Memory:
    """A sink that remembers how often it began."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.restarts = 0

    def write(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data.clear()
        self.restarts += 1


class RecordingEvent(threading.Event):
    """Records pauses in place of waiting."""

    def __init__(self, pauses: list[float]) -> None:
        super().__init__()
        self._pauses = pauses

    def wait(self, timeout: float | None = None) -> bool:
        self._pauses.append(timeout or 0.0)
        return self.is_set()


class Run:
    """A download with everything that can be seen of it."""

    def __init__(self, url: str, *fresh: Any, stale: bool = False, **extra: Any) -> None:
        self.url = url
        self.fresh = list(fresh)
        self.stale = stale
        self.extra = extra
        self.sink = Memory()
        self.announced: list[Announced] = []
        self.progress: list[tuple[int, int | None]] = []
        self.slept: list[float] = []
        self.refreshed = 0
        self.stop = RecordingEvent(self.slept)
        self.timing: DownloadTiming | None = None
        self.leave = False
        self.on_progress: Callable[[int], None] = lambda received: None

    def __call__(self) -> Downloaded | None:
        named = {"label": "the output of generation gen-1", "generation_id": "gen-1"}
        source = Source(**named, url=self.url, refresh=self._refresh, stale=self.stale)
        options: dict[str, Any] = {"progress": self._progress, "stop": self.stop, "timing": self.timing}
        with MediaClient(make_settings(**self.extra)) as client:
            return download(client, source, self._begin, **options)

    def fails(self, kind: type[SeedanceMediaError] = SeedanceMediaError) -> SeedanceMediaError:
        with pytest.raises(kind) as caught:
            self()
        assert type(caught.value) is kind
        assert caught.value.generation_id == "gen-1"
        return caught.value

    def succeeds(self, data: bytes = DATA) -> Downloaded:
        done = self()
        assert done == Downloaded(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        assert bytes(self.sink.data) == data
        return done

    def _begin(self, announced: Announced) -> Memory | None:
        self.announced.append(announced)
        return None if self.leave else self.sink

    def _progress(self, received: int, total: int | None) -> None:
        self.progress.append((received, total))
        self.on_progress(received)

    def _refresh(self) -> str:
        self.refreshed += 1
        answer = self.fresh.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)


# ---------------------------------------------------------------------- whole files


def test_download(host: MediaServer) -> None:
    run = Run(host.put("/a.mp4", DATA, etag='"1"'))
    run.succeeds()
    assert run.announced == [Announced(length=len(DATA), content_type="video/mp4")]
    assert run.progress[-1] == (len(DATA), len(DATA))
    assert len(run.progress) > 2
    assert (len(host.requests), run.slept, run.refreshed) == (1, [], 0)


def test_download_without_an_announced_length(host: MediaServer, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(host.put("/a.mp4", DATA))
    host.script("/a.mp4", Reply(headers={"Content-Length": None}))
    run.succeeds()
    assert run.announced[0].length is None
    assert "announces no length" in caplog.text


def test_file_is_left(host: MediaServer) -> None:
    run = Run(host.put("/a.mp4", DATA))
    run.leave = True
    assert run() is None
    assert not run.progress


# ---------------------------------------------------------------------- resuming


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    "options",
    [{"etag": '"1"'}, {"modified": "Sat, 07 Feb 2026 10:40:00 GMT"}, {"etag": 'W/"1"'}, {}],
    ids=["etag", "date", "weak", "nothing"],
)
def test_broken_download_is_resumed(host: MediaServer, options: dict[str, Any], reset: bool) -> None:
    run = Run(host.put("/a.mp4", DATA, **options))
    host.script("/a.mp4", Reply(cut=100_000, reset=reset), Reply(cut=50_000, reset=reset))
    run.succeeds()
    ranges = host.ranges("/a.mp4")
    assert [bool(one) for one in ranges] == [False, True, True]
    if not reset:  # a reset may take bytes along that had arrived
        assert ranges[1:] == ["bytes=100000-", "bytes=150000-"]
    assert run.sink.restarts == 0
    validator = options.get("modified") or (options.get("etag") if options.get("etag") == '"1"' else None)
    assert host.requests[1].headers.get("if-range") == validator


@pytest.mark.parametrize(
    ("ranges", "replies"),
    [
        (False, [CUT]),
        (True, [CUT, Reply(status=416)]),
        (True, [part(0, len(DATA) - 1, DATA, size=1000)]),
    ],
    ids=["no ranges", "refused range", "exceeded length"],
)
def test_download_starts_over(host: MediaServer, ranges: bool, replies: list[Reply]) -> None:
    run = Run(host.put("/a.mp4", DATA, etag='"1"', ranges=ranges))
    host.script("/a.mp4", *replies)
    run.succeeds()
    assert run.sink.restarts == 1


@pytest.mark.parametrize(("if_range", "length"), [(True, len(NEW)), (False, len(NEW)), (False, len(DATA))])
def test_file_changes_during_the_download(host: MediaServer, if_range: bool, length: int) -> None:
    new = bytes(reversed(DATA))[:length]
    run = Run(host.put("/a.mp4", DATA, etag='"1"', if_range=if_range))
    host.script("/a.mp4", CUT)
    run.on_progress = lambda received: (
        host.put("/a.mp4", new, etag='"2"', if_range=if_range) if 50_000 <= received < 200_000 else None
    )
    run.succeeds(new)
    assert run.sink.restarts == 1


WRONG_RANGES = ("bytes 0-9/307200", "bytes 100001-307199/307200", "bytes */307200", "nonsense")


@pytest.mark.parametrize(
    ("replies", "firsts"),
    [
        ([Reply(cut=0), Reply(cut=0, reset=True)], [None, None, None]),
        *(([CUT, Reply(headers={"Content-Range": wrong})], [None, 100_000, None]) for wrong in WRONG_RANGES),
        ([CUT, part(100_000, 149_999, DATA[100_000:150_000])], [None, 100_000, 150_000]),
        ([part(5, 307_199, DATA[5:]), part(0, 307_199, DATA)], [None, None]),
        ([Reply(cut=20_000)] * 12, [None, *range(20_000, 240_001, 20_000)]),  # progress resets the attempts
        *(([Reply(status=status)], [None, None]) for status in (204, 300, 304)),
    ],
)
def test_ranges_that_are_requested(host: MediaServer, replies: list[Reply], firsts: list[int | None]) -> None:
    run = Run(host.put("/a.mp4", DATA, etag='"1"'))
    host.script("/a.mp4", *replies)
    run.succeeds()
    assert host.ranges("/a.mp4") == [first and f"bytes={first}-" for first in firsts]


def test_complete_file_of_unknown_length(host: MediaServer) -> None:
    run = Run(host.put("/a.mp4", DATA, etag='"1"'))
    chunked: dict[str, str | None] = {"Content-Length": None, "Transfer-Encoding": "chunked"}
    body = b"%x\r\n%s\r\n" % (len(DATA), DATA)  # and no last chunk
    headers = {"Content-Type": "video/mp4", "ETag": '"1"', **chunked}
    host.script("/a.mp4", Reply(status=200, body=body, headers=headers))
    run.succeeds()
    assert host.ranges("/a.mp4") == [None, f"bytes={len(DATA)}-"]


# ---------------------------------------------------------------------- hosts in trouble


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_temporary_status(host: MediaServer, status: int) -> None:
    run = Run(host.put("/a.mp4", DATA))
    host.script("/a.mp4", Reply(status=status), Reply(status=status, headers={"Retry-After": "7"}))
    run.succeeds()
    assert run.slept == [0.0, 7.0]
    assert run.refreshed == 0


def test_long_retry_after_is_left_to_airflow(host: MediaServer) -> None:
    """Airflow makes it, without a worker: the retry policy reads ``retry_after``."""
    host.always["/a.mp4"] = Reply(status=429, headers={"Retry-After": "1800"})
    run = Run(host.url("/a.mp4"))
    error = run.fails()
    assert (error.retry_after, error.retry_helps, run.slept) == (1800, True, [])


@pytest.mark.parametrize(
    ("data", "reply", "message", "requests"),
    [
        (DATA, Reply(status=503), "HTTP 503", FUTILE),
        (DATA, Reply(cut=100_000, whole=True), "100000 of 307200 bytes", FUTILE),
        (
            DATA,
            Reply(headers={"Content-Length": "307201"}, cut=307_200, whole=True),
            "307200 of 307201 bytes",
            FUTILE,
        ),
        (DATA, Reply(cut=100), "800 of 307200 bytes", 8),
        (DATA, Reply(headers={"Content-Encoding": "gzip"}), "content encoding gzip", 1),
        (b"", Reply(), "the file is empty", None),
    ],
    ids=["server error", "starts over", "never reached", "progress", "compressed", "empty"],
)
def test_attempts_are_limited(
    host: MediaServer, monkeypatch: pytest.MonkeyPatch, data: bytes, reply: Reply, message: str, requests: Any
) -> None:
    monkeypatch.setattr(module, "MAX_ATTEMPTS", 8)
    run = Run(host.put("/a.mp4", data, etag='"1"'))
    host.always["/a.mp4"] = reply
    run.timing = DownloadTiming(first_backoff=0.25)
    error = run.fails()
    assert message in str(error)
    assert "a retry downloads again and pays nothing" in str(error)
    assert (error.http_status == 503) is (reply.status == 503)
    assert requests in (None, len(host.requests))
    if requests == FUTILE:
        assert run.slept == [0.25, 0.5, 1.0, 2.0]


# ---------------------------------------------------------------------- refused URLs


PAGES = ("text/html; charset=utf-8", "application/json", "application/xml", "TEXT/XML")


@pytest.mark.parametrize(
    "reply",
    [
        *(Reply(status=status) for status in (400, 401, 403, 404, 410)),
        *(Reply(status=200, body=b"<html>expired</html>", headers={"Content-Type": kind}) for kind in PAGES),
    ],
)
def test_refused_url_is_renewed(host: MediaServer, reply: Reply) -> None:
    host.always["/old.mp4"] = reply
    run = Run(host.url("/old.mp4?sig=1"), host.put("/new.mp4", DATA))
    run.succeeds()
    assert run.refreshed == 1


def test_url_expires_during_the_download(host: MediaServer) -> None:
    """The signature is new, the file is the same: it goes on where it was."""
    url = host.put("/a.mp4", DATA)
    host.script("/a.mp4", Reply(cut=100_000), Reply(status=403))
    run = Run(url + "?sig=1", url + "?sig=2")
    run.succeeds()
    assert host.ranges("/a.mp4") == [None, "bytes=100000-", "bytes=100000-"]
    assert host.requests[2].path == "/a.mp4?sig=2"


@pytest.mark.parametrize(
    ("options", "data", "ranges"),
    [({}, NEW, [None]), ({"etag": '"1"'}, DATA, ["bytes=100000-"])],
    ids=["no validator", "same etag"],
)
def test_another_path_is_resumed_if_its_file_is_the_same(
    host: MediaServer, options: dict[str, Any], data: bytes, ranges: list[Any]
) -> None:
    host.put("/old.mp4", DATA, **options)
    host.script("/old.mp4", CUT, Reply(status=403))
    Run(host.url("/old.mp4"), host.put("/new.mp4", data, **options)).succeeds(data)
    assert host.ranges("/new.mp4") == ranges


def test_output_is_gone(host: MediaServer) -> None:
    url = host.url("/a.mp4?sig=secret")
    run = Run(url, url)
    error = run.fails(SeedanceOutputGoneError)
    assert (error.retry_helps, error.http_status, run.refreshed) == (False, 404, 1)
    assert "is billed" in str(error)
    assert 'on_clear="new"' in str(error)
    assert "secret" not in str(error)
    # The host may have the file of a URL by which the service stands a moment later.
    host.script("/a.mp4", Reply(status=404))
    host.put("/a.mp4", DATA)
    Run(url, url).succeeds()


def test_every_url_is_refused(host: MediaServer) -> None:
    run = Run(host.url("/1.mp4"), host.url("/2.mp4"), host.url("/3.mp4"), host.url("/4.mp4"))
    error = run.fails()
    assert "refuses every URL" in str(error)
    assert (run.refreshed, error.retry_helps) == (2, True)


def test_service_is_rate_limited(host: MediaServer) -> None:
    run = Run(host.url("/a.mp4"), SeedanceRateLimitError("The quota is used up.", retry_after=900))
    with pytest.raises(SeedanceRateLimitError) as caught:
        run()
    assert caught.value.retry_after == 900
    assert caught.value.generation_id == "gen-1"
    assert "HTTP 404" in str(caught.value)


def test_expired_url_is_renewed_first(host: MediaServer) -> None:
    Run(host.url("/old.mp4"), host.put("/new.mp4", DATA), stale=True).succeeds()
    assert host.ranges("/old.mp4") == []
    # Without a replacement it may still work.
    gone = SeedanceOutputGoneError("The generation is not known to the service any more.")
    Run(host.put("/old.mp4", DATA), gone, stale=True).succeeds()
    Run(host.url("/none.mp4"), gone, gone, stale=True).fails(SeedanceOutputGoneError)


def test_private_host(host: MediaServer) -> None:
    run = Run(host.put("/a.mp4", DATA), media_hosts=None)
    error = run.fails(SeedanceMediaHostError)
    assert "media_hosts" in str(error)
    assert host.requests == []
    assert run.refreshed == 0


def test_stop(host: MediaServer) -> None:
    run = Run(host.put("/a.mp4", DATA))
    run.on_progress = lambda received: run.stop.set()
    assert "the task was stopped" in str(run.fails())
    assert len(run.progress) == 1


# ---------------------------------------------------------------------- hostile hosts


@contextmanager
def at(script: Script, **extra: Any) -> Iterator[Run]:
    with serving(script) as server:
        url = f"http://127.0.0.1:{server.port}/a.mp4"
        yield Run(url, url, url, **extra)


@pytest.mark.parametrize("script", [*WRONG.values(), *BOMBS.values()], ids=[*WRONG, *BOMBS])
def test_an_invalid_reply_is_an_error_of_the_package(script: Script) -> None:
    with at(script, max_media_bytes=100_000_000) as run, pytest.raises(SeedanceMediaError):
        run()


def test_the_bytes_of_a_slow_file_are_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_client, "STALL_TIMEOUT_SECONDS", 0.1)
    with at(SLOW_FILE) as run:
        error = run.fails()
    assert "after 5 attempts" in error.message
    assert error.retry_helps


def check_too_large(error: SeedanceMediaError, limit: int) -> None:
    assert not error.retry_helps
    for said in ("max_media_bytes", str(limit), "clear this task", "pays nothing"):
        assert said in error.message
    assert len(error.message) < 500


def test_an_endless_download_is_too_large() -> None:
    endless = sends(head("200 OK", "Content-Type: video/mp4"), *[b"a" * 10_000] * (STEPS * 10))
    with at(endless, max_media_bytes=100_000) as run:
        check_too_large(run.fails(SeedanceMediaTooLargeError), 100_000)
    assert len(run.sink.data) <= 100_000


def test_a_file_that_is_announced_as_too_large_is_not_downloaded(host: MediaServer) -> None:
    run = Run(host.put("/a.mp4", DATA), max_media_bytes=len(DATA) - 1)
    check_too_large(run.fails(SeedanceMediaTooLargeError), len(DATA) - 1)
    assert (len(run.sink.data), len(host.requests)) == (0, 1)
    Run(run.url, max_media_bytes=len(DATA)).succeeds()


def test_a_file_may_become_too_large_in_a_later_part(host: MediaServer) -> None:
    """The received bytes count, not the announced ones."""
    run = Run(host.put("/a.mp4", DATA[:100_000]), max_media_bytes=100_000)
    later = Reply(status=206, body=b"a" * 60_000, headers={"Content-Range": "bytes 60000-99999/100000"})
    host.script("/a.mp4", Reply(cut=60_000), later)
    run.fails(SeedanceMediaTooLargeError)


# ---------------------------------------------------------------------- data URLs


def data_url(data: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def quoted(url: str) -> str:
    return url.replace("+", "%2B").replace("=", "%3D")


def test_data_url() -> None:
    run = Run(data_url(DATA))
    run.succeeds()
    assert run.announced == [Announced(length=len(DATA), content_type="image/webp")]
    Run(quoted(run.url)).succeeds()
    run.leave = True
    assert run() is None


@pytest.mark.parametrize("more", [0, 1, 2])
def test_data_url_too_large(more: int) -> None:
    data = DATA + b"x" * more
    Run(data_url(data), max_media_bytes=len(data)).succeeds(data)
    for url in (data_url(data), quoted(data_url(data))):
        limited = Run(url, max_media_bytes=len(data) - 1)
        check_too_large(limited.fails(SeedanceMediaTooLargeError), len(data) - 1)


def test_large_data_url_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("data:image/png;base64," + "QUFB" * 50_000, max_media_bytes=100_000)
    monkeypatch.setattr(base64, "b64decode", Mock(side_effect=AssertionError("decoded")))
    run.fails(SeedanceMediaTooLargeError)


@pytest.mark.parametrize(
    "url", ["data:image/png", "data:image/png,abc", "data:image/png;base64,", "data:image/png;base64,!!!"]
)
def test_undecodable_data_url(url: str) -> None:
    assert "cannot be read" in str(Run(url).fails())
