"""OpenRouter, by its documents and its own client."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from helpers import accepted, body_of, connection, declined, image, prepare, read, refused, reply, video

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.messages import Refused
from airflow_provider_seedance.apis.openrouter import API
from airflow_provider_seedance.callbacks.payload import parse_payload
from airflow_provider_seedance.callbacks.signatures import verify_signature
from airflow_provider_seedance.generations import GenerationStatus
from airflow_provider_seedance.settings import read_settings

ID = "gen-vid-1770460200-abcdefghij0123456789"
PICTURE, SOUND = "https://a.example/1.png", "https://a.example/a.mp3"
PRO_15 = "bytedance/seedance-1-5-pro"
CONTENT = f"https://openrouter.ai/api/v1/videos/{ID}/content?index=0"
SIGNED = "https://storage.example/v.mp4?sig=1"
JOB: dict[str, Any] = {"id": ID, "polling_url": f"/api/v1/videos/{ID}", "status": "completed"}


def part(url: str, kind: str = "image_url", **more: str) -> dict[str, Any]:
    return {"type": kind, kind: {"url": url}, **more}


def test_a_body() -> None:
    for images, fields in [
        (PICTURE, {"frame_images": [part(PICTURE, frame_type="first_frame")]}),
        ([PICTURE] * 3, {"input_references": [part(PICTURE)] * 3}),
        (
            [{"url": PICTURE, "role": "last_frame"}, {"url": SOUND, "role": "reference_audio"}],
            {
                "frame_images": [part(PICTURE, frame_type="last_frame")],
                "input_references": [part(SOUND, "audio_url")],
            },
        ),
    ]:
        request = video(images=images, resolution="4k", seed=3)
        assert body_of("openrouter", request, callback_url="https://a.example/cb") == {
            "model": "bytedance/seedance-2.0",
            "prompt": "A lamp",
            "resolution": "4K",
            "seed": 3,
            "callback_url": "https://a.example/cb",
            **fields,
        }


def test_what_it_does_not_take_is_refused() -> None:
    for request_, problem in [
        (video(duration=16), "from 4 to 15"),
        (video(model="bytedance/seedance-2.0-fast", resolution="1080p"), "480p or 720p"),
        (video(model=PRO_15, resolution="4k"), "480p, 720p or 1080p"),
        (video(model="bytedance/seedance-2.5", aspect_ratio="9:21"), "21:9"),
        (video(fixed_lens=True), "fixed_lens"),
        (video(images=[{"url": PICTURE, "role": "first_frame"}] * 2), "given once"),
        (image(), "makes videos only"),
    ]:
        refused("openrouter", request_, problem)


def test_a_job() -> None:
    assert accepted("openrouter", reply(202, {**JOB, "status": "pending"})).generation_id == ID
    stored = {"unsigned_urls": [CONTENT], "urls": [SIGNED], "expires_at": 1770463800}
    done = read(API, {**JOB, **stored, "usage": {"cost": 0.5, "is_byok": False}})
    assert (done.status, done.urls, done.cost_usd) == (GenerationStatus.SUCCEEDED, (SIGNED,), 0.5)
    assert done.expires_at.timestamp() == 1770463800
    assert read(API, {**JOB, "unsigned_urls": [CONTENT]}).urls == (CONTENT,)
    failed = read(API, {**JOB, "status": "failed", "error": "too windy"})
    assert (failed.status, failed.error_message) == (GenerationStatus.FAILED, "too windy")
    assert not API.can_cancel


def test_errors_have_the_http_status_as_their_code() -> None:
    for status, more, cls in [
        (402, {}, errors.SeedanceInsufficientCreditsError),
        (403, {"metadata": {"reasons": ["violence"]}}, errors.SeedanceModerationError),
    ]:
        error = {"code": status, "message": "m", **more}
        assert type(declined(Refused, "openrouter", reply(status, {"error": error}))) is cls


def test_the_key_goes_to_the_service_alone() -> None:
    settings = read_settings("c", connection(extra={"api": "openrouter"}))
    assert settings.media_auth(CONTENT) == settings.auth()
    for other in (SIGNED, CONTENT.replace("https:", "http:"), CONTENT.replace(".ai/", ".ai.example/")):
        assert settings.media_auth(other) == {}
    ark = read_settings("c", connection(extra={"api": "ark"}))
    assert ark.media_auth(f"{ark.base_url}/x.mp4") == {}


def test_a_callback() -> None:
    body = (
        b'{"type": "video.generation.completed", "data": {"id": "%s", "status": "completed"}}' % ID.encode()
    )
    payload = parse_payload(API, body)
    assert (payload.generation_id, payload.ended) == (ID, True)
    extra = {"api": "openrouter", "callback_signature_secret": "whsec"}
    scheme = read_settings("c", connection(extra=extra)).callback_signing
    assert scheme is not None
    signature = hmac.digest(b"whsec", b"1000." + body, hashlib.sha256).hex()
    headers = {"x-openrouter-signature": f"t=1000,v1={signature}"}
    assert verify_signature(scheme, headers, body, 1200)
    assert not verify_signature(scheme, headers, body + b" ", 1000)
    assert not verify_signature(scheme, headers, body, 1301)
    assert read_settings("c", connection(extra={"api": "openrouter"})).callback_signing is None


def test_the_price_of_a_request() -> None:
    film = {"url": PICTURE, "role": "reference_video"}
    for changes, usd in [
        ({"model": "bytedance/seedance-2.5", "resolution": "480p", "duration": 4}, 0.415481),
        ({}, 0.7623),
        ({"resolution": "1080p"}, 1.886692),
        ({"model": PRO_15}, 0.26136),
        ({"model": PRO_15, "generate_audio": False}, 0.13068),
        ({"duration": None}, None),
        ({"resolution": None}, None),
        ({"images": [film]}, None),
        ({"extra_params": {"duration": 9}}, None),
        # A field of the service that costs nothing keeps the price.
        ({"extra_params": {"user": "team"}}, 0.7623),
    ]:
        arguments = {"aspect_ratio": "16:9", "resolution": "720p", "duration": 5, **changes}
        assert prepare("openrouter", video(**arguments)).price.cost_usd == usd


def test_a_field_of_the_service_that_changes_the_price_leaves_it_open() -> None:
    arguments = {"aspect_ratio": "16:9", "resolution": "720p", "duration": 5, "generate_audio": False}
    for extra in [
        {"model": "bytedance/seedance-2.5"},
        {"size": "1920x1080"},
        {"aspect_ratio": "1:1"},
        {"generate_audio": True},
        {"input_references": [part(PICTURE, "video_url")]},
        {"provider": {"options": {"seed": {"parameters": {"duration": 12}}}}},
    ]:
        prepared = prepare("openrouter", video(model=PRO_15, extra_params=extra, **arguments))
        assert prepared.price.cost_usd is None
        assert prepared.result_defaults.usd_per_million_tokens is None
