from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_seedance.emulator.clock import Clock
from airflow_provider_seedance.emulator.faults import Faults
from airflow_provider_seedance.emulator.interface import FaultSpec
from airflow_provider_seedance.emulator.ledger import EmulatorLedger
from airflow_provider_seedance.emulator.models import Draft, EmulatorOptions, MediaSpec
from airflow_provider_seedance.emulator.state import Backend, OutOfCreditsError
from emulator.vendor import Time


def backend(time: Time, **settings: Any) -> Backend:
    chosen = EmulatorOptions(**{"speed": 10.0, **settings})
    clock = Clock(speed=chosen.speed, source=time)
    return Backend(options=chosen, clock=clock, ledger=EmulatorLedger(), faults=Faults())


def draft(generation_id: str = "a", **changes: Any) -> Draft:
    spec = MediaSpec(kind="video", prompt="kite", width=64, height=36, seconds=5)
    fields = {"api": "ark", "generation_id": generation_id, "model": "m", "request": {}, "sent": {}}
    return Draft(**{**fields, "spec": spec, "resolution": "720p", **changes})


def test_a_render_is_queued_then_running_then_done(time: Time) -> None:
    state = backend(time, render_seconds=100)
    render = state.submit(draft())
    assert state.view(render).status == "queued"
    time.now += 5  # 50 emulated seconds
    seen = state.view(render)
    assert seen.status == "running"
    assert 0 < seen.progress < 100
    time.now += 60
    done = state.view(render)
    assert (done.status, done.progress, done.ended_at) == ("succeeded", 100, 1010.0)


def test_realistic_times() -> None:
    state = backend(Time())
    for seconds, low, high in ((5, 60, 180), (10, 60, 180)):
        spec = MediaSpec(kind="video", prompt="kite", width=64, height=36, seconds=seconds)
        slow = state.view(state.submit(draft(f"slow{seconds}", spec=spec)))
        assert 5 <= slow.queue_seconds <= 20
        assert low <= slow.render_seconds <= high
        fast = state.view(state.submit(draft(f"fast{seconds}", spec=spec, fast=True)))
        assert fast.render_seconds < slow.render_seconds


def test_times_are_the_same_for_the_same_seed() -> None:
    first, second, other = (backend(Time(), seed=seed) for seed in (1, 1, 2))
    times = [state.view(state.submit(draft())).render_seconds for state in (first, second, other)]
    assert times[0] == times[1] != times[2]


def test_renders_on_hold_do_not_progress(time: Time) -> None:
    state = backend(time, render_seconds=100)
    render = state.submit(draft())
    state.hold()
    time.now += 1000
    assert state.view(render).status == "queued"
    state.release()
    assert state.view(render).status == "queued"
    time.now += 10
    assert state.view(render).ended_at == time.now


def test_a_render_that_takes_no_time_waits_for_the_release_too() -> None:
    state = backend(Time(), render_seconds=0)
    state.hold()
    render = state.submit(draft())
    assert state.view(render).status == "queued"
    state.release()
    assert state.view(render).status == "succeeded"


def test_a_render_that_ended_before_a_hold_stays_ended(time: Time) -> None:
    state = backend(time, render_seconds=100)
    render = state.submit(draft())
    time.now += 20
    state.hold()
    time.now += 20
    assert state.view(render).ended_at == 1010.0


def test_expiry_of_a_render(time: Time) -> None:
    state = backend(time, render_seconds=100)
    render = state.submit(draft(expires_after=50.0))
    time.now += 100
    seen = state.view(render)
    assert (seen.status, seen.ended_at) == ("expired", 1005.0)
    assert seen.progress < 100


def test_a_render_that_fails(time: Time) -> None:
    state = backend(time, render_seconds=100)
    state.faults.add(FaultSpec("fail", prompt="kite", options={"message": "no", "code": "X"}))
    render = state.submit(draft())
    assert state.view(render).status == "queued"
    time.now += 10
    seen = state.view(render)
    assert seen.status == "failed"
    assert (seen.failure.message, seen.failure.code) == ("no", "X")


def test_ending_a_render() -> None:
    state = backend(Time(), render_seconds=100)
    for generation_id in "abc":
        state.submit(draft(generation_id))
    state.finish("a")
    state.end("b", "expired")
    state.cancel("c")
    assert [state.view(render).status for render in state.renders()] == ["succeeded", "expired", "cancelled"]
    with pytest.raises(ValueError, match="already"):
        state.finish("a")
    with pytest.raises(KeyError):
        state.finish("unknown")


def test_credits() -> None:
    state = backend(Time(), credits=30, render_seconds=100)
    state.submit(draft("a", credits=20))
    with pytest.raises(OutOfCreditsError):
        state.submit(draft("b", credits=20))
    assert [s.generation_id for s in state.ledger.submissions] == ["a"]
    state.cancel("a")
    assert state.credits == 30
    assert state.ledger.billed == 0


def test_a_url_stays_until_it_expires_and_is_renewed(time: Time) -> None:
    state = backend(time, render_seconds=0, url_lifetime=100)
    render = state.submit(draft())
    [first] = state.urls(render)
    time.now += 5
    assert state.urls(render) == [first]
    time.now += 6
    assert state.urls(render) != [first]


def test_a_url_that_is_not_renewed_lives_from_the_end_of_the_render(time: Time) -> None:
    state = backend(time, render_seconds=0)
    render = state.submit(draft(renewable=False, url_lifetime=100.0))
    state.view(render)
    time.now += 9
    [first] = state.urls(render)
    link = state.link(first.partition("token=")[2])
    assert not state.link_expired(link)
    time.now += 2
    assert state.link_expired(link)
    assert state.urls(render) == [first]


def test_expiring_urls_on_demand() -> None:
    state = backend(Time(), render_seconds=0)
    kept, renewed = state.submit(draft("a", renewable=False)), state.submit(draft("b"))
    [old] = state.urls(renewed)
    state.expire_urls()
    assert state.urls(renewed) != [old]
    [url] = state.urls(kept)
    link = state.link(url.partition("token=")[2])
    assert state.link_expired(link)


def test_settings_are_checked() -> None:
    for settings in [{"speed": 0}, {"shape": "round"}]:
        with pytest.raises(ValueError, match="must be"):
            EmulatorOptions(**settings)
