"""The key and the callback secret, in everything that a task leaves behind, with any outcome."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk import DAG
from helpers import everything_in, set_timing
from scripted_server import answer, serving
from support import PROMPT, Store, TaskInstance, make_context
from versions import DagSerialization

from airflow_provider_seedance.exceptions import SeedanceError
from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoBatchOperator,
    SeedanceGenerateVideoOperator,
)

#: With everything that is written differently in a URL, in JSON and in a repr; no part could be one of a random number.
KEY = "sk+te/st=9x8y\"7z6w'5v4u\\3"
CALLBACK = "callback/secret=77qq+55"
PROXY_PASSWORD = "pr0xy/pa55"
TOKEN = "WyJk-_.AbC-_9"
FORBIDDEN = (
    "sk+te/st",
    "9x8y",
    "7z6w",
    "5v4u",
    "callback/secret",
    "77qq",
    "callback%2Fsecret",
    PROXY_PASSWORD,
    TOKEN,
    "callback\\/secret",
    "sk+te\\/st",
    "u0073\\u006b\\u002b\\u0074",
)


def check_secrets(text: str) -> None:
    assert [secret for secret in FORBIDDEN if secret in text] == []


class Left:
    """Everything that the tries of a task leave behind."""

    def __init__(self, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
        self.capfd, self.caplog = capfd, caplog
        self.store, self.ti = Store(), TaskInstance()
        self.shown: list[str] = []
        self.outcome = "nothing"

    def run(self, step: Callable[[Any], Any]) -> TaskDeferred | None:
        """Run one step of the task, and return its deferral, if any."""
        try:
            self.shown.append(json.dumps(step(make_context(self.store, self.ti))))
            self.outcome = "success"
        except TaskDeferred as deferred:
            self.outcome = "deferred"
            trigger: Any = deferred.trigger
            self.shown += [str(trigger.serialize()), repr(trigger), str(deferred.kwargs), repr(deferred)]
            return deferred
        except SeedanceError as error:
            self.outcome = type(error).__name__
            self.shown.append(everything_in(error))
        return None

    def check(self) -> str:
        """Check that nothing contains a secret, and return everything."""
        out, err = self.capfd.readouterr()
        parts = [*self.shown, *self.store.texts.values(), json.dumps(self.ti.pushed), out, err]
        text = "\n".join([*parts, self.caplog.text])
        check_secrets(text)
        return text


@pytest.fixture
def left(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Left:
    return Left(capfd, caplog)


def echo(status: int, **more: Any) -> bytes:
    """Return a reply that repeats the secrets in every text."""
    words = f"Bearer {KEY} {json.dumps(KEY)} {CALLBACK}"
    body = {
        "status": "error",
        "code": KEY,
        "message": words,
        "detail": words,
        "error": {"code": KEY, "message": words},
        "error_message": words,
        **more,
    }
    return answer(status, json.dumps(body).encode(), f"X-Echo: {words}\r\nRetry-After: {KEY}\r\n")


def escaped(status: int) -> bytes:
    """Return a reply that repeats the secrets with every escape of JSON, cut so that it is shown as text."""
    words = json.dumps(f"{KEY} {CALLBACK} https://a.example/seedance/callbacks/{TOKEN}").replace("/", "\\/")
    in_unicode = "".join(f"\\u{ord(character):04x}" for character in f"{KEY} {CALLBACK}")
    return answer(status, f'{{"error": {words}, "detail": "{in_unicode}'.encode())


def created(status: str = "running") -> bytes:
    """Return an acceptance that repeats the key."""
    ids = dict.fromkeys(("id", "task_id", "run_id"), "g-1")
    texts = dict.fromkeys(("model", "resolution", "error_message", "error", "message"), KEY)
    fields = {**ids, **texts, "status": status}
    return answer(200, json.dumps({**fields, "data": fields}).encode())


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def connect(port: int, api: str, **extra: Any) -> None:
        fields = {
            "conn_type": "seedance",
            "host": f"http://127.0.0.1:{port}/v2",
            "password": KEY,
            "extra": {"api": api, "callback_secret": CALLBACK, "timeout": 5, **extra},
        }
        monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", json.dumps(fields))

    return connect


@contextmanager
def always(raw: bytes | Callable[[bytes], bytes]) -> Iterator[Any]:
    """Answer every request, each on a connection of its own."""

    def script(peer: Any) -> None:
        data = b""
        # A SOCKS greeting, which begins with its version, gets the same reply.
        while b"\r\n\r\n" not in data and not data.startswith(b"\x05"):
            data += peer.recv(65536)
        peer.sendall(raw(data) if callable(raw) else raw)

    with serving(script) as server:
        yield server


def operator(**arguments: Any) -> SeedanceGenerateVideoOperator:
    return SeedanceGenerateVideoOperator(**{"task_id": "task", "prompt": PROMPT, **arguments})


FATES: dict[str, bytes] = {
    **{
        str(status): echo(status)
        for status in (200, 302, 400, 401, 402, 403, 404, 408, 422, 429, 500, 502, 503)
    },
    "rubbish": answer(200, f"<html>{KEY} {CALLBACK}".encode()),
    "gateway": answer(504, f"<html>{KEY} {CALLBACK}".encode()),
    "escaped": escaped(200),
    "escaped by a gateway": escaped(502),
    "torn": echo(200)[:-20],
    "closed": b"",
    "not http": f"{KEY} {CALLBACK}\r\n\r\n".encode(),
    "status line": f"HTTP/1.1 {KEY}\r\n\r\n".encode(),
    "packed": answer(200, b"x", f"Content-Encoding: {KEY}\r\n"),
}


def with_services(fates: Iterable[str], *apis: str) -> list[tuple[str, str]]:
    """Return every reply, with alternating services: what the services differ in is not secrets."""
    return list(zip(fates, cycle(apis), strict=False))


@pytest.mark.parametrize(("fate", "api"), with_services(FATES, "seedanceapi-v2", "ark"))
def test_after_every_reply_to_a_submission(quick: None, at: Any, left: Left, api: str, fate: str) -> None:
    with always(FATES[fate]) as server:
        at(server.port, api)
        left.run(operator(deferrable=fate != "429").execute)
        left.ti.retry()
        left.run(operator().execute)
    assert left.outcome != "success"
    left.check()


@pytest.mark.parametrize(
    ("fate", "api"),
    with_services([*FATES, "failed", "succeeded without outputs"], "seedance2api", "runbase", "ark"),
)
def test_after_every_reply_to_a_status_request(
    quick: None, at: Any, monkeypatch: pytest.MonkeyPatch, left: Left, api: str, fate: str
) -> None:
    set_timing(monkeypatch, min_trigger_time=0.0)
    ends = {"failed": created("FAILED"), "succeeded without outputs": created("completed")}
    status = ends.get(fate) or FATES[fate]
    with always(lambda request: created() if request.startswith(b"POST") else status) as server:
        at(server.port, api)
        deferred = left.run(operator().execute)
        assert deferred is not None
        kwargs = {**(deferred.kwargs or {}), "deadline": 0.0}
        left.run(lambda context: operator().execute_complete(context, None, **kwargs))
        if fate != "429":  # a task does not fail because its own quota keeps it from reading
            left.ti.retry()
            left.run(operator(deferrable=False, timeout=0.01).execute)
    left.check()


# httpcore leaves the connection to a SOCKS proxy with an invalid reply to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_after_the_refusal_of_a_proxy(quick: None, at: Any, left: Left) -> None:
    refusal = answer(407, f"{PROXY_PASSWORD} {KEY}".encode(), f"Proxy-Authenticate: {PROXY_PASSWORD}\r\n")
    with always(refusal) as server:
        for scheme in ("http", "socks5"):
            at(1, "ark", timeout=0.5, proxy=f"{scheme}://user:pr0xy%2Fpa55@127.0.0.1:{server.port}")
            left.run(operator().execute)
            left.ti.retry()
    assert "pr0xy" not in left.check()


def test_after_every_reply_to_a_batch(quick: None, at: Any, left: Left) -> None:
    for raw in (created(), echo(400), echo(200), echo(500)):
        with always(raw) as server:
            at(server.port, "seedanceapi-v2")
            left.run(SeedanceGenerateVideoBatchOperator(task_id="task", requests=["a", "b"]).execute)
        left.ti.retry()
    left.check()


def test_after_an_invalid_connection(at: Any, left: Left) -> None:
    for invalid in ({"api": "none"}, {"timeout": "x"}, {"verify": 3}, {"proxy": PROXY_PASSWORD}):
        at(1, **{"api": "ark", **invalid})
        left.run(operator().execute)
        assert left.outcome == "SeedanceConfigurationError"
    left.check()


def test_in_a_serialized_dag() -> None:
    with DAG("dag", schedule=None) as dag:
        operator()
        SeedanceGenerateVideoBatchOperator(task_id="batch", requests=["a"])
    check_secrets(json.dumps(DagSerialization.to_dict(dag), default=str))
