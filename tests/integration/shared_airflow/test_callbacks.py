"""
Callbacks of services on a real Airflow: tasks resume and end, and forged callbacks have no effect.

Nothing here is timed. Where something must *not* happen, it is given two seconds to happen.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness import TestAirflow
from versions import ENDING_FROM_TRIGGERS, TRIGGER_ON_KILL, needs

from airflow_provider_seedance.callbacks import tokens
from airflow_provider_seedance.emulator.ledger import RequestEntry, SubmissionEntry
from airflow_provider_seedance.testing import SeedanceEmulator

APIS = {"s2a": "seedance2api", "v1": "seedanceapi-v1", "v2": "seedanceapi-v2", "ark": "ark"}
SECRET = "what the addresses are signed with"
SIGNED_WITH = "what the service signs with"
#: Seconds for anything that must happen: only a test that fails waits that long.
TIMEOUT_SECONDS = 480.0
#: The tasks that render and are called back, of each service: two that a worker ends, one that the trigger ends.
CALLED = [("{}", 0), ("{}", 1), *([("end_{}", 0)] if ENDING_FROM_TRIGGERS.there else [])]
#: The Dags whose renders end when the test says so.
HELD = ("one", "signed", "abandoned")

DAGS = f"""
from airflow.sdk import DAG
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator as Video

with DAG("called", schedule=None):
    for name in {tuple(APIS)}:
        conn = {{"seedance_conn_id": "called_" + name}}
        called = {{**conn, "use_callback": True}}
        Video.partial(task_id=name, **called).expand(prompt=[name + " 0", name + " 1"])
        if {ENDING_FROM_TRIGGERS.there}:
            Video.partial(task_id="end_" + name, end_from_trigger=True, **called).expand(prompt=[name + " 2"])
        Video(task_id="polled_" + name, poll_interval=3, prompt=name + " polled", **conn)

for name, conn_id in (("one", "called_ark"), ("abandoned", "called_ark"), ("signed", "called_signed")):
    with DAG(name, schedule=None):
        # Polls would be among the requests that callbacks cause, also those of a trigger that is about to be dropped.
        Video(
            task_id="render", prompt=name, seedance_conn_id=conn_id, use_callback=True, on_clear="new",
            timeout=7200, poll_interval=3600,
        )

with DAG("lost", schedule=None):
    Video(task_id="render", prompt="lost", seedance_conn_id="called_v1", use_callback=True)

with DAG("silent", schedule=None):
    Video(
        task_id="render", prompt="silent", seedance_conn_id="called_nowhere", use_callback=True,
        poll_interval=2,
    )
