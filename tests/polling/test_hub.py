"""The hub: many generations, one client, one connection lookup, one scheduler."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from helpers import set_timing
from support import SECRET, emulator_settings, on_loop
from triggers.test_seedance import submitted

from airflow_provider_seedance.apis.messages import HttpCall
from airflow_provider_seedance.apis.rate_limits import RateLimit
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.polling import hub as module
from airflow_provider_seedance.polling.hub import wait_for_generation
from airflow_provider_seedance.polling.wait_state import TIMING, WaitState
from airflow_provider_seedance.settings import Settings

CONN = "seedance_default"


class Connections:
    """Looks connections up, and counts."""

    def __init__(self, *settings: Settings) -> None:
        self.known = {one.conn_id: one for one in settings}
        self.looked_up: list[str] = []

    async def __call__(self, conn_id: str) -> Settings:
        self.looked_up.append(conn_id)
        await asyncio.sleep(0)
        return self.known[conn_id]


class Clients(list[Any]):
    """The clients that were made; ``concurrent`` is the most calls that ran at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.running = self.concurrent = self.closed = 0
        clients = self

        class Counting(module.AsyncClient):
            def __init__(self, settings: Settings, **more: Any) -> None:
                super().__init__(settings, **more)
                clients.append(self)

            async def send(self, call: HttpCall) -> Any:
                clients.running += 1
                clients.concurrent = max(clients.concurrent, clients.running)
                try:
                    await asyncio.sleep(0.01)
                    return await super().send(call)
                finally:
                    clients.running -= 1

            async def close(self) -> None:
                clients.closed += 1
                await super().close()

        monkeypatch.setattr(module, "AsyncClient", Counting)


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> Clients:
    return Clients(monkeypatch)


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    assert module._hubs == {}
    assert module._connections == {}


def waiting(generation_id: str, *, deadline: float | None = None, poll_interval: float = 0.01) -> WaitState:
    return WaitState(
        generation_id=generation_id,
        media="video",
        deadline=deadline or time.time() + 60,
        poll_interval=poll_interval,
    )


def run(main: Callable[[], Any]) -> Any:
    """Run on a loop that has nothing left to do afterwards."""

    async def guarded() -> Any:
        try:
            async with asyncio.timeout(120):  # a test that hangs fails
                return await main()
        finally:
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    return on_loop(guarded())


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds, and then a moment for what must not follow."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)


def wait(generation_id: str, look_up: Any, conn_id: str = CONN, **more: Any) -> Any:
    return wait_for_generation(waiting(generation_id, **more), conn_id, look_up, not_before=0.0)


# ---------------------------------------------------------------------- sharing


def test_many_watchers_share_one_client_and_one_lookup(services: SeedanceEmulator, clients: Clients) -> None:
    look_up = Connections(emulator_settings(services, "runbase"))
    ids = [submitted(services, "runbase") for _ in range(10)]

    async def main() -> list[Any]:
        return await asyncio.gather(*(wait(generation_id, look_up) for generation_id in ids))

    steps = run(main)
    assert [step.kind for step in steps] == ["ended"] * 10
    assert [step.state.last.generation_id for step in steps] == ids
    assert look_up.looked_up == [CONN]
    assert (len(clients), clients.closed) == (1, 1)
    assert services.ledger.count("status") == 10


def test_calls_at_a_time_are_bounded(services: SeedanceEmulator, clients: Clients) -> None:
    look_up = Connections(emulator_settings(services, "runbase"))
    ids = [submitted(services, "runbase") for _ in range(20)]

    async def main() -> None:
        await asyncio.gather(*(wait(generation_id, look_up) for generation_id in ids))

    run(main)
    assert 1 < clients.concurrent <= module.MAX_CONNECTIONS


def test_two_connections_to_the_same_account_share(services: SeedanceEmulator, clients: Clients) -> None:
    one, other = (emulator_settings(services, "ark", conn_id=name) for name in ("one", "other"))
    look_up = Connections(one, other)
    services.hold()
    ids = [submitted(services, "ark") for _ in range(2)]

    async def main() -> None:
        waits = [
            asyncio.create_task(wait(i, look_up, name)) for i, name in zip(ids, ("one", "other"), strict=True)
        ]
        await asyncio.sleep(0.05)
        assert len(module._hubs) == 1
        for generation_id in ids:
            services.finish(generation_id)
        await asyncio.gather(*waits)

    run(main)
    assert sorted(look_up.looked_up) == ["one", "other"]
    assert (len(clients), clients.closed) == (1, 1)


