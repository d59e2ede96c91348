from __future__ import annotations

import pytest

from airflow_provider_seedance.emulator.faults import FAULT_OPTIONS, Fault, Faults


def take(faults: Faults, on: str = "submit", prompt: str | None = "kite", **at: str) -> Fault | None:
    return faults.take(on, at.get("api", "ark"), prompt, at.get("generation_id"))[1]


def test_a_fault_strikes_as_often_as_told() -> None:
    faults = Faults()
    fault = faults.add("cut", times=2)
    assert [take(faults), take(faults), take(faults)] == [fault, fault, None]
    assert not fault.active


def test_times_none_strikes_until_removed() -> None:
    faults = Faults()
    fault = faults.add("cut", times=None)
    assert all(take(faults) is fault for _ in range(5))
    fault.remove()
    assert take(faults) is None


@pytest.mark.parametrize(
    ("pattern", "prompt", "struck"),
    [
        ("kite", "kite", True),
        ("kite", "kites", False),
        ("kite*", "kites", True),
        ("[a] what?", "[a] what?", True),
        ("kite", None, False),
    ],
)
def test_prompts(pattern: str, prompt: str | None, struck: bool) -> None:
    faults = Faults()
    faults.add("cut", prompt=pattern)
    assert (take(faults, prompt=prompt) is not None) is struck


def test_a_fault_is_for_its_requests_only() -> None:
    faults = Faults()
    fault = faults.add("cut", on="status", api="ark", generation_id="a")
    assert take(faults, "submit", generation_id="a") is None
    assert take(faults, "status", api="runbase", generation_id="a") is None
    assert take(faults, "status", generation_id="b") is None
    assert take(faults, "status", generation_id="a") is fault


def test_media_faults_are_for_media_by_default() -> None:
    assert Faults().add("no_range").on == "media"
    assert Faults().add("cut").on == "submit"


def test_a_delay_leaves_room_for_another_fault() -> None:
    faults = Faults()
    delay, cut = faults.add("delay"), faults.add("cut")
    assert faults.take("submit", "ark", "kite", None) == ([delay], cut)


def test_failing_prompts_are_not_taken_as_network_faults() -> None:
    faults = Faults()
    fault = faults.add("fail", prompt="kite")
    assert take(faults) is None
    assert faults.failing("ark", "kite") is fault
    assert fault.used == 1


def test_used_counts_what_has_happened() -> None:
    fault = Faults().add("cut")
    fault.strike("submit", "ark", None, None)
    assert fault.used == 0
    assert not fault.wait(timeout=0)
    fault.struck()
    assert fault.used == 1
    assert fault.wait(timeout=0)


def test_hold_ends_by_release_or_when_nobody_is_left() -> None:
    fault = Faults().add("hold_reply")
    assert fault.hold(lambda: True) is False
    fault.release()
    assert fault.hold(lambda: True) is True


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [("explode", {}), ("cut", {"on": "lunch"}), ("cut", {"options": {"after": 3}})],
)
def test_what_does_not_exist_is_refused(kind: str, arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"Unknown|no option"):
        Faults().add(kind, **arguments)  # type: ignore[arg-type]


def test_every_kind_can_be_asked_for() -> None:
    faults = Faults()
    for kind in FAULT_OPTIONS:
        faults.add(kind)
    assert [fault.kind for fault in faults.all()] == list(FAULT_OPTIONS)
