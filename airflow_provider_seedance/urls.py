"""
URLs: base URLs, input media and the identity of their URLs, and where media may come from.

Pure functions: names are resolved by the caller.
"""

from __future__ import annotations

import ast
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from airflow_provider_seedance.exceptions import SeedanceConfigurationError

#: Query parameters that sign a link or limit its lifetime, in lower case. Every other parameter may name the file.
_SIGNATURE_PARAMETERS = {
    *("expires", "signature", "key-pair-id", "policy", "ossaccesskeyid", "awsaccesskeyid", "googleaccessid"),
    *("security-token", "token", "auth_key", "x-expires", "x-signature", "hdnts", "hdnea", "__token__"),
    *("q-ak", "q-key-time", "q-header-list", "q-url-param-list", "q-signature"),
}
_SIGNATURE_PREFIXES = ("x-amz-", "x-goog-", "x-tos-", "x-oss-", "q-sign-")

#: Parameters with these prefixes that change the file.
_NO_SIGNATURE = {"x-oss-process", "x-tos-process"}

#: Parameters of Azure, which are a signature only beside ``sig``: as words they are too short to be sure.
_AZURE_PARAMETERS = {
    *("sig", "se", "st", "sp", "sv", "sr", "spr", "skoid", "sktid", "skt", "ske", "sks", "skv", "sip", "si")
}


@dataclass(frozen=True, kw_only=True)
class MediaInput:
    """
    One input of a generation: an image, or on ``ark`` also a video, an audio file or a draft.

    :param url: URL of the input (https; ``ark`` also takes ``data:`` and ``asset://``), or the id of a draft.
    :param role: ``first_frame``, ``last_frame``, ``reference_image``, ``reference_video``,
        ``reference_audio``, ``draft_task``, or ``None`` to let the adapter choose. ``ark`` only.
    """

    url: str
    role: str | None = None


def parsed(value: Any) -> Any:
    """Parse a list or dict that a template rendered as text; return any other value unchanged."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(value)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
    return value


def media_inputs(value: Any) -> tuple[Any, ...]:
    """Normalize each form of ``images``; invalid items are kept, to be refused by the adapter."""
    value = parsed(value)
    if isinstance(value, (str, Mapping, MediaInput)) or not isinstance(value, Iterable):
        value = [value]
    inputs: list[Any] = []
    for item in value:
        if isinstance(item, Mapping) and "generation_id" in item:
            # The result of a task, from XCom: of images, or of a video with its last frame. Any other result is
            # kept, to be refused: without it the render would be paid for and lack its input.
            given = item.get("urls") if item.get("media") == "image" else [item.get("last_frame_url")]
            urls = given if isinstance(given, (list, tuple)) else ()
            inputs.extend([MediaInput(url=url) for url in urls if isinstance(url, str)] or [item])
        elif isinstance(item, Mapping) and isinstance(item.get("url"), str):
            inputs.append(MediaInput(url=item["url"].strip(), role=item.get("role")))
        elif isinstance(item, Mapping) and isinstance(item.get("draft_task"), str):
            inputs.append(MediaInput(url=item["draft_task"], role="draft_task"))
        elif isinstance(item, str):
            inputs.append(MediaInput(url=item.strip()))
        else:
            inputs.append(item)
    return tuple(inputs)


def split_signature(url: str) -> tuple[str, str]:
    """
    Return the part of a media URL that identifies the file, and the part that changes when the link is renewed.

    The latter is user info, fragment and the parameters of a signature. Any other text, such as a prompt, is
    returned as it is. Both are for comparison and digests, never to be shown; see :func:`redact_url`.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return url, ""
    if parts.scheme.lower() not in ("http", "https"):
        return url, ""
    user, _, host = parts.netloc.rpartition("@")
    parameters = [(unquote(item.partition("=")[0]).lower(), item) for item in parts.query.split("&")]
    is_azure = any(name == "sig" for name, _ in parameters)
    signing = {name for name, _ in parameters if _signs(name, is_azure=is_azure)}
    # By name alone: the order of a repeated parameter may matter.
    kept = [item for name, item in sorted(parameters, key=itemgetter(0)) if name not in signing]
    dropped = sorted(item for name, item in parameters if name in signing)
    identity = urlunsplit((parts.scheme.lower(), host.lower(), parts.path, "&".join(kept), ""))
    return identity, "&".join(filter(None, [user, *dropped, parts.fragment]))


def _signs(name: str, *, is_azure: bool) -> bool:
    if name in _SIGNATURE_PARAMETERS or (is_azure and name in _AZURE_PARAMETERS):
        return True
    return name.startswith(_SIGNATURE_PREFIXES) and name not in _NO_SIGNATURE