def test_a_connection_that_moves_to_another_account_takes_nobody_along(
    services: SeedanceEmulator, clients: Clients
) -> None:
    one, other = (emulator_settings(services, "ark", conn_id=name) for name in ("one", "other"))
    look_up = Connections(one, other)
    services.hold()
    ids = [submitted(services, "ark") for _ in range(2)]

    async def main() -> list[Any]:
        waits = [
            asyncio.create_task(wait(i, look_up, name)) for i, name in zip(ids, ("one", "other"), strict=True)
        ]
        await asyncio.sleep(0.05)
        (hub,) = module._hubs.values()
        hub._connections._known["one"].settings = replace(one, key="another-key")
        services.finish(ids[1])
        done = await waits[1]
        waits[0].cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        return [done]

    (step,) = run(main)
    assert step.kind == "ended"


@pytest.mark.parametrize(
    ("change", "hubs"),
    [
        ({"key": "another-key"}, 2),
        ({"base_url": "http://127.0.0.1:9/x"}, 2),
        # The same account, and so the same quota, by two ways of connecting.
        ({"verify": False}, 1),
    ],
)
def test_different_accounts_do_not_share(
    services: SeedanceEmulator, clients: Clients, change: dict[str, Any], hubs: int
) -> None:
    one = emulator_settings(services, "ark", conn_id="one")
    look_up = Connections(one, replace(one, conn_id="other", **change))
    services.hold()
    generation_id = submitted(services, "ark")

    async def main() -> None:
        waits = [asyncio.create_task(wait(generation_id, look_up, name)) for name in ("one", "other")]
        while len(clients) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert len(module._hubs) == hubs
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    run(main)
    assert (len(clients), clients.closed) == (2, 2)


def test_the_next_one_in_opens_it_anew(services: SeedanceEmulator, clients: Clients) -> None:
    look_up = Connections(emulator_settings(services, "ark"))
    ids = [submitted(services, "ark") for _ in range(2)]

    async def main() -> None:
        for generation_id in ids:
            await wait(generation_id, look_up)

    run(main)
    assert (len(clients), clients.closed) == (2, 2)


# ---------------------------------------------------------------------- leaving


def test_cancelled_watchers_leave_nothing(services: SeedanceEmulator, clients: Clients) -> None:
    look_up = Connections(emulator_settings(services, "ark"))
    services.hold()
    ids = [submitted(services, "ark") for _ in range(3)]

    async def main() -> None:
        tasks = [asyncio.create_task(wait(generation_id, look_up)) for generation_id in ids]
        await asyncio.sleep(0.05)
        for task in tasks[:2]:
            task.cancel()
        await asyncio.gather(*tasks[:2], return_exceptions=True)
        assert len(module._hubs) == 1  # one is still there
        services.release()
        assert (await tasks[2]).kind == "ended"

    run(main)
    assert clients.closed == 1


def test_leaving_while_the_scheduler_wakes_up_ends_it_all_the_same(services: SeedanceEmulator) -> None:
    """The moment in which a poll has planned the next one and the last watcher leaves."""
    look_up = Connections(emulator_settings(services, "ark"))

    async def main() -> None:
        for turns in range(20):
            task = asyncio.create_task(wait("g", look_up, poll_interval=30.0))
            await asyncio.sleep(0.001)
            hub = next(iter(module._hubs.values()))
            await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.sleep(0)
            hub._wake.set()
            for _ in range(turns % 5):
                await asyncio.sleep(0)
            hub._scheduler.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert hub._scheduler.done()

    async def bounded() -> None:
        await asyncio.wait_for(main(), 20)

    run(bounded)


