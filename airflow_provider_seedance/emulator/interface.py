"""The methods of an emulator, the same in this process and through the control API of another process."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_seedance.emulator.ledger import EmulatorLedger
from airflow_provider_seedance.emulator.models import EmulatedGeneration

#: Path of each service on the emulator.
SERVICE_PREFIXES: Mapping[str, str] = {
    "seedance2api": "/seedance2api/v1",
    "seedanceapi-v1": "/seedanceapi-v1/v1",
    "seedanceapi-v2": "/seedanceapi-v2/v2",
    "runbase": "/runbase/api/v1",
    "ark": "/ark/api/v3",
    "fal": "/fal",
    "replicate": "/replicate/v1",
    "openrouter": "/openrouter/api/v1",
}
APIS = tuple(SERVICE_PREFIXES)

#: The requests that a fault can affect.
FAULT_POINTS = ("submit", "status", "result", "list", "cancel", "media", "any")

#: Options of each kind of fault.
FAULT_OPTIONS: Mapping[str, frozenset[str]] = {
    "refuse": frozenset({"status", "code", "message"}),
    "delay": frozenset({"seconds", "hold"}),
    "drop_reply": frozenset(),
    "hold_reply": frozenset(),
    "cut": frozenset(),
    "cut_body": frozenset({"after"}),
    "rubbish": frozenset({"body", "status", "headers", "accept"}),
    "rate_limit": frozenset({"retry_after", "retry_after_date", "limit"}),
    "redirect": frozenset({"status", "location"}),
    "gateway_error": frozenset({"status", "accept"}),
    "fail": frozenset({"message", "code", "items"}),
    "no_range": frozenset(),
    "short_length": frozenset({"extra"}),
}

_POLL_INTERVAL_SECONDS = 0.02
_MEDIA_FAULTS = frozenset({"no_range", "short_length"})


@dataclass(frozen=True)
class FaultSpec:
    """
    A fault: its kind, the requests that it affects, and its options; see :meth:`EmulatorInterface.fault`.

    :raises ValueError: for an unknown kind, point or option.
    """

    kind: str
    on: str | None = None
    api: str | None = None
    prompt: str | None = None
    times: int | None = 1
    generation_id: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in FAULT_OPTIONS:
            raise ValueError(f"Unknown kind of fault {self.kind!r}; there are {', '.join(FAULT_OPTIONS)}")
        if self.point not in FAULT_POINTS:
            raise ValueError(f"Unknown point {self.on!r}; there are {', '.join(FAULT_POINTS)}")
        if unknown := set(self.options) - FAULT_OPTIONS[self.kind]:
            allowed = ", ".join(sorted(FAULT_OPTIONS[self.kind])) or "none"
            raise ValueError(f"{self.kind!r} has no option {', '.join(sorted(unknown))}; it has: {allowed}")

    @property
    def point(self) -> str:
        """The requests that it affects."""
        return self.on or ("media" if self.kind in _MEDIA_FAULTS else "submit")

    def matches(self, point: str, api: str, prompt: str | None, generation_id: str | None) -> bool:
        """Return whether it affects a request."""
        return (
            self.point in (point, "any")
            and self.api in (None, api)
            and self.generation_id in (None, generation_id)
            and (self.prompt is None or (prompt is not None and _matches(self.prompt, prompt)))
        )


class FaultHandle(ABC):
    """A fault of a running emulator."""

    id: str

    @property
    @abstractmethod
    def used(self) -> int:
        """Number of requests that it has affected; a lost reply counts when the submission is accepted."""

    @abstractmethod
    def remove(self) -> None:
        """Affect no further requests; requests that it holds continue."""

    @abstractmethod
    def release(self) -> None:
        """Let the requests that it holds, now and later, continue."""

    def wait(self, timeout: float = 10.0, *, used: int = 1) -> bool:
        """
        Wait until it has affected a request.

        :param timeout: Real seconds.
        :param used: Number of requests.
        :return: Whether it has.
        """
        deadline = time.monotonic() + timeout
        while self.used < used:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_INTERVAL_SECONDS)
        return True


class EmulatorInterface(ABC):
    """Control of an emulator, in this process or another one."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The address, such as ``http://127.0.0.1:8123``."""

    @abstractmethod
    def call(self, method: str, path: str, /, **body: Any) -> Any:
        """
        Call the control API.

        :param path: Below ``/_emulator/``.
        :raises KeyError: The emulator does not know the path or generation.
        :raises ValueError: The emulator refuses the request.
        """

    @abstractmethod
    def add_fault(self, spec: FaultSpec) -> FaultHandle:
        """Add a fault and return its handle."""

    @property
    def key(self) -> str:
        """The API key of every service."""
        return str(self.call("GET", "")["key"])

    @property
    def ledger(self) -> EmulatorLedger:
        """The requests received, accepted and billed so far."""
        return EmulatorLedger.from_dict(self.call("GET", "ledger"))

    @property
    def generations(self) -> list[EmulatedGeneration]:
        """The current state of all generations, oldest first."""
        return [EmulatedGeneration.from_dict(data) for data in self.call("GET", "generations")]

    def generation(self, generation_id: str) -> EmulatedGeneration:
        """
        Return the current state of a generation.

        :raises KeyError: It is unknown.
        """
        return EmulatedGeneration.from_dict(self.call("GET", f"generations/{generation_id}"))

    def base_url(self, api: str) -> str:
        """
        Return the base URL of a service.

        :param api: Its name, as in the extra of a connection.
        :raises ValueError: for another name.
        """
        if api not in SERVICE_PREFIXES:
            raise ValueError(f"Unknown API {api!r}; there are {', '.join(APIS)}")
        return f"{self.url}{SERVICE_PREFIXES[api]}"

    def connection(self, api: str, **extra: Any) -> dict[str, Any]:
        """
        Return the fields of an Airflow connection to a service.

        :param extra: Further fields of the connection's extra.
        """
        host = urlsplit(self.url).hostname or "127.0.0.1"
        return {
            "conn_type": "seedance",
            "host": self.base_url(api),
            "password": self.key,
            "extra": {"api": api, "media_hosts": [host], **extra},
        }

    def connection_json(self, api: str, **extra: Any) -> str:
        """Return the connection as JSON, for a variable such as ``AIRFLOW_CONN_SEEDANCE_DEFAULT``."""
        return json.dumps(self.connection(api, **extra))

    def fault(
        self,
        kind: str,
        on: str | None = None,
        api: str | None = None,
        prompt: str | None = None,
        times: int | None = 1,
        *,
        generation_id: str | None = None,
        **options: Any,
    ) -> FaultHandle:
        """
        Add a fault.

        ==================  =====================================================================
        kind                effect and options
        ==================  =====================================================================
        ``refuse``          an error in the service's own shape: ``status`` (400), ``code``, ``message``
        ``delay``           wait before the request is processed: ``seconds`` (the request is accepted even
                            if the client has gone), or ``hold=True`` until released (then it is not)
        ``drop_reply``      accept and bill, then close the connection without a byte
        ``hold_reply``      accept and bill, then answer when released, if the client is still there
        ``cut``             reset the connection before anything is accepted
        ``cut_body``        send headers and half of the body, or ``after`` bytes, then reset
        ``rubbish``         200 with bytes that are not JSON, or ``status``, ``body``, ``headers``; the
                            request is accepted unless ``accept=False``
        ``rate_limit``      429 with the service's headers: ``retry_after`` seconds (1; ``None`` for no
                            header), ``retry_after_date=True``, ``limit``
        ``redirect``        ``status`` (307) to ``location``
        ``gateway_error``   ``status`` (502) with an HTML page; accepted only with ``accept=True``
        ``fail``            the generation fails: ``message``, ``code``; of images only those in ``items``
        ``no_range``        the media server ignores ranges
        ``short_length``    the media server announces ``extra`` (1000) bytes more than it sends
        ==================  =====================================================================

        :param on: The requests that it affects: submit, status, result, list, cancel, media or any.
            By default media for the last two kinds, submit for the others.
        :param api: Only requests to this service.
        :param prompt: Only generations of this prompt; ``*`` matches any text.
        :param times: Number of requests; ``None`` until it is removed.
        :param generation_id: Only requests about this generation.
        :return: Its handle.
        :raises ValueError: for an unknown kind, point or option.
        """
        return self.add_fault(FaultSpec(kind, on, api, prompt, times, generation_id, options))

    def set_rate_limit(self, limit: int | None, window_seconds: float = 3600.0) -> None:
        """
        Change the rate limit.

        :param limit: Requests per window, for each service and key; ``None`` for no limit.
        :param window_seconds: Real seconds.
        """
        self.call("POST", "rate_limit", limit=limit, window_seconds=window_seconds)

    def finish(self, generation_id: str) -> None:
        """
        End a generation now: it succeeds, or fails if a fault planned that.

        :raises ValueError: It has ended, as for the three methods that follow.
        """
        self.call("POST", f"generations/{generation_id}/finish")

    def fail(self, generation_id: str, message: str, code: str | None = None) -> None:
        """Let a generation fail now."""
        self.call("POST", f"generations/{generation_id}/fail", message=message, code=code)

    def expire(self, generation_id: str) -> None:
        """Let a generation expire now. Services other than ``ark`` report a failure: they have no such status."""
        self.call("POST", f"generations/{generation_id}/expire")

    def cancel_remote(self, generation_id: str) -> None:
        """Cancel a generation as in the vendor's console; nothing is billed for it."""
        self.call("POST", f"generations/{generation_id}/cancel")

    def forget(self, generation_id: str) -> None:
        """Remove the record of a generation: the service answers 404 from now on."""
        self.call("POST", f"generations/{generation_id}/forget")

    def expire_urls(self, generation_id: str | None = None) -> None:
        """Expire the media URLs handed out so far, of one generation or of all."""
        self.call("POST", "expire_urls", generation_id=generation_id)

    def hold(self) -> None:
        """Stop the progress of all generations until :meth:`release`."""
        self.call("POST", "hold")

    def release(self) -> None:
        """Continue after :meth:`hold`."""
        self.call("POST", "release")


def _matches(pattern: str, prompt: str) -> bool:
    return prompt == pattern or ("*" in pattern and fnmatchcase(prompt, pattern))
