"""Outputs that come within the reply, as data in their URL."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from airflow_provider_seedance.exceptions import SeedanceMediaError, SeedanceMediaTooLargeError
from airflow_provider_seedance.transfers.download import Announced, Downloaded, Source, store_data_url

DATA = bytes(range(256)) * 1200
SHA256 = hashlib.sha256(DATA).hexdigest()


class Memory(bytearray):
    """A sink."""

    def write(self, data: bytes) -> None:
        self.extend(data)

    def restart(self) -> None:
        raise AssertionError("restarted")


def from_url(
    url: str, leave: bool = False, max_bytes: int = 10_000_000
) -> tuple[Downloaded | None, bytes, list[Announced]]:
    sink = Memory()
    announced: list[Announced] = []

    def begin(found: Announced) -> Memory | None:
        announced.append(found)
        return None if leave else sink

    def refresh() -> str:
        raise AssertionError("requested")

    source = Source(label="the output", generation_id="local-1", url=url, refresh=refresh)
    return store_data_url(source, begin, max_bytes=max_bytes), bytes(sink), announced


def test_data_url() -> None:
    url = "data:image/webp;base64," + base64.b64encode(DATA).decode()
    done, data, announced = from_url(url)
    assert data == DATA
    assert done == Downloaded(size=len(DATA), sha256=SHA256)
    assert announced == [Announced(length=len(DATA), content_type="image/webp")]
    assert from_url(url.replace("+", "%2B").replace("=", "%3D"))[1] == DATA
    assert from_url(url, leave=True)[0] is None


@pytest.mark.parametrize("more", [0, 1, 2])
def test_data_url_too_large(more: int) -> None:
    data = DATA + b"x" * more
    url = "data:image/webp;base64," + base64.b64encode(data).decode()
    assert from_url(url, max_bytes=len(data))[1] == data
    for written in (url, url.replace("+", "%2B").replace("=", "%3D")):
        with pytest.raises(SeedanceMediaTooLargeError) as caught:
            from_url(written, max_bytes=len(data) - 1)
        assert not caught.value.retry_helps
        assert caught.value.generation_id == "local-1"
        for said in ("max_media_bytes", str(len(data) - 1), "clear this task", "pays nothing"):
            assert said in caught.value.message
        assert len(caught.value.message) < 500


def test_large_data_url_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(*arguments: Any, **named: Any) -> bytes:
        raise AssertionError("unpacked")

    monkeypatch.setattr(base64, "b64decode", unpack)
    with pytest.raises(SeedanceMediaTooLargeError):
        from_url("data:image/png;base64," + "QUFB" * 50_000, max_bytes=100_000)


@pytest.mark.parametrize(
    "url", ["data:image/png", "data:image/png,abc", "data:image/png;base64,", "data:image/png;base64,!!!"]
)
def test_undecodable_data_url(url: str) -> None:
    with pytest.raises(SeedanceMediaError, match="cannot be read"):
        from_url(url)
