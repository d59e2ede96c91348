"""The route: what it answers to whom, and what is done after it has answered."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from helpers import connection
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from support import emulator_settings, on_loop, smallest

from airflow_provider_seedance.api_server import callback_confirmation, callback_delivery, callback_routes
from airflow_provider_seedance.api_server.callback_delivery import Outcome
from airflow_provider_seedance.apis.validation import prepare_request
from airflow_provider_seedance.callbacks.payload import LONGEST_BODY, CallbackPayload
from airflow_provider_seedance.callbacks.tokens import CallbackClaims, sign
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import Generation, GenerationStatus, utc_now
from airflow_provider_seedance.submission.submitter import CALL_PATIENCE

SECRET = "signs the addresses"
SIGNED_WITH = "signs the bodies"
DONE = b'{"id": "g1", "status": "succeeded"}'
TICKET = CallbackClaims(
    dag_id="dag", run_id="run", task_id="task", map_index=-1, conn_id="ours", nonce="n1", expires=2**40
)
TOKEN = sign(TICKET, SECRET)


class Airflow:
    """Stands in for what the server module does, and notes it."""

    def __init__(self) -> None:
        self.connections: dict[str, Any] = {
            "ours": {"api": "ark", "callback_secret": SECRET},
            "signed": {
                "api": "ark",
                "callback_secret": SECRET,
                "callback_signature_header": "X-Signature",
                "callback_signature_secret": SIGNED_WITH,
            },
            "without": {"api": "ark"},
            "broken": "{",
        }
        self.looked_up: list[str] = []
        self.calls: list[tuple[CallbackClaims, CallbackPayload, bool, Any]] = []
        self.finished: list[Any] = []
        #: What comes of the next calls; ``resumed`` after these.
        self.outcomes: list[Outcome | Exception] = []
        self.slept: list[float] = []

    def look_up(self, conn_id: str) -> Any:
        self.looked_up.append(conn_id)
        if conn_id == "away":
            raise ConnectionError("the secrets backend is away")
        extra = self.connections.get(conn_id)
        return None if extra is None else connection(extra=extra)

    def deliver(
        self, ticket: CallbackClaims, hint: CallbackPayload, *, on_worker: bool = False, event: Any = None
    ) -> Outcome:
        self.calls.append((ticket, hint, on_worker, event))
        outcome = self.outcomes.pop(0) if self.outcomes else Outcome(kind="resumed")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def finish(self, ticket: CallbackClaims, result: Any) -> bool:
        self.finished.append(result)
        return True


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Airflow]:
    made = Airflow()

    async def sleep(seconds: float) -> None:
        made.slept.append(seconds)

    for name in ("look_up", "deliver", "finish"):
        monkeypatch.setattr(callback_delivery, name, getattr(made, name))
    monkeypatch.setattr(
        callback_delivery, "ends_from_trigger", lambda waits: bool(waits.get("end_from_trigger"))
    )
    monkeypatch.setattr(callback_routes, "_sleep", sleep)
    for known in (
        callback_routes._settings,
        callback_routes._asked,
        callback_routes._working,
        callback_routes._of_one,
    ):
        known.clear()
    yield made
    assert not callback_routes._working
    assert not callback_routes._of_one
    assert not callback_confirmation._shared


@pytest.fixture
def passing(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> Airflow:
    """Let pauses take their time on the clock, though nobody waits for them."""
    clock = SimpleNamespace(time=time.time, monotonic=lambda: time.monotonic() + sum(airflow.slept))
    monkeypatch.setattr(callback_routes, "time", clock)
    monkeypatch.setattr(callback_routes, "_latest", 0.0)
    return airflow


def app() -> FastAPI:
    made = FastAPI(redirect_slashes=False)
    made.include_router(callback_routes.router)
    return made


async def client(do: Callable[[httpx.AsyncClient], Any]) -> Any:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app()), base_url="http://airflow") as http:
        answer = await do(http)
        while callback_routes._working:
            await asyncio.gather(*callback_routes._working.values(), return_exceptions=True)
            await asyncio.sleep(0)
        return answer


def post(
    token: str = TOKEN, body: Any = DONE, headers: dict[str, str] | None = None, method: str = "POST"
) -> httpx.Response:
    async def do(http: httpx.AsyncClient) -> httpx.Response:
        return await http.request(method, f"/callbacks/{token}", content=body, headers=headers)

    return on_loop(client(do))  # type: ignore[no-any-return]


def token_for(secret: str = SECRET, **changes: Any) -> str:
    return sign(CallbackClaims(**{**vars(TICKET), **changes}), secret)


# ---------------------------------------------------------------------- answers


def test_a_callback(airflow: Airflow) -> None:
    answer = post()
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["cache-control"] == "no-store"
    hint = CallbackPayload(generation_id="g1", status=GenerationStatus.SUCCEEDED)
    assert airflow.calls == [(TICKET, hint, False, None)]


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "x.y",
        TOKEN.partition(".")[0],
        TOKEN + "A",
        "." + TOKEN.partition(".")[2],
        token_for("another secret"),
        token_for(""),
        token_for("none"),
        token_for(expires=int(time.time()) - 1),
        token_for(conn_id="no such connection"),
        token_for(conn_id="without"),
        token_for("none", conn_id="without"),
        token_for("", conn_id="without"),
        token_for(conn_id="broken"),
        token_for(conn_id="away"),
        "A" * 20_000 + ".x",
        "%00",
        "%ff%fe.%80",
        "%F0%9F%8E%AC",
    ],
)
def test_whoever_has_no_address_of_ours_learns_nothing(airflow: Airflow, token: str) -> None:
    answer = post(token)
    assert (answer.status_code, answer.content) == (404, b"")
    assert airflow.calls == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
def test_other_methods(airflow: Airflow, method: str) -> None:
    assert post(method=method).status_code == 405
    assert airflow.calls == []


@pytest.mark.parametrize("kind", ["resumed", "later", "kept", "ignored"])
def test_the_answer_does_not_tell_what_was_done(airflow: Airflow, kind: Any) -> None:
    airflow.outcomes = [Outcome(kind=kind)]
    answer = post()
    assert (answer.status_code, answer.content) == (202, b"")


@pytest.mark.parametrize("body", [b"", b"null", b"\xff", b"[" * 9999, b'{"status": "running"}', b"{}"])
def test_rubbish_is_taken_and_forgotten(airflow: Airflow, body: bytes) -> None:
    assert post(body=body).status_code == 202
    assert [call for call in airflow.calls if call[1].ended or call[1].generation_id] == []


@examples(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(body=st.binary(max_size=200), name=st.from_regex(r"\A[A-Za-z-]{1,20}\Z"), value=st.binary(max_size=50))
def test_any_bytes_are_answered(airflow: Airflow, body: bytes, name: str, value: bytes) -> None:
    async def do(http: httpx.AsyncClient) -> httpx.Response:
        headers = (
            {name.encode(): value} if name.lower() not in ("content-length", "transfer-encoding") else {}
        )
        return await http.post(f"/callbacks/{TOKEN}", content=body, headers=headers)

    assert on_loop(client(do)).status_code == 202


@examples(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    token=st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: t not in (".", ".."))
)
def test_any_token_is_refused(airflow: Airflow, token: str) -> None:
    async def do(http: httpx.AsyncClient) -> httpx.Response:
        from urllib.parse import quote

        return await http.post(f"/callbacks/{quote(token, safe='')}", content=DONE)

    assert on_loop(client(do)).status_code == 404
    assert airflow.calls == []


def test_a_body_that_is_too_long(airflow: Airflow) -> None:
    assert post(body=b" " * (LONGEST_BODY + 1)).status_code == 413
    assert post(body=DONE + b" " * (LONGEST_BODY - len(DONE))).status_code == 202
    assert len(airflow.calls) == 1


def test_a_body_without_end_is_not_read_to_its_end(airflow: Airflow) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100 * LONGEST_BODY:
            sent += 65536
            yield b" " * 65536

    async def do(http: httpx.AsyncClient) -> httpx.Response:
        return await http.post(f"/callbacks/{TOKEN}", content=endless())

    assert on_loop(client(do)).status_code == 413
    assert sent < 3 * LONGEST_BODY


def test_who_has_no_address_is_answered_before_a_byte_is_read(airflow: Airflow) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("read")
        yield b""

    async def do(http: httpx.AsyncClient) -> httpx.Response:
        return await http.post(f"/callbacks/{TOKEN}A", content=never())

    assert on_loop(client(do)).status_code == 404


def asgi(messages: list[dict[str, Any]], headers: list[tuple[bytes, bytes]] | None = None) -> int:
    """Speak to the app as a server does, message by message; returns the status of the answer."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        path = f"/callbacks/{TOKEN}"
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
            "headers": headers or [], "server": ("airflow", 80), "client": ("1.2.3.4", 5),
        }  # fmt: skip
        await app()(scope, receive, send)
        while callback_routes._working:
            await asyncio.gather(*callback_routes._working.values())
            await asyncio.sleep(0)

    on_loop(run())
    return int(sent[0]["status"])


