"""
How the records of a campaign are written: as short as they can be, and never longer than the store likes.

What a record says beyond its result stands in an entry of its own. The results of a group are packed
together, because the URLs of one store repeat most of each other.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_seedance.generations import GenerationStatus, iso, read_number, read_time
from airflow_provider_seedance.submission.records import NO_REQUEST, Fingerprint, Record, RecordState

#: Longest value that is written, in bytes: Airflow warns of values beyond 64 KiB.
LONGEST_VALUE = 63 * 1024

#: Longest reason of a failure that is kept, in characters; shorter ones where a group has no room for that.
REASONS = (480, 160, 40)

#: Most that packed results are believed to hold, in bytes: ours hold less, and damage may claim anything.
_LARGEST_RESULTS = 64 * 1024**2

_STATES = dict(zip(RecordState, ("i", "u", "n", "s", "e"), strict=True))
_STATES_BACK = {letter: state for state, letter in _STATES.items()}

_RESULT_NAMES = ("urls", "model", "duration", "resolution", "credits", "cost_usd")
_RESULT_TIMES = ("created_at", "completed_at", "expires_at")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """
    Why a render failed, as it is remembered.

    :param kind: One word for the class of error.
    :param error: What happened.
    :param final: Whether an automatic retry leaves it at that.
    """

    kind: str
    error: str
    final: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """
    One record, with how its render failed and what it has cost.

    :param told: Credits as the service told them; they outlive the result, which there may be no room for.
    """

    record: Record | None = None
    failure: Failure | None = None
    told: float | None = None

    @property
    def credits(self) -> float:
        """What the render has cost: as the service told, else by its price list, else nothing known."""
        listed = self.record.result_defaults.get("credits") if self.record else None
        return float(read_number(self.told if self.told is not None else listed) or 0.0)


def told_credits(record: Record | None) -> float | None:
    """Return the credits that a recorded result tells."""
    found = read_number((record.result or {}).get("credits")) if record else None
    return None if found is None else float(found)


def completed(record: Record, fingerprint: Fingerprint) -> Record:
    """Return a record with what its place and its request say of it."""
    result = record.result
    if result is not None and record.status is not None:
        urls = result.get("urls") or []
        result = {
            "generation_id": record.generation_id,
            "api": fingerprint.api,
            "media": fingerprint.media,
            "status": record.status.value,
            "url": urls[0] if urls else None,
            **result,
        }
    return replace(record, fingerprint=fingerprint, result=result)


def write_entries(entries: Mapping[str, Entry], *, longest: int | None) -> dict[str, Any]:
    """
    Return the entries of a group as JSON.

    :param longest: Bytes that may be used; where it is too few, reasons become shorter, and the longest
        results are left out: the service is asked for them again.
    """
    for reason in REASONS:
        result_defaults: list[dict[str, Any]] = []
        items = {name: _write_entry(entry, result_defaults, reason) for name, entry in entries.items()}
        value: dict[str, Any] = {"result_defaults": result_defaults, "items": items}
        if longest is None or size(value) <= longest:
            break
    results = {
        name: short
        for name, entry in entries.items()
        if entry.record and (short := _write_result(entry.record.result))
    }
    room = None if longest is None else longest - size(value) - len(', "results": ""')
    return {**value, "results": _pack(results, room)}


def read_entries(value: Any) -> dict[str, Entry]:
    """
    Read what :func:`write_entries` wrote.

    :raises ValueError: as :exc:`TypeError` and others do: it is something else.
    """
    results = _unpack(value.get("results"))
    return {
        name: _read_entry(entry, value["result_defaults"], results.get(name))
        for name, entry in value["items"].items()
    }


def kept_results(value: Any) -> set[str]:
    """Return the names of the entries whose results a written value has kept."""
    return set(_unpack(value["results"]))


def size(value: Any) -> int:
    """Return how long a value is, as Airflow measures it."""
    return len(json.dumps(value))


def _pack(results: dict[str, Any], room: int | None) -> str:
    """Pack results; where there is no room for all, the longest stay out."""
    by_length = sorted(results, key=lambda name: size(results[name]))
    while True:
        text = json.dumps({name: results[name] for name in by_length}, separators=(",", ":"))
        packed = base64.b64encode(zlib.compress(text.encode(), 6)).decode() if by_length else ""
        if room is None or len(packed) <= room or not by_length:
            return packed
        del by_length[-max(1, len(by_length) // 8) :]


def _unpack(packed: Any) -> dict[str, Any]:
    if not packed:
        return {}
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(base64.b64decode(packed, validate=True), _LARGEST_RESULTS)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    results = json.loads(text)
    if not isinstance(results, dict):
        raise TypeError("the results are not named")
    return results


def _write_entry(entry: Entry, result_defaults: list[dict[str, Any]], reason: int) -> list[Any] | None:
    record = entry.record
    if record is None:
        return None
    known = dict(record.result_defaults)
    if known not in result_defaults:
        result_defaults.append(known)
    return [
        _STATES[record.state],
        record.max_tries,
        record.try_number,
        record.generation_id,
        record.correlation,
        result_defaults.index(known),
        *(_stamp(getattr(record, name)) for name in ("intended_at", "submitted_at", "ended_at")),
        record.status.value if record.status else None,
        None if entry.failure is None else _write_failure(entry.failure, reason),
        entry.told,
    ]


def _read_entry(value: Any, result_defaults: list[dict[str, Any]], result: Any) -> Entry:
    if value is None:
        return Entry()
    state, max_tries, try_number, generation_id, correlation, fact, *rest = value
    intended_at, submitted_at, ended_at, status, failure, told = rest
    if not isinstance(max_tries, int) or not isinstance(try_number, int):
        raise TypeError("a record without its try")
    record = Record(
        state=_STATES_BACK[state],
        fingerprint=NO_REQUEST,  # its name tells whose it is
        max_tries=max_tries,
        try_number=try_number,
        generation_id=_text(generation_id),
        correlation=_text(correlation),
        result_defaults=dict(result_defaults[fact]),
        result=_read_result(result) if result else None,
        status=GenerationStatus(status) if status else None,
        intended_at=read_time(intended_at),
        submitted_at=read_time(submitted_at),
        ended_at=read_time(ended_at),
    )
    if record.state in (RecordState.SUBMITTED, RecordState.ENDED) and not record.generation_id:
        raise ValueError("a submission without its id")
    credits = read_number(told)
    return Entry(
        record=record,
        failure=_read_failure(failure) if failure else None,
        told=None if credits is None else float(credits),
    )


def _write_failure(failure: Failure, longest: int) -> list[Any]:
    error = failure.error
    # What is no ASCII takes six characters in JSON, or twelve.
    while len(error) > longest or size(error) > 2 * longest:
        error = error[: min(longest, len(error) * 3 // 4) - 2] + " …"
    return [failure.kind, error, int(failure.final)]


def _read_failure(value: Any) -> Failure:
    kind, error, final = value
    return Failure(kind=str(kind), error=str(error), final=bool(final))


def _write_result(result: Mapping[str, Any] | None) -> list[Any] | None:
    """Write what a result tells beyond the record itself."""
    if not result:
        return None
    times = [_stamp(read_time(result.get(name))) for name in _RESULT_TIMES]
    return [*(result.get(name) for name in _RESULT_NAMES), *times]


def _read_result(value: list[Any]) -> dict[str, Any]:
    count = len(_RESULT_NAMES)
    times = [iso(read_time(moment)) for moment in value[count:]]
    return {
        **dict(zip(_RESULT_NAMES, value[:count], strict=True)),
        **dict(zip(_RESULT_TIMES, times, strict=True)),
    }


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r:.80}")
    return value


def _stamp(moment: Any) -> float | int | None:
    """Write a moment as seconds since 1970, as short as that is possible."""
    if moment is None:
        return None
    seconds = round(moment.timestamp(), 3)
    return int(seconds) if seconds == int(seconds) else seconds
