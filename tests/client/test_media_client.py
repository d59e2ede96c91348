"""Hosts that media may come from, on real sockets."""

from __future__ import annotations

import socket
import ssl
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hostile.certificates import self_signed
from hostile.fake_transports import SLOW_FILE, SLOW_HEADS, Script
from scripted_server import at_once, serving, silent
from support import SECRET
from transfers.conftest import host, make_settings, other_host
from transfers.server import MediaServer, Reply

from airflow_provider_seedance.client import deadlines, media_client
from airflow_provider_seedance.client.api_client import USER_AGENT
from airflow_provider_seedance.client.media_client import (
    MAX_REDIRECTS,
    MediaAddressError,
    MediaClient,
    MediaConnectionError,
    MediaTooSlowError,
)
from airflow_provider_seedance.exceptions import SeedanceConfigurationError

__all__ = ["host", "other_host"]  # fixtures

PUBLIC = "93.184.216.34"
DATA = bytes(range(256)) * 1024
MODIFIED = "Sat, 07 Feb 2026 10:40:00 GMT"


Names = Callable[..., list[str]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Give names addresses: ``names({"cdn.example": ["93.184.216.34"]})``; returns the look-ups to come."""
    real = socket.getaddrinfo

    def set_up(table: dict[str, list[str]]) -> list[str]:
        lookups: list[str] = []

        def look_up(name: Any, port: Any, *rest: Any, **options: Any) -> Any:
            lookups.append(name)
            addresses = table.get(name)
            if addresses is None:
                return real(name, port, *rest, **options)
            if not addresses:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [
                (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
                for one in addresses
            ]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        return lookups

    return set_up


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record where sockets are connected to, and let none of those connections succeed."""
    tried: list[Any] = []

    def refuse(address: Any, *rest: Any, **options: Any) -> Any:
        tried.append(address)
        raise ConnectionRefusedError("no network in tests")

    monkeypatch.setattr(socket, "create_connection", refuse)
    return tried


def fetch(url: str, **extra: Any) -> bytes:
    with MediaClient(make_settings(**extra)) as client, client.open(url) as stream:
        return b"".join(stream.chunks())


# ---------------------------------------------------------------------- requests and replies


def test_a_file(host: MediaServer) -> None:
    url = host.put("/a.mp4", DATA, etag='"1"')
    with MediaClient(make_settings()) as client, client.open(url) as stream:
        assert (stream.status, stream.content_length, stream.content_type) == (200, len(DATA), "video/mp4")
        assert (stream.validator, stream.content_encoding, stream.url) == ('"1"', None, url)
        pieces = list(stream.chunks())
    assert b"".join(pieces) == DATA
    assert max(map(len, pieces)) <= 64 * 1024


def test_a_part_of_a_file(host: MediaServer) -> None:
    url = host.put("/a.mp4", DATA, etag='"1"')
    with MediaClient(make_settings()) as client, client.open(url, offset=1000, validator='"1"') as stream:
        part = stream.content_range
        assert stream.status == 206
        assert (part.start, part.total) == (1000, len(DATA))
        assert b"".join(stream.chunks()) == DATA[1000:]
    assert host.requests[0].headers["if-range"] == '"1"'


def test_only_the_request_for_the_file_is_sent(host: MediaServer) -> None:
    host.put("/a.mp4", DATA)
    host.script("/a.mp4", Reply(headers={"Set-Cookie": "a=b"}))
    with MediaClient(make_settings()) as client:
        for _ in range(2):
            with client.open(host.url("/a.mp4?sig=1").replace("//", "//user:password@")) as stream:
                list(stream.chunks())
    for seen in host.requests:
        assert seen.headers == {
            "host": f"127.0.0.1:{host.port}",
            "user-agent": USER_AGENT,
            "accept": "*/*",
            "accept-encoding": "identity",
        }
    assert SECRET not in repr(host.requests)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        (
            "/a%2Fb%20c.mp4?X-Sig=a%2Bb+c/d==&e=%C3%A9|{}#part",
            "/a%2Fb%20c.mp4?X-Sig=a%2Bb+c/d==&e=%C3%A9|{}",
        ),
        ("/é .mp4?q=ü", "/%C3%A9%20.mp4?q=%C3%BC"),
    ],
)
def test_a_signature_is_sent_as_it_was_given_and_other_characters_are_quoted(
    host: MediaServer, url: str, sent: str
) -> None:
    host.put(sent.partition("?")[0], DATA)
    assert fetch(host.url(url)) == DATA
    assert host.requests[0].path == sent


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"ETag": 'W/"1"'}, None),
        ({"ETag": 'W/"1"', "Last-Modified": MODIFIED}, MODIFIED),
        ({"ETag": '"1"', "Last-Modified": MODIFIED}, '"1"'),
    ],
)
def test_a_weak_tag_is_not_a_validator(host: MediaServer, headers: Any, validator: str | None) -> None:
    url = host.put("/a.mp4", DATA)
    host.script("/a.mp4", Reply(headers=headers))
    with MediaClient(make_settings()) as client, client.open(url) as stream:
        assert stream.validator == validator


