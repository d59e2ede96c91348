"""
Settings of a connection, read once into a frozen value.

The whole extra is validated here, so that a malformed connection is one clear error before anything is sent.
The API key and the callback secret never show in a ``repr`` or in a message.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from airflow_provider_seedance.apis.base import Api
from airflow_provider_seedance.apis.registry import DEFAULT_API, SERVICES, get_api
from airflow_provider_seedance.callbacks.signatures import SCHEMES, Scheme, SignatureScheme
from airflow_provider_seedance.costs.budgets import Budget, read_budgets
from airflow_provider_seedance.costs.pricing import Prices
from airflow_provider_seedance.exceptions import SeedanceConfigurationError
from airflow_provider_seedance.generations import did_you_mean, read_number
from airflow_provider_seedance.redaction import Redactor, proxy_password
from airflow_provider_seedance.urls import MediaHosts, normalize_base_url, redact_url

DEFAULT_TIMEOUT_SECONDS = 30.0
#: A synchronous image reply takes as long as the image does.
DEFAULT_IMAGE_TIMEOUT_SECONDS = 600.0
#: Far above the size of any render; a longer download has no end.
DEFAULT_MAX_MEDIA_BYTES = 20 * 1024**3

#: Bounds of the extra's numbers. A clock cannot keep a longer timeout, and a shorter one makes every submission uncertain.
MIN_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS = 0.1, 86_400.0
MAX_REQUESTS_PER_HOUR = 1_000_000
MAX_MAX_MEDIA_BYTES = 1024**5

#: Keys of the extra that hold secrets.
_SECRET_KEYS = ("callback_secret", "callback_signature_secret", "proxy")

_PROXY = re.compile(r"(https?|socks5h?)://[!-~]+")


def _read_timeout(value: Any) -> float:
    number = read_number(value)
    if number is None or not MIN_TIMEOUT_SECONDS <= number <= MAX_TIMEOUT_SECONDS:
        bounds = f"{MIN_TIMEOUT_SECONDS:g} to {MAX_TIMEOUT_SECONDS:.0f}"
        raise ValueError(f"a positive number of seconds, {bounds}")
    return float(number)


def _read_count(unit: str, maximum: int) -> BeforeValidator:
    def read(value: Any) -> int:
        number = read_number(value)
        if number is None or not 1 <= number <= maximum or not float(number).is_integer():
            raise ValueError(f"a whole number of {unit}, at least 1 and at most {maximum}")
        return int(number)

    return BeforeValidator(read)


def _read_limits(value: Any) -> tuple[tuple[str, float], ...]:
    if isinstance(value, str) and value.startswith("{"):  # from the form
        value = json.loads(value)
    given = value if isinstance(value, Mapping) else {"*": value}
    limits = [(pattern, read_number(limit) or 0.0) for pattern, limit in given.items()]
    if any(limit < 1 for _, limit in limits):
        raise ValueError('a number of at least 1, or numbers by pattern such as {"*/4k": 15, "*": 180}')
    return tuple((pattern, float(limit)) for pattern, limit in limits)


class ConnectionExtra(BaseModel):
    """
    The extra of a connection.

    Validators raise ``ValueError`` with the values that a key takes; the message around it is made by
    :func:`read_settings`. Unknown keys are kept, to warn about them.
    """

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    api: Any = DEFAULT_API
    auth_header: Any = Field(default=None, validate_default=True)
    model: str | None = None
    timeout: Annotated[float, BeforeValidator(_read_timeout)] | None = None
    requests_per_hour: Annotated[int, _read_count("requests", MAX_REQUESTS_PER_HOUR)] | None = None
    submissions_per_minute: Annotated[tuple[tuple[str, float], ...], BeforeValidator(_read_limits)] = ()
    callback_base_url: str | None = None
    callback_secret: str | None = None
    callback_signature_header: str | None = None
    callback_signature_scheme: str = SCHEMES[0]
    callback_signature_secret: str | None = None
    callback_timestamp_header: str = "X-Timestamp"
    media_hosts: Annotated[MediaHosts, BeforeValidator(MediaHosts.parse)] = Field(default_factory=MediaHosts)
    max_media_bytes: Annotated[int, _read_count("bytes", MAX_MAX_MEDIA_BYTES)] = DEFAULT_MAX_MEDIA_BYTES
    proxy: str | None = None
    verify: Any = True
    prices: Annotated[Prices, BeforeValidator(Prices.parse)] = Field(default_factory=Prices)
    budgets: Annotated[tuple[Budget, ...], BeforeValidator(read_budgets)] = ()

    @field_validator("api")
    @classmethod
    def _known_service(cls, value: Any) -> str:
        if not isinstance(value, str) or value not in SERVICES:
            raise ValueError(f"{', '.join(SERVICES)}.{did_you_mean(str(value), SERVICES)}")
        return value

    @field_validator("auth_header")
    @classmethod
    def _header_of_the_service(cls, value: Any, info: ValidationInfo) -> str | None:
        if "api" not in info.data:
            return None  # the api itself is wrong
        api = get_api(info.data["api"])
        chosen = value.strip().lower() if isinstance(value, str) else value
        if chosen is not None and chosen not in api.auth_headers:
            raise ValueError(f"{' or '.join(api.auth_headers)} with api {api.name}")
        return chosen or api.auth_headers[0]

    @field_validator("callback_base_url")
    @classmethod
    def _plain_url(cls, value: str) -> str:
        try:
            if "://" in value:
                return normalize_base_url(value)
        except SeedanceConfigurationError:
            pass  # its message is about the connection's host
        raise ValueError("the plain http(s) URL under which the services reach Airflow")

    @field_validator("callback_signature_scheme")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        if value not in SCHEMES:
            raise ValueError(" or ".join(SCHEMES))
        return value

    @field_validator("proxy")
    @classmethod
    def _url_with_host(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            if _PROXY.fullmatch(value) and parts.hostname and parts.port != 0:
                return value
        except ValueError:
            pass  # an invalid port or bracket
        raise ValueError(
            "a URL in ASCII with a host, and a port from 1 to 65535 if any, such as http://HOST:3128"
        )

    @field_validator("verify")
    @classmethod
    def _flag_or_path(cls, value: Any) -> bool | str:
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            return value.strip().lower() == "true"
        if isinstance(value, bool) or (isinstance(value, str) and value.isprintable()):
            return value
        raise ValueError("true, false, or the path of a CA bundle")

    def signature_scheme(self) -> SignatureScheme | None:
        """
        Return how callbacks are signed, or ``None`` where no header is configured.

        :raises SeedanceConfigurationError: there is no secret to check the signature with.
        """
        own = get_api(self.api).callback_signature_header
        if self.callback_signature_header is None and own and self.callback_signature_secret:
            return SignatureScheme(
                header=own, secret=self.callback_signature_secret, scheme="hmac-sha256-timestamp"
            )
        if self.callback_signature_header is None:
            return None
        secret = self.callback_signature_secret or self.callback_secret
        if not secret:
            raise SeedanceConfigurationError(
                "callback_signature_header in the extra needs callback_signature_secret (or callback_secret), to check "
                "the signature with."
            )
        return SignatureScheme(
            header=self.callback_signature_header,
            secret=secret,
            scheme=cast(Scheme, self.callback_signature_scheme),
            timestamp_header=self.callback_timestamp_header,
        )


#: Changes a state by its name, in a transaction, and returns it; the function takes the present state, empty if there is none.
ChangeState = Callable[[str, Callable[[Any], Any]], Any]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    Settings of one service, as a connection gives them.

    :param base_url: Base URL without a slash at the end.
    :param auth_header: ``authorization`` or ``x-api-key``.
    :param timeout: Seconds per HTTP call, or ``None`` for the defaults of 30 (600 for images).
    :param submissions_per_minute: Limits of the plan, by pattern of the model.
    :param callback_base_url: URL at which services reach this Airflow's API server.
    :param callback_secret: Signs the callback addresses.
    :param callback_signing: Signature scheme of the service's callbacks, if it signs them.
    :param media_hosts: Hosts media may come from in addition to public https ones.
    :param max_media_bytes: Largest file that is downloaded.
    :param proxy: URL of a proxy for all calls and downloads.
    :param verify: Whether to verify TLS certificates, or the path of a CA bundle.
    :param prices: Prices of renders, before the published ones.
    :param budgets: Limits of the cost of renders.
    :param warnings: Warnings about the connection, for the log.
    :param change_in_ledger: Changes a state that all machines share; ``None`` without a ledger or a reported quota.
    """

    conn_id: str
    api: Api
    base_url: str
    key: str = field(repr=False)
    auth_header: str = "authorization"
    model: str | None = None
    timeout: float | None = None
    requests_per_hour: int | None = None
    submissions_per_minute: tuple[tuple[str, float], ...] = ()
    callback_base_url: str | None = None
    callback_secret: str | None = field(default=None, repr=False)
    callback_signing: SignatureScheme | None = None
    media_hosts: MediaHosts = field(default_factory=MediaHosts)
    max_media_bytes: int = DEFAULT_MAX_MEDIA_BYTES
    proxy: str | None = field(default=None, repr=False)
    verify: bool | str = True
    prices: Prices = field(default_factory=Prices)
    budgets: tuple[Budget, ...] = ()
    warnings: tuple[str, ...] = ()
    change_in_ledger: ChangeState | None = field(default=None, repr=False, compare=False)

    @property
    def source(self) -> str:
        """The connection and its service, as every message about them begins."""
        return f"Connection {self.conn_id!r} ({self.api.name}, {self.base_url})"

    @property
    def call_timeout(self) -> float:
        """Timeout of a call, in seconds."""
        return self.timeout or DEFAULT_TIMEOUT_SECONDS

    @property
    def image_timeout(self) -> float:
        """Timeout of a submission that is answered with images, in seconds."""
        return self.timeout or DEFAULT_IMAGE_TIMEOUT_SECONDS

    @property
    def identity(self) -> tuple[str, str]:
        """Base URL and a digest of the key: connections with the same identity share a quota and a client."""
        return self.base_url, hashlib.sha256(self.key.encode()).hexdigest()

    def auth(self) -> dict[str, str]:
        """Return the header that carries the key."""
        if self.auth_header == "x-api-key":
            return {"X-API-Key": self.key}
        return {"Authorization": f"{self.api.auth_scheme} {self.key}"}

    def media_auth(self, url: str) -> dict[str, str]:
        """Return the header that carries the key, for an output that the service itself has and protects."""
        own = self.api.outputs_need_key and url.startswith(f"{self.base_url}/")
        return self.auth() if own else {}

    @cached_property
    def redact(self) -> Redactor:
        """Function that removes the secrets of the connection from a text, in case a service or a library repeats them."""
        signing = self.callback_signing.secret if self.callback_signing else None
        return Redactor([self.key, self.callback_secret, signing, self.proxy, proxy_password(self.proxy)])


