"""The hub in simulated time: who shares a quota and a client, and when connections are looked up."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from helpers import settings

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.polling import hub as module
from airflow_provider_seedance.polling.wait_state import TIMING
from airflow_provider_seedance.settings import Settings
from polling.simulated import (
    CONN,
    HOUR,
    Connections,
    Service,
    connection,
    passed,
    wait,
    wait_for_all,
    wait_for_each,
)


def kinds(steps: list[Any]) -> set[str]:
    return {step.kind for step in steps}


def test_a_hub_closes_with_its_last_wait(service: Service, run: Any) -> None:
    service.ends = {"a": 15.0, "b": 35.0, "c": 65.0}
    look_up = Connections(connection(), connection(conn_id="other", key="another"))

    async def main() -> None:
        first = asyncio.create_task(wait(look_up, "a"))
        second = asyncio.create_task(wait(look_up, "b"))
        other = asyncio.create_task(wait(look_up, "c", "other"))
        await first
        await asyncio.sleep(0)
        assert [client.closed for client in service.clients] == [False, False]
        await second
        await asyncio.sleep(0)
        assert [client.closed for client in service.clients] == [True, False]
        # The connections of the loop stay known while another hub is open.
        assert (await wait(look_up, "a")).kind == "ended"
        await other

    run(main())
    assert [at for at, _ in look_up.looked_up] == [0.0, 0.0]
    assert len(service.clients) == 3


@pytest.mark.parametrize(
    ("change", "hubs", "clients"),
    [
        ({}, 1, 1),
        ({"model": "another"}, 1, 1),
        ({"timeout": 7.0}, 1, 2),
        ({"proxy": "http://proxy.example:3128"}, 1, 2),
        ({"verify": False}, 1, 2),
        ({"auth_header": "x-api-key"}, 1, 2),
        ({"requests_per_hour": 1000}, 1, 2),
        ({"api": "ark", "base_url": settings(api="runbase").base_url}, 1, 2),
        ({"key": "another"}, 2, 2),
        ({"base_url": "https://elsewhere.example"}, 2, 2),
    ],
)
def test_connections_share_a_quota_by_account_and_a_client_by_settings(
    service: Service, run: Any, change: dict[str, Any], hubs: int, clients: int
) -> None:
    service.ends = {"a": 0.0, "b": 0.0}
    look_up = Connections(connection(conn_id="one"), connection(conn_id="other", **change))

    async def main() -> int:
        waits = asyncio.create_task(wait_for_all(wait(look_up, "a", "one"), wait(look_up, "b", "other")))
        await asyncio.sleep(5.0)
        count = len(module._hubs)
        assert kinds(await waits) == {"ended"}
        return count

    assert run(main()) == hubs
    assert len(service.clients) == clients
    # Each generation is polled with its own connection.
    assert [request.settings.conn_id for request in service.requests if request.ids == ("a",)] == ["one"]


def test_a_connection_is_looked_up_again_after_its_lifetime_once_for_all_waits(
    service: Service, run: Any
) -> None:
    look_up = Connections()
    service.ends = dict.fromkeys("ab", 2 * HOUR)
    assert kinds(run(wait_for_each(look_up, "ab", interval=60.0, timeout=3 * HOUR))) == {"ended"}
    moments = [at for at, _ in look_up.looked_up]
    assert moments == [TIMING.connection_lifetime * number for number in range(9)]


def test_a_connection_that_cannot_be_looked_up_again_stays_in_use(
    service: Service, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    service.ends["g"] = 1000.0
    step = run(wait(Connections(fails=lambda at: at > 0), interval=100.0))
    assert (step.kind, step.state.failures, step.state.poll_count) == ("ended", 0, 10)
    assert caplog.messages == [
        f"Connection {CONN!r} could not be looked up, which is repeated until it can: ConnectionError"
    ]


def test_a_slow_look_up_delays_no_other_connection(service: Service, run: Any) -> None:
    service.ends = {"a": 0.0, "b": 0.0}
    known = Connections(connection(conn_id="slow"), connection(conn_id="quick"))

    async def look_up(conn_id: str) -> Settings:
        await asyncio.sleep(100.0 if conn_id == "slow" else 1.0)
        return await known(conn_id)

    steps = run(wait_for_all(wait(look_up, "a", "slow"), wait(look_up, "b", "quick")))
    assert kinds(steps) == {"ended"}
    assert known.looked_up == [(1.0, "quick"), (100.0, "slow")]
    assert service.times("b") == [10.0 + 1.0]


def test_a_failed_look_up_is_repeated_once_for_all_waits(
    service: Service, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ids = service.add(20)
    look_up = Connections(fails=lambda at: at < 200.0)
    assert kinds(run(wait_for_each(look_up, ids))) == {"ended"}
    gaps = [later - before for (before, _), (later, _) in itertools.pairwise(look_up.looked_up)]
    assert len(gaps) <= 7
    assert all(TIMING.min_retry_delay <= gap <= 2 * TIMING.max_retry_delay for gap in gaps)
    assert len(caplog.messages) == 1


def test_look_ups_that_keep_failing_end_with_the_deadline(service: Service, run: Any) -> None:
    async def main() -> Any:
        return (await wait(Connections(fails=lambda at: True), timeout=500.0)).kind, passed()

    assert run(main()) == ("deadline", 500.0)
    assert service.requests == []


def test_a_new_key_is_used_after_the_first_refusal(service: Service, run: Any) -> None:
    ids = service.add(5)
    service.refused_keys = {"old"}
    service.latency = 1.0
    look_up = Connections(connection(key="old"))

    async def main() -> list[Any]:
        waits = asyncio.create_task(wait_for_each(look_up, ids, interval=40.0))
        await asyncio.sleep(20.0)
        look_up.known[CONN] = connection(key="new")
        return await waits

    steps = run(main())
    assert {(step.kind, step.state.failures) for step in steps} == {("ended", 0)}
    # Simulated time may pass while the thread of a look-up starts.
    first, second = (at for at, _ in look_up.looked_up)
    assert first == 0.0
    assert second >= 41.0
    assert [client.settings.key for client in service.clients] == ["old", "new"]
    assert len(service.times()) == 10


def test_an_invalid_key_is_looked_up_twice_a_minute_at_most(service: Service, run: Any) -> None:
    service.refused_keys = {"wrong"}
    look_up = Connections(connection(key="wrong"))
    assert kinds(run(wait_for_each(look_up, "abc", interval=1.0, timeout=600.0))) == {"deadline"}
    moments = [at for at, _ in look_up.looked_up]
    assert all(later - before >= 30.0 for before, later in itertools.pairwise(moments))
    assert len(moments) >= 5
    assert len(service.clients) == 1


def test_each_wait_gets_an_error_of_its_own(run: Any) -> None:
    failure = errors.SeedanceConfigurationError("no API key")

    async def fail(_: str) -> Settings:
        raise failure

    async def main() -> list[Any]:
        connections = module.Connections(fail, TIMING)
        return await asyncio.gather(*(connections.get(CONN) for _ in range(3)), return_exceptions=True)

    found = run(main())
    assert len(set(map(id, found))) == 3
    assert all(error.__cause__ is failure and str(error) == "no API key" for error in found)
