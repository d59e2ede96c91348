"""The key by which two requests are the same, and what of a generation can still be delivered."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from helpers import image, settings, video
from transfers.server import MediaServer, Reply

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus, utc_now
from airflow_provider_seedance.submission import reuse as module
from airflow_provider_seedance.submission.reuse import is_deliverable, repeat_while_submitting, reuse_key
from airflow_provider_seedance.submission.timing import TIMING

CONNECTED = settings("https://vendor.example/v1", media_hosts=["127.0.0.1"])


@pytest.fixture
def host() -> Iterator[MediaServer]:
    with MediaServer() as server:
        yield server


def key(request: Any = None, digests: dict[str, str] | None = None, **changes: Any) -> str | None:
    return reuse_key(request or video("A heron"), replace(CONNECTED, **changes), digests)


def test_a_key_is_that_of_a_request_at_a_connection() -> None:
    known = key()
    assert known is not None
    assert len(known) == 64
    assert key(digests={}) == known
    unlike = [key(video("A fox")), key(image("A heron")), key(conn_id="b"), key(base_url="https://b.example")]
    assert len({known, *unlike}) == 5


def test_an_input_counts_by_its_content_and_its_role() -> None:
    a, b = "https://m.example/a.png", "https://m.example/b.png"

    def of(*images: Any, **digests: str) -> str | None:
        return key(video(images=list(images)), {"https://m.example/a.png": "1", b: "2", **digests})

    assert key(video(images=[a])) is None  # nothing is downloaded
    assert of(a) == key(video(images=[b]), {b: "1"})
    first = [{"url": a, "role": "first_frame"}]
    assert len({of(a), of(b), of(a, b), of(b, a), of(*first), key()}) == 6
    assert key(video(images=[a]), {a: ""}) is None
    assert key(video(images=[b, a]), {b: "1", a: ""}) is None


def test_an_input_is_downloaded_once(host: MediaServer) -> None:
    url, digests = host.put("/a.png", b"content"), dict[str, str]()
    assert key(video(images=[url]), digests)
    assert digests == {url: hashlib.sha256(b"content").hexdigest()}
    host.always["/a.png"] = Reply(status=404, body=b"gone")
    assert key(video(images=[url]), digests)
    assert key(video(images=[url]), lost := {}) is None
    assert lost == {url: ""}
    assert key(video(images=["data:image/png;base64,AAAA"]), known := {}) is not None
    assert list(known.values()) == [hashlib.sha256(b"data:image/png;base64,AAAA").hexdigest()]


@pytest.mark.parametrize("failures", [0, 1, len(TIMING.reuse_backoff), len(TIMING.reuse_backoff) + 1])
def test_another_task_that_submits_is_waited_for(monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    busy = errors.SeedanceRateLimitError("Another task submits.")
    write = Mock(side_effect=[*[busy] * failures, "written"])
    if failures > len(TIMING.reuse_backoff):
        with pytest.raises(errors.SeedanceRateLimitError):
            repeat_while_submitting(write)
    else:
        assert repeat_while_submitting(write) == "written"
    assert slept == list(TIMING.reuse_backoff[:failures])


BUSY = [Reply(status=status, body=b"busy") for status in (429, 500, 503)]
TYPES = ("text/html", "application/xml", "application/json")
GONE = [
    *(Reply(status=status, body=b"gone") for status in (204, 403, 404, 499)),
    *(Reply(status=200, body=b"{}", headers={"Content-Type": kind}) for kind in TYPES),
    Reply(status=200, body=b"x", headers={"Content-Encoding": "gzip", "Content-Type": "video/mp4"}),
    Reply(status=200, body=b"", headers={"Content-Type": "video/mp4"}),
]


def made(*urls: str, status: str = "succeeded", **changes: Any) -> Generation:
    return Generation(
        generation_id="g", api="ark", media="video", status=GenerationStatus(status), urls=urls, **changes
    )


@pytest.mark.parametrize(
    ("reply", "deliverable"), [(None, True), *((one, True) for one in BUSY), *((one, False) for one in GONE)]
)
def test_an_output_is_requested(
    host: MediaServer, caplog: pytest.LogCaptureFixture, reply: Reply | None, deliverable: bool
) -> None:
    caplog.set_level("INFO")
    good, url = host.put("/a.mp4", b"video"), host.put("/b.mp4", b"video")
    if reply:
        host.always["/b.mp4"] = reply
    assert is_deliverable(made(good, url), CONNECTED) is deliverable
    if reply and deliverable:
        shown = f"HTTP {reply.status}, type "
        assert f"An output of generation g cannot be read now: {shown}" in caplog.text
    if not deliverable:
        assert "Generation g cannot be reused: " in caplog.text


@pytest.mark.parametrize(
    ("generation", "deliverable"),
    [
        (made("data:video/mp4;base64,AA"), True),
        (made("data:video/mp4;base64,AA", status="failed"), False),
        (made("data:video/mp4;base64,AA", expires_at=utc_now() - timedelta(seconds=1)), False),
        (made(), False),
        (made("http://10.0.0.1/a.mp4"), False),  # an address that is not allowed
        (made("http://127.0.0.1:1/a.mp4"), True),  # a host that is away
    ],
)
def test_what_is_known_of_an_output_without_a_reply(generation: Generation, deliverable: bool) -> None:
    assert is_deliverable(generation, CONNECTED) is deliverable