def test_a_body_that_drips_is_given_up(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback_routes, "BODY_PATIENCE", 0.01)
    assert asgi([{"type": "http.request", "body": b"{", "more_body": True}]) == 408
    assert airflow.calls == []


def test_a_caller_that_hangs_up(airflow: Airflow) -> None:
    began = {"type": "http.request", "body": b"{", "more_body": True}
    assert asgi([began, {"type": "http.disconnect"}]) == 400
    assert airflow.calls == []


def test_a_length_that_is_a_lie(airflow: Airflow) -> None:
    whole = {"type": "http.request", "body": DONE, "more_body": False}
    for length in (b"1", b"-1", b"many", b"9" * 4000):
        assert asgi([dict(whole)], [(b"content-length", length)]) == 202
    assert len(airflow.calls) == 4


def test_thousands_of_headers(airflow: Airflow) -> None:
    whole = {"type": "http.request", "body": DONE, "more_body": False}
    assert asgi([whole], [(b"x-%d" % number, b"\xff" * 100) for number in range(5000)]) == 202


# ---------------------------------------------------------------------- signatures


def test_where_the_service_signs_only_what_it_signed_counts(
    airflow: Airflow, caplog: pytest.LogCaptureFixture
) -> None:
    token = token_for(conn_id="signed")
    for headers in ({}, {"X-Signature": ""}, {"X-Signature": "0" * 64}, {"X-Signature": "\x7f"}):
        answer = post(token, headers=headers)
        assert (answer.status_code, answer.content) == (404, b"")
    assert airflow.calls == []
    assert "its signature (connection 'signed') is missing or wrong" in caplog.text
    signature = hmac.new(SIGNED_WITH.encode(), DONE, hashlib.sha256).hexdigest()
    assert post(token, headers={"x-signature": signature}).status_code == 202
    assert len(airflow.calls) == 1