#: Settings that are the value of the extra's key of the same name.
_COPIED = (ConnectionExtra.model_fields.keys() & Settings.__dataclass_fields__.keys()) - {"api"}


def read_settings(conn_id: str, connection: Any) -> Settings:
    """
    Read an Airflow connection.

    :param connection: Anything with ``host``, ``port``, ``schema``, ``password`` and ``extra``.
    :raises SeedanceConfigurationError: it is malformed; nothing was sent, a retry cannot help.
    """
    try:
        return _read(conn_id, connection)
    except SeedanceConfigurationError as error:
        redact = _redactor(connection)
        service, message = redact(_service_of(connection)), redact(error.message)
    # Raised out here, so that no traceback leads to the message that was not redacted.
    raise SeedanceConfigurationError(f"Connection {conn_id!r}{service}: {message}")


def _service_of(connection: Any) -> str:
    """Return service and address of a malformed connection, as in :attr:`Settings.source`; empty if unreadable."""
    try:
        api = get_api(_load_extra(getattr(connection, "extra", None)).get("api", DEFAULT_API))
        return f" ({api.name}, {_base_url(api, connection)})"
    except SeedanceConfigurationError:
        return ""


def _redactor(connection: Any) -> Redactor:
    """Return the redactor of a connection that may be malformed: secrets are often pasted into the wrong field."""
    try:
        extra = _load_extra(getattr(connection, "extra", None))
    except SeedanceConfigurationError:
        extra = {}
    values = [getattr(connection, "password", None), *(extra.get(key) for key in _SECRET_KEYS)]
    secrets = [value.strip() for value in values if isinstance(value, str)]
    return Redactor([*secrets, *map(proxy_password, secrets)])


