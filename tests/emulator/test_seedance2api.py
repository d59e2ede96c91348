from __future__ import annotations

from dataclasses import replace

import pytest

from emulator.vendor import Time, Vendor, Vendors

VIDEO = {"prompt": "a red kite", "model": "seedance-1.5-pro", "duration": 15}
IMAGE = {"prompt": "a red kite", "model": "seedream-4.5"}


@pytest.fixture
def api() -> str:
    return "seedance2api"


def test_video_from_submit_to_result(client: Vendor) -> None:
    reply = client.post("/seedance/generate", {**VIDEO, "resolution": "1080p", "fps": 24})
    data = reply.json()["data"]
    assert reply.json()["status"] == "accepted"
    assert set(data) == {"task_id", "status", "estimated_wait_time_seconds", "check_status_url"}
    assert data["status"] == "queued"
    assert data["check_status_url"].endswith(f"/tasks/{data['task_id']}")
    task = client.get(f"/tasks/{data['task_id']}").json()
    assert set(task) == {"task_id", "status", "progress", "created_at", "updated_at"}
    assert (task["status"], task["progress"]) == ("completed", 100)
    result = client.get(f"/results/{data['task_id']}").json()
    assert set(result) == {"task_id", "status", "result", "completed_at"}
    assert set(result["result"]) == {"video_url", "duration", "resolution"}
    assert (result["result"]["duration"], result["result"]["resolution"]) == (15, "1080p")


def test_progress(serve: Vendors, time: Time) -> None:
    client = serve("seedance2api", clock=time, render_seconds=100, speed=1)
    generation_id = client.submit_id()
    assert client.status(generation_id).json()["status"] == "queued"
    time.now += 50
    task = client.status(generation_id).json()
    assert task["status"] == "processing"
    assert 30 < task["progress"] < 60
    assert "result" not in client.get(f"/results/{generation_id}").json()


def test_both_headers_carry_the_key(client: Vendor) -> None:
    headers = {"Authorization": "", "X-API-Key": client.emulator.key}
    assert client.call("POST", "/seedance/generate", json=VIDEO, headers=headers).status_code == 200
    headers["X-API-Key"] = "wrong"
    reply = client.call("POST", "/seedance/generate", json=VIDEO, headers=headers)
    assert reply.status_code == 401
    error = {"code": "INVALID_API_KEY", "message": "API key is invalid or expired"}
    assert reply.json() == {"status": "error", "error": error}


def test_a_prompt_that_is_too_long(client: Vendor) -> None:
    assert client.post("/seedance/generate", {**VIDEO, "prompt": "é" * 300}).status_code == 200
    reply = client.post("/seedance/generate", {**VIDEO, "prompt": "é" * 301})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (400, "INVALID_PROMPT")
    details = {"field": "prompt", "value": "é" * 301, "constraint": "max_length", "limit": 300}
    assert error["details"] == details


def test_video_fields_are_strict(client: Vendor) -> None:
    for change in [
        {"prompt": ""}, {"prompt": 3}, {"model": "seedance-9"}, {"duration": "15"}, {"duration": 4},
        {"duration": 31}, {"duration": True}, {"duration": None}, {"resolution": "480p"}, {"fps": 25},
        {"fps": "24"}, {"image_input": ["https://x.example/a.png"]}, {"image_input": "a.png"},
        {"webhook_url": "http://10.0.0.1/hook"}, {"aspect_ratio": "16:9"}, {"generate_audio": True},
        {"seed": 1},
    ]:  # fmt: skip
        reply = client.post("/seedance/generate", {**VIDEO, **change})
        assert reply.status_code == 400
        assert reply.json()["error"]["details"]["field"] == next(iter(change))
    for field in VIDEO:
        body = {name: value for name, value in VIDEO.items() if name != field}
        reply = client.post("/seedance/generate", body)
        assert reply.json()["error"]["details"]["constraint"] == "required"
    assert client.emulator.ledger.submissions == []


def test_images_are_answered_at_once(client: Vendor) -> None:
    reply = client.post("/seedream/generate", {**IMAGE, "resolution": "4k", "num_images": 2, "style": "oil"})
    body = reply.json()
    assert body["status"] == "success"
    assert set(body["data"]) == {"task_id", "images", "model", "resolution", "processing_time_ms"}
    assert len(body["data"]["images"]) == 2
    image = body["data"]["images"][0]
    assert set(image) == {"id", "url", "width", "height", "format", "size_bytes"}
    assert (image["width"], image["height"], image["format"]) == (4096, 4096, "png")
    file = client.http.get(image["url"])
    assert file.headers["content-type"] == "image/png"
    assert len(file.content) == image["size_bytes"]
    assert client.emulator.generations[0].media == "image"


def test_image_fields_are_strict(client: Vendor) -> None:
    for change in [
        {"model": "seedance-2.0"}, {"resolution": "1080p"}, {"quality": "ultra"}, {"num_images": 0},
        {"num_images": 5}, {"num_images": "1"}, {"seed": "x"}, {"style": 1},
        {"image_input": "https://x.example/a.png"},
    ]:  # fmt: skip
        assert client.post("/seedream/generate", {**IMAGE, **change}).status_code == 400


def test_images_as_a_task(serve: Vendors) -> None:
    client = serve("seedance2api", images_as_task=True)
    data = client.post("/seedream/generate", IMAGE).json()["data"]
    assert data["status"] == "queued"
    result = client.get(f"/results/{data['task_id']}").json()
    assert len(result["result"]["images"]) == 1


def test_a_failure(client: Vendor) -> None:
    client.emulator.fault("fail", message="no")
    reply = client.post("/seedream/generate", IMAGE)
    assert (reply.status_code, reply.json()["error"]["message"]) == (500, "no")
    assert client.emulator.ledger.billed == 0
    client.emulator.fault("fail", message="too windy")
    generation_id = client.submit_id()
    for path in ("tasks", "results"):
        body = client.get(f"/{path}/{generation_id}").json()
        assert (body["status"], body["error_message"]) == ("failed", "too windy")


def test_other_shapes(serve: Vendors) -> None:
    flat, nested = serve("seedance2api", shape="flat"), serve("seedance2api", shape="nested")
    assert flat.status(flat.submit().json()["task_id"]).json()["status"] == "completed"
    assert flat.post("/seedream/generate", IMAGE).json()["images"][0]["url"]
    task = nested.status(nested.submit().json()["data"]["task_id"]).json()
    assert task["data"]["result"]["video_url"]
    assert nested.post("/seedream/generate", IMAGE).json()["data"]["images"][0]["url"]


@pytest.mark.parametrize(
    ("shape", "codes"),
    [
        ("documented", ["INVALID_PROMPT", "INVALID_REQUEST", "INVALID_API_KEY"]),
        ("flat", ["INVALID_REQUEST", "INVALID_REQUEST", "UNAUTHORIZED"]),
    ],
)
def test_both_vocabularies_of_errors(shape: str, codes: list[str], serve: Vendors) -> None:
    client = serve("seedance2api", shape=shape)
    replies = [
        client.post("/seedance/generate", {**VIDEO, "prompt": "x" * 301}),
        client.post("/seedance/generate", {**VIDEO, "duration": 99}),
        replace(client, key="wrong").submit(),
    ]
    assert [reply.json()["error"]["code"] for reply in replies] == codes
