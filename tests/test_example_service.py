"""Adding a service is one file and one line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support import PROMPT, SECRET, Store, deferral, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis import registry
from airflow_provider_seedance.generations import VideoRequest
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator

FILM = "https://sixth.example/film.mp4"


class Handler(BaseHTTPRequestHandler):
    """The service: the first reading finds a job at work, the second finds it done."""

    jobs: list[Any]
    readings: int

    def answer(self, status: int, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).jobs.append((self.path, self.headers["Authorization"], body))
        self.answer(201, {"job": "j-1", "status": "waiting"})

    def do_GET(self) -> None:
        if not self.path.endswith("/j-1"):
            self.answer(404, {"problem": "no such job"})
            return
        type(self).readings += 1
        done = type(self).readings > 1
        self.answer(
            200,
            {"job": "j-1", "status": "done", "film": FILM} if done else {"job": "j-1", "status": "started"},
        )

    def log_message(self, format: str, *arguments: Any) -> None:
        return


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, quick: None) -> Iterator[type[Handler]]:
    kind = type("Fresh", (Handler,), {"jobs": [], "readings": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setitem(registry.SERVICES, "sixth", "example_service")
    fields = {
        "conn_type": "seedance",
        "host": f"http://127.0.0.1:{server.server_port}/v1",
        "password": SECRET,
        "extra": {"api": "sixth"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", json.dumps(fields))
    yield kind
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_renders_through_the_hook(service: type[Handler]) -> None:
    hook = SeedanceHook()
    worked, says = hook.test_connection()
    assert worked
    assert says.startswith("the sixth service accepts the API key.")
    generation = hook.submit(VideoRequest(prompt=PROMPT, duration=3))
    assert service.jobs == [("/v1/jobs", f"Bearer {SECRET}", {"text": PROMPT, "seconds": 3})]
    ended = hook.wait(generation.generation_id, 10, poll_interval=0.01)
    assert (ended.api, ended.url, service.readings) == ("sixth", FILM, 2)
    assert not hook.cancel(generation.generation_id).cancelled


def test_it_renders_through_the_operator(service: type[Handler]) -> None:
    store = Store()
    op = SeedanceGenerateVideoOperator(task_id="task", prompt=PROMPT)
    deferred = deferral(lambda: op.execute(make_context(store)))
    assert deferred.trigger.generation_id == "j-1"
    result = SeedanceGenerateVideoOperator(
        task_id="task", prompt=PROMPT, deferrable=False, poll_interval=0.01
    ).execute(make_context(store))
    assert (result["api"], result["url"]) == ("sixth", FILM)
    assert len(service.jobs) == 1


def test_it_refuses_what_it_does_not_take(service: type[Handler]) -> None:
    with pytest.raises(errors.SeedanceRequestError, match="sixth takes a whole number from 1 to 9"):
        SeedanceHook().submit(VideoRequest(prompt=PROMPT, duration=10))
    assert service.jobs == []
