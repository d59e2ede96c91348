"""Connections, and the faults that strike at any service."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from emulator.vendor import ACCEPTED, VALID_SUBMITS, Vendor

Start = Callable[..., SeedanceEmulator]
Vendors = Callable[..., Vendor]


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
    assert set(threading.enumerate()) == before
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
        "password": "emulator-key",
        "extra": {"api": "ark", "media_hosts": ["127.0.0.1"], "model": "m"},
    }
    assert '"api": "runbase"' in emulator.connection_json("runbase")
    with pytest.raises(ValueError, match="Unknown API"):
        emulator.base_url("sora")


def test_many_requests_on_one_connection(emulator: SeedanceEmulator, client: Vendor) -> None:
    ids = [client.submit_id(f"take {number}") for number in range(5)]
    assert len(set(ids)) == 5
    assert [s.prompt for s in emulator.ledger.submissions] == [f"take {number}" for number in range(5)]
    assert all(client.status(generation_id).status_code == 200 for generation_id in ids)


def test_submissions_hold_what_was_sent(emulator: SeedanceEmulator, client: Vendor) -> None:
    generation_id = client.submit_id()
    [submission] = emulator.ledger.submissions
    assert submission.generation_id == generation_id
    assert submission.request == VALID_SUBMITS[client.api][1]
    assert submission.billed
    [entry] = emulator.ledger.requests
    assert (entry.kind, entry.status, entry.generation_id) == (
        "submit",
        ACCEPTED.get(client.api, 200),
        generation_id,
    )
    assert entry.body == VALID_SUBMITS[client.api][1]
    assert entry.headers["authorization"] == "***"


def test_a_wrong_key(emulator: SeedanceEmulator, api: str, vendor: Vendors) -> None:
    assert vendor(emulator, api, key="wrong").submit().status_code == 401
    assert vendor(emulator, api).call("GET", "/x", headers={"Authorization": ""}).status_code == 401
    assert emulator.ledger.submissions == []


def test_unknown_things(emulator: SeedanceEmulator, client: Vendor) -> None:
    assert client.status("unknown-id").status_code == 404
    assert client.get("/lunch").status_code == 404
    assert client.call("PUT", VALID_SUBMITS[client.api][0]).status_code == 404


def test_bodies_other_than_objects_are_refused(emulator: SeedanceEmulator, client: Vendor) -> None:
    for content in [b"{", b"", b"[]", b'"x"']:
        path, _ = VALID_SUBMITS[client.api]
        reply = client.call("POST", path, content=content, headers={"Content-Type": "application/json"})
        assert reply.status_code == 400


def test_the_content_type_must_be_json(emulator: SeedanceEmulator, client: Vendor) -> None:
    path, _ = VALID_SUBMITS[client.api]
    assert client.call("POST", path, content=b"{}").status_code == 400


def test_unknown_fields_are_refused(emulator: SeedanceEmulator, client: Vendor) -> None:
    path, body = VALID_SUBMITS[client.api]
    status = client.post(path, {**body, "lunch": 1}).status_code
    # The queue of fal takes every body; the request fails with its result.
    assert status == {"fal": 200, "replicate": 422}.get(client.api, 400)
    assert [submission.billed for submission in emulator.ledger.submissions] == [0] * (client.api == "fal")


def test_no_credits(start: Start, api: str, vendor: Vendors) -> None:
    emulator = start(credits=0)
    reply = vendor(emulator, api).submit()
    assert reply.status_code == (403 if api in ("ark", "fal") else 402)
    assert emulator.ledger.submissions == []


# ---------------------------------------------------------------------- faults


def test_refuse(emulator: SeedanceEmulator, client: Vendor) -> None:
    emulator.fault("refuse", status=403, code="SOME_CODE", message="not today")
    reply = client.submit()
    assert reply.status_code == 403
    assert "not today" in reply.text
    assert emulator.ledger.submissions == []
    assert client.submit().is_success


def test_drop_reply(emulator: SeedanceEmulator, client: Vendor) -> None:
    fault = emulator.fault("drop_reply")
    with pytest.raises(httpx.RemoteProtocolError):
        client.submit()
    assert fault.used == 1
    assert len(emulator.ledger.submissions) == 1
    assert emulator.ledger.requests[0].status is None


def test_cut(emulator: SeedanceEmulator, client: Vendor) -> None:
    emulator.fault("cut")
    with pytest.raises(httpx.ReadError, match="reset"):
        client.submit()
    assert emulator.ledger.submissions == []
    assert emulator.ledger.count("submit") == 1


@pytest.mark.parametrize("api", ["ark"])
def test_cut_body(emulator: SeedanceEmulator, client: Vendor) -> None:
    emulator.fault("cut_body")
    with pytest.raises(httpx.TransportError):
        client.submit()
    assert len(emulator.ledger.submissions) == 1


def test_rubbish_replies_accept_the_request_by_default(emulator: SeedanceEmulator, client: Vendor) -> None:
    emulator.fault("rubbish")
    reply = client.submit()
    assert reply.status_code == 200
    with pytest.raises(ValueError, match=r".*"):
        reply.json()
    assert len(emulator.ledger.submissions) == 1
    emulator.fault("rubbish", accept=False, body={"ok": True}, status=201, headers={"X-Odd": "1"})
    reply = client.submit()
    assert (reply.status_code, reply.json(), reply.headers["x-odd"]) == (201, {"ok": True}, "1")
    assert len(emulator.ledger.submissions) == 1


@pytest.mark.parametrize(("options", "accepted"), [({}, 0), ({"status": 520, "accept": True}, 1)])
@pytest.mark.parametrize("api", ["runbase"])
def test_gateway_error(
    options: dict[str, Any], accepted: int, emulator: SeedanceEmulator, client: Vendor
) -> None:
    emulator.fault("gateway_error", **options)
    reply = client.submit()
    assert reply.status_code == options.get("status", 502)
    assert reply.headers["content-type"] == "text/html"
    assert len(emulator.ledger.submissions) == accepted


def test_redirect(emulator: SeedanceEmulator, client: Vendor) -> None:
    emulator.fault("redirect", status=302, location="https://elsewhere.example/")
    reply = client.submit()
    assert (reply.status_code, reply.headers["location"]) == (302, "https://elsewhere.example/")
    assert emulator.ledger.submissions == []


def test_rate_limit_fault(emulator: SeedanceEmulator, client: Vendor) -> None:
    emulator.fault("rate_limit", on="any", retry_after=1800)
    reply = client.submit()
    assert reply.status_code == 429
    if client.api == "seedance2api":
        assert reply.headers["x-ratelimit-remaining"] == "0"
        assert reply.headers["x-ratelimit-retryafter"] == "1800"
        assert "retry-after" not in reply.headers
    else:
        assert reply.headers["retry-after"] == "1800"
    assert emulator.ledger.submissions == []


@pytest.mark.parametrize("api", ["runbase"])
def test_retry_after_as_a_date_or_not_at_all(emulator: SeedanceEmulator, client: Vendor) -> None:
    emulator.fault("rate_limit", retry_after=60, retry_after_date=True)
    assert parsedate_to_datetime(client.submit().headers["retry-after"]).tzinfo is not None
    emulator.fault("rate_limit", retry_after=None)
    assert "retry-after" not in client.submit().headers


def test_standing_quota(start: Start, api: str, vendor: Vendors) -> None:
    emulator = start(rate_limit=(2, 3600))
    client = vendor(emulator, api)
    first = client.submit()
    client.submit()
    refused = client.submit()
    assert (first.status_code, refused.status_code) == (ACCEPTED.get(api, 200), 429)
    if api == "seedance2api":
        assert first.headers["x-ratelimit-limit"] == "2"
        assert first.headers["x-ratelimit-remaining"] == "1"
        assert int(first.headers["x-ratelimit-reset"]) > 1_700_000_000
        assert 3590 <= int(refused.headers["x-ratelimit-retryafter"]) <= 3600
    else:
        assert not any(name.startswith("x-ratelimit") for name in first.headers)
        assert 3590 <= int(refused.headers["retry-after"]) <= 3600
    emulator.set_rate_limit(None)
    assert client.submit().is_success
    assert len(emulator.ledger.submissions) == 3


@pytest.mark.parametrize("api", ["ark"])
def test_hold_reply_until_released(
    emulator: SeedanceEmulator, client: Vendor, pool: ThreadPoolExecutor
) -> None:
    fault = emulator.fault("hold_reply")
    reply = pool.submit(client.submit)
    assert fault.wait()
    assert len(emulator.ledger.submissions) == 1
    assert not reply.done()
    assert emulator.ledger.requests[0].status is None
    fault.release()
    assert reply.result().status_code == 200
    assert emulator.ledger.requests[0].status == 200


@pytest.mark.parametrize("api", ["ark"])
def test_delay_holds_before_anything_is_accepted(
    emulator: SeedanceEmulator, client: Vendor, pool: ThreadPoolExecutor
) -> None:
    fault = emulator.fault("delay", hold=True)
    reply = pool.submit(client.submit)
    assert fault.wait()
    assert emulator.ledger.submissions == []
    assert emulator.ledger.count("submit") == 1
    fault.remove()
    assert reply.result().status_code == 200


def test_a_held_request_whose_client_has_gone_is_not_accepted(emulator: SeedanceEmulator) -> None:
    fault = emulator.fault("delay", hold=True)
    path, _ = VALID_SUBMITS["runbase"]
    body = b'{"model": "bytedance/seedance-1.5-pro", "input": {"prompt": "kite"}}'
    head = f"POST /runbase/api/v1{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer emulator-key\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    host, _, port = emulator.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        assert fault.wait()
    emulator.stop()
    assert emulator.ledger.submissions == []


def test_a_delayed_request_is_accepted_even_if_the_client_has_gone(
    emulator: SeedanceEmulator, vendor: Vendors
) -> None:
    emulator.fault("delay", seconds=0.5)
    lost = emulator.fault("drop_reply")
    with (
        httpx.Client(trust_env=False, timeout=httpx.Timeout(5, read=0.03)) as impatient,
        pytest.raises(httpx.ReadTimeout),
    ):
        impatient.post(
            emulator.base_url("runbase") + "/runs",
            json=VALID_SUBMITS["runbase"][1],
            headers={"Authorization": "Bearer emulator-key"},
        )
    assert lost.wait()
    assert len(emulator.ledger.submissions) == 1


def test_stopping_lets_go_of_held_requests(vendor: Vendors, pool: ThreadPoolExecutor) -> None:
    emulator = SeedanceEmulator(media=False)
    emulator.start()
    fault = emulator.fault("hold_reply")
    reply = pool.submit(vendor(emulator, "ark").submit)
    assert fault.wait()
    emulator.stop()
    with pytest.raises(httpx.TransportError):
        reply.result()


def test_fail_makes_a_render_fail(emulator: SeedanceEmulator, client: Vendor) -> None:
    emulator.fault("fail", prompt="storm*", message="too windy", times=None)
    bad, good = client.submit_id("storm at sea"), client.submit_id("calm")
    if client.api != "fal":  # where the failure is the result
        assert "too windy" in client.status(bad).text
        assert "too windy" not in client.status(good).text
    assert [client.status(each).status_code for each in (bad, good)] == [200, 200]
    assert [g.status for g in emulator.generations] == ["failed", "succeeded"]


def test_faults_on_status_by_prompt(emulator: SeedanceEmulator, client: Vendor) -> None:
    one, two = client.submit_id("one"), client.submit_id("two")
    emulator.fault("refuse", on="status", prompt="two", status=500)
    assert client.status(one).status_code == 200
    assert client.status(two).status_code == 500
    assert client.status(two).status_code == 200


def test_a_body_of_unknown_length(emulator: SeedanceEmulator, http: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"{}"

    assert http.post(emulator.base_url("ark") + "/x", content=chunks()).status_code == 411


def test_one_line_per_request_is_logged(start: Start, vendor: Vendors) -> None:
    lines: list[str] = []
    emulator = start(log=lines.append)
    generation_id = vendor(emulator, "runbase").submit_id()
    emulator.fault("cut")
    with pytest.raises(httpx.ReadError):
        vendor(emulator, "runbase").submit()
    assert lines == [
        f"POST /runbase/api/v1/runs -> 200 {generation_id}",
        "POST /runbase/api/v1/runs -> no reply (cut)",
    ]