def test_no_secret_and_no_address_is_logged(passing: Airflow, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    passing.outcomes = [RuntimeError("no")] * 1000
    post()
    assert "is given up" in caplog.text
    passing.outcomes = []
    post(token_for(conn_id="signed"))
    post(token_for("another"))
    post(token_for(conn_id="broken"))
    text = "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith("airflow_prov")
    )
    assert text
    for secret in (SECRET, SIGNED_WITH, TOKEN, "callbacks/"):
        assert secret not in text


# ---------------------------------------------------------------------- connections


def test_a_connection_is_not_looked_up_with_every_call(airflow: Airflow) -> None:
    for _ in range(5):
        post()
        post(token_for(conn_id="no such connection"))
    assert airflow.looked_up == ["ours", "no such connection"]


def test_a_connection_is_looked_up_again_after_a_while(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callback_routes, "REMEMBERED", -1.0)
    post()
    post()
    assert airflow.looked_up == ["ours", "ours"]


def test_a_secrets_backend_that_is_away_is_asked_again(airflow: Airflow) -> None:
    post(token_for(conn_id="away"))
    post(token_for(conn_id="away"))
    assert airflow.looked_up == ["away", "away"]


def test_a_connection_that_is_not_found_for_a_while_goes_on_to_be_trusted(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow says of a secrets backend that fails what it says of a connection that is gone."""
    monkeypatch.setattr(callback_routes, "REMEMBERED", -1.0)
    assert post().status_code == 202
    ours = airflow.connections.pop("ours")
    assert post().status_code == 202
    monkeypatch.setattr(callback_routes, "TRUSTED", 0.0)
    assert post().status_code == 404
    monkeypatch.setattr(callback_routes, "REMEMBERED_MISSING", -1.0)
    callback_routes._settings.clear()
    airflow.connections["ours"] = ours
    assert post().status_code == 202


def test_names_that_somebody_makes_up_do_not_drive_out_real_ones(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callback_routes, "MOST_REMEMBERED", 10)
    post()
    for number in range(50):
        post(token_for(conn_id=f"made up {number}"))
    assert len(callback_routes._settings) <= 10
    post()
    assert airflow.looked_up.count("ours") == 1


# ---------------------------------------------------------------------- afterwards


def test_what_came_too_early_is_tried_again_with_growing_pauses(airflow: Airflow) -> None:
    later = Outcome(kind="later", seconds=callback_delivery.SOON)
    airflow.outcomes = [later] * 4
    post()
    assert len(airflow.calls) == 5
    assert airflow.slept == sorted(airflow.slept)
    assert airflow.slept[0] == callback_delivery.SOON


def test_a_moment_that_is_known_is_kept_to(airflow: Airflow) -> None:
    airflow.outcomes = [Outcome(kind="later", seconds=1.25)]
    post()
    assert airflow.slept == [1.25]


def test_patience_ends(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback_routes, "PATIENCE", -1.0)
    airflow.outcomes = [Outcome(kind="later", seconds=1.0)] * 3
    post()
    assert len(airflow.calls) == 1


NO_ID = b'{"status": "succeeded"}'


@pytest.mark.parametrize("body", [DONE, NO_ID])
def test_a_database_that_is_away_for_a_while_costs_no_callback(passing: Airflow, body: bytes) -> None:
    passing.outcomes = [ConnectionError("connection refused")] * 11
    assert post(body=body).status_code == 202
    assert len(passing.calls) == 12
    assert passing.slept == sorted(passing.slept)
    assert passing.slept[0] < 1
    assert passing.slept[-1] == callback_routes.LONGEST_PAUSE
    assert 60 < sum(passing.slept) < callback_routes.PATIENCE


def test_an_id_outlasts_the_wait_for_that_of_a_lost_submission(passing: Airflow) -> None:
    """Nothing polls for such a task: what the one call told would be lost, and with it a paid render."""
    passing.outcomes = [ConnectionError("connection refused")] * 46
    post()
    assert len(passing.calls) == 47
    assert sum(passing.slept) > CALL_PATIENCE


def test_a_task_that_has_not_deferred_is_waited_for_after_a_trouble_as_well(passing: Airflow) -> None:
    later = Outcome(kind="later", seconds=callback_delivery.SOON)
    passing.outcomes = [*[ConnectionError("connection refused")] * 20, later, later]
    post()
    assert len(passing.calls) == 23
    assert sum(passing.slept) > callback_routes.PATIENCE


@pytest.mark.parametrize(
    ("body", "patience"), [(DONE, callback_routes.PATIENCE_FOR_AN_ID), (NO_ID, callback_routes.PATIENCE)]
)
def test_an_airflow_that_refuses_is_told_of_once(
    passing: Airflow, caplog: pytest.LogCaptureFixture, body: bytes, patience: float
) -> None:
    passing.outcomes = [ImportError("no such module")] * 1000
    assert post(body=body).status_code == 202
    assert patience < sum(passing.slept) <= patience + callback_routes.LONGEST_PAUSE
    assert caplog.text.count("is given up") == 1
    assert "on_uncertain_submit" in caplog.text


def test_attempts_that_take_longer_than_all_patience_are_made_all_the_same(
    passing: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callback_routes, "PATIENCE_FOR_AN_ID", -1.0)
    passing.outcomes = [ConnectionError("timed out")] * (callback_routes.TRIES - 1)
    post()
    assert len(passing.calls) == callback_routes.TRIES


async def many(http: httpx.AsyncClient, bodies: list[bytes]) -> list[int]:
    answers = await asyncio.gather(*(http.post(f"/callbacks/{TOKEN}", content=body) for body in bodies))
    return [answer.status_code for answer in answers]


def test_the_same_told_many_times_at_once_is_one_piece_of_work(airflow: Airflow) -> None:
    assert on_loop(client(lambda http: many(http, [DONE] * 30))) == [202] * 30
    assert len(airflow.calls) < 30


def test_who_tells_too_much_at_once_is_not_listened_to_and_told_nothing(airflow: Airflow) -> None:
    airflow.outcomes = [Outcome(kind="later", seconds=1.0)] * 100
    bodies = [json.dumps({"id": f"g{number}", "status": "succeeded"}).encode() for number in range(60)]

    async def do(http: httpx.AsyncClient) -> list[int]:
        # All of them are begun before one of them is worked on.
        return [
            (
                202
                if callback_routes._begin(TICKET, CallbackPayload(generation_id=body.decode()), settings)
                else 503
            )
            for body in bodies
        ]

    settings = callback_routes._settings_of("ours")
    assert settings is not None
    answers = on_loop(client(do))
    assert set(answers) == {202}
    assert len(airflow.calls) <= callback_routes.MOST_OF_ONE * 100
    assert len({hint.generation_id for _, hint, *_ in airflow.calls}) <= callback_routes.MOST_OF_ONE


def test_there_is_a_bound_to_what_waits(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback_routes, "MOST_WAITING", 0)
    assert post().status_code == 503
    assert airflow.calls == []


# ---------------------------------------------------------------------- asking the service


@pytest.fixture
def waits(airflow: Airflow, services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a trigger waits for: a render of a real (emulated) service that has ended."""
    services.hold()
    settings = emulator_settings(services, "ark", callback_secret=SECRET)
    monkeypatch.setattr(callback_routes, "read_settings", lambda conn_id, made: settings)
    request = prepare_request(settings, smallest("ark")).request
    with Client(settings) as http:
        from airflow_provider_seedance.client import flows

        outcome = http.run(
            flows.submit_flow(settings.api, settings.api.submit_call(request), request, utc_now)
        )
    generation_id = outcome.generation.generation_id  # type: ignore[union-attr]
    return {"generation_id": generation_id, "media": "video", "result_defaults": {"credits": 7}}


def body(waits: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"id": waits["generation_id"], **more}).encode()


