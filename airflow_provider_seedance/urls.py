"""
Decisions about addresses: base URLs, what identifies a media URL, and where media may come from.

Pure functions; names are resolved elsewhere and the addresses handed in.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from airflow_provider_seedance.exceptions import SeedanceConfigurationError


def without_query(url: str) -> str:
    """
    Return what a media URL identifies: without query, fragment and user info.

    Presigned links carry a signature and an expiry there, which change every time they are made. Any other
    text, such as a prompt, comes back as it is. The result is for comparing and for digests, never to be
    shown: that is what :func:`redact_url` is for.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme.lower() not in ("http", "https"):
            return url
        return urlunsplit((parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower(), parts.path, "", ""))
    except ValueError:
        return url


def redact_url(url: str) -> str:
    """
    Return a URL for logs and messages: without what may be secret in it.

    Works on the text, because what no parser takes for a URL may hold a password as well.
    """
    shown = _without_secrets(url.strip().translate(_DROPPED))
    return shown if len(shown) <= 200 else shown[:200] + "…"


#: What URL parsers drop, so that it cannot hide anything from them, nor break a line of a log.
_DROPPED = dict.fromkeys(map(ord, "\t\r\n"))
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*:)?", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9a-z:.%]*\]|[^\s:@\[\]\\]+)(:[0-9]*)?", re.IGNORECASE)
#: Spellings of "@" that some parsers take for one.
_AT_SIGNS = re.compile("@|%40|\uff20|\ufe6b", re.IGNORECASE)


def _without_secrets(text: str) -> str:
    """Cut user info, query and fragment out of a text; where they cannot be told apart, all that may be some."""
    head = re.split("[?#]", text, maxsplit=1)[0]
    before, slashes, rest = head.partition("//")
    if not slashes:
        if not _AT_SIGNS.search(text):
            return head
        # A password may hold a "?" or "#" itself, and then what comes before it is not shown either.
        return "…" if _AT_SIGNS.search(text[len(head) :]) else "…" + _AT_SIGNS.split(head)[-1]
    netloc, slash, path = rest.partition("/")
    info, at, host = netloc.rpartition("@")
    if _AT_SIGNS.search(text) and not _SCHEME.fullmatch(before):
        before = "…"  # some text with a URL in it, or a password with "//" in it
    if (at and not _HOST.fullmatch(host)) or _AT_SIGNS.search(host):
        return f"{before}//…"
    after = text.partition("//")[2][len(info) + len(at) :]
    later = list(_AT_SIGNS.finditer(after))
    if later and (at or ":" in after[: later[-1].start()] or not host):
        # Before an "@" that comes late all may be user info, of which a "/" or a "?" is a part.
        return f"{before}//…"
    return f"{before}//{host}{slash}{path}"


#: Control characters, spaces and halves of characters.
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\ud800-\udfff]")


def normalize_base_url(host: str, *, port: int | None = None, scheme: str | None = None) -> str:
    """
    Make the base URL from the connection's host, port and schema.

    Scheme, port and path of a URL are kept; a bare host name gets https. A version written twice at
    the end (``/v1/v1``, as when the documents' base URL and endpoint are joined by hand) becomes one.

    :raises SeedanceConfigurationError: the host is not a usable http(s) address, or the schema is something
        else than http or https; nothing was sent.
    """
    text = host.strip()
    scheme = (scheme or "").strip().lower()
    if scheme not in ("", "http", "https"):
        # Airflow reads the path of a connection written as a URI as its schema.
        raise SeedanceConfigurationError(
            f"The connection's schema is {redact_url(scheme)!r}; it takes http, https or nothing. In a connection "
            "written as a URI the path becomes the schema and is lost: write the whole base URL as the host, "
            'such as "host": "https://seedanceapi.org/v2" in a JSON connection, or percent-encoded in a URI, '
            "seedance://:KEY@https%3A%2F%2Fseedanceapi.org%2Fv2. Nothing was sent."
        )
    if "://" not in text:
        text = f"{scheme or 'https'}://{text}"
    try:
        parts = urlsplit(text)
        netloc = parts.netloc
        named = parts.port  # reading it is what finds a port that is none
        if port and named is None:
            named, netloc = int(port), f"{netloc}:{port}"
        if _UNPRINTABLE.search(text) or not (named is None or 0 < named < 65_536):
            raise ValueError
    except ValueError:
        # What the parser says may repeat a part of a password.
        raise SeedanceConfigurationError(
            f"The connection's host {redact_url(text)!r} is not an address: a bracket, a character or its port "
            "(1 to 65535) is none that an address has."
        ) from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise SeedanceConfigurationError(
            f"The connection's host {redact_url(text)!r} is not an http or https URL, such as "
            "https://seedanceapi.org/v2."
        )
    if "@" in text or parts.query or parts.fragment:
        raise SeedanceConfigurationError(
            "The connection's host must be a plain base URL without user info, query or fragment; "
            "the API key belongs into the password."
        )
    path = re.sub(r"(/v\d+)\1$", r"\1", parts.path.rstrip("/"))
    return urlunsplit((parts.scheme.lower(), netloc.lower(), path, "", ""))


