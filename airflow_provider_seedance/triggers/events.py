"""
Events of the triggers, and how a resumed task reads them.

Airflow logs events whole, so they hold no secret and no prompt, and their ``repr`` holds no URL, which may be signed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from airflow.triggers.base import TriggerEvent

from airflow_provider_seedance.generations import Generation, GenerationStatus, iso, read_time
from airflow_provider_seedance.polling.wait_many import GenerationKey, WaitResult
from airflow_provider_seedance.polling.wait_state import lacks_output


class GenerationEvent(TriggerEvent):
    """The end of a wait, with a short ``repr`` free of URLs."""

    def __init__(self, payload: Any, **kwargs: Any) -> None:
        super().__init__(payload, **kwargs)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        payload = self.payload if isinstance(self.payload, dict) else {}
        return f"GenerationEvent<{payload.get('generation_id')} {payload.get('outcome')}>"

    __str__ = __repr__


def make_event(generation: Generation) -> dict[str, Any]:
    """Return the payload for a generation that has ended."""
    return {
        "generation_id": generation.generation_id,
        "outcome": "no_output" if lacks_output(generation) else "ended",
        "result": generation.result(),
        "error_message": generation.error_message,
        "error_code": generation.error_code,
        "read_at": iso(generation.read_at),
    }


def read_event(event: Any, generation_id: str) -> Generation | None:
    """
    Return the terminal generation of an event.

    ``None`` for anything that is not the complete end of this generation: the service has to be read then.
    """
    if not isinstance(event, dict) or event.get("outcome") not in ("ended", "no_output"):
        return None
    if event.get("generation_id") != generation_id:
        return None
    try:
        generation = Generation.from_result(event.get("result"))
        generation = replace(generation, read_at=read_time(event.get("read_at")))
    except ValueError:
        return None
    if generation.generation_id != generation_id or not generation.status.terminal:
        return None
    if lacks_output(generation) is not (event["outcome"] == "no_output"):
        return None
    if generation.status is GenerationStatus.SUCCEEDED:
        return generation
    message, code = event.get("error_message"), event.get("error_code")
    return replace(
        generation,
        error_message=message if isinstance(message, str) else None,
        error_code=code if isinstance(code, str) else None,
    )


def is_callback(event: Any) -> bool:
    """Return whether a callback of the service resumed the task."""
    return isinstance(event, dict) and event.get("outcome") == "callback"


def is_unknown(event: Any) -> bool:
    """Return whether a wait ended because the service repeatedly did not know the generation."""
    return isinstance(event, dict) and event.get("outcome") == "unknown"


def make_batch_event(result: WaitResult, total: int) -> dict[str, Any]:
    """Return the payload for a batch of which enough generations have ended."""
    return {
        "outcome": "many",
        "generation_id": f"{len(result)} of {total}",
        "ended": [{"seedance_conn_id": conn_id, **make_event(one)} for conn_id, one in result.ended],
        "unknown": [list(key) for key in result.unknown],
        "overdue": [list(key) for key in result.overdue],
        "submission_granted": result.submission_granted,
    }


def read_batch_event(event: Any) -> WaitResult:
    """Return the result of a batch trigger; incomplete ends are left out, and waited for again."""
    if not isinstance(event, dict) or event.get("outcome") != "many":
        return WaitResult()
    ended: list[tuple[str | None, Generation]] = []
    for payload in _list(event.get("ended")):
        generation_id = payload.get("generation_id") if isinstance(payload, dict) else None
        if isinstance(generation_id, str) and (generation := read_event(payload, generation_id)):
            conn_id = payload.get("seedance_conn_id")
            ended.append((conn_id if isinstance(conn_id, str) else None, generation))
    unknown, overdue = (
        [key for one in _list(event.get(name)) if (key := _key(one))] for name in ("unknown", "overdue")
    )
    granted = event.get("submission_granted") is True
    return WaitResult(ended=ended, unknown=unknown, overdue=overdue, submission_granted=granted)


def _key(value: Any) -> GenerationKey | None:
    match value:
        case str():
            return None, value
        case [str(conn_id), str(generation_id)]:
            return conn_id, generation_id
    return None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