def _read(conn_id: str, connection: Any) -> Settings:
    extra = _read_extra(_load_extra(getattr(connection, "extra", None)))
    api = get_api(extra.api)
    return Settings(
        conn_id=conn_id,
        api=api,
        base_url=_base_url(api, connection),
        key=_key(api, connection),
        callback_signing=extra.signature_scheme(),
        **{name: getattr(extra, name) for name in _COPIED},
        warnings=tuple(
            f"Connection {conn_id!r}{_service_of(connection)}: the extra has the unknown key {_redactor(connection)(repr(key))}. "
            f"Known keys: {', '.join(ConnectionExtra.model_fields)}.{did_you_mean(key, ConnectionExtra.model_fields)}"
            for key in sorted(extra.model_extra or {})
        ),
    )


def _key(api: Api, connection: Any) -> str:
    key = (getattr(connection, "password", None) or "").strip()
    if not key:
        raise SeedanceConfigurationError(f"it has no API key: put the key of {api.title} into the password.")
    if any(ord(character) < 33 or ord(character) > 126 for character in key):
        raise SeedanceConfigurationError(
            "the API key in the password holds characters that no key has (a line break, a space, a typographic quote?)."
        )
    return str(key)


def _base_url(api: Api, connection: Any) -> str:
    host = getattr(connection, "host", None)
    if not host or not host.strip():
        return api.default_base_url
    port, scheme = getattr(connection, "port", None), getattr(connection, "schema", None)
    return api.base_url_for(normalize_base_url(host, port=port, scheme=scheme))


