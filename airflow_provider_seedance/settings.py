"""
The connection, read once into a frozen value.

Everything the extra may hold is judged here, so that a malformed connection is one clear error before
anything is sent. The API key and the callback secret never show in a ``repr``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast
from urllib.parse import quote, unquote, urlsplit

from airflow_provider_seedance.apis.base import Api
from airflow_provider_seedance.apis.registry import DEFAULT_API, SERVICES, get_api
from airflow_provider_seedance.callbacks.signatures import SCHEMES, Scheme, SignatureScheme
from airflow_provider_seedance.callbacks.tokens import PREFIX
from airflow_provider_seedance.exceptions import SeedanceConfigurationError
from airflow_provider_seedance.generations import read_number
from airflow_provider_seedance.urls import MediaHosts, normalize_base_url, redact_url

DEFAULT_TIMEOUT = 30.0
#: Synchronous image answers take as long as the image does.
DEFAULT_IMAGE_TIMEOUT = 600.0
#: No render comes near it; what goes beyond is a download without an end.
DEFAULT_MAX_MEDIA_BYTES = 20 * 1024**3

#: Bounds of the numbers. A timeout beyond them cannot be kept by a clock, or ends every submission uncertain.
LEAST_TIMEOUT, MOST_TIMEOUT = 0.1, 86_400.0
MOST_REQUESTS_PER_HOUR = 1_000_000
MOST_MEDIA_BYTES = 1024**5

# Whoever reads the address that a service is to call can call it.
_ADDRESS = re.compile(re.escape(PREFIX) + r"/callbacks/[\w.\-]+")

_KEYS = (
    "api",
    "auth_header",
    "model",
    "timeout",
    "requests_per_hour",
    "callback_base_url",
    "callback_secret",
    "callback_signature_header",
    "callback_signature_scheme",
    "callback_signature_secret",
    "callback_timestamp_header",
    "media_hosts",
    "max_media_bytes",
    "proxy",
    "verify",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    How to speak to one service.

    :param conn_id: The connection this was read from, for messages.
    :param api: The adapter of the service.
    :param base_url: Base URL without a slash at the end.
    :param key: API key.
    :param auth_header: ``authorization`` or ``x-api-key``.
    :param model: Default model of the connection.
    :param timeout: Seconds per HTTP call, or ``None`` for the defaults of 30 (600 for images).
    :param requests_per_hour: Quota of the plan.
    :param callback_base_url: Where services reach this Airflow's API server.
    :param callback_secret: Signs the addresses that services call.
    :param callback_signing: How the service signs its calls, if it does.
    :param media_hosts: Hosts media may come from in addition to public https ones.
    :param max_media_bytes: Largest file that is downloaded.
    :param proxy: URL of a proxy for all calls and downloads.
    :param verify: Whether to verify TLS certificates, or the path of a CA bundle.
    :param warnings: What is doubtful about the connection, in words for the log.
    """

    conn_id: str
    api: Api
    base_url: str
    key: str = field(repr=False)
    auth_header: str = "authorization"
    model: str | None = None
    timeout: float | None = None
    requests_per_hour: int | None = None
    callback_base_url: str | None = None
    callback_secret: str | None = field(default=None, repr=False)
    callback_signing: SignatureScheme | None = None
    media_hosts: MediaHosts = field(default_factory=MediaHosts)
    max_media_bytes: int = DEFAULT_MAX_MEDIA_BYTES
    proxy: str | None = field(default=None, repr=False)
    verify: bool | str = True
    warnings: tuple[str, ...] = ()

    @property
    def call_timeout(self) -> float:
        """Seconds for a call."""
        return self.timeout or DEFAULT_TIMEOUT

    @property
    def image_timeout(self) -> float:
        """Seconds for a submission that is answered with images."""
        return self.timeout or DEFAULT_IMAGE_TIMEOUT

    @property
    def identity(self) -> tuple[str, str]:
        """What one quota and one client belong to: the base URL and (a digest of) the key."""
        return self.base_url, hashlib.sha256(self.key.encode()).hexdigest()

    def auth(self) -> dict[str, str]:
        """Return the header that carries the key."""
        if self.auth_header == "x-api-key":
            return {"X-API-Key": self.key}
        return {"Authorization": f"Bearer {self.key}"}

    def redact(self, text: str) -> str:
        """Remove the secrets from a text, in case a service or a library repeats them."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _ADDRESS.sub(f"{PREFIX}/callbacks/***", text)

    @cached_property
    def _secrets(self) -> tuple[str, ...]:
        """Every spelling of every secret, the longest first: as it is, in a URL, and in JSON or a ``repr``."""
        signing = self.callback_signing.secret if self.callback_signing else None
        plain = {self.key, self.callback_secret, signing, self.proxy, _password_of(self.proxy)}
        spelled = {
            spelling
            for secret in plain
            if secret and len(secret) >= 4
            for spelling in (
                secret,
                quote(secret, safe="", errors="surrogatepass"),
                quote(secret, errors="surrogatepass"),
                json.dumps(secret)[1:-1],
                repr(secret)[1:-1],
            )
        }
        return tuple(sorted(spelled, key=len, reverse=True))


def _password_of(proxy: str | None) -> str | None:
    try:
        return unquote(urlsplit(proxy or "").password or "")
    except ValueError:
        return None


def read_settings(conn_id: str, connection: Any) -> Settings:
    """
    Read an Airflow connection.

    :param connection: Anything with ``host``, ``port``, ``schema``, ``password`` and ``extra``.
    :raises SeedanceConfigurationError: it is malformed; nothing was sent, a retry cannot help.
    """
    try:
        return _read(conn_id, connection)
    except SeedanceConfigurationError as error:
        message = error.message
    # Raised out here, so that no traceback leads to a message that nothing was cut out of.
    said = _without_secrets(message, connection)
    raise SeedanceConfigurationError(said if repr(conn_id) in said else f"Connection {conn_id!r}: {said}")


def _without_secrets(message: str, connection: Any) -> str:
    """Cut out of a message what is a secret of the connection, wherever somebody pasted it."""
    try:
        extra = _extra("", getattr(connection, "extra", None))
    except SeedanceConfigurationError:
        extra = {}
    found = [getattr(connection, "password", None)]
    found += [extra.get(key) for key in ("callback_secret", "callback_signature_secret", "proxy")]
    texts = {text.strip() for text in found if isinstance(text, str)}
    texts |= {_password_of(text) or "" for text in texts}
    for secret in sorted(texts, key=len, reverse=True):
        if len(secret) >= 4:
            for spelling in (secret, quote(secret, safe="", errors="surrogatepass"), repr(secret)[1:-1]):
                message = re.sub(re.escape(spelling), "***", message, flags=re.IGNORECASE)
    return message


def _read(conn_id: str, connection: Any) -> Settings:
    extra = _extra(conn_id, getattr(connection, "extra", None))
    unknown = sorted(set(extra) - set(_KEYS))
    api = _api(extra)
    key = (getattr(connection, "password", None) or "").strip()
    if not key:
        raise SeedanceConfigurationError(
            f"Connection {conn_id!r} has no API key: put the key of {api.title} into the password."
        )
    if any(ord(character) < 33 or ord(character) > 126 for character in key):
        raise SeedanceConfigurationError(
            f"Connection {conn_id!r}: the API key in the password holds characters no key has (a line "
            "break, a space, a typographic quote?)."
        )
    host = getattr(connection, "host", None)
    base_url = api.default_base_url
    if host and host.strip():
        base_url = normalize_base_url(
            host, port=getattr(connection, "port", None), scheme=getattr(connection, "schema", None)
        )
        base_url = api.base_url_for(base_url)
    return Settings(
        conn_id=conn_id,
        api=api,
        base_url=base_url,
        key=key,
        auth_header=_auth_header(conn_id, api, extra),
        model=_text(conn_id, extra, "model"),
        timeout=_timeout(conn_id, extra),
        requests_per_hour=_count(conn_id, extra, "requests_per_hour", "requests", MOST_REQUESTS_PER_HOUR),
        callback_base_url=_callback_base_url(conn_id, extra),
        callback_secret=_text(conn_id, extra, "callback_secret"),
        callback_signing=_callback_signing(conn_id, extra),
        media_hosts=MediaHosts.parse(extra.get("media_hosts") or None),
        max_media_bytes=_count(conn_id, extra, "max_media_bytes", "bytes", MOST_MEDIA_BYTES)
        or DEFAULT_MAX_MEDIA_BYTES,
        proxy=_proxy(conn_id, extra),
        verify=_verify(conn_id, extra),
        warnings=tuple(
            f"Connection {conn_id!r}: the extra's {_without_secrets(repr(name), connection)} means nothing "
            f"here. Known keys: {', '.join(_KEYS)}."
            for name in unknown
        ),
    )


def _extra(conn_id: str, raw: Any) -> dict[str, Any]:
    if raw is None or (isinstance(raw, str) and not raw.strip()):
        return {}
    try:
        extra = json.loads(raw) if isinstance(raw, (str, bytes)) else raw
    except (ValueError, RecursionError):
        raise SeedanceConfigurationError(
            f"Connection {conn_id!r}: the extra is not valid JSON. It must be an object such as "
            '{"api": "seedanceapi-v2"}.'
        ) from None
    if not isinstance(extra, Mapping):
        raise SeedanceConfigurationError(
            f"Connection {conn_id!r}: the extra must be a JSON object such as "
            f'{{"api": "seedanceapi-v2"}}, not {type(extra).__name__}.'
        )
    # The connection form stores an empty field as "" or null.
    return {str(key): value for key, value in extra.items() if value is not None and value != ""}


def _api(extra: Mapping[str, Any]) -> Api:
    name = extra.get("api") or DEFAULT_API
    if not isinstance(name, str) or name not in SERVICES:
        raise SeedanceConfigurationError(
            f"The connection's api is {_shown(name)}; this package knows {', '.join(SERVICES)}."
        )
    return get_api(name)


_WORD = re.compile(r"(?!sk-)[a-z_-]*([0-9]{1,3}[a-z_-]*)?", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?[0-9]{1,6}(\.[0-9]{1,6})?(e[+-]?[0-9]{1,3})?", re.IGNORECASE)


def _shown(value: Any) -> str:
    """Return a value for a message: what may be a key that somebody put into the wrong field does not show."""
    if isinstance(value, bool):
        return repr(value)
    text = str(value) if isinstance(value, (str, float)) or value in range(-999_999, 1_000_000) else ""
    if text and len(text) <= 30 and (_WORD.fullmatch(text) or _NUMBER.fullmatch(text)):
        return repr(value)
    return f"something else ({type(value).__name__}, not shown)"


def _wrong(conn_id: str, key: str, value: Any, takes: str) -> SeedanceConfigurationError:
    return SeedanceConfigurationError(
        f"Connection {conn_id!r}: {key} in the extra is {_shown(value)}; it takes {takes}."
    )


def _no_text(conn_id: str, key: str, value: Any) -> SeedanceConfigurationError:
    return SeedanceConfigurationError(
        f"Connection {conn_id!r}: {key} in the extra is of the type {type(value).__name__}; it takes text."
    )


def _text(conn_id: str, extra: Mapping[str, Any], key: str) -> str | None:
    value = extra.get(key)
    if value is not None and not isinstance(value, str):
        raise _no_text(conn_id, key, value)
    return value


def _timeout(conn_id: str, extra: Mapping[str, Any]) -> float | None:
    value = extra.get("timeout")
    if value is None:
        return None
    number = read_number(value)
    if number is None or not LEAST_TIMEOUT <= number <= MOST_TIMEOUT:
        takes = f"a positive number of seconds, {LEAST_TIMEOUT:g} to {MOST_TIMEOUT:.0f}"
        raise _wrong(conn_id, "timeout", value, takes)
    return float(number)


def _count(conn_id: str, extra: Mapping[str, Any], key: str, of: str, most: int) -> int | None:
    value = extra.get(key)
    if value is None:
        return None
    number = read_number(value)
    if number is None or not 1 <= number <= most or not float(number).is_integer():
        raise _wrong(conn_id, key, value, f"a whole number of {of}, at least 1 and at most {most}")
    return int(number)


def _auth_header(conn_id: str, api: Api, extra: Mapping[str, Any]) -> str:
    value = extra.get("auth_header")
    if value is None:
        return api.auth_headers[0]
    chosen = value.strip().lower() if isinstance(value, str) else value
    if chosen not in api.auth_headers:
        raise _wrong(conn_id, "auth_header", value, f"{' or '.join(api.auth_headers)} with api {api.name}")
    return str(chosen)


def _callback_base_url(conn_id: str, extra: Mapping[str, Any]) -> str | None:
    value = _text(conn_id, extra, "callback_base_url")
    if value is None:
        return None
    try:
        if "://" in value:
            return normalize_base_url(value)
    except SeedanceConfigurationError:
        pass  # it speaks of the host; said below of this key
    raise SeedanceConfigurationError(
        f"Connection {conn_id!r}: callback_base_url in the extra is {redact_url(value)!r}; it takes the plain "
        "http(s) URL under which the services reach Airflow."
    )


def _callback_signing(conn_id: str, extra: Mapping[str, Any]) -> SignatureScheme | None:
    header = _text(conn_id, extra, "callback_signature_header")
    scheme = _text(conn_id, extra, "callback_signature_scheme") or SCHEMES[0]
    secret = _text(conn_id, extra, "callback_signature_secret") or _text(conn_id, extra, "callback_secret")
    stamp = _text(conn_id, extra, "callback_timestamp_header") or "X-Timestamp"
    if scheme not in SCHEMES:
        raise _wrong(conn_id, "callback_signature_scheme", scheme, " or ".join(SCHEMES))
    if header is None:
        return None
    if not secret:
        raise SeedanceConfigurationError(
            f"Connection {conn_id!r}: callback_signature_header in the extra needs callback_signature_secret "
            "(or callback_secret), to check the signature with."
        )
    return SignatureScheme(header=header, secret=secret, scheme=cast(Scheme, scheme), timestamp_header=stamp)


_PROXY = re.compile(r"(https?|socks5h?)://[!-~]+")


def _proxy(conn_id: str, extra: Mapping[str, Any]) -> str | None:
    value = _text(conn_id, extra, "proxy")
    if value is None or (_PROXY.fullmatch(value) and _has_host(value)):
        return value
    # The value may hold a password, so it is not repeated.
    raise SeedanceConfigurationError(
        f"Connection {conn_id!r}: proxy in the extra must be a URL with a host, a port from 1 to 65535 if any, and "
        "nothing beyond ASCII, such as http://proxy.example:3128."
    )


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _verify(conn_id: str, extra: Mapping[str, Any]) -> bool | str:
    value = extra.get("verify", True)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    takes = "true, false, or the path of a CA bundle"
    if not isinstance(value, (bool, str)):
        raise _wrong(conn_id, "verify", value, takes)
    if (
        isinstance(value, str) and not value.isprintable()
    ):  # no control characters, nothing that is half a character
        raise _wrong(conn_id, "verify", value, takes)
    return value
