from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from airflow_provider_seedance.emulator.ledger import EmulatorLedger, RequestEntry, SubmissionEntry


def entry(kind: str = "submit", api: str = "ark", **changes: object) -> RequestEntry:
    fields = {"at": 1.0, "api": api, "method": "POST", "path": "/x", "kind": kind, **changes}
    return RequestEntry(**fields)  # type: ignore[arg-type]


def submission(generation_id: str, billed: float) -> SubmissionEntry:
    return SubmissionEntry(
        at=1, api="ark", generation_id=generation_id, media="video", prompt="p", request={}, billed=billed
    )


def test_requests_keep_the_order_of_arrival() -> None:
    ledger = EmulatorLedger()
    first, second = ledger.add(entry(path="/1")), ledger.add(entry(path="/2"))
    ledger.answered(second, 200, "b")
    ledger.answered(first, 500, None)
    ledger.add(entry(path="/3"))
    found = [(request.path, request.status, request.generation_id) for request in ledger.requests]
    assert found == [("/1", 500, None), ("/2", 200, "b"), ("/3", None, None)]


def test_entries_are_values() -> None:
    with pytest.raises(FrozenInstanceError):
        entry().status = 200  # type: ignore[misc]


def test_posts_are_found_by_prompt_at_any_depth() -> None:
    ledger = EmulatorLedger()
    ledger.add(entry(body={"content": [{"type": "text", "text": "kite"}]}))
    ledger.add(entry(api="runbase", body={"input": {"prompt": "kite"}}))
    ledger.add(entry(body={"prompt": "kites"}))
    ledger.add(entry(kind="status"))
    assert len(ledger.posts()) == 3
    assert len(ledger.posts(prompt="kite")) == 2
    assert len(ledger.posts(api="runbase", prompt="kite")) == 1


def test_count() -> None:
    ledger = EmulatorLedger()
    ledger.add(entry(kind="status", generation_id="a"))
    ledger.add(entry(kind="status", generation_id="b"))
    ledger.add(entry(kind="cancel", api="runbase"))
    assert ledger.count("status") == 2
    assert ledger.count("status", generation_id="a") == 1
    assert ledger.count("any", api="runbase") == 1
    assert [request.kind for request in ledger.cancels()] == ["cancel"]


def test_refunds() -> None:
    ledger = EmulatorLedger()
    ledger.add(submission("a", 10))
    ledger.add(submission("b", 5))
    ledger.refunded("a")
    assert [s.billed for s in ledger.submissions] == [0, 5]
    assert ledger.billed == 5


def test_the_ledger_survives_json() -> None:
    ledger = EmulatorLedger()
    ledger.add(entry(body={"prompt": "kite"}))
    ledger.add(submission("a", 10))
    copy = EmulatorLedger.from_dict(json.loads(json.dumps(ledger.as_dict())))
    assert copy.requests == ledger.requests
    assert copy.submissions == ledger.submissions
