"""
Faults on demand.

A fault affects the requests that match it, up to its number of times. ``delay`` faults apply first and then let
the request continue to other faults, so that a slow reply can also be a lost one.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from airflow_provider_seedance.emulator.interface import FaultHandle, FaultSpec

_POLL_SECONDS = 0.02


class Fault(FaultHandle):
    """A fault of this emulator."""

    def __init__(self, fault_id: str, spec: FaultSpec) -> None:
        self.id = fault_id
        self.spec = spec
        self.kind = spec.kind
        self.options = dict(spec.options)
        self._lock = threading.Lock()
        self._reserved = 0
        self._used = 0
        self._removed = False
        self._released = threading.Event()

    @property
    def used(self) -> int:
        return self._used

    @property
    def active(self) -> bool:
        """True while it affects further requests."""
        return not self._removed and (self.spec.times is None or self._reserved < self.spec.times)

    def remove(self) -> None:
        self._removed = True
        self._released.set()

    def release(self) -> None:
        self._released.set()

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        options = {
            name: value.decode(errors="replace") if isinstance(value, bytes) else value
            for name, value in self.options.items()
        }
        state = {"id": self.id, "on": self.spec.point, "used": self.used, "active": self.active}
        return {**asdict(self.spec), **state, "options": options}

    def hold(self, is_client_gone: Callable[[], bool]) -> bool:
        """Block until released; return ``False`` if the client goes first."""
        while not self._released.wait(_POLL_SECONDS):
            if is_client_gone():
                return False
        return True

    def reserve(self, point: str, api: str, prompt: str | None, generation_id: str | None) -> bool:
        """Reserve one use for a request that matches; :meth:`record_use` confirms it."""
        if not self.spec.matches(point, api, prompt, generation_id):
            return False
        with self._lock:
            if not self.active:
                return False
            self._reserved += 1
            return True

    def record_use(self) -> None:
        """Count a use."""
        with self._lock:
            self._used += 1


class Faults:
    """All faults of an emulator, in the order in which they were added."""

    def __init__(self) -> None:
        self._faults: dict[str, Fault] = {}
        self._ids = itertools.count(1)

    def add(self, spec: FaultSpec) -> Fault:
        """Add a fault."""
        fault = Fault(f"fault-{next(self._ids)}", spec)
        self._faults[fault.id] = fault
        return fault

    def all(self) -> list[Fault]:
        """Return all faults, including used and removed ones."""
        return list(self._faults.values())

    def get(self, fault_id: str) -> Fault:
        """Return the fault of this id, or raise ``KeyError``."""
        return self._faults[fault_id]

    def clear(self) -> None:
        """Remove all faults; requests that they hold continue."""
        for fault in self.all():
            fault.remove()

    def reserve(
        self, point: str, api: str, prompt: str | None, generation_id: str | None
    ) -> tuple[list[Fault], Fault | None]:
        """Return the faults that affect a request: all delays, and the first other one."""
        request = (point, api, prompt, generation_id)
        delays = [fault for fault in self.all() if fault.kind == "delay" and fault.reserve(*request)]
        for fault in self.all():
            if fault.kind not in ("delay", "fail") and fault.reserve(*request):
                return delays, fault
        return delays, None

    def failing(self, api: str, prompt: str) -> Fault | None:
        """Return the fault that makes a generation of this prompt fail, if there is one."""
        for fault in self.all():
            if fault.kind == "fail" and fault.reserve("submit", api, prompt, None):
                fault.record_use()
                return fault
        return None