def test_a_task_that_ends_from_the_trigger_is_ended_with_what_the_service_says(
    airflow: Airflow, services: SeedanceEmulator, waits: dict[str, Any]
) -> None:
    services.finish(waits["generation_id"])
    airflow.outcomes = [Outcome(kind="finish", waits={**waits, "end_from_trigger": True})]
    post(body=body(waits, status="succeeded", content={"video_url": "https://evil.example/1.mp4"}))
    (result,) = airflow.finished
    assert Generation.from_result(result).status is GenerationStatus.SUCCEEDED
    assert result["credits"] == 7
    assert result["url"].startswith(services.url)
    assert services.ledger.count("status") == 1


def test_too_early_a_word_takes_no_worker(
    airflow: Airflow, services: SeedanceEmulator, waits: dict[str, Any]
) -> None:
    airflow.outcomes = [Outcome(kind="finish", waits={**waits, "end_from_trigger": True})]
    post(body=body(waits, status="succeeded"))
    assert airflow.finished == []
    assert [(on_worker, event) for *_, on_worker, event in airflow.calls] == [(False, None)]


def test_a_render_that_failed_is_told_by_a_worker(
    airflow: Airflow, services: SeedanceEmulator, waits: dict[str, Any]
) -> None:
    services.fail(waits["generation_id"], "no herons")
    airflow.outcomes = [Outcome(kind="finish", waits={**waits, "end_from_trigger": True})]
    post(body=body(waits, status="failed"))
    assert airflow.finished == []
    *_, on_worker, event = airflow.calls[-1]
    assert on_worker
    assert (event["outcome"], event["error_message"]) == ("ended", "no herons")