@pytest.mark.parametrize("value", ["", "bytes", "bytes 1-2", "items 1-2/3", "bytes x-y/z", "bytes 1-2/-3"])
def test_nonsense_for_a_range(host: MediaServer, value: str) -> None:
    url = host.put("/a.mp4", DATA)
    host.script("/a.mp4", Reply(status=206, headers={"Content-Range": value}))
    with MediaClient(make_settings()) as client, client.open(url, offset=1) as stream:
        assert stream.content_range is None


def test_a_body_that_ends_early(host: MediaServer) -> None:
    url = host.put("/a.mp4", DATA)
    host.script("/a.mp4", Reply(cut=1000))
    with pytest.raises(MediaConnectionError, match=r"127\.0\.0\.1"):
        fetch(url)


def test_a_host_that_does_not_answer(names: Names) -> None:
    names({"cdn.example.org": []})
    with pytest.raises(MediaConnectionError, match=r"cdn\.example\.org cannot be resolved"):
        fetch("https://cdn.example.org/a.mp4")


# ---------------------------------------------------------------------- slow hosts


def test_slow_replies_time_out() -> None:
    def check(script: Script) -> None:
        with serving(script) as server, pytest.raises(MediaConnectionError):
            fetch(f"http://127.0.0.1:{server.port}/a.mp4", timeout=0.1)

    at_once(check, {**SLOW_HEADS, "silent": silent})


def test_a_slow_file_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_client, "STALL_TIMEOUT_SECONDS", 0.1)
    with serving(SLOW_FILE) as server, pytest.raises(MediaTooSlowError, match="less than"):
        fetch(f"http://127.0.0.1:{server.port}/a.mp4")


def test_the_time_of_a_slow_reader_does_not_count(host: MediaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + reading)
    monkeypatch.setattr(deadlines, "time", clock)
    with MediaClient(make_settings()) as client, client.open(host.put("/a.mp4", DATA)) as stream:
        for _ in stream.chunks():
            reading += 2 * media_client.STALL_TIMEOUT_SECONDS
    assert reading > 0


# ---------------------------------------------------------------------- permitted sources


@pytest.mark.parametrize(
    "url",
    [
        # One of each kind; ``tests/test_urls.py`` has all spellings.
        "http://93.184.216.34/a.mp4",
        "https://127.0.0.1/a.mp4",
        "https://①②⑦.0.0.1/a.mp4",
        "https://user@127.0.0.1/a.mp4",
        "https://93.184.216.34\\@127.0.0.1/a.mp4",
        "https:evil.example.org/a.mp4",
        "https://cdn.example.org:port/a.mp4",
        "/a.mp4",
    ],
)
def test_a_url_that_is_refused_by_its_text(url: str, connected: list[Any]) -> None:
    for proxy in (None, "http://proxy.example.org:3128", "socks5://proxy.example.org:1080"):
        with pytest.raises(MediaAddressError):
            fetch(url, media_hosts=None, proxy=proxy)
    assert connected == []


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["fe80::1%eth0"], [PUBLIC, "192.168.0.1"]])
def test_a_name_that_resolves_to_a_private_address(
    addresses: list[str], names: Names, connected: list[Any]
) -> None:
    names({"cdn.example.org": addresses})
    with pytest.raises(MediaAddressError, match=r"cdn\.example\.org resolves to"):
        fetch("https://cdn.example.org/a.mp4")
    assert connected == []


def test_the_connection_goes_to_the_address_that_was_judged(names: Names, connected: list[Any]) -> None:
    table = {"cdn.example.org": [PUBLIC, "2606:2800:220:1::1"]}
    resolved = names(table)
    with MediaClient(make_settings()) as client:
        with pytest.raises(MediaConnectionError):
            client.open("https://cdn.example.org/a.mp4")
        assert resolved == ["cdn.example.org"]
        # It may resolve to something else the second time.
        table["cdn.example.org"] = ["127.0.0.1"]
        with pytest.raises(MediaAddressError):
            client.open("https://cdn.example.org/a.mp4")
    assert connected == [(PUBLIC, 443), ("2606:2800:220:1::1", 443)]


def test_media_hosts_name_a_private_host(host: MediaServer, names: Names) -> None:
    host.put("/a.mp4", DATA)
    names({"media.internal": ["127.0.0.1"]})
    url = host.url("/a.mp4", "media.internal")
    assert fetch(url, media_hosts=["media.internal"]) == DATA
    assert fetch(url, media_hosts=[f"media.internal:{host.port}"]) == DATA
    assert fetch(url, media_hosts=["*.internal"]) == DATA
    for hosts in (["internal"], ["media.internal:1"], ["127.0.0.1"]):
        with pytest.raises(MediaAddressError):
            fetch(url, media_hosts=hosts)


