"""
The control API under ``/_emulator/``: changes and queries by tests, also in other processes.

It needs no key: an emulator is for tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from airflow_provider_seedance.emulator.interface import FaultSpec
from airflow_provider_seedance.emulator.rate_limiter import RateLimiter
from airflow_provider_seedance.emulator.state import Backend

#: Path prefix of the control API.
CONTROL_PREFIX = "/_emulator/"

_FAULT_FIELDS = ("kind", "on", "api", "prompt", "generation_id", "times")

#: Changes of one generation by the last part of their path.
_CHANGES: Mapping[str, Callable[..., None]] = {
    "finish": Backend.finish,
    "fail": Backend.fail,
    "expire": Backend.expire,
    "cancel": Backend.cancel,
    "forget": Backend.forget,
}
_ACTIONS: Mapping[str, Callable[..., None]] = {
    "hold": Backend.hold,
    "release": Backend.release,
    "expire_urls": Backend.expire_urls,
}


class Control:
    """Paths of the control API, mapped to changes and queries of the backend."""

    def __init__(self, *, backend: Backend, rate_limiter: RateLimiter) -> None:
        self._backend = backend
        self._rate_limiter = rate_limiter

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Serve a control request; return HTTP status and a JSON value."""
        try:
            data = json.loads(body) if body else {}
            if not isinstance(data, dict):
                raise ValueError("the body must be a JSON object")
            return 200, self.call(method, path.removeprefix(CONTROL_PREFIX), data)
        except KeyError as error:
            return 404, {"error": f"{method} {path}: unknown {error}"}
        except (TypeError, ValueError) as error:
            return 400, {"error": str(error)}

    def call(self, method: str, path: str, data: dict[str, Any]) -> Any:
        """Serve a call; see :meth:`EmulatorInterface.call`."""
        match method, *(step for step in path.split("/") if step):
            case [_, "faults", *steps]:
                return self._faults(method, steps, data)
            case ["GET", *steps]:
                return self._read(steps)
            case ["POST", "generations", generation_id, change]:
                _CHANGES[change](self._backend, generation_id, **data)
            case ["POST", "rate_limit"]:
                limit, window = data.get("limit"), data.get("window_seconds", 3600)
                self._rate_limiter.set(None if limit is None else (int(limit), float(window)))
            case ["POST", action]:
                _ACTIONS[action](self._backend, **data)
            case _:
                raise KeyError(path)
        return {}

    def _read(self, steps: list[str]) -> Any:
        backend = self._backend
        match steps:
            case []:
                return {"key": backend.options.key}
            case ["ledger"]:
                return backend.ledger.as_dict()
            case ["generations"]:
                return [asdict(backend.view(render)) for render in backend.renders()]
            case ["generations", generation_id]:
                return asdict(backend.view(backend.get(generation_id)))
        raise KeyError("/".join(steps))

    def _faults(self, method: str, steps: list[str], data: dict[str, Any]) -> Any:
        faults = self._backend.faults
        match method, *steps:
            case ["GET"]:
                return [fault.as_dict() for fault in faults.all()]
            case ["POST"]:
                return faults.add(_fault_spec(data)).as_dict()
            case ["DELETE"]:
                faults.clear()
                return {}
            case ["GET", fault_id]:
                pass
            case ["POST", fault_id, "release"]:
                faults.get(fault_id).release()
            case ["DELETE", fault_id]:
                faults.get(fault_id).remove()
            case _:
                raise KeyError("/".join(steps))
        return faults.get(fault_id).as_dict()


def _fault_spec(data: dict[str, Any]) -> FaultSpec:
    """Read a fault, whose options may stand in ``options`` or beside the other fields."""
    fields = {name: data.pop(name) for name in _FAULT_FIELDS if name in data}
    if "kind" not in fields:
        raise ValueError("kind is required")
    return FaultSpec(**fields, options={**data.pop("options", {}), **data})