def test_a_watcher_that_is_cancelled_while_it_is_read(services: SeedanceEmulator) -> None:
    look_up = Connections(emulator_settings(services, "ark"))
    generation_id = submitted(services, "ark")
    fault = services.fault("delay", on="status", hold=True)

    async def main() -> None:
        task = asyncio.create_task(wait(generation_id, look_up))
        while not services.ledger.count("status"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    try:
        run(main)
    finally:
        fault.release()


# ---------------------------------------------------------------------- keys and connections


def test_a_new_key_is_looked_up_once_after_a_refusal(services: SeedanceEmulator, clients: Clients) -> None:
    right = emulator_settings(services, "ark")
    look_up = Connections(replace(right, key="rotated-away"))
    ids = [submitted(services, "ark") for _ in range(10)]

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(wait(generation_id, look_up)) for generation_id in ids]
        await asyncio.sleep(0.05)
        look_up.known[CONN] = right
        for hub in module._hubs.values():  # as if it had been looked up a while ago
            for known in hub._connections._known.values():
                known.looked_up_at -= 60
        return await asyncio.gather(*tasks)

    steps = run(main)
    assert {step.kind for step in steps} == {"ended"}
    assert len(look_up.looked_up) == 2
    assert len(clients) == clients.closed == 2


def test_a_key_that_stays_wrong_is_not_looked_up_for_every_generation(
    services: SeedanceEmulator, clients: Clients
) -> None:
    look_up = Connections(replace(emulator_settings(services, "ark"), key="wrong"))
    ids = [submitted(services, "ark") for _ in range(10)]

    async def main() -> list[Any]:
        return await asyncio.gather(*(wait(i, look_up, deadline=time.time() + 0.3) for i in ids))

    steps = run(main)
    assert {step.kind for step in steps} == {"deadline"}
    assert len(look_up.looked_up) == 1


def test_a_failed_renewal_leaves_the_old_connection_in_use(
    services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = emulator_settings(services, "ark")
    asked: list[str] = []

    async def look_up(conn_id: str) -> Settings:
        asked.append(conn_id)
        if len(asked) > 1:
            raise ConnectionError(f"away {SECRET}")
        return settings

    set_timing(monkeypatch, connection_lifetime=0.0)
    generation_id = submitted(services, "ark")

    async def main() -> Any:
        return await wait(generation_id, look_up)

    assert run(main).kind == "ended"
    assert "could not be looked up" in caplog.text
    assert SECRET not in caplog.text


# ---------------------------------------------------------------------- trouble


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("refuse", {"status": 500}),
        ("gateway_error", {}),
        ("rubbish", {}),
        ("cut", {}),
        ("rate_limit", {"retry_after": 0}),
        ("refuse", {"status": 403}),
    ],
)
def test_failed_polls_go_on_waiting(services: SeedanceEmulator, kind: str, options: dict[str, Any]) -> None:
    look_up = Connections(emulator_settings(services, "runbase"))
    generation_id = submitted(services, "runbase")
    fault = services.fault(kind, on="status", times=5, **options)

    async def main() -> Any:
        return await wait(generation_id, look_up)

    assert run(main).kind == "ended"
    assert fault.used == 5


# ---------------------------------------------------------------------- many in one request


def wait_for_all(services: SeedanceEmulator, ids: list[str]) -> list[Any]:
    look_up = Connections(emulator_settings(services, "ark"))

    async def main() -> list[Any]:
        return await asyncio.gather(*(wait(i, look_up, poll_interval=0.05) for i in ids))

    return run(main)


def test_one_request_reads_many_where_the_service_can(services: SeedanceEmulator) -> None:
    ids = [submitted(services, "ark") for _ in range(150)]
    steps = wait_for_all(services, ids)
    assert [step.state.last.generation_id for step in steps] == ids
    assert all(step.state.last.urls for step in steps)
    assert services.ledger.count("status") <= 1
    assert services.ledger.count("list") <= 5


def test_what_a_list_does_not_tell_is_asked_for_alone(services: SeedanceEmulator) -> None:
    ids = [submitted(services, "ark") for _ in range(3)]
    lagging = {"total": 0, "items": []}
    services.fault("rubbish", on="list", status=200, body=json.dumps(lagging), times=None, accept=False)
    steps = wait_for_all(services, ids)
    assert {step.kind for step in steps} == {"ended"}
    assert services.ledger.count("status") == 3