def test_a_service_that_cannot_be_asked_is_asked_by_a_worker(
    airflow: Airflow, services: SeedanceEmulator, waits: dict[str, Any]
) -> None:
    services.fault("refuse", on="status", status=500, times=100)
    airflow.outcomes = [Outcome(kind="finish", waits={**waits, "end_from_trigger": True})]
    post(body=body(waits, status="succeeded"))
    assert [(on_worker, event) for *_, on_worker, event in airflow.calls][1:] == [(True, None)]


@pytest.mark.parametrize("ended", [True, False])
def test_an_id_and_nothing_else_is_asked_about(
    airflow: Airflow, services: SeedanceEmulator, waits: dict[str, Any], ended: bool
) -> None:
    if ended:
        services.finish(waits["generation_id"])
    airflow.outcomes = [Outcome(kind="ask", waits=waits)]
    post(body=body(waits))
    assert services.ledger.count("status") == 1
    assert len(airflow.calls) == 1 + ended
    if ended:
        *_, on_worker, event = airflow.calls[-1]
        assert on_worker
        assert event["outcome"] == "ended"


def test_calls_that_tell_nothing_do_not_use_up_the_quota(
    airflow: Airflow, services: SeedanceEmulator, waits: dict[str, Any]
) -> None:
    for _ in range(10):
        airflow.outcomes = [Outcome(kind="ask", waits=waits)] * 2
        post(body=body(waits))
    assert services.ledger.count("status") == 1


