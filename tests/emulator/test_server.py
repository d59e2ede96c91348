"""Connections, and the faults that strike at any service."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.utils import parsedate_to_datetime

import httpx
import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from emulator.vendor import ACCEPTED, VALID_SUBMITS, Time, Vendor, Vendors


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def test_stopping_leaves_nothing_behind() -> None:
    before = set(threading.enumerate())
    with SeedanceEmulator(media=False) as emulator:
        client = httpx.Client(trust_env=False)
        assert client.get(emulator.url).status_code == 404
        port = int(emulator.url.rpartition(":")[2])
    # A thread of an earlier test may end meanwhile.
    assert set(threading.enumerate()) <= before
    client.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))


def test_a_port_that_is_taken() -> None:
    with SeedanceEmulator(media=False) as emulator:
        port = int(emulator.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            SeedanceEmulator(media=False, port=port).start()


def test_the_address_is_known_once_it_runs() -> None:
    emulator = SeedanceEmulator(media=False)
    with pytest.raises(RuntimeError, match="not running"):
        _ = emulator.url
    with emulator, pytest.raises(RuntimeError, match="once"):
        emulator.start()


def test_connections(emulator: SeedanceEmulator) -> None:
    connection = emulator.connection("ark", model="m")
    assert connection == {
        "conn_type": "seedance",
        "host": f"{emulator.url}/ark/api/v3",
        "password": emulator.key,
        "extra": {"api": "ark", "media_hosts": ["127.0.0.1"], "model": "m"},
    }
    assert '"api": "runbase"' in emulator.connection_json("runbase")
    with pytest.raises(ValueError, match="Unknown API"):
        emulator.base_url("sora")


def test_many_requests_on_one_connection(client: Vendor) -> None:
    prompts = [f"take {number}" for number in range(5)]
    ids = [client.submit_id(prompt) for prompt in prompts]
    assert len(set(ids)) == 5
    assert [submission.prompt for submission in client.emulator.ledger.submissions] == prompts
    assert all(client.status(generation_id).status_code == 200 for generation_id in ids)


def test_submissions_hold_what_was_sent(client: Vendor) -> None:
    generation_id = client.submit_id()
    [submission] = client.emulator.ledger.submissions
    assert submission.generation_id == generation_id
    assert submission.request == VALID_SUBMITS[client.api][1]
    assert submission.billed
    [entry] = client.emulator.ledger.requests
    status = ACCEPTED.get(client.api, 200)
    assert (entry.kind, entry.status, entry.generation_id) == ("submit", status, generation_id)
    assert entry.body == VALID_SUBMITS[client.api][1]
    assert entry.headers["authorization"] == "***"


def test_a_wrong_key(client: Vendor) -> None:
    assert replace(client, key="wrong").submit().status_code == 401
    assert client.call("GET", "/x", headers={"Authorization": ""}).status_code == 401
    assert client.emulator.ledger.submissions == []


def test_unknown_things(client: Vendor) -> None:
    assert client.status("unknown-id").status_code == 404
    assert client.get("/lunch").status_code == 404
    assert client.call("PUT", VALID_SUBMITS[client.api][0]).status_code == 404


def test_bodies_other_than_json_objects_of_known_fields_are_refused(client: Vendor) -> None:
    path, body = VALID_SUBMITS[client.api]
    for content in [b"{", b"", b"[]", b'"x"']:
        reply = client.call("POST", path, content=content, headers={"Content-Type": "application/json"})
        assert reply.status_code == 400
    assert client.call("POST", path, content=b"{}").status_code == 400  # without a content type
    # The queue of fal takes every object; the request fails with its result.
    status = client.post(path, {**body, "lunch": 1}).status_code
    assert status == {"fal": 200, "replicate": 422}.get(client.api, 400)
    billed = [submission.billed for submission in client.emulator.ledger.submissions]
    assert billed == [0] * (client.api == "fal")


def test_no_credits(serve: Vendors, api: str) -> None:
    client = serve(api, credits=0)
    assert client.submit().status_code == (403 if api in ("ark", "fal") else 402)
    assert client.emulator.ledger.submissions == []


# ---------------------------------------------------------------------- faults


def test_requests_without_a_whole_reply(client: Vendor) -> None:
    for kind, error, accepted in (
        ("cut", httpx.ReadError, 0),
        ("drop_reply", httpx.RemoteProtocolError, 1),
        ("cut_body", httpx.TransportError, 2),
    ):
        fault = client.emulator.fault(kind)
        with pytest.raises(error):
            client.submit()
        assert fault.wait()
        assert len(client.emulator.ledger.submissions) == accepted
    assert client.emulator.ledger.count("submit") == 3
    assert [entry.status for entry in client.emulator.ledger.requests][:2] == [None, None]


def test_replies_that_refuse_a_request(client: Vendor) -> None:
    for kind, options, status, shown in (
        ("refuse", {"status": 403, "code": "SOME_CODE", "message": "not today"}, 403, "not today"),
        ("gateway_error", {}, 502, "text/html"),
        (
            "redirect",
            {"status": 302, "location": "https://elsewhere.example/"},
            302,
            "https://elsewhere.example/",
        ),
    ):
        client.emulator.fault(kind, **options)
        reply = client.submit()
        assert reply.status_code == status
        assert shown in f"{reply.headers} {reply.text}"
    assert client.emulator.ledger.submissions == []
    assert client.submit().is_success


def test_replies_that_the_service_did_not_write(client: Vendor) -> None:
    client.emulator.fault("gateway_error", status=520, accept=True)
    assert client.submit().status_code == 520
    client.emulator.fault("rubbish")
    reply = client.submit()
    assert reply.status_code == 200
    with pytest.raises(ValueError, match=r".*"):
        reply.json()
    assert len(client.emulator.ledger.submissions) == 2
    client.emulator.fault("rubbish", accept=False, body={"ok": True}, status=201, headers={"X-Odd": "1"})
    reply = client.submit()
    assert (reply.status_code, reply.json(), reply.headers["x-odd"]) == (201, {"ok": True}, "1")
    assert len(client.emulator.ledger.submissions) == 2


def test_rate_limit_fault(client: Vendor) -> None:
    client.emulator.fault("rate_limit", on="any", retry_after=1800)
    reply = client.submit()
    assert reply.status_code == 429
    if client.api == "seedance2api":
        assert reply.headers["x-ratelimit-remaining"] == "0"
        assert reply.headers["x-ratelimit-retryafter"] == "1800"
        assert "retry-after" not in reply.headers
    else:
        assert reply.headers["retry-after"] == "1800"
    assert client.emulator.ledger.submissions == []


def test_retry_after_as_a_date_or_not_at_all(ark: Vendor) -> None:
    ark.emulator.fault("rate_limit", retry_after=60, retry_after_date=True)
    assert parsedate_to_datetime(ark.submit().headers["retry-after"]).tzinfo is not None
    ark.emulator.fault("rate_limit", retry_after=None)
    assert "retry-after" not in ark.submit().headers


def test_standing_quota(serve: Vendors, api: str, time: Time) -> None:
    client = serve(api, rate_limit=(2, 3600), clock=time)
    first, second, refused = (client.submit() for _ in range(3))
    accepted = ACCEPTED.get(api, 200)
    assert [reply.status_code for reply in (first, second, refused)] == [accepted, accepted, 429]
    if api == "seedance2api":
        quota = [first.headers[f"x-ratelimit-{name}"] for name in ("limit", "remaining", "reset")]
        assert quota == ["2", "1", str(int(time.now) + 3600)]
        assert refused.headers["x-ratelimit-retryafter"] == "3600"
    else:
        assert not any(name.startswith("x-ratelimit") for name in first.headers)
        assert refused.headers["retry-after"] == "3600"
    client.emulator.set_rate_limit(None)
    assert client.submit().is_success
    assert len(client.emulator.ledger.submissions) == 3


def test_hold_reply_until_released(ark: Vendor, pool: ThreadPoolExecutor) -> None:
    ledger, fault = ark.emulator.ledger, ark.emulator.fault("hold_reply")
    reply = pool.submit(ark.submit)
    assert fault.wait()
    assert len(ledger.submissions) == 1
    assert not reply.done()
    assert ledger.requests[0].status is None
    fault.release()
    assert reply.result().status_code == 200
    assert ledger.requests[0].status == 200


def test_delay_holds_before_anything_is_accepted(ark: Vendor, pool: ThreadPoolExecutor) -> None:
    ledger, fault = ark.emulator.ledger, ark.emulator.fault("delay", hold=True)
    reply = pool.submit(ark.submit)
    assert fault.wait()
    assert ledger.submissions == []
    assert ledger.count("submit") == 1
    fault.remove()
    assert reply.result().status_code == 200


def send_and_leave(emulator: SeedanceEmulator, wait: Callable[[], bool] = lambda: True) -> None:
    """Send a submission, and close the connection without reading the reply."""
    body = json.dumps(VALID_SUBMITS["runbase"][1]).encode()
    head = f"POST /runbase/api/v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {emulator.key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    host, _, port = emulator.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        assert wait()


def test_a_held_request_whose_client_has_gone_is_not_accepted(emulator: SeedanceEmulator) -> None:
    send_and_leave(emulator, emulator.fault("delay", hold=True).wait)
    emulator.stop()
    assert emulator.ledger.submissions == []


def test_a_delayed_request_is_accepted_even_if_the_client_has_gone(emulator: SeedanceEmulator) -> None:
    emulator.fault("delay", seconds=0.5)
    lost = emulator.fault("drop_reply")
    send_and_leave(emulator)
    assert lost.wait()
    assert len(emulator.ledger.submissions) == 1


def test_stopping_lets_go_of_held_requests(ark: Vendor, pool: ThreadPoolExecutor) -> None:
    fault = ark.emulator.fault("hold_reply")
    reply = pool.submit(ark.submit)
    assert fault.wait()
    ark.emulator.stop()
    with pytest.raises(httpx.TransportError):
        reply.result()


def test_fail_makes_a_render_fail(client: Vendor) -> None:
    client.emulator.fault("fail", prompt="storm*", message="too windy", times=None)
    bad, good = client.submit_id("storm at sea"), client.submit_id("calm")
    if client.api != "fal":  # where the failure is the result
        assert "too windy" in client.status(bad).text
        assert "too windy" not in client.status(good).text
    assert [client.status(each).status_code for each in (bad, good)] == [200, 200]
    assert [g.status for g in client.emulator.generations] == ["failed", "succeeded"]


def test_faults_on_status_by_prompt(client: Vendor) -> None:
    one, two = client.submit_id("one"), client.submit_id("two")
    client.emulator.fault("refuse", on="status", prompt="two", status=500)
    assert client.status(one).status_code == 200
    assert client.status(two).status_code == 500
    assert client.status(two).status_code == 200


def test_a_body_of_unknown_length(ark: Vendor) -> None:
    assert ark.call("POST", "/x", content=iter([b"{}"])).status_code == 411


def test_one_line_per_request_is_logged(serve: Vendors) -> None:
    lines: list[str] = []
    client = serve("runbase", log=lines.append)
    generation_id = client.submit_id()
    client.emulator.fault("cut")
    with pytest.raises(httpx.ReadError):
        client.submit()
    assert lines == [
        f"POST /runbase/api/v1/runs -> 200 {generation_id}",
        "POST /runbase/api/v1/runs -> no reply (cut)",
    ]
