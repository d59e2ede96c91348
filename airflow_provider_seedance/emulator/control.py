"""
The control API under ``/_emulator/``: the emulator's methods for tests in other processes.

It needs no key: an emulator is for tests.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from airflow_provider_seedance.emulator.faults import Faults
from airflow_provider_seedance.emulator.interface import EmulatorInterface, FaultSpec

#: Path prefix of the control API.
CONTROL_PREFIX = "/_emulator/"

_FAULT_FIELDS = ("kind", "on", "api", "prompt", "generation_id", "times")


class _UnknownPathError(Exception):
    pass


class Control:
    """Maps paths to the methods of an emulator."""

    def __init__(self, emulator: EmulatorInterface, faults: Faults) -> None:
        self._emulator = emulator
        self._faults = faults

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Serve a control request; return HTTP status and a JSON value."""
        steps = [step for step in path.removeprefix(CONTROL_PREFIX).split("/") if step]
        try:
            data = json.loads(body) if body else {}
            if not isinstance(data, dict):
                raise ValueError("the body must be a JSON object")
            serve = self._faults_call if steps[:1] == ["faults"] else self._emulator_call
            return 200, serve(method, steps, data)
        except _UnknownPathError:
            return 404, {"error": f"{method} {path} is not part of the control API"}
        except KeyError as error:
            return 404, {"error": f"unknown: {error}"}
        except (TypeError, ValueError) as error:
            return 400, {"error": str(error)}

    def _faults_call(self, method: str, steps: list[str], data: dict[str, Any]) -> Any:
        faults = self._faults
        match method, *steps[1:]:
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
                raise _UnknownPathError
        return faults.get(fault_id).as_dict()

    def _emulator_call(self, method: str, steps: list[str], data: dict[str, Any]) -> Any:
        emulator = self._emulator
        match method, *steps:
            case ["GET"]:
                return {"url": emulator.url, "key": emulator.key}
            case ["GET", "ledger"]:
                return emulator.ledger.as_dict()
            case ["GET", "generations"]:
                return [asdict(generation) for generation in emulator.generations]
            case ["GET", "generations", generation_id]:
                return asdict(emulator.generation(generation_id))
            case ["POST", "generations", generation_id, change]:
                self._change(generation_id, change, data)
            case ["POST", "hold"]:
                emulator.hold()
            case ["POST", "release"]:
                emulator.release()
            case ["POST", "expire_urls"]:
                emulator.expire_urls(data.get("id"))
            case ["POST", "rate_limit"]:
                limit, window = data.get("limit"), data.get("window_seconds", 3600)
                emulator.set_rate_limit(None if limit is None else int(limit), float(window))
            case _:
                raise _UnknownPathError
        return {}

    def _change(self, generation_id: str, change: str, data: dict[str, Any]) -> None:
        emulator = self._emulator
        methods = {
            "finish": emulator.finish,
            "expire": emulator.expire,
            "cancel": emulator.cancel_remote,
            "forget": emulator.forget,
        }
        if change == "fail":
            emulator.fail(generation_id, data.get("message", "The generation failed."), data.get("code"))
        elif change in methods:
            methods[change](generation_id)
        else:
            raise _UnknownPathError


def _fault_spec(data: dict[str, Any]) -> FaultSpec:
    """Read a fault, whose options may stand in ``options`` or beside the other fields."""
    fields = {name: data.pop(name) for name in _FAULT_FIELDS if name in data}
    return FaultSpec(**fields, options={**data.pop("options", {}), **data})