@pytest.mark.parametrize("ended", [True, False])
def test_another_id_leads_to_a_question_about_ours(
    airflow: Airflow, services: SeedanceEmulator, waits: dict[str, Any], ended: bool
) -> None:
    if ended:
        services.finish(waits["generation_id"])
    airflow.outcomes = [Outcome(kind="ask", waits=waits)]
    post(body=b'{"id": "evt-1", "status": "succeeded", "content": {"video_url": "https://evil.example/1"}}')
    (asked,) = [request for request in services.ledger.requests if request.method == "GET"]
    assert waits["generation_id"] in asked.path
    assert len(airflow.calls) == 1 + ended
    if ended:
        *_, on_worker, event = airflow.calls[-1]
        assert on_worker
        assert event["generation_id"] == waits["generation_id"]
        assert event["result"]["url"].startswith(services.url)


def test_whoever_knows_an_address_cannot_use_up_a_quota(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(callback_routes, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    asked = []
    while now[0] < 7200.0:
        if not callback_routes._until_asked_again(TICKET):
            asked.append(now[0])
        now[0] += 1.0
    assert asked[:5] == [0.0, 15.0, 45.0, 105.0, 225.0]
    assert len(asked) < 20
    # Another render is another matter, and what is long ago is forgotten.
    other = CallbackClaims(**{**vars(TICKET), "nonce": "n2"})
    assert callback_routes._until_asked_again(other) == 0.0
    now[0] += 3600.0
    assert [callback_routes._until_asked_again(other) for _ in range(2)] == [0.0, 15.0]
    assert list(callback_routes._asked) == [other]


def test_all_who_ask_at_once_have_one_client(
    airflow: Airflow, services: SeedanceEmulator, waits: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    plain = callback_confirmation.AsyncClient

    def note(*arguments: Any) -> Any:
        made.append(arguments)
        return plain(*arguments)

    monkeypatch.setattr(callback_confirmation, "AsyncClient", note)
    settings = emulator_settings(services, "ark")

    async def ask() -> None:
        found = await asyncio.gather(*(callback_confirmation.read_end(waits, settings) for _ in range(30)))
        assert {generation.generation_id for generation in found if generation} == {waits["generation_id"]}

    on_loop(ask())
    assert len(made) == 1
    assert services.ledger.count("status") == 30


def test_a_client_that_cannot_be_made_is_no_answer(airflow: Airflow, services: SeedanceEmulator) -> None:
    settings = emulator_settings(services, "ark", verify="/no/such/bundle.pem")
    waits = {"generation_id": "g1", "media": "video"}
    assert on_loop(callback_confirmation.read_end(waits, settings)) is None
