"""Faults on demand: what goes wrong, for which requests, how often.

A fault waits for requests that match it and strikes as often as it was told to. ``delay`` faults are
served first and then let the request go on to whatever else matches, so that a slow reply can also be
a lost one.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

#: The requests a fault can strike at.
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

_MEDIA_ONLY = frozenset({"no_range", "short_length"})
_POLL_SECONDS = 0.02


class Fault:
    """A fault that was asked for: its handle.

    :param kind: one of :data:`FAULT_OPTIONS`.
    :param on: one of :data:`FAULT_POINTS`.
    :param api: only requests to this service.
    :param prompt: only generations of this prompt; ``*`` stands for any text.
    :param generation_id: only requests about this generation.
    :param times: how often it strikes; ``None`` until it is removed.
    :param options: see :meth:`SeedanceEmulator.fault`.
    """

    def __init__(
        self,
        *,
        fault_id: str,
        kind: str,
        on: str,
        api: str | None,
        prompt: str | None,
        generation_id: str | None,
        times: int | None,
        options: dict[str, Any],
    ) -> None:
        self.id = fault_id
        self.kind = kind
        self.on = on
        self.api = api
        self.prompt = prompt
        self.generation_id = generation_id
        self.times = times
        self.options = options
        self._reserved = 0
        self._used = 0
        self._removed = False
        self._changed = threading.Condition()
        self._released = threading.Event()

    @property
    def used(self) -> int:
        """How often it has struck: a lost reply counts when the submission has been accepted."""
        with self._changed:
            return self._used

    @property
    def active(self) -> bool:
        """Whether it will strike again."""
        with self._changed:
            return not self._removed and (self.times is None or self._reserved < self.times)

    def remove(self) -> None:
        """Strike no more; requests that it holds go on."""
        with self._changed:
            self._removed = True
        self._released.set()

    def release(self) -> None:
        """Let the requests that it holds, now and later, go on."""
        self._released.set()

    def wait(self, timeout: float = 10.0, *, used: int = 1) -> bool:
        """Wait until it has struck.

        :param timeout: real seconds.
        :param used: how many times.
        :return: whether it has.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._used >= used, timeout)

    def as_dict(self) -> dict[str, Any]:
        """The fault, as JSON can carry it."""
        return {
            "id": self.id,
            "kind": self.kind,
            "on": self.on,
            "api": self.api,
            "prompt": self.prompt,
            "generation_id": self.generation_id,
            "times": self.times,
            "options": {
                name: value.decode(errors="replace") if isinstance(value, bytes) else value
                for name, value in self.options.items()
            },
            "used": self.used,
            "active": self.active,
        }

    def hold(self, give_up: Callable[[], bool]) -> bool:
        """Block until released.

        :param give_up: asked again and again; true when there is nobody left to hold.
        :return: whether it was released, not given up.
        """
        while not self._released.wait(_POLL_SECONDS):
            if give_up():
                return False
        return True

    def strike(self, on: str, api: str, prompt: str | None, generation_id: str | None) -> bool:
        """Whether the request is to be struck; it has been when :meth:`struck` is called."""
        if self.on not in (on, "any") or (self.api is not None and self.api != api):
            return False
        if self.generation_id is not None and self.generation_id != generation_id:
            return False
        if self.prompt is not None and not _matches(self.prompt, prompt):
            return False
        with self._changed:
            if self._removed or (self.times is not None and self._reserved >= self.times):
                return False
            self._reserved += 1
            return True

    def struck(self) -> None:
        """It has struck, once more."""
        with self._changed:
            self._used += 1
            self._changed.notify_all()


class Faults:
    """All faults of an emulator, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._ids = itertools.count(1)

    def add(
        self,
        kind: str,
        *,
        on: str | None = None,
        api: str | None = None,
        prompt: str | None = None,
        generation_id: str | None = None,
        times: int | None = 1,
        options: Mapping[str, Any] | None = None,
    ) -> Fault:
        """Ask for a fault.

        :raises ValueError: for a kind, a point or an option that does not exist.
        """
        if kind not in FAULT_OPTIONS:
            raise ValueError(f"Unknown kind of fault {kind!r}; there are {', '.join(FAULT_OPTIONS)}")
        point = on or ("media" if kind in _MEDIA_ONLY else "submit")
        if point not in FAULT_POINTS:
            raise ValueError(f"Unknown point {point!r}; there are {', '.join(FAULT_POINTS)}")
        unknown = set(options or {}) - FAULT_OPTIONS[kind]
        if unknown:
            allowed = ", ".join(sorted(FAULT_OPTIONS[kind])) or "none"
            raise ValueError(f"{kind!r} has no option {', '.join(sorted(unknown))}; it has: {allowed}")
        fault = Fault(
            fault_id=f"fault-{next(self._ids)}",
            kind=kind,
            on=point,
            api=api,
            prompt=prompt,
            generation_id=generation_id,
            times=times,
            options=dict(options or {}),
        )
        with self._lock:
            self._faults.append(fault)
        return fault

    def all(self) -> list[Fault]:
        """Every fault ever asked for and not removed."""
        with self._lock:
            return list(self._faults)

    def get(self, fault_id: str) -> Fault | None:
        """The fault of this id, if there is one."""
        return next((fault for fault in self.all() if fault.id == fault_id), None)

    def clear(self) -> None:
        """Remove all of them; requests that they hold go on."""
        for fault in self.all():
            fault.remove()

    def take(
        self, on: str, api: str, prompt: str | None, generation_id: str | None
    ) -> tuple[list[Fault], Fault | None]:
        """The faults that strike a request: all delays, and the first other one."""
        delays = [
            fault
            for fault in self.all()
            if fault.kind == "delay" and fault.strike(on, api, prompt, generation_id)
        ]
        for fault in self.all():
            if fault.kind not in ("delay", "fail") and fault.strike(on, api, prompt, generation_id):
                return delays, fault
        return delays, None

    def failing(self, api: str, prompt: str) -> Fault | None:
        """The fault that makes a render of this prompt fail, if there is one."""
        for fault in self.all():
            if fault.kind == "fail" and fault.strike("submit", api, prompt, None):
                fault.struck()
                return fault
        return None


def _matches(pattern: str, prompt: str | None) -> bool:
    if prompt is None:
        return False
    return prompt == pattern or ("*" in pattern and fnmatchcase(prompt, pattern))
