from __future__ import annotations

import pytest

from emulator.vendor import Time, Vendor, Vendors

MODEL = "bytedance/seedance-1.5-pro"


@pytest.fixture
def api() -> str:
    return "runbase"


def test_from_submit_to_result(serve: Vendors, time: Time) -> None:
    client = serve("runbase", clock=time, render_seconds=100, speed=1)
    created = client.submit().json()
    assert (created["status"], created["output"], created["error"]) == ("pending", None, None)
    time.now += 50
    assert client.status(created["id"]).json()["status"] == "running"
    time.now += 50
    run = client.status(created["id"]).json()
    assert run["status"] == "succeeded"
    assert client.http.get(run["output"]["urls"][0]).status_code == 200


def test_requests_are_strict(client: Vendor) -> None:
    for change in [
        {"prompt": " "}, {"duration": 4}, {"duration": "5"}, {"aspect_ratio": "9:21"}, {"resolution": "4k"},
        {"generate_audio": "yes"}, {"image_urls": "https://x.example/a.png"}, {"seed": 1},
        {"callback_url": "https://x.example/"},
    ]:  # fmt: skip
        reply = client.post("/runs", {"model": MODEL, "input": {"prompt": "kite", **change}})
        assert reply.status_code == 400
        assert f"input.{next(iter(change))}" in reply.json()["error"]
    for body in [{"model": MODEL}, {"model": MODEL, "input": "kite"}, {"input": {}}]:
        assert client.post("/runs", body).status_code == 400
    assert client.emulator.ledger.submissions == []


def test_it_runs_the_models_that_public_clients_run(client: Vendor) -> None:
    for model, ending in (("bytedance/seedance-2.0", ".mp4"), ("bytedance/seedream-4.5", ".png")):
        run = client.post("/runs", {"model": model, "input": {"prompt": "kite"}}).json()
        assert client.status(run["id"]).json()["output"]["urls"][0].partition("?")[0].endswith(ending)
    assert client.post("/runs", {"model": "m", "input": {"prompt": "kite"}}).status_code == 400


def test_a_failed_run(client: Vendor) -> None:
    client.emulator.fault("fail", message="too windy")
    run = client.status(client.submit_id()).json()
    assert (run["status"], run["error"], run["output"]) == ("failed", "too windy", None)


def test_other_shapes(serve: Vendors) -> None:
    flat, nested = serve("runbase", shape="flat"), serve("runbase", shape="nested")
    assert flat.status(flat.submit().json()["run_id"]).json()["output"]["url"]
    assert nested.status(nested.submit().json()["data"]["id"]).json()["data"]["output"]["urls"]
