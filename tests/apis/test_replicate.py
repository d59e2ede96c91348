"""Replicate, by its documents and its own client."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

from helpers import accepted, body_of, call_for, declined, image, read, refused, reply, video

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.messages import Refused
from airflow_provider_seedance.apis.parsing import is_moderation
from airflow_provider_seedance.apis.replicate import API
from airflow_provider_seedance.generations import GenerationStatus

PICTURE = "https://a.example/1.png"
OTHER = "https://a.example/2.png"
FILE = "https://replicate.delivery/xezq/video.mp4"
PREDICTION: dict[str, Any] = {
    "id": "gm3q",
    "model": "bytedance/seedance-2.0",
    "version": "hidden",
    "input": {"prompt": "A lamp"},
    "logs": "",
    "output": None,
    "data_removed": False,
    "error": None,
    "status": "starting",
    "created_at": "2026-02-07T10:30:00.765994Z",
    "urls": {"get": "https://api.replicate.com/v1/predictions/gm3q"},
}


def test_a_video_is_a_prediction_of_its_model() -> None:
    call = call_for("replicate", video(duration=-1, aspect_ratio="adaptive", generate_audio=True, seed=3))
    assert (call.method, call.path) == ("POST", "/models/bytedance/seedance-2.0/predictions")
    sent = {"prompt": "A lamp", "duration": -1, "aspect_ratio": "adaptive", "generate_audio": True, "seed": 3}
    assert call.json == {"input": sent}


def test_a_version_is_named_in_the_body() -> None:
    call = call_for("replicate", video(model="team/seedance:abc123", extra_params={"a": 1}))
    assert call.path == "/predictions"
    assert call.json == {"version": "abc123", "input": {"prompt": "A lamp", "a": 1}}


def test_inputs() -> None:
    for images, fields in [
        (PICTURE, {"image": PICTURE}),
        ([PICTURE, OTHER], {"image": PICTURE, "last_frame_image": OTHER}),
        ([{"url": OTHER, "role": "last_frame"}, PICTURE], {"image": PICTURE, "last_frame_image": OTHER}),
        ([PICTURE, OTHER, PICTURE], {"reference_images": [PICTURE, OTHER, PICTURE]}),
        (
            [{"url": "https://a.example/a.mp3", "role": "reference_audio"}, PICTURE],
            {"reference_audios": ["https://a.example/a.mp3"], "reference_images": [PICTURE]},
        ),
    ]:
        assert body_of("replicate", video(images=images))["input"] == {"prompt": "A lamp", **fields}


def test_images() -> None:
    call = call_for("replicate", image(num_images=3, resolution="2048x1024", images=PICTURE))
    assert call.path == "/models/bytedance/seedream-4.5/predictions"
    assert call.json == {
        "input": {
            "prompt": "A lamp",
            "size": "custom",
            "width": 2048,
            "height": 1024,
            "sequential_image_generation": "auto",
            "max_images": 3,
            "image_input": [PICTURE],
        }
    }
    one = body_of("replicate", image(resolution="4K", num_images=1))
    assert one["input"] == {"prompt": "A lamp", "size": "4K"}


def test_what_no_model_takes_is_refused() -> None:
    for request_, problem in [
        (video(duration=16), "from 4 to 15"),
        (video(model="bytedance/seedance-1-pro", duration=15), "from 2 to 12"),
        (video(model="bytedance/seedance-1-pro", generate_audio=True), "generate_audio"),
        (video(fps=24), "fps"),
        (video(model="seedance-2.0"), "owner/name"),
        (video(images={"url": PICTURE, "role": "last_frame"}), "one first_frame"),
        (video(images=[PICTURE, {"url": OTHER, "role": "first_frame"}] * 2), "cannot be mixed"),
        (image(seed=1), "seed"),
    ]:
        refused("replicate", request_, problem)


def test_the_callback_is_for_the_end_alone() -> None:
    body = body_of("replicate", video(), callback_url="https://a.example/cb", correlation="c")
    assert body == {
        "input": {"prompt": "A lamp"},
        "webhook": "https://a.example/cb",
        "webhook_events_filter": ["completed"],
    }


def test_statuses() -> None:
    for word, status in [
        ("starting", GenerationStatus.QUEUED),
        ("processing", GenerationStatus.RUNNING),
        ("failed", GenerationStatus.FAILED),
        ("canceled", GenerationStatus.CANCELLED),
        ("aborted", GenerationStatus.CANCELLED),
    ]:
        generation = read(API, {**PREDICTION, "status": word})
        assert generation.status is status
        # A prediction that is cancelled while it runs is billed.
        assert API.may_cancel(generation) is (word == "starting")
    call = API.cancel_call("gm3q")
    assert (call.method, call.path, call.kind) == ("POST", "/predictions/gm3q/cancel", "cancel")


def test_outputs_are_gone_an_hour_after_the_end() -> None:
    ended = {**PREDICTION, "status": "succeeded", "output": FILE, "completed_at": "2026-02-07T10:35:00Z"}
    generation = read(API, ended)
    assert (generation.url, generation.model) == (FILE, "bytedance/seedance-2.0")
    assert generation.expires_at.isoformat() == "2026-02-07T11:35:00+00:00"
    assert read(API, {**ended, "output": [FILE, FILE]}).urls == (FILE, FILE)


def test_a_failure_with_a_code() -> None:
    said = "The input or output was flagged as sensitive. Please try again with different inputs. (E005)"
    failed = read(API, {**PREDICTION, "status": "failed", "error": said})
    assert (failed.error_code, failed.error_message, is_moderation(said)) == ("E005", said, True)


def test_errors() -> None:
    problem = {"title": "Insufficient credit", "detail": "You have insufficient credit.", "status": 402}
    error = declined(Refused, "replicate", reply(402, problem))
    assert type(error) is errors.SeedanceInsufficientCreditsError
    assert "insufficient credit" in error.message
    assert accepted("replicate", reply(201, PREDICTION)).generation_id == "gm3q"


def test_the_signature_of_a_callback() -> None:
    secret = b"0123456789abcdef"
    keys = {"key": "whsec_" + base64.b64encode(secret).decode()}
    digest = hmac.digest(secret, b"msg_1.1000.{}", hashlib.sha256)
    signature = f"v1,AAAA v1,{base64.b64encode(digest).decode()}"
    headers = {"webhook-id": "msg_1", "webhook-timestamp": "1000", "webhook-signature": signature}
    assert API.is_signed(keys, headers, b"{}", 1299)
    assert not API.is_signed(keys, headers, b"{} ", 1000)
    assert not API.is_signed(keys, headers, b"{}", 1301)
    assert not API.is_signed(keys, {**headers, "webhook-id": "msg_2"}, b"{}", 1000)
    assert not API.is_signed(keys, {}, b"{}", 1000)
    for none in ({}, {"key": "whsec_"}, {"key": "whsec_A"}, {"key": None}):
        assert not API.is_signed(none, headers, b"{}", 1000)
