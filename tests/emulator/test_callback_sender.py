from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from emulator.vendor import VALID_SUBMITS, Vendor

FIELDS = {"seedance2api": "webhook_url", "seedanceapi-v1": "callback_url", "ark": "callback_url"}


class Receiver(ThreadingHTTPServer):
    def __init__(self) -> None:
        self.bodies: queue.Queue[Any] = queue.Queue()
        super().__init__(("127.0.0.1", 0), ReceiverHandler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class ReceiverHandler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.bodies.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def submit(client: Vendor, url: str) -> str:
    path, body = VALID_SUBMITS[client.api]
    return client.id_of(client.post(path, {**body, FIELDS[client.api]: url}))


def entered(emulator: SeedanceEmulator, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(emulator.ledger.callbacks) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_seedance2api_event(
    emulator: SeedanceEmulator, vendor: Callable[..., Vendor], receiver: Receiver
) -> None:
    task_id = submit(vendor(emulator, "seedance2api"), receiver.url)
    event = receiver.bodies.get(timeout=10)
    assert set(event) == {"event", "timestamp", "data"}
    assert event["event"] == "task.completed"
    assert (event["data"]["task_id"], event["data"]["status"]) == (task_id, "completed")
    assert set(event["data"]["result"]) == {"video_url", "duration", "resolution"}
    entered(emulator, 1)
    [entry] = emulator.ledger.callbacks
    assert (entry.status, entry.url, entry.body) == (204, receiver.url, event)


def test_seedance2api_failure(
    emulator: SeedanceEmulator, vendor: Callable[..., Vendor], receiver: Receiver
) -> None:
    emulator.fault("fail", message="too windy")
    submit(vendor(emulator, "seedance2api"), receiver.url)
    event = receiver.bodies.get(timeout=10)
    assert (event["event"], event["data"]["error_message"]) == ("task.failed", "too windy")


def test_seedanceapi_sends_its_status_body(
    emulator: SeedanceEmulator, vendor: Callable[..., Vendor], receiver: Receiver
) -> None:
    client = vendor(emulator, "seedanceapi-v1")
    task_id = submit(client, receiver.url)
    body = receiver.bodies.get(timeout=10)
    assert body == client.status(task_id).json()
    entered(emulator, 1)
    assert len(emulator.ledger.callbacks) == 1


def test_ark_sends_its_task_at_every_change(
    start: Callable[..., SeedanceEmulator], vendor: Callable[..., Vendor], receiver: Receiver
) -> None:
    emulator = start(render_seconds=1000)
    emulator.hold()
    client = vendor(emulator, "ark")
    task_id = submit(client, receiver.url)
    assert receiver.bodies.get(timeout=10)["status"] == "queued"
    emulator.finish(task_id)
    body = receiver.bodies.get(timeout=10)
    assert body == client.status(task_id).json()
    assert body["status"] == "succeeded"


def test_a_callback_without_a_response(emulator: SeedanceEmulator, vendor: Callable[..., Vendor]) -> None:
    submit(vendor(emulator, "seedance2api"), "http://127.0.0.1:9/hook")
    entered(emulator, 1)
    assert emulator.ledger.callbacks[0].status is None


def test_no_thread_without_a_callback_url(emulator: SeedanceEmulator, vendor: Callable[..., Vendor]) -> None:
    # The sender of another emulator in this process may not have ended yet.
    before = set(threading.enumerate())
    vendor(emulator, "ark").submit()
    assert "seedance-emulator-callbacks" not in {
        thread.name for thread in set(threading.enumerate()) - before
    }
