"""The control API under ``/_emulator/``: the emulator's own methods for tests in other processes.

It needs no key: an emulator is for tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_seedance.emulator.emulator import SeedanceEmulator

#: Path prefix of the control API.
CONTROL_PREFIX = "/_emulator/"

_FAULT_FIELDS = ("kind", "on", "api", "prompt", "generation_id", "times")


class _UnknownPathError(Exception):
    pass


class Control:
    """Maps paths to the methods of an emulator."""

    def __init__(self, emulator: SeedanceEmulator) -> None:
        self._emulator = emulator

    def handle(self, method: str, path: str, query: Mapping[str, list[str]], body: bytes) -> tuple[int, Any]:
        """Serve a control request.

        :return: HTTP status and a JSON value.
        """
        del query
        steps = [step for step in path.removeprefix(CONTROL_PREFIX).split("/") if step]
        try:
            data = json.loads(body) if body else {}
            if not isinstance(data, dict):
                raise ValueError("the body must be a JSON object")
            if method == "GET":
                return 200, self._read(steps)
            if steps[:1] == ["faults"]:
                return 200, self._faults(method, steps[1:], data)
            if method == "POST":
                return 200, self._act(steps, data)
            raise _UnknownPathError
        except _UnknownPathError:
            return 404, {"error": f"{method} {path} is not part of the control API"}
        except KeyError as error:
            return 404, {"error": f"unknown: {error}"}
        except (TypeError, ValueError) as error:
            return 400, {"error": str(error)}

    def _read(self, steps: list[str]) -> Any:
        emulator = self._emulator
        if not steps:
            return {"url": emulator.url, "key": emulator.key, "speed": emulator.speed}
        if steps == ["ledger"]:
            return emulator.ledger.as_dict()
        if steps == ["generations"]:
            return [asdict(generation) for generation in emulator.generations]
        if steps == ["faults"]:
            return [fault.as_dict() for fault in emulator.faults.all()]
        if len(steps) == 2 and steps[0] == "generations":
            return asdict(emulator.generation(steps[1]))
        if len(steps) == 2 and steps[0] == "faults":
            return self._fault(steps[1]).as_dict()
        raise _UnknownPathError

    def _fault(self, fault_id: str) -> Any:
        fault = self._emulator.faults.get(fault_id)
        if fault is None:
            raise KeyError(fault_id)
        return fault

    def _faults(self, method: str, steps: list[str], data: dict[str, Any]) -> Any:
        if method == "POST" and not steps:
            named = {name: data.pop(name) for name in _FAULT_FIELDS if name in data}
            if "kind" not in named:
                raise ValueError("kind is required")
            options = {**data.pop("options", {}), **data}
            return self._emulator.fault(named.pop("kind"), **named, **options).as_dict()
        if method == "DELETE" and not steps:
            self._emulator.faults.clear()
            return {}
        if method == "DELETE" and len(steps) == 1:
            self._fault(steps[0]).remove()
            return self._fault(steps[0]).as_dict()
        if method == "POST" and len(steps) == 2 and steps[1] == "release":
            self._fault(steps[0]).release()
            return self._fault(steps[0]).as_dict()
        raise _UnknownPathError

    def _act(self, steps: list[str], data: dict[str, Any]) -> Any:
        emulator = self._emulator
        if len(steps) == 3 and steps[0] == "generations":
            return self._change(steps[1], steps[2], data)
        if steps == ["hold"]:
            emulator.hold()
        elif steps == ["release"]:
            emulator.release()
        elif steps == ["expire_urls"]:
            emulator.expire_urls(data.get("id"))
        elif steps == ["rate_limit"]:
            limit, window = data.get("limit"), data.get("window_seconds", 3600)
            emulator.set_rate_limit(None if limit is None else int(limit), float(window))
        else:
            raise _UnknownPathError
        return {}

    def _change(self, generation_id: str, change: str, data: dict[str, Any]) -> Any:
        emulator = self._emulator
        if change == "fail":
            message = data.get("message", "The generation failed.")
            emulator.fail(generation_id, message, code=data.get("code"))
        elif change == "forget":
            emulator.forget(generation_id)
            return {}
        elif change in ("finish", "expire", "cancel"):
            method = {"finish": emulator.finish, "expire": emulator.expire, "cancel": emulator.cancel_remote}
            method[change](generation_id)
        else:
            raise _UnknownPathError
        return asdict(emulator.generation(generation_id))
