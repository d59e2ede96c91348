from __future__ import annotations

import json
import threading

from scripted_server import answer, replies, serving

from emulator.vendor import VALID_SUBMITS, Vendor, Vendors

FIELDS = {"seedance2api": "webhook_url", "seedanceapi-v1": "callback_url", "ark": "callback_url"}
#: An address at which nothing listens: the callback is recorded without a reply.
NOWHERE = "http://127.0.0.1:9/hook"


def submit(client: Vendor, url: str = NOWHERE) -> str:
    path, body = VALID_SUBMITS[client.api]
    return client.id_of(client.post(path, {**body, FIELDS[client.api]: url}))


def test_seedance2api_event(vendor: Vendors) -> None:
    with serving(replies(answer(204, b""))) as receiver:
        task_id = submit(vendor("seedance2api"), receiver.url)
        [entry] = vendor("seedance2api").callbacks()
    assert (entry.status, entry.url) == (204, receiver.url)
    assert json.loads(receiver.seen[0].partition(b"\r\n\r\n")[2]) == entry.body
    assert set(entry.body) == {"event", "timestamp", "data"}
    assert entry.body["event"] == "task.completed"
    assert (entry.body["data"]["task_id"], entry.body["data"]["status"]) == (task_id, "completed")
    assert set(entry.body["data"]["result"]) == {"video_url", "duration", "resolution"}


def test_seedance2api_failure_without_a_response(vendor: Vendors) -> None:
    client = vendor("seedance2api")
    client.emulator.fault("fail", message="too windy")
    submit(client)
    [entry] = client.callbacks()
    assert (entry.body["event"], entry.body["data"]["error_message"]) == ("task.failed", "too windy")
    assert entry.status is None


def test_seedanceapi_sends_its_status_body(vendor: Vendors) -> None:
    client = vendor("seedanceapi-v1")
    task_id = submit(client)
    [entry] = client.callbacks()
    assert entry.body == client.status(task_id).json()


def test_ark_sends_its_task_at_every_change(serve: Vendors) -> None:
    ark = serve("ark", render_seconds=1000)
    ark.emulator.hold()
    task_id = submit(ark)
    assert ark.callbacks()[0].body["status"] == "queued"
    ark.emulator.finish(task_id)
    last = ark.callbacks(2)[1].body
    assert last == ark.status(task_id).json()
    assert last["status"] == "succeeded"


def test_no_thread_without_a_callback_url(ark: Vendor) -> None:
    # The sender of another emulator in this process may not have ended yet.
    before = set(threading.enumerate())
    ark.submit()
    assert "seedance-emulator-callbacks" not in {
        thread.name for thread in set(threading.enumerate()) - before
    }
