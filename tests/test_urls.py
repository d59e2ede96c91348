"""URLs: base URLs, identities of media, and permitted hosts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.exceptions import SeedanceConfigurationError
from airflow_provider_seedance.urls import (
    NOT_SHOWN,
    MediaHosts,
    address_problem,
    input_url_problem,
    is_public,
    media_url_problem,
    normalize_base_url,
    redact_url,
    split_signature,
)

NO_HOSTS = MediaHosts()


def problems(url: str, hosts: MediaHosts = NO_HOSTS) -> list[str | None]:
    """Return what is wrong with a URL of an output, and of an input."""
    return [media_url_problem(url, hosts), input_url_problem(url, hosts)]


def test_the_identity_of_a_media_url() -> None:
    for url, identity in [
        ("https://a.example/v.mp4?X-Amz-Signature=1&X-Amz-Date=2#t", "https://a.example/v.mp4"),
        ("https://a.example/v?id=A&X-Goog-Signature=1&versionId=7", "https://a.example/v?id=A&versionId=7"),
        ("https://a.example/v?b=2&a=1", "https://a.example/v?a=1&b=2"),
        ("https://a.example/v?Expires=1&Signature=2&Key-Pair-Id=3&Policy=4", "https://a.example/v"),
        (
            "https://a.example/v?OSSAccessKeyId=1&x-oss-process=image/resize",
            "https://a.example/v?x-oss-process=image/resize",
        ),
        ("https://a.example/v?x-tos-algorithm=1&X-Tos-Signature=2", "https://a.example/v"),
        ("https://a.example/v?sv=1&se=2&sr=b&sp=r&sig=x&skoid=1", "https://a.example/v"),
        ("https://a.example/v?sr=b&se=2", "https://a.example/v?se=2&sr=b"),  # words, where nothing is signed
        ("https://a.example/v?token=1&auth_key=2&t%6Fken=3&e=4", "https://a.example/v?e=4"),
        ("https://user:secret@a.example/v.mp4", "https://a.example/v.mp4"),
        ("HTTPS://A.Example/V.mp4", "https://a.example/V.mp4"),
        ("https://a.example:8443/v.mp4?x", "https://a.example:8443/v.mp4?x"),
        ("data:image/png;base64,AA?A", "data:image/png;base64,AA?A"),
        ("asset://x?y", "asset://x?y"),
        ("https://[broken", "https://[broken"),
        ("", ""),
    ]:
        assert split_signature(url)[0] == identity


def test_a_url_in_a_message_is_short_and_without_secrets() -> None:
    assert redact_url("https://u:p@a.example/v?sig=1") == "https://a.example/v"
    assert len(redact_url("https://a.example/" + "x" * 5000)) < 210
    assert len(redact_url("data:image/png;base64," + "A" * 5000)) < 210
    assert redact_url("https://a.example/v\r\nb") == "https://a.example/vb"


def test_urls_are_shown_without_secrets() -> None:
    for url, shown in [
        ("s3://AKIA:SECRET@bucket/k", "s3://bucket/k"),
        ("ftp://user:SECRET@host/x?sig=SECRET", "ftp://host/x"),
        ("seedance://:SECRET@https%3A%2F%2Fx", "seedance://https%3A%2F%2Fx"),
        ("//u:SECRET@h/x", "//h/x"),
        ("https://a.example/x?to=a@SECRET", "https://a.example/x"),
    ]:
        assert redact_url(url) == shown
    for url in [
        "https://u:SECRET@[x", "http:/u:SECRET@h", "u:SECRET@h", "u:SECRET?x@h", "https:///u:SECRET@h",
        "https://u:SEC/RET@h/x", "https://u:1/SECRET@h/x", "https://u:SECRET%40h/x", "https://u:p@SECRET?x@h/x",
        "https://[broken", "https://x.example:port/",
    ]:  # fmt: skip
        assert redact_url(url) == NOT_SHOWN
    for url in ["https://a.example/image@2x.png", "https://[::1]:8443/x", "asset://x", "v.mp4", ""]:
        assert redact_url(url) == url


MARKER = "Pa55-Marker"
_SCHEMES = st.sampled_from(
    ["https:", "HTTP:", "ftp:", "s3:", "seedance:", "socks5h:", "odd+x:", "", "a b:", "{'u': 'https:"]
)
_HOSTS = st.sampled_from(
    ["h", "a.example", "[::1]", "[x", "x]", "", "h:80", "h:port", "h:99999", "\ud800", "é.x", "h%40x"]
)
_TEXTS = st.text("ab1:/@?#[]%\\\t\n .", max_size=4)


@given(_SCHEMES, _TEXTS, _TEXTS, _TEXTS, _HOSTS, _TEXTS)
def test_no_password_of_a_url_is_ever_shown(
    scheme: str, user: str, before: str, after: str, host: str, path: str
) -> None:
    for url in (
        f"{scheme}//{user}:{before}{MARKER}{after}@{host}/{path}",
        f"{scheme}//:{MARKER}{after}@{host}",
        f"{scheme}{user}:{MARKER}{after}@{host}/{path}",
    ):
        assert MARKER not in redact_url(url)


@given(_SCHEMES, _HOSTS, st.sampled_from("?#"), _TEXTS, _TEXTS)
def test_no_query_of_a_url_is_ever_shown(scheme: str, host: str, mark: str, before: str, after: str) -> None:
    for start in (f"{scheme}//{host}/x", f"{scheme}//u:p@{host}", f"{scheme}{host}"):
        assert MARKER not in redact_url(f"{start}{mark}{before}{MARKER}{after}")


@given(st.sampled_from(["http", "https"]), st.sampled_from(["h", "a.example", "[::1]", "h:80"]))
def test_the_identity_of_a_media_url_holds_no_secret(scheme: str, host: str) -> None:
    assert MARKER not in split_signature(f"{scheme}://u:{MARKER}@{host}/x?sig={MARKER}#{MARKER}")[0]


def test_other_texts_are_compared_whole() -> None:
    for text in ["Who is it? A fox", "ftp://a@b?c", "a@b.example#1"]:
        assert split_signature(text) == (text, "")


def test_no_error_about_an_address_repeats_its_password() -> None:
    for host in [
        "seedance://:SECRET@https%3A%2F%2Fx", "ftp://u:SECRET@h", "https://u:SECRET@[x", "https://u:1/SECRET@h",
        "https://u:SECRET/x@h", "u:SECRET@host", "https://u:SECRET@\u2100.example", "https://u:SECRET@h:99999/",
    ]:  # fmt: skip
        with pytest.raises(SeedanceConfigurationError) as caught:
            normalize_base_url(host)
        assert "SECRET" not in f"{caught.value} {problems(host)}"


def test_base_urls() -> None:
    for url in ["https://seedanceapi.org/v2", "http://127.0.0.1:8123/b/v1", "http://[::1]:8123/v1"]:
        assert normalize_base_url(url) == normalize_base_url(f"{url}/") == url
    for host, base in [
        ("seedanceapi.org/v2", "https://seedanceapi.org/v2"),
        (" HTTPS://Seedanceapi.ORG/V2 ", "https://seedanceapi.org/V2"),
        ("https://x.example/v1/v1", "https://x.example/v1"),
        ("https://x.example/api/v3/v3/", "https://x.example/api/v3"),
        ("https://x.example/v1/v2", "https://x.example/v1/v2"),
        ("https://x.example/v11/v1", "https://x.example/v11/v1"),
    ]:
        assert normalize_base_url(host) == base
    for host, port, scheme, base in [
        ("127.0.0.1:8123/b/v1", None, "http", "http://127.0.0.1:8123/b/v1"),
        ("seedanceapi.org", None, "", "https://seedanceapi.org"),
        ("seedanceapi.org", None, " HTTP ", "http://seedanceapi.org"),
        ("localhost", 8123, "http", "http://localhost:8123"),
        ("http://localhost/x", 8123, None, "http://localhost:8123/x"),
        ("http://localhost:1/x", 8123, None, "http://localhost:1/x"),
    ]:
        assert normalize_base_url(host, port=port, scheme=scheme) == base


def test_hosts_that_cannot_be_a_base_url() -> None:
    for host in [
        "ftp://x.example", "https://", "https:///v1", "https://k:secret@x.example/v1",
        "https://x.example/?key=secret", "https://x.example/v1#secret", "http://x.example:port/",
        "http://[::1/v1", "http://x.example:99999", "http://x.example:70000", "http://x.example:-1",
        "http://x.example:0", "http://x .example", "http://x.example/\x00", "http://\ud800",
    ]:  # fmt: skip
        with pytest.raises(SeedanceConfigurationError) as caught:
            normalize_base_url(host)
        assert "secret" not in str(caught.value)


PRIVATE = [
    "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "0.0.0.0", "0.1.2.3",
    "169.254.169.254", "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::10.0.0.1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1",
    "2001:db8::1", "100::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:7f00:1", "2002:7f00:1::",
    "2002:a9fe:a9fe::1", "64:ff9b::7f00:1", "64:ff9b::169.254.169.254", "64:ff9b:1::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe", "2001:0:808:808:0:0:f7f7:f7f7", "192.0.0.9", "192.0.0.192", "192.88.99.1",
    "168.63.129.16", "::ffff:168.63.129.16", "2002:a83f:8110::1", "64:ff9b::168.63.129.16", "2002:c058:6301::",
    "2001:1::1", "2001:20::1", "2001:1ff:ffff::1", "3fff::1", "3fff:fff::1", "5f00::1", "4000::1", "100::ffff",
]  # fmt: skip

PUBLIC = [
    "8.8.8.8", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8",
    "2002:808:808::", "168.63.129.15", "168.63.129.17", "192.0.1.1", "192.88.98.1", "2001:200::1", "3ffe::1",
]  # fmt: skip


def test_addresses_that_are_public() -> None:
    texts = ("", "example.com", "2130706433", "0x7f.1", "0177.0.0.1", "1.2.3", "1.2.3.4.5")
    assert [address for address in (*PRIVATE, *PUBLIC, *texts) if is_public(address)] == PUBLIC


SPELLINGS = [
    "127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.1", "127.0.0.1.", "0",
    "localhost", "LOCALHOST", "localhost.", "a.localhost", "a.localhost.", "169.254.169.254", "[::1]",
    "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[2002:7f00:1::]", "[64:ff9b::7f00:1]", "[fe80::1]", "[::127.0.0.1]",
]  # fmt: skip


def test_no_spelling_of_a_private_host_passes() -> None:
    for host in SPELLINGS:
        for url in (f"https://{host}/v.mp4", f"https://{host}:8443/v.mp4"):
            assert all("media_hosts" in str(problem) for problem in problems(url))


def test_only_public_https_passes() -> None:
    for url in [
        "https://cdn.example.com/v.mp4?sig=1", "https://8.8.8.8/v.mp4", "https://[2606:4700::1111]/v",
        "https://1.example.com/",
    ]:  # fmt: skip
        assert problems(url) == [None, None]
    for url in [
        "http://cdn.example.com/v.mp4", "ftp://a.example/v", "file:///etc/passwd", "data:text/plain,x",
        "v.mp4", "", "//a.example/v", "https://", "https:///v", "https://[::1", "https://a.example:port/v",
        "javascript:1",
    ]:  # fmt: skip
        assert None not in problems(url)


def test_named_hosts_pass() -> None:
    for name, passing, refused in [
        ("127.0.0.1", "http://127.0.0.1:8123/v.mp4", "http://127.0.0.2:8123/v.mp4"),
        ("127.0.0.1:8123", "http://127.0.0.1:8123/v.mp4", "http://127.0.0.1:8124/v.mp4"),
        ("127.0.0.1:80", "http://127.0.0.1/v.mp4", "https://127.0.0.1/v.mp4"),
        ("http://127.0.0.1:8123/media", "http://127.0.0.1:8123/v.mp4", "http://127.0.0.1/v.mp4"),
        ("[::1]", "http://[::1]:8123/v", "http://[::2]:8123/v"),
        ("::1", "http://[::1]:8123/v", "http://[::2]:8123/v"),
        ("[::1]:8123", "http://[::1]:8123/v", "http://[::1]:8124/v"),
        ("*.internal.example", "http://a.internal.example/v", "http://internal.example/v"),
        ("*.internal.example", "http://a.b.Internal.Example/v", "http://evilinternal.example/v"),
        ("minio", "http://MINIO:9000/v", "http://minio.example/v"),
        ("minio", "https://minio/v", "ftp://minio/v"),
        ("a.example", "http://a.example/v", "http://a.example@127.0.0.1/v"),
    ]:
        hosts = MediaHosts.parse([name])
        assert problems(passing, hosts) == [None, None]
        assert None not in problems(refused, hosts)


def test_media_hosts() -> None:
    for value in [["a", "b"], ("a", "b"), "a,b", " A , b ,"]:
        assert MediaHosts.parse(value) == MediaHosts(frozenset({"a", "b"}))
    assert MediaHosts.parse([]) == NO_HOSTS
    assert MediaHosts.parse("https://u:SECRET@minio:9000/x") == MediaHosts(frozenset({"minio:9000"}))
    for other in [5, {"SECRET": 1}, [5], [None], True]:
        with pytest.raises(ValueError, match="a list of host names") as caught:
            MediaHosts.parse(other)
        assert "SECRET" not in str(caught.value)


def test_every_address_of_a_name_is_checked() -> None:
    assert address_problem("a.example", 443, ["8.8.8.8", "2606:4700::1111"], NO_HOSTS) is None
    explained = address_problem("a.example", 443, ["8.8.8.8", "10.0.0.1"], NO_HOSTS)
    assert "10.0.0.1" in explained
    assert "8.8.8.8" not in explained
    assert address_problem("a.example", 443, ["10.0.0.1"], MediaHosts.parse("a.example")) is None
    assert address_problem("a.example", 443, ["10.0.0.1"], MediaHosts.parse("a.example:80")) is not None


def test_a_schema_that_is_the_path_of_a_uri_is_refused() -> None:
    for scheme in ["v1", "ftp", "seedance"]:
        for host in ("api.example.com", "https://api.example.com"):
            with pytest.raises(SeedanceConfigurationError, match=r"as the host.*Nothing was sent") as caught:
                normalize_base_url(host, scheme=scheme)
            assert repr(scheme) in caught.value.message
