from __future__ import annotations

from collections import deque

import httpx
import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.emulator.placeholder_media import TINY_MP4
from emulator.vendor import Vendor, Vendors


def video_url(vendor: Vendor, generation_id: str) -> str:
    return str(vendor.status(generation_id).json()["data"]["response"][0])


@pytest.fixture
def url(vendor: Vendors) -> str:
    v1 = vendor("seedanceapi-v1")
    return video_url(v1, v1.submit_id())


def test_a_file(url: str, http: httpx.Client) -> None:
    reply = http.get(url)
    assert reply.status_code == 200
    assert reply.content == TINY_MP4
    assert reply.headers["content-type"] == "video/mp4"
    assert reply.headers["accept-ranges"] == "bytes"
    assert reply.headers["content-length"] == str(len(TINY_MP4))


def test_head(url: str, http: httpx.Client) -> None:
    reply = http.head(url)
    assert reply.content == b""
    assert reply.headers["content-length"] == str(len(TINY_MP4))
    # The connection is still in step.
    assert http.get(url).content == TINY_MP4


def test_ranges(url: str, http: httpx.Client) -> None:
    for wanted, part, where in [
        ("bytes=0-9", slice(0, 10), "0-9"),
        ("bytes=100-", slice(100, None), f"100-{len(TINY_MP4) - 1}"),
        ("bytes=-10", slice(-10, None), f"{len(TINY_MP4) - 10}-{len(TINY_MP4) - 1}"),
        ("bytes=10-999999", slice(10, None), f"10-{len(TINY_MP4) - 1}"),
    ]:
        reply = http.get(url, headers={"Range": wanted})
        assert reply.status_code == 206
        assert reply.content == TINY_MP4[part]
        assert reply.headers["content-range"] == f"bytes {where}/{len(TINY_MP4)}"
    for wanted in ["bytes=9-3", "bytes=0-1,4-5", "lines=1-2", "bytes=-"]:  # they are ignored
        reply = http.get(url, headers={"Range": wanted})
        assert (reply.status_code, reply.content) == (200, TINY_MP4)
    # Behind the end.
    reply = http.get(url, headers={"Range": "bytes=999999-"})
    assert reply.status_code == 416
    assert reply.headers["content-range"] == f"bytes */{len(TINY_MP4)}"


def test_if_range(url: str, http: httpx.Client) -> None:
    etag = http.head(url).headers["etag"]
    assert http.get(url, headers={"Range": "bytes=0-1", "If-Range": etag}).status_code == 206
    assert http.get(url, headers={"Range": "bytes=0-1", "If-Range": '"old"'}).status_code == 200


def test_an_unknown_and_an_expired_url_and_its_renewal(vendor: Vendors) -> None:
    v1 = vendor("seedanceapi-v1")
    generation_id = v1.submit_id()
    old = video_url(v1, generation_id)
    v1.emulator.expire_urls(generation_id)
    for url, said in (
        (old.replace("token=", "token=x"), "<Code>SignatureDoesNotMatch</Code>"),
        (old, "<Message>Request has expired</Message>"),
    ):
        reply = v1.http.get(url)
        assert reply.status_code == 403
        assert said in reply.text
    assert v1.http.get(video_url(v1, generation_id)).status_code == 200


def test_ark_does_not_renew_urls(ark: Vendor) -> None:
    generation_id = ark.submit_id()
    ark.emulator.expire_urls(generation_id)
    url = ark.status(generation_id).json()["content"]["video_url"]
    assert ark.http.get(url).status_code == 403
    assert ark.status(generation_id).json()["content"]["video_url"] == url


def test_no_range_fault(emulator: SeedanceEmulator, url: str, http: httpx.Client) -> None:
    emulator.fault("no_range")
    reply = http.get(url, headers={"Range": "bytes=0-1"})
    assert (reply.status_code, reply.content) == (200, TINY_MP4)
    assert "accept-ranges" not in reply.headers


def test_downloads_that_end_early(emulator: SeedanceEmulator, url: str, http: httpx.Client) -> None:
    for kind, options, received in [
        ("cut_body", {"after": 100}, 100),
        ("short_length", {"extra": 10}, len(TINY_MP4)),
    ]:
        emulator.fault(kind, on="media", **options)
        content = bytearray()
        with pytest.raises(httpx.TransportError), http.stream("GET", url) as reply:
            deque(map(content.extend, reply.iter_raw()), maxlen=0)
        assert len(content) <= received
        assert http.get(url).content == TINY_MP4


def test_media_requests_are_in_the_ledger(emulator: SeedanceEmulator, url: str, http: httpx.Client) -> None:
    http.get(url)
    [entry] = [request for request in emulator.ledger.requests if request.kind == "media"]
    assert entry.api == "seedanceapi-v1"
    assert entry.generation_id == emulator.generations[0].id
    assert "authorization" not in entry.headers