"""


@pytest.fixture(scope="module")
def services() -> Iterator[SeedanceEmulator]:
    """The stand-in for all services; a render takes eight seconds."""
    with SeedanceEmulator(media=False, speed=10, render_seconds=80, concurrency=1000) as running:
        yield running


@pytest.fixture(scope="module")
def airflow(airflow: TestAirflow, services: SeedanceEmulator) -> TestAirflow:
    """The shared Airflow, which the services can call."""

    def connect(name: str, api: str, base_url: str = airflow.url, **extra: Any) -> None:
        made = services.connection(api, callback_base_url=base_url, callback_secret=SECRET, **extra)
        airflow.connect(f"called_{name}", made)

    for name, api in APIS.items():
        connect(name, api)
    connect(
        "signed",
        "seedanceapi-v2",
        callback_signature_header="X-Signature",
        callback_signature_secret=SIGNED_WITH,
    )
    # A port that no process gets by chance.
    connect("nowhere", "seedanceapi-v2", base_url="http://127.0.0.1:9")
    airflow.write_dag("callbacks", DAGS)
    airflow.wait_parsed("silent")
    return airflow


@pytest.fixture(scope="module")
def held(airflow: TestAirflow, services: SeedanceEmulator, runs: dict[str, str]) -> Iterator[dict[str, str]]:
    """Runs whose renders end when the test says so, side by side."""
    services.hold()
    yield {dag_id: airflow.trigger(dag_id) for dag_id in HELD}
    services.release()


def call(address: str, body: bytes | str | dict[str, Any], **headers: str) -> int:
    """Post to an address as a service does; returns the status of the answer."""
    parts = urllib.parse.urlsplit(address)
    assert parts.hostname
    if isinstance(body, dict):
        body = json.dumps(body)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    try:
        connection.request(
            "POST", parts.path, body=body, headers={"Content-Type": "application/json", **headers}
        )
        reply = connection.getresponse()
        assert reply.read() == b"", "an answer that says something"
        return reply.status
    finally:
        connection.close()


def task(airflow: TestAirflow, dag_id: str, run_id: str) -> dict[str, Any]:
    return airflow.database.task_instances(dag_id, run_id)[0]


def waiting(airflow: TestAirflow, dag_id: str) -> None:
    """Wait until the trigger of a task has been there for as long as it takes to be resumed at once."""
    airflow.wait_until(
        lambda: bool(
            airflow.database.rows(
                "SELECT 1 FROM task_instance t JOIN trigger g ON g.id = t.trigger_id WHERE t.dag_id = ?"
                " AND t.state = 'deferred' AND g.triggerer_id IS NOT NULL"
                " AND g.created_date < datetime('now', '-6 seconds')",
                dag_id,
            )
        ),
        TIMEOUT_SECONDS,
        f"{dag_id} to wait",
    )


def state_of(airflow: TestAirflow, dag_id: str) -> Sequence[dict[str, Any]]:
    """Return all that would change if anything was done to the waiting tasks of a Dag."""
    return airflow.database.rows(
        "SELECT run_id, state, try_number, trigger_id, next_kwargs, updated_at FROM task_instance WHERE dag_id = ?",
        dag_id,
    )


def submission(services: SeedanceEmulator, prompt: str) -> SubmissionEntry:
    """Return the latest submission of a prompt."""
    return [entry for entry in services.ledger.submissions if entry.prompt == prompt][-1]


def nothing_happens() -> None:
    time.sleep(2.0)


# ---------------------------------------------------------------------- what is meant to happen


@pytest.fixture(scope="module")
def runs(airflow: TestAirflow, services: SeedanceEmulator) -> dict[str, str]:
    """Runs in which nothing is held, side by side; one reply is lost, and one service cannot reach us."""
    services.fault("drop_reply", on="submit", prompt="lost")
    run_ids = {dag_id: airflow.trigger(dag_id) for dag_id in ("called", "lost", "silent")}
    for dag_id, run_id in run_ids.items():
        assert airflow.wait_run(dag_id, run_id) == "success"
    return run_ids


@pytest.fixture(scope="module")
def called(runs: dict[str, str]) -> str:
    """The run in which every service has called back about every render."""
    return runs["called"]


@pytest.mark.parametrize("name", APIS)
def test_at_most_two_requests_a_render(services: SeedanceEmulator, called: str, name: str) -> None:
    ours = [
        entry.generation_id
        for entry in services.ledger.submissions
        if entry.api == APIS[name] and entry.callback_url and entry.prompt.startswith(name)
    ]
    requests = [entry for entry in services.ledger.requests if entry.generation_id in ours]
    assert len(ours) == len(CALLED)
    assert len(requests) <= 2.2 * len(ours), [(entry.method, entry.path) for entry in requests]
    assert {entry.status for entry in services.ledger.callbacks if entry.generation_id in ours} == {202}


@pytest.mark.parametrize("name", APIS)
def test_the_result_has_the_same_shape(airflow: TestAirflow, called: str, name: str) -> None:
    polled = airflow.database.xcom("called", called, f"polled_{name}", "return_value")
    for task_id, map_index in CALLED:
        task_id = task_id.format(name)
        got = airflow.database.xcom("called", called, task_id, "return_value", map_index)
        assert list(got) == list(polled)
        own = {"generation_id", "url", "urls", "created_at", "completed_at", "expires_at", "seed"}
        assert {key: value for key, value in got.items() if key not in own} == {
            key: value for key, value in polled.items() if key not in own
        }
        for key in own:
            # seedance2api has two endpoints, and after a callback only that of the result is read.
            unreported = name == "s2a" and key == "created_at"
            assert got[key] is None if unreported else type(got[key]) is type(polled[key]), key
        link = airflow.database.xcom("called", called, task_id, "_link_SeedanceOutputLink", map_index)
        assert link == got["url"]


def test_nothing_was_cancelled_when_the_triggers_were_dropped(
    airflow: TestAirflow, services: SeedanceEmulator, called: str
) -> None:
    airflow.wait_until(
        lambda: not airflow.database.rows("SELECT 1 FROM trigger"), TIMEOUT_SECONDS, "triggers to be dropped"
    )
    assert services.ledger.cancels() == []
    assert services.ledger.deletions == []


def test_a_callback_resolves_a_lost_reply(
    airflow: TestAirflow, services: SeedanceEmulator, runs: dict[str, str]
) -> None:
    (post,) = services.ledger.posts("seedanceapi-v1", "lost")
    assert task(airflow, "lost", runs["lost"])["try_number"] == 1
    result = airflow.database.xcom("lost", runs["lost"], "render", "return_value")
    assert result["generation_id"] == post.generation_id


def test_polls_find_the_end_without_a_callback(services: SeedanceEmulator, runs: dict[str, str]) -> None:
    (post,) = services.ledger.posts("seedanceapi-v2", "silent")
    about = [entry for entry in services.ledger.callbacks if entry.generation_id == post.generation_id]
    assert [entry.status for entry in about] == [None]


# ---------------------------------------------------------------------- forged callbacks


def test_hostile_calls_change_nothing(
    airflow: TestAirflow, services: SeedanceEmulator, held: dict[str, str]
) -> None:
    run_id = held["one"]
    for dag_id in HELD:
        waiting(airflow, dag_id)
    foreign_ids = {submission(services, dag_id).generation_id for dag_id in HELD[1:]}
    address, generation_id = (
        submission(services, "one").callback_url,
        submission(services, "one").generation_id,
    )
    assert address
    done = {"id": generation_id, "status": "succeeded"}

    def sent() -> list[RequestEntry]:
        return [entry for entry in services.ledger.requests if entry.generation_id not in foreign_ids]

    before, requests = state_of(airflow, "one"), len(sent())

    said, _, mac = address.rpartition("/")[2].partition(".")
    base = address.rpartition("/")[0]
    claims = tokens.decode_unverified(f"{said}.{mac}")
    assert claims is not None

    def other(secret: str = SECRET, **changes: Any) -> str:
        return f"{base}/{tokens.sign(tokens.CallbackClaims(**{**vars(claims), **changes}), secret)}"

    refused = {
        "no signature": f"{base}/{said}",
        "rubbish": f"{base}/%00%ff..",
        "one character": f"{base}/{said}.{'A' if mac[0] != 'A' else 'B'}{mac[1:]}",
        "another task's signature": f"{base}/{other(map_index=3).rpartition('/')[2].partition('.')[0]}.{mac}",
        "another secret": other("a guess at the secret"),
        "no secret": other(""),
        "expired": other(expires=int(time.time()) - 1),
        "another connection": other(conn_id="seedance_of_another_user"),
        "too long": f"{base}/{'A' * 9000}.{mac}",
    }
    assert {what: call(url, done) for what, url in refused.items()} == dict.fromkeys(refused, 404)

    # These have a good address, and the answer does not tell what it is good for.
    dropped: list[tuple[str, bytes | str | dict[str, Any]]] = [
        (address, b""),
        (address, b"\xff\xfe{"),
        (address, "[" * 50_000),
        (address, "null"),
        (address, {"id": generation_id, "status": "running"}),
        (address, {"status": "an unknown status"}),
        (address, {"id": "cgt-of-another-user", "status": "succeeded"}),
        (other(dag_id="no_such_dag"), done),
        (other(run_id="a/run+with %2F odd", task_id="none"), done),
        (other(map_index=7), done),
        (other(map_index=-(2**80)), done),
        (other(nonce="of an older submission"), done),
    ]
    assert [call(url, body) for url, body in dropped] == [202] * len(dropped)
    assert call(address, b" " * 300_000) == 413
    nothing_happens()
    assert state_of(airflow, "one") == before
    # An id that is not ours is a reason to ask once about the render that is, and for nothing else.
    assert [(one.method, one.path.endswith(generation_id)) for one in sent()[requests:]] == [("GET", True)]
    requests = len(sent())

    # An unknown status leads to a status request, without a worker.
    assert call(address, {"id": generation_id, "status": "finally"}) == 202
    airflow.wait_until(lambda: len(sent()) > requests, TIMEOUT_SECONDS, "a status request")
    nothing_happens()
    assert state_of(airflow, "one") == before
    requests = len(sent())

    # Too early: a worker looks, and the task waits on.
    assert call(address, done) == 202
    airflow.wait_until(lambda: len(sent()) > requests, TIMEOUT_SECONDS, "a status request")
    waiting(airflow, "one")
    assert task(airflow, "one", run_id)["state"] == "deferred"

    # The end, twenty times at once beside the service's own call; then once more.
    services.finish(generation_id)
    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(lambda _: call(address, done), range(20))) == {202}
    assert airflow.wait_run("one", run_id, TIMEOUT_SECONDS) == "success"
    after, requests = state_of(airflow, "one"), len(sent())
    assert call(address, done) == 202
    nothing_happens()
    assert state_of(airflow, "one") == after
    assert len(sent()) == requests
    assert len(services.ledger.posts("ark", "one")) == 1

    # Another take: callbacks of the first one do not affect it.
    airflow.clear("one", run_id)
    airflow.wait_until(
        lambda: len(services.ledger.posts("ark", "one")) == 2, TIMEOUT_SECONDS, "the second submission"
    )
    waiting(airflow, "one")
    before, requests = state_of(airflow, "one"), len(sent())
    assert call(address, done) == 202
    nothing_happens()
    assert state_of(airflow, "one") == before
    assert len(sent()) == requests
    services.finish(submission(services, "one").generation_id)
    assert airflow.wait_run("one", run_id, TIMEOUT_SECONDS) == "success"
    assert services.ledger.cancels() == []


def test_signatures_are_checked(
    airflow: TestAirflow, services: SeedanceEmulator, held: dict[str, str]
) -> None:
    waiting(airflow, "signed")
    generation_id, address = (
        submission(services, "signed").generation_id,
        submission(services, "signed").callback_url,
    )
    assert address
    body = json.dumps({"data": {"task_id": generation_id, "status": "SUCCESS"}})
    before = state_of(airflow, "signed")
    # The emulator signs nothing, so its own call is one of those that are dropped.
    services.finish(generation_id)
    assert call(address, body) == 404
    assert call(address, body, **{"X-Signature": "0" * 64}) == 404
    nothing_happens()
    assert state_of(airflow, "signed") == before
    signature = hmac.new(SIGNED_WITH.encode(), body.encode(), hashlib.sha256).hexdigest()
    assert call(address, body, **{"X-Signature": f"sha256={signature}"}) == 202
    assert airflow.wait_run("signed", held["signed"], TIMEOUT_SECONDS) == "success"


@needs(TRIGGER_ON_KILL)
def test_a_user_still_cancels_a_queued_render(
    airflow: TestAirflow, services: SeedanceEmulator, held: dict[str, str]
) -> None:
    waiting(airflow, "abandoned")
    generation_id = submission(services, "abandoned").generation_id
    airflow.mark("abandoned", held["abandoned"], "render", "failed")

    def cancelled() -> bool:
        return services.generation(generation_id).status == "cancelled"

    airflow.wait_until(cancelled, TIMEOUT_SECONDS, "the abandoned render to be cancelled")