def _load_extra(raw: Any) -> dict[str, Any]:
    if raw is None or (isinstance(raw, str) and not raw.strip()):
        return {}
    try:
        extra = json.loads(raw) if isinstance(raw, (str, bytes)) else raw
    except (ValueError, RecursionError):
        extra = None
    if not isinstance(extra, Mapping):
        found = "invalid JSON" if extra is None else type(extra).__name__
        raise SeedanceConfigurationError(
            f'the extra must be a JSON object such as {{"api": "seedanceapi-v2"}}, not {found}.'
        )
    # The connection form stores an empty field as "" or null.
    return {str(key): value for key, value in extra.items() if value is not None and value != ""}


def _read_extra(values: dict[str, Any]) -> ConnectionExtra:
    try:
        return ConnectionExtra(**values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    key = str(first["loc"][0])
    value = values.get(key)
    takes = str(first["ctx"]["error"]) if first["type"] == "value_error" else "text"
    takes = takes if takes.endswith("?") else f"{takes}."
    raise SeedanceConfigurationError(f"{key} in the extra is {_preview(key, value)}; it takes {takes}")


_WORD = re.compile(r"(?!sk-)[a-z_-]*([0-9]{1,3}[a-z_-]*)?", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?[0-9]{1,6}(\.[0-9]{1,6})?(e[+-]?[0-9]{1,3})?", re.IGNORECASE)


def _preview(key: str, value: Any) -> str:
    """Return a value for a message; one that may be a secret, pasted into the wrong field, is not shown."""
    if isinstance(value, bool):
        return repr(value)
    if key == "callback_base_url" and isinstance(value, str):
        return repr(redact_url(value))
    text = str(value) if isinstance(value, (str, float)) or value in range(-999_999, 1_000_000) else ""
    plain = _WORD.fullmatch(text) or _NUMBER.fullmatch(text)
    if plain and 0 < len(text) <= 30 and key not in _SECRET_KEYS:
        return repr(value)
    return f"a value of the type {type(value).__name__} (not shown)"