@dataclass(frozen=True)
class MediaHosts:
    """
    The hosts that media may come from in addition to public https ones.

    :param names: Host names or addresses, each with an optional port; ``*.example.com`` stands for
        every name below ``example.com``.
    """

    names: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def parse(cls, value: Any) -> MediaHosts:
        """
        Read the connection's ``media_hosts``: a list, or text with commas.

        :raises ValueError: it is neither; the message names what ``media_hosts`` takes.
        """
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
            raise ValueError("a list of host names")
        return cls(frozenset(_host_name(item) for item in items if item.strip()))

    def allows(self, host: str | None, port: int | None) -> bool:
        """Whether the host is named, with this port or without any."""
        if not host:
            return False
        host = host.lower()
        if host in self.names or f"{host}:{port}" in self.names or f"[{host}]:{port}" in self.names:
            return True
        return any(name.startswith("*.") and host.endswith(name[1:]) for name in self.names)


def _host_name(text: str) -> str:
    name = text.strip().lower()
    if "://" in name:  # a URL where its host was meant
        name = name.split("://", 1)[1].split("/", 1)[0].rpartition("@")[2]
    return name[1:-1] if name.startswith("[") and name.endswith("]") else name


def _split(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(scheme)


def input_url_problem(url: str, hosts: MediaHosts) -> str | None:
    """Say why a URL cannot be the input of a generation, or return ``None``."""
    try:
        scheme, host, port = _split(url)
    except ValueError:
        return f"is not a URL: {redact_url(url)!r}"
    if hosts.allows(host, port) and scheme in ("http", "https"):
        return None
    if scheme != "https" or not host:
        return f"is not an https URL ({redact_url(url)!r}); a private host must be named in media_hosts"
    if _not_public(host):
        return f"is not on a public host ({redact_url(url)!r}); a private host must be named in media_hosts"
    return None


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")

# After the IANA registries of special-purpose addresses. What is_global knows of them depends on the patch
# release of Python: some let 192.0.0.192, 192.88.99.1 or 3fff::1 pass.
_SPECIAL_4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # in no registry: the host that virtual machines of Azure run on
    )
)
#: Those outside 2000::/3, where nothing is public, are named for whoever compares this with the registry.
_SPECIAL_6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        *("::/128", "::1/128", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20"),
        *("5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
    )
)


def is_public(address: str) -> bool:
    """Whether an IP address is a public one, seen through IPv4 addresses wrapped in IPv6."""
    try:
        ip = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return _is_public_4(ip)
    inner = ip.ipv4_mapped or ip.sixtofour
    if inner is None and ip in _NAT64:
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if inner is not None:
        return _is_public_4(inner)
    # ::127.0.0.1 is one of those that is_global lets pass.
    return ip in _GLOBAL_UNICAST and ip.is_global and not any(ip in network for network in _SPECIAL_6)


def _is_public_4(ip: ipaddress.IPv4Address) -> bool:
    return ip.is_global and not any(ip in network for network in _SPECIAL_4)


_NUMERIC_HOST = re.compile(r"^(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}\.?$", re.IGNORECASE)


def media_url_problem(url: str, hosts: MediaHosts) -> str | None:
    """
    Say why media may not be downloaded from a URL by its text alone, or return ``None``.

    A host given as an address is judged here; a name still has to be judged by what it resolves to
    (:func:`address_problem`).
    """
    try:
        scheme, host, port = _split(url)
    except ValueError:
        return f"it is not a URL: {redact_url(url)!r}"
    if scheme not in ("http", "https") or not host:
        return f"it is not an http(s) URL: {redact_url(url)!r}"
    if hosts.allows(host, port):
        return None
    if scheme != "https":
        return f"it is not https, and media_hosts does not name {host}"
    return f"{host} is not a public host, and media_hosts does not name it" if _not_public(host) else None


def _not_public(host: str) -> bool:
    """Whether the text of a host alone shows that it is not public."""
    try:
        literal = ipaddress.ip_address(host.split("%", 1)[0])
    except ValueError:
        # Spellings such as 2130706433 or 0x7f.1 are addresses to some resolvers and names to none.
        name = host.rstrip(".")
        return bool(_NUMERIC_HOST.match(host)) or name == "localhost" or name.endswith(".localhost")
    return not is_public(str(literal))


def address_problem(host: str, port: int, addresses: Iterable[str], hosts: MediaHosts) -> str | None:
    """Say why what a name resolved to may not be connected to, or return ``None``."""
    if hosts.allows(host, port):
        return None
    private = [address for address in addresses if not is_public(address)]
    if private:
        return (
            f"{host} resolves to {', '.join(private)}, not a public address, and media_hosts does not name it"
        )
    return None
