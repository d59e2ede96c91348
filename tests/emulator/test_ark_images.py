from __future__ import annotations

import base64
from typing import Any

import httpx

from airflow_provider_seedance.emulator.placeholder_media import TINY_FILES
from emulator.vendor import ARK_TASKS, Vendor

PICTURE = "https://x.example/a.png"
GROUP = {"sequential_image_generation": "auto", "sequential_image_generation_options": {"max_images": 4}}


def make(ark: Vendor, **body: Any) -> httpx.Response:
    return ark.post("/images/generations", {"model": "seedream-4-0-250828", "prompt": "a red kite", **body})


def test_one_image(ark: Vendor) -> None:
    body = make(ark, size="1K").json()
    assert set(body) == {"model", "created", "data", "usage"}
    [item] = body["data"]
    assert item["size"] == "1024x1024"
    assert ark.http.get(item["url"]).content == TINY_FILES["jpeg"]
    assert body["usage"]["generated_images"] == 1
    assert ark.emulator.ledger.submissions[0].media == "image"
    # It is not listed as a task.
    assert ark.status(ark.emulator.generations[0].id).status_code == 404
    assert ark.get(ARK_TASKS).json()["total"] == 0


def test_a_group_with_references(ark: Vendor) -> None:
    body = make(ark, image=[PICTURE, "data:image/png;base64,AAAA"], **GROUP).json()
    assert len({item["url"] for item in body["data"]}) == 4
    assert body["usage"]["input_images"] == 2


def test_base64(ark: Vendor) -> None:
    [item] = make(ark, response_format="b64_json").json()["data"]
    assert base64.b64decode(item["b64_json"]) == TINY_FILES["jpeg"]


def test_images_that_fail(ark: Vendor) -> None:
    code = "OutputImageSensitiveContentDetected"
    ark.emulator.fault("fail", code=code, message="no", items=[1])
    body = make(ark, **GROUP).json()
    assert ["error" in item for item in body["data"]] == [False, True, False, False]
    assert body["data"][1]["error"]["code"] == code
    assert body["usage"]["generated_images"] == 3
    billed = ark.emulator.ledger.billed
    ark.emulator.fault("fail", code=code, message="no")
    reply = make(ark)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, code)
    assert ark.emulator.ledger.billed == billed


def test_stream(ark: Vendor) -> None:
    reply = make(ark, stream=True)
    assert reply.headers["content-type"] == "text/event-stream"
    events = [line for line in reply.text.splitlines() if line.startswith("event: ")]
    assert events == ["event: image_generation.partial_succeeded", "event: image_generation.completed"]


def test_fields_are_strict(ark: Vendor) -> None:
    for body in [
        {"prompt": ""}, {"size": "3K"}, {"size": "100x100"}, {"size": "9000x100"}, {"image": "a.png"},
        {"image": [PICTURE] * 15}, {"response_format": "xml"}, {"output_format": "gif"},
        {"sequential_image_generation": "yes"}, {"n": 2}, {"seed": "1"}, {"guidance_scale": True},
        {"stream": "yes"}, {"optimize_prompt_options": {"speed": 1}}, {"tools": ["web_search"]},
        # References and outputs are bounded together.
        {"image": [PICTURE] * 12, **GROUP},
    ]:  # fmt: skip
        reply = make(ark, **body)
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "InvalidParameter"
        assert ark.emulator.ledger.submissions == []
    assert make(ark, model="seedance-1-0-pro-250528").status_code == 404
