from __future__ import annotations

import pytest

from airflow_provider_seedance.emulator.services.seedanceapi import V1_PRICES
from emulator.vendor import Vendor, Vendors


@pytest.fixture
def v1(vendor: Vendors) -> Vendor:
    return vendor("seedanceapi-v1")


@pytest.fixture
def v2(vendor: Vendors) -> Vendor:
    return vendor("seedanceapi-v2")


def test_v1_from_submit_to_result(v1: Vendor) -> None:
    created = v1.post("/generate", {"prompt": "kite"}).json()
    assert (created["code"], created["message"]) == (200, "success")
    assert set(created["data"]) == {"task_id", "status"}
    assert created["data"]["status"] == "IN_PROGRESS"
    data = v1.status(created["data"]["task_id"]).json()["data"]
    fields = "task_id status consumed_credits created_at request response error_message"
    assert set(data) == set(fields.split())
    assert data["status"] == "SUCCESS"
    assert data["consumed_credits"] == 28
    defaults = {"aspect_ratio": "1:1", "resolution": "720p", "duration": "8"}
    assert data["request"] == {"prompt": "kite", **defaults}
    assert v1.http.get(data["response"][0]).status_code == 200


def test_v1_prices(v1: Vendor) -> None:
    for (resolution, duration, audio), price in V1_PRICES.items():
        body = {"prompt": "kite", "resolution": resolution, "duration": duration, "generate_audio": audio}
        v1.post("/generate", body).raise_for_status()
        assert v1.emulator.ledger.submissions[-1].billed == price


def test_v1_is_strict(v1: Vendor) -> None:
    for change, code in [
        ({"prompt": ""}, "INVALID_PROMPT"),
        ({"prompt": "x" * 2001}, "INVALID_PROMPT"),
        ({"aspect_ratio": "2:1"}, "INVALID_ASPECT_RATIO"),
        ({"resolution": "1080p"}, "INVALID_RESOLUTION"),
        ({"duration": 8}, "INVALID_DURATION"),
        ({"duration": "5"}, "INVALID_DURATION"),
        ({"image_urls": ["https://x.example/a.png"] * 2}, "TOO_MANY_IMAGES"),
        ({"image_urls": "https://x.example/a.png"}, "INVALID_REQUEST"),
        ({"generate_audio": "true"}, "INVALID_REQUEST"),
        ({"fixed_lens": 1}, "INVALID_REQUEST"),
        ({"model": "seedance-2.0"}, "INVALID_REQUEST"),
        ({"callback_url": "ftp://x.example"}, "INVALID_REQUEST"),
        ({"callback_url": "http://192.168.1.1/x"}, "INVALID_REQUEST"),
    ]:
        reply = v1.post("/generate", {"prompt": "kite", **change})
        assert (reply.status_code, reply.json()["code"]) == (400, code)


def test_v1_accepts_everything_documented(v1: Vendor) -> None:
    body = {
        "prompt": "x" * 2000,
        "aspect_ratio": "9:21",
        "resolution": "480p",
        "duration": "12",
        "generate_audio": True,
        "fixed_lens": True,
        "image_urls": ["https://x.example/a.png"],
        "callback_url": "https://x.example/hook",
    }
    v1.emulator.hold()
    assert v1.post("/generate", body).status_code == 200
    assert v1.emulator.ledger.submissions[0].callback_url == "https://x.example/hook"


def test_errors(v1: Vendor, serve: Vendors) -> None:
    assert v1.status("unknown-id").json()["code"] == "TASK_NOT_FOUND"
    assert v1.get("/status").status_code == 400
    poor = serve("seedanceapi-v1", credits=10).submit()
    assert (poor.status_code, poor.json()["code"]) == (402, "INSUFFICIENT_CREDITS")


def test_a_failed_task_is_a_200(v1: Vendor) -> None:
    v1.emulator.fault("fail", message="too windy")
    reply = v1.status(v1.submit_id())
    assert reply.status_code == 200
    data = reply.json()["data"]
    assert (data["status"], data["error_message"], data["response"]) == ("FAILED", "too windy", [])


def test_v2_from_submit_to_result(v2: Vendor) -> None:
    body = {"model": "seedance-2.0", "prompt": "kite", "duration": 10, "aspect_ratio": "9:16"}
    created = v2.post("/generate", body).json()
    data = v2.status(created["data"]["task_id"]).json()["data"]
    assert data["status"] == "SUCCESS"
    assert data["request"] == body
    assert data["response"][0].endswith(data["response"][0].partition("/_media/")[2])


def test_v2_is_strict(v2: Vendor) -> None:
    for change, code in [
        ({"model": "seedance-3"}, "INVALID_REQUEST"),
        ({"duration": "5"}, "INVALID_DURATION"),
        ({"duration": 8}, "INVALID_DURATION"),
        ({"aspect_ratio": "1:1"}, "INVALID_ASPECT_RATIO"),
        ({"images": []}, "INVALID_REQUEST"),
        ({"images": ["https://x.example/a.png"] * 5}, "TOO_MANY_IMAGES"),
        ({"images": ["http://x.example/a.png"]}, "INVALID_REQUEST"),
        ({"image_urls": ["https://x.example/a.png"]}, "INVALID_REQUEST"),
        ({"fixed_lens": 1}, "INVALID_REQUEST"),
        ({"seed": 1}, "INVALID_REQUEST"),
    ]:
        reply = v2.post("/generate", {"model": "seedance-2.0", "prompt": "kite", **change})
        assert (reply.status_code, reply.json()["code"]) == (400, code)


def test_v2_accepts_undocumented_fields_of_clients(v2: Vendor) -> None:
    body = {
        "model": "seedance-2.0-fast",
        "prompt": "kite",
        "images": ["https://x.example/a.png", f"{v2.emulator.url}/_media/a/0.png"],
        "resolution": "1080p",
        "generate_audio": True,
        "fixed_lens": True,
    }
    assert v2.post("/generate", body).status_code == 200


def test_the_versions_do_not_share_tasks(v1: Vendor, v2: Vendor) -> None:
    assert v2.status(v1.submit_id()).status_code == 404


def test_other_shapes(serve: Vendors) -> None:
    flat, nested = serve("seedanceapi-v2", shape="flat"), serve("seedanceapi-v2", shape="nested")
    task = flat.status(flat.submit_id()).json()
    assert task["video_url"] == task["response"][0]
    assert flat.status("unknown-id").json()["error"]["code"] == "TASK_NOT_FOUND"
    assert nested.submit().json()["code"] == 0
    assert nested.status("unknown-id").json()["code"] == 404