def redact_url(url: str) -> str:
    """Return a URL for logs and messages, without user info, query and fragment; or :data:`NOT_SHOWN`."""
    text = url.strip()
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 (raises for an invalid port, which may be a part of a password)
    except ValueError:
        return NOT_SHOWN
    user_info, _, host = parts.netloc.rpartition("@")
    rest = f"{host}{parts.path}?{parts.query}#{parts.fragment}"
    if (at_signs := list(_AT_SIGNS.finditer(rest))) and (
        # A password may contain "/", "?" and "#": what precedes an "@" may be user info.
        user_info or not host or ":" in rest[: at_signs[-1].start()] or _AT_SIGNS.search(host)
    ):
        return NOT_SHOWN
    shown = urlunsplit((parts.scheme, host, parts.path, "", ""))
    return shown if len(shown) <= MAX_SHOWN_CHARS else shown[:MAX_SHOWN_CHARS] + "…"


#: Replaces a URL that may contain a password outside of its user info.
NOT_SHOWN = "(URL not shown)"
#: A ``data:`` URL has megabytes.
MAX_SHOWN_CHARS = 200
#: Spellings of "@" that some parsers accept.
_AT_SIGNS = re.compile("@|%40|\uff20|\ufe6b", re.IGNORECASE)


#: Control characters, spaces and unpaired surrogates.
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
        named = parts.port
        if port and named is None:
            named, netloc = int(port), f"{netloc}:{port}"
        if _UNPRINTABLE.search(text) or not (named is None or 0 < named < 65_536):
            raise ValueError
    except ValueError:
        # The message of the parser may contain a part of a password.
        raise SeedanceConfigurationError(
            f"The connection's host {redact_url(text)!r} is not a valid address (invalid bracket, character, or "
            "port, which is 1 to 65535)."
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

        :raises ValueError: it is neither; the message is what ``media_hosts`` takes.
        """
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
            raise ValueError("a list of host names")
        return cls(frozenset(_host_name(item) for item in items if item.strip()))

    def allows(self, host: str | None, port: int | None) -> bool:
        """Return whether the host is listed, with this port or without a port."""
        if not host:
            return False
        host = host.lower()
        return not self.names.isdisjoint((host, f"{host}:{port}", f"[{host}]:{port}")) or any(
            name.startswith("*.") and host.endswith(name[1:]) for name in self.names
        )


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
    """Return why a URL cannot be the input of a generation, or ``None``."""
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

# The IANA registries of special-purpose addresses. is_global depends on the patch release of Python: some accept
# 192.0.0.192, 192.88.99.1 or 3fff::1.
_SPECIAL_4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # not registered: the host of Azure's virtual machines
    )
)
# Networks outside of 2000::/3, which are not public anyway, are listed for comparison with the registry.
_SPECIAL_6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        *("::/128", "::1/128", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20"),
        *("5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
    )
)


def is_public(address: str) -> bool:
    """Return whether an IP address is public; an IPv4 address embedded in an IPv6 address decides."""
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
    # is_global accepts ::127.0.0.1, for example.
    return ip in _GLOBAL_UNICAST and ip.is_global and not any(ip in network for network in _SPECIAL_6)


def _is_public_4(ip: ipaddress.IPv4Address) -> bool:
    return ip.is_global and not any(ip in network for network in _SPECIAL_4)


_NUMERIC_HOST = re.compile(r"^(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}\.?$", re.IGNORECASE)


def media_url_problem(url: str, hosts: MediaHosts) -> str | None:
    """
    Return why the text of a URL rules out a download, or ``None``.

    The addresses that a host name resolves to are checked by :func:`address_problem`.
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
    """Return whether the text of a host shows that it is not public."""
    try:
        literal = ipaddress.ip_address(host.split("%", 1)[0])
    except ValueError:
        # Some resolvers accept spellings such as 2130706433 or 0x7f.1 as addresses.
        name = host.rstrip(".")
        return bool(_NUMERIC_HOST.match(host)) or name == "localhost" or name.endswith(".localhost")
    return not is_public(str(literal))


def address_problem(host: str, port: int, addresses: Iterable[str], hosts: MediaHosts) -> str | None:
    """Return why the addresses of a host rule out a connection, or ``None``."""
    if hosts.allows(host, port):
        return None
    private = ", ".join(address for address in addresses if not is_public(address))
    if not private:
        return None
    return f"{host} resolves to {private}, not a public address, and media_hosts does not name it"
