from __future__ import annotations

import base64
from typing import Any

import httpx

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.emulator.placeholder_media import TINY_FILES
from emulator.vendor import Vendor

MODEL = "seedream-4-0-250828"


def make(ark: Vendor, **body: Any) -> httpx.Response:
    return ark.post("/images/generations", {"model": MODEL, "prompt": "a red kite", **body})


def test_one_image(ark: Vendor, emulator: SeedanceEmulator) -> None:
    body = make(ark, size="1K").json()
    assert set(body) == {"model", "created", "data", "usage"}
    [item] = body["data"]
    assert item["size"] == "1024x1024"
    assert ark.http.get(item["url"]).content == TINY_FILES["jpeg"]
    assert body["usage"]["generated_images"] == 1
    assert emulator.ledger.submissions[0].media == "image"


def test_a_group_with_references(ark: Vendor) -> None:
    body = make(
        ark,
        image=["https://x.example/a.png", "data:image/png;base64,AAAA"],
        sequential_image_generation="auto",
        sequential_image_generation_options={"max_images": 4},
    ).json()
    assert len({item["url"] for item in body["data"]}) == 4
    assert body["usage"]["input_images"] == 2


def test_base64(ark: Vendor) -> None:
    [item] = make(ark, response_format="b64_json").json()["data"]
    assert base64.b64decode(item["b64_json"]) == TINY_FILES["jpeg"]


def test_one_image_of_a_group_fails(ark: Vendor, emulator: SeedanceEmulator) -> None:
    emulator.fault("fail", code="OutputImageSensitiveContentDetected", message="no", items=[1])
    options = {"max_images": 3}
    body = make(ark, sequential_image_generation="auto", sequential_image_generation_options=options).json()
    assert ["error" in item for item in body["data"]] == [False, True, False]
    assert body["data"][1]["error"]["code"] == "OutputImageSensitiveContentDetected"
    assert body["usage"]["generated_images"] == 2


def test_all_fail(ark: Vendor, emulator: SeedanceEmulator) -> None:
    emulator.fault("fail", code="OutputImageSensitiveContentDetected", message="no")
    reply = make(ark)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "OutputImageSensitiveContentDetected"
    assert emulator.ledger.billed == 0


def test_stream(ark: Vendor) -> None:
    reply = make(ark, stream=True)
    assert reply.headers["content-type"] == "text/event-stream"
    events = [line for line in reply.text.splitlines() if line.startswith("event: ")]
    assert events == ["event: image_generation.partial_succeeded", "event: image_generation.completed"]


def test_image_generations_are_not_listed_as_tasks(ark: Vendor, emulator: SeedanceEmulator) -> None:
    make(ark)
    assert ark.status(emulator.generations[0].id).status_code == 404
    assert ark.get("/contents/generations/tasks").json()["total"] == 0


def test_fields_are_strict(ark: Vendor, emulator: SeedanceEmulator) -> None:
    for body in [
        {"prompt": ""}, {"size": "3K"}, {"size": "100x100"}, {"size": "9000x100"}, {"image": "a.png"},
        {"image": ["https://x.example/a.png"] * 15}, {"response_format": "xml"}, {"output_format": "gif"},
        {"sequential_image_generation": "yes"}, {"n": 2}, {"seed": "1"}, {"guidance_scale": True},
        {"stream": "yes"}, {"optimize_prompt_options": {"speed": 1}}, {"tools": ["web_search"]},
    ]:  # fmt: skip
        reply = make(ark, **body)
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "InvalidParameter"
        assert emulator.ledger.submissions == []


def test_references_and_outputs_are_bounded_together(ark: Vendor) -> None:
    reply = make(
        ark,
        image=["https://x.example/a.png"] * 10,
        sequential_image_generation="auto",
        sequential_image_generation_options={"max_images": 6},
    )
    assert reply.status_code == 400


def test_unknown_models(ark: Vendor) -> None:
    assert make(ark, model="seedance-1-0-pro-250528").status_code == 404
