"""Adding a service is one file and one line."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from scripted_server import answer, head_of, receive, serving
from support import PROMPT, SECRET, Store, deferral, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis import registry
from airflow_provider_seedance.generations import VideoRequest
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator

FILM = "https://sixth.example/film.mp4"


class Service:
    """The service: the first reading finds a job at work, the second finds it done."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []
        self.readings = 0

    def serve(self, peer: socket.socket) -> None:
        while request := receive(peer):
            line, headers = head_of(request)
            method, path, _ = line.split()
            status, body = 200, {"job": "j-1", "status": "started"}
            if method == "POST":
                body = json.loads(request.partition(b"\r\n\r\n")[2])
                self.jobs.append((path, headers["authorization"], body))
                status, body = 201, {"job": "j-1", "status": "waiting"}
            elif not path.endswith("/j-1"):
                status, body = 404, {"problem": "no such job"}
            else:
                self.readings += 1
                if self.readings > 1:
                    body = {"job": "j-1", "status": "done", "film": FILM}
            peer.sendall(answer(status, json.dumps(body).encode()))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, quick: None) -> Iterator[Service]:
    service = Service()
    monkeypatch.setitem(registry.SERVICES, "sixth", "example_service")
    with serving(service.serve) as server:
        fields = {"conn_type": "seedance", "host": server.url, "password": SECRET, "extra": {"api": "sixth"}}
        monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", json.dumps(fields))
        yield service


def test_it_renders_through_the_hook(service: Service) -> None:
    hook = SeedanceHook()
    worked, says = hook.test_connection()
    assert worked
    assert says.startswith("the sixth service accepts the API key.")
    generation = hook.submit(VideoRequest(prompt=PROMPT, duration=3))
    assert service.jobs == [("/v2/jobs", f"Bearer {SECRET}", {"text": PROMPT, "seconds": 3})]
    ended = hook.wait(generation.generation_id, 10, poll_interval=0.01)
    assert (ended.api, ended.url, service.readings) == ("sixth", FILM, 2)
    assert not hook.cancel(generation.generation_id).cancelled


def test_it_renders_through_the_operator(service: Service) -> None:
    store = Store()
    op = SeedanceGenerateVideoOperator(task_id="task", prompt=PROMPT)
    deferred = deferral(lambda: op.execute(make_context(store)))
    assert deferred.trigger.generation_id == "j-1"
    result = SeedanceGenerateVideoOperator(
        task_id="task", prompt=PROMPT, deferrable=False, poll_interval=0.01
    ).execute(make_context(store))
    assert (result["api"], result["url"]) == ("sixth", FILM)
    assert len(service.jobs) == 1


def test_it_refuses_what_it_does_not_take(service: Service) -> None:
    with pytest.raises(errors.SeedanceRequestError, match="sixth takes a whole number from 1 to 9"):
        SeedanceHook().submit(VideoRequest(prompt=PROMPT, duration=10))
    assert service.jobs == []