def test_a_list_that_is_refused_is_not_asked_for_again(
    services: SeedanceEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [submitted(services, "ark") for _ in range(5)]
    services.fault("refuse", on="list", status=403, times=None)
    steps = wait_for_all(services, ids)
    assert {step.kind for step in steps} == {"ended"}
    assert services.ledger.count("list") == 1
    assert len([line for line in caplog.messages if "one by one" in line]) == 1


@pytest.mark.parametrize(
    ("kind", "options"), [("rate_limit", {"retry_after": 0}), ("refuse", {"status": 500}), ("cut", {})]
)
def test_a_list_that_fails_is_asked_for_again(
    services: SeedanceEmulator, kind: str, options: dict[str, Any]
) -> None:
    ids = [submitted(services, "ark") for _ in range(5)]
    services.fault(kind, on="list", times=2, **options)
    steps = wait_for_all(services, ids)
    assert {step.kind for step in steps} == {"ended"}


# ---------------------------------------------------------------------- quota


def pushed_back(services: SeedanceEmulator, api: str, count: int, **options: Any) -> tuple[Any, list[str]]:
    fault = services.fault("rate_limit", on="status", **options)
    return fault, [submitted(services, api) for _ in range(count)]


def test_a_refusal_stops_everybody_and_is_logged_once(
    services: SeedanceEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    look_up = Connections(emulator_settings(services, "runbase"))
    fault, ids = pushed_back(services, "runbase", 20, times=None, retry_after=3600)

    async def main() -> None:
        waits = [asyncio.create_task(wait(i, look_up)) for i in ids]
        await until(lambda: any(hub._quota.blocked_until for hub in module._hubs.values()))
        (hub,) = module._hubs.values()
        assert 3500 < hub._quota.blocked_until - hub._loop.time() <= 3600
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    run(main)
    # Those that were on their way already; nobody after them.
    assert 1 <= fault.used <= module.MAX_CONNECTIONS
    lines = [line.getMessage() for line in caplog.records if "quota" in line.getMessage()]
    assert len(lines) == 1
    assert "no render is lost" in lines[0]


def test_a_refused_reading_keeps_its_place_and_fails_nothing(services: SeedanceEmulator) -> None:
    look_up = Connections(emulator_settings(services, "runbase"))
    fault, ids = pushed_back(services, "runbase", 1, times=3, retry_after=0)

    async def main() -> Any:
        return await wait(ids[0], look_up)

    step = run(main)
    assert (step.kind, fault.used, step.state.failures) == ("ended", 3, 0)


def test_the_quota_of_a_window_is_never_exceeded(services: SeedanceEmulator) -> None:
    services.set_rate_limit(30, 3600)
    look_up = Connections(emulator_settings(services, "seedance2api"))
    services.hold()
    ids = [submitted(services, "seedance2api") for _ in range(5)]

    async def main() -> None:
        waits = [asyncio.create_task(wait(i, look_up)) for i in ids]
        # Some of the quota is kept for submissions.
        await until(lambda: services.ledger.count("status") >= 10)
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    run(main)
    assert services.ledger.count("status") <= 25
    assert all(entry.status == 200 for entry in services.ledger.requests)


def test_the_plan_bounds_the_requests_where_no_header_does(services: SeedanceEmulator) -> None:
    settings = emulator_settings(services, "runbase")
    look_up = Connections(replace(settings, requests_per_hour=20))
    services.hold()
    ids = [submitted(services, "runbase") for _ in range(3)]

    async def main() -> None:
        waits = [asyncio.create_task(wait(i, look_up)) for i in ids]
        await until(lambda: services.ledger.count("status") >= 15)
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    run(main)
    assert services.ledger.count("status") == 15


def test_submissions_have_their_turn_when_the_quota_has_room(services: SeedanceEmulator) -> None:
    settings = emulator_settings(services, "seedance2api")
    look_up = Connections(settings)
    done: list[int] = []

    async def submit(number: int, moment: float) -> None:
        await module.wait_for_submission(moment, CONN, look_up)
        done.append(number)

    async def main() -> None:
        now = time.time()
        waits = [asyncio.create_task(submit(number, now + 0.1)) for number in range(5)]
        await asyncio.sleep(0.05)
        (hub,) = module._hubs.values()
        reset = datetime.fromtimestamp(int(now) + 3600, UTC)
        hub.answered(RateLimit(limit=10, remaining=3, reset_at=reset), refused=False)
        await until(lambda: len(done) >= 3)
        assert done == [0, 1, 2]
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    run(main)


# ---------------------------------------------------------------------- learning


def test_how_long_renders_take_is_learned_from_those_that_succeed(
    services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[tuple[Any, float, float]] = []
    monkeypatch.setattr(module._durations, "observe", lambda *told: learned.append(told))
    settings = emulator_settings(services, "runbase")
    look_up = Connections(settings)
    result_defaults = {"model": "m", "duration": 5, "resolution": "720p", "credits": 9}

    async def one(generation_id: str, submitted_at: float | None) -> None:
        known = replace(
            waiting(generation_id),
            submitted_at=submitted_at,
            submitted_at_known=submitted_at is not None,
            result_defaults=result_defaults,
        )
        await wait_for_generation(known, CONN, look_up, not_before=0.0)

    services.hold()
    good, bad, unknown = (submitted(services, "runbase") for _ in range(3))
    services.fail(bad, "no")
    services.release()

    async def main() -> None:
        await one(good, time.time() - 50)
        await one(bad, time.time() - 50)
        await one(unknown, None)

    run(main)
    [(kind, low, high)] = learned
    assert kind == (settings.base_url, ("video", "m", 5, "720p"))
    assert low == 0
    assert 50 <= high < 60


def test_an_unknown_generation(services: SeedanceEmulator) -> None:
    look_up = Connections(emulator_settings(services, "runbase"))

    async def main() -> Any:
        return await wait("no-such", look_up)

    assert run(main).kind == "unknown"
    assert services.ledger.count("status") == TIMING.max_not_found


def test_the_deadline(services: SeedanceEmulator) -> None:
    look_up = Connections(emulator_settings(services, "runbase"))
    services.hold()
    generation_id = submitted(services, "runbase")

    async def main() -> Any:
        return await wait(generation_id, look_up, deadline=time.time() + 0.1)

    assert run(main).kind == "deadline"


def test_broken_scheduler_is_replaced_for_every_wait(services: SeedanceEmulator, clients: Clients) -> None:
    look_up = Connections(emulator_settings(services, "ark"))
    services.hold()
    ids = [submitted(services, "ark") for _ in range(3)]

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(wait(i, look_up, poll_interval=0.05)) for i in ids]
        await asyncio.sleep(0.02)
        broken = next(iter(module._hubs.values()))
        broken._queue._polls.insert(0, ("no time", 0, None))  # type: ignore[arg-type]
        broken._wake.set()
        while not broken.broken:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        services.release()
        return await asyncio.gather(*tasks)

    assert {step.kind for step in run(main)} == {"ended"}
    assert len(clients) == clients.closed == 2


def test_a_failure_in_one_poll_reaches_its_waiter_only(
    services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = Connections(emulator_settings(services, "ark"))
    good, bad = submitted(services, "ark"), submitted(services, "ark")
    plain = module.on_poll

    def on_poll(step: Any, reading: Any, now: float, model: Any) -> Any:
        if step.generation_id == bad:
            raise RuntimeError("a bug")
        return plain(step, reading, now, model)

    monkeypatch.setattr(module, "on_poll", on_poll)

    deadline = time.time() + 1.0

    async def main() -> list[Any]:
        return await asyncio.gather(*(wait(i, look_up, deadline=deadline) for i in (good, bad)))

    first, second = run(main)
    assert (first.kind, second.kind) == ("ended", "deadline")


def test_nothing_is_logged_per_poll(services: SeedanceEmulator, caplog: pytest.LogCaptureFixture) -> None:
    look_up = Connections(emulator_settings(services, "runbase"))
    services.hold()
    generation_id = submitted(services, "runbase")

    async def main() -> None:
        task = asyncio.create_task(wait(generation_id, look_up))
        await until(lambda: services.ledger.count("status") > 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    caplog.set_level("INFO", logger="airflow_provider_seedance")
    run(main)
    assert [line for line in caplog.records if line.name.startswith("airflow_provider_seedance")] == []