# ---------------------------------------------------------------------- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect(host: MediaServer, other_host: MediaServer, status: int) -> None:
    host.script("/v/a.mp4", Reply(status=status, headers={"Location": "../a.mp4"}))
    target = other_host.put("/b.mp4", DATA)
    host.script("/a.mp4", Reply(status=status, headers={"Location": target + "?sig=1"}))
    with MediaClient(make_settings()) as client, client.open(host.url("/v/a.mp4"), offset=5) as stream:
        assert stream.url == target + "?sig=1"
        assert b"".join(stream.chunks()) == DATA[5:]
    assert other_host.requests[0].headers["host"] == f"127.0.0.1:{other_host.port}"


@pytest.mark.parametrize(
    "location",
    [
        "https://127.0.0.2/a.mp4",
        "https://169.254.169.254/latest/meta-data",
        "http://cdn.example.org/a.mp4",
        "https://inside.example.org/a.mp4",
        "ftp://cdn.example.org/a.mp4",
        "https://[::1/",
    ],
)
def test_a_redirect_to_where_media_may_not_come_from(host: MediaServer, names: Names, location: str) -> None:
    names({"inside.example.org": ["10.0.0.1"]})
    host.script("/a.mp4", Reply(status=302, headers={"Location": location}))
    with pytest.raises(MediaAddressError):
        fetch(host.url("/a.mp4"))


def test_redirects_that_never_end_or_lead_nowhere(host: MediaServer) -> None:
    host.always["/a.mp4"] = Reply(status=302, headers={"Location": "/a.mp4"})
    with pytest.raises(MediaAddressError, match="more than 5 redirects"):
        fetch(host.url("/a.mp4"))
    assert len(host.requests) == MAX_REDIRECTS + 1
    host.script("/b.mp4", Reply(status=302))
    with MediaClient(make_settings()) as client, client.open(host.url("/b.mp4")) as stream:
        assert stream.status == 302


# ---------------------------------------------------------------------- proxies


def test_a_proxy(host: MediaServer, names: Names) -> None:
    """The proxy resolves the name; we do not even try."""
    resolved = names({})
    host.put("http://media.internal/a.mp4", DATA)
    proxy = f"http://user:p%40ss@127.0.0.1:{host.port}"
    assert fetch("http://media.internal/a.mp4", media_hosts=["media.internal"], proxy=proxy) == DATA
    assert set(resolved) == {"127.0.0.1"}
    assert host.requests[0].path == "http://media.internal/a.mp4"
    assert host.requests[0].headers["host"] == "media.internal"
    assert host.requests[0].headers["proxy-authorization"] == "Basic dXNlcjpwQHNz"
    host.script("http://media.internal/b.mp4", Reply(status=302, headers={"Location": "https://10.0.0.1/"}))
    with pytest.raises(MediaAddressError, match=r"10\.0\.0\.1"):
        fetch("http://media.internal/b.mp4", media_hosts=["media.internal"], proxy=proxy)
    assert len(host.requests) == 2


@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
def test_the_password_of_a_proxy_is_not_shown(scheme: str, connected: list[Any], names: Names) -> None:
    names({"proxy.example.org": ["10.0.0.1"]})
    with pytest.raises(MediaConnectionError) as caught:
        fetch("https://cdn.example.org/a.mp4", proxy=f"{scheme}://user:hidden-word@proxy.example.org:1")
    assert connected == [("proxy.example.org", 1)]
    assert "hidden-word" not in str(caught.value)


@pytest.mark.parametrize(
    "proxy", ["http://user:hidden-word@proxy:nought", "http://user:hidden%C3%A9-word@proxy:1"]
)
def test_a_proxy_that_no_client_can_be_made_of_is_a_configuration_error(proxy: str) -> None:
    with pytest.raises(SeedanceConfigurationError) as caught:
        fetch("https://cdn.example.org/a.mp4", proxy=proxy)
    assert "hidden" not in "".join(traceback.format_exception(caught.value))


# ---------------------------------------------------------------------- TLS


@pytest.fixture
def secure_host(tmp_path: Path) -> Iterator[MediaServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path / "media.pem", "media.internal"))
    with MediaServer(context) as running:
        yield running


def test_the_certificate_is_checked_for_the_name(
    secure_host: MediaServer, tmp_path: Path, names: Names
) -> None:
    names({"media.internal": ["127.0.0.1"], "other.internal": ["127.0.0.1"]})
    secure_host.put("/a.mp4", DATA)
    trusted: dict[str, Any] = {"media_hosts": ["*.internal"], "verify": str(tmp_path / "media.pem")}
    assert fetch(secure_host.url("/a.mp4", "media.internal"), **trusted) == DATA
    for name, extra in (("other.internal", trusted), ("media.internal", {**trusted, "verify": True})):
        with pytest.raises(MediaConnectionError, match="certificate"):
            fetch(secure_host.url("/a.mp4", name), **extra)
    assert fetch(secure_host.url("/a.mp4", "media.internal"), **{**trusted, "verify": False}) == DATA
