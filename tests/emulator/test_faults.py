from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_seedance.emulator.faults import Fault, Faults
from airflow_provider_seedance.emulator.interface import FAULT_OPTIONS, FaultSpec


def add(faults: Faults, kind: str, **fields: Any) -> Fault:
    return faults.add(FaultSpec(kind, **fields))


def reserve(faults: Faults, on: str = "submit", prompt: str | None = "kite", **at: str) -> Fault | None:
    return faults.reserve(on, at.get("api", "ark"), prompt, at.get("generation_id"))[1]


def test_a_fault_affects_its_number_of_requests_or_all_until_it_is_removed() -> None:
    faults = Faults()
    fault = add(faults, "cut", times=2)
    assert [reserve(faults), reserve(faults), reserve(faults)] == [fault, fault, None]
    assert not fault.active
    fault = add(faults, "cut", times=None)
    assert all(reserve(faults) is fault for _ in range(5))
    fault.remove()
    assert reserve(faults) is None


def test_prompts() -> None:
    for pattern, prompt, struck in [
        ("kite", "kite", True),
        ("kite", "kites", False),
        ("kite*", "kites", True),
        ("[a] what?", "[a] what?", True),
        ("kite", None, False),
    ]:
        faults = Faults()
        add(faults, "cut", prompt=pattern)
        assert (reserve(faults, prompt=prompt) is not None) is struck


def test_a_fault_is_for_its_requests_only() -> None:
    faults = Faults()
    fault = add(faults, "cut", on="status", api="ark", generation_id="a")
    assert reserve(faults, "submit", generation_id="a") is None
    assert reserve(faults, "status", api="runbase", generation_id="a") is None
    assert reserve(faults, "status", generation_id="b") is None
    assert reserve(faults, "status", generation_id="a") is fault


def test_a_delay_combines_with_another_fault() -> None:
    faults = Faults()
    delay, cut = add(faults, "delay"), add(faults, "cut")
    assert faults.reserve("submit", "ark", "kite", None) == ([delay], cut)


def test_failing_prompts_are_not_network_faults() -> None:
    faults = Faults()
    fault = add(faults, "fail", prompt="kite")
    assert reserve(faults) is None
    assert faults.failing("ark", "kite") is fault
    assert fault.used == 1


def test_used_counts_affected_requests() -> None:
    fault = add(Faults(), "cut")
    fault.reserve("submit", "ark", None, None)
    assert (fault.used, fault.wait(timeout=0)) == (0, False)
    fault.record_use()
    assert (fault.used, fault.wait(timeout=0)) == (1, True)


def test_hold_ends_by_release_or_when_the_client_is_gone() -> None:
    fault = add(Faults(), "hold_reply")
    assert fault.hold(lambda: True) is False
    fault.release()
    assert fault.hold(lambda: True) is True


def test_unknown_kinds_points_and_options_are_refused() -> None:
    for kind, arguments in [("explode", {}), ("cut", {"on": "lunch"}), ("cut", {"options": {"after": 3}})]:
        with pytest.raises(ValueError, match=r"Unknown|no option"):
            add(Faults(), kind, **arguments)  # type: ignore[arg-type]


def test_every_kind_can_be_added_and_is_for_submissions_or_media_by_default() -> None:
    faults = Faults()
    for kind in FAULT_OPTIONS:
        add(faults, kind)
    assert [fault.kind for fault in faults.all()] == list(FAULT_OPTIONS)
    of_media = [fault.kind for fault in faults.all() if fault.spec.point == "media"]
    assert of_media == ["no_range", "short_length"]
    assert {fault.spec.point for fault in faults.all()} == {"submit", "media"}
