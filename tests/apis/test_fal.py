"""fal.ai, by its documents and its own client."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from helpers import (
    NOW,
    accepted,
    body_of,
    call_for,
    calls,
    declined,
    drive,
    failed_read,
    image,
    prepare,
    refused,
    reply,
    video,
)

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.fal import API
from airflow_provider_seedance.apis.messages import Refused
from airflow_provider_seedance.generations import Generation, GenerationStatus

TEXT = "bytedance/seedance-2.0/text-to-video"
FRAMES = "bytedance/seedance-2.0/image-to-video"
PRO_15 = "fal-ai/bytedance/seedance/v1.5/pro/text-to-video"
ID = "bytedance:seedance-2.0:r1"
PICTURE, OTHER, FILM = "https://a.example/1.png", "https://a.example/2.png", "https://a.example/v.mp4"
COMPLETED = {"status": "COMPLETED", "request_id": "r1", "logs": None, "metrics": {"inference_time": 8.5}}


def read(*answers: tuple[int, Any]) -> Generation:
    replies = [reply(status, body) for status, body in answers]
    generation: Generation = drive(API.status_flow(ID, "video", NOW), replies)[0]
    return generation


def test_a_video_is_submitted_to_its_endpoint() -> None:
    call = call_for("fal", video(duration=5, resolution="1080p", aspect_ratio="auto", generate_audio=False))
    assert (call.method, call.path, call.query) == ("POST", f"/{TEXT}", ())
    assert call.json == {
        "prompt": "A lamp",
        "duration": "5",
        "resolution": "1080p",
        "aspect_ratio": "auto",
        "generate_audio": False,
    }
    assert API.url_of(call, API.default_base_url) == f"https://queue.fal.run/{TEXT}"


def test_the_inputs_decide_about_the_endpoint() -> None:
    for images, endpoint, fields in [
        (PICTURE, FRAMES, {"image_url": PICTURE}),
        ([PICTURE, OTHER], FRAMES, {"image_url": PICTURE, "end_image_url": OTHER}),
        (
            [{"url": PICTURE, "role": "reference_image"}, {"url": FILM, "role": "reference_video"}],
            "bytedance/seedance-2.0/reference-to-video",
            {"image_urls": [PICTURE], "video_urls": [FILM]},
        ),
    ]:
        call = call_for("fal", video(images=images))
        assert (call.path, call.json) == (f"/{endpoint}", {"prompt": "A lamp", **fields})


def test_images_have_sizes_by_name_or_in_pixels() -> None:
    assert body_of("fal", image(resolution="1536x2048", num_images=2)) == {
        "prompt": "A lamp",
        "num_images": 2,
        "image_size": {"width": 1536, "height": 2048},
    }
    call = call_for("fal", image(resolution="auto_4K", images=PICTURE))
    assert call.path == "/fal-ai/bytedance/seedream/v4.5/edit"
    assert call.json == {"prompt": "A lamp", "image_size": "auto_4K", "image_urls": [PICTURE]}


def test_what_no_endpoint_takes_is_refused() -> None:
    for request_, problem in [
        (video(duration=16), "from 4 to 15"),
        (video(model="bytedance/seedance-2.5/text-to-video", resolution="1080p"), "480p or 720p"),
        (video(model="bytedance/seedance-2.0/fast/text-to-video", resolution="1080p"), "480p or 720p"),
        (video(fixed_lens=True), "fixed_lens"),
        (video(fps=24), "fps"),
        (video(model=TEXT, images=PICTURE), "takes none"),
        (video(model=FRAMES), "needs one"),
        (video(model=FRAMES, images=[PICTURE] * 3), "a first frame, and a last frame"),
        (video(model="seedance-2.0"), "not the id of an endpoint"),
        (image(resolution="8K"), "auto_2K"),
        (image(num_images=7), "from 1 to 6"),
    ]:
        refused("fal", request_, problem)


def test_the_callback_url_is_in_the_query_and_the_correlation_value_in_the_body() -> None:
    call = call_for("fal", video(), callback_url="https://a.example/cb?x=1", correlation="airflow-1")
    assert call.query == (("fal_webhook", "https://a.example/cb?x=1"),)
    assert call.json == {"prompt": "A lamp", "end_user_id": "airflow-1"}
    assert API.correlates(prepare("fal", video()).request)
    for other in (video(model=PRO_15), video(extra_params={"end_user_id": "u"}), image()):
        assert not API.correlates(prepare("fal", other).request)


def test_the_id_names_app_and_request() -> None:
    body = {"status": "IN_QUEUE", "request_id": "r1", "queue_position": 3}
    generation = accepted("fal", reply(200, body))
    assert (generation.generation_id, generation.status) == (ID, GenerationStatus.QUEUED)
    # The paths that the service returns win.
    body["response_url"] = "https://queue.fal.run/workflows/team/flow/requests/r1"
    assert accepted("fal", reply(200, body)).generation_id == "workflows:team:flow:r1"
    assert API.status_call("workflows:team:flow:r1").path == "/workflows/team/flow/requests/r1/status"
    assert API.full_id("r1", TEXT) == API.full_id(ID, TEXT) == ID


def test_a_completed_request_has_its_result_at_an_address_of_its_own() -> None:
    script = [reply(200, COMPLETED), reply(200, {"video": {"url": PICTURE}, "seed": 3})]
    generation, steps = drive(API.status_flow(ID, "video", NOW), script)
    assert (generation.status, generation.url) == (GenerationStatus.SUCCEEDED, PICTURE)
    assert [call.path for call in calls(steps)] == [
        "/bytedance/seedance-2.0/requests/r1/status",
        "/bytedance/seedance-2.0/requests/r1",
    ]


def test_a_request_in_progress_is_answered_with_202() -> None:
    for word, status in [("IN_QUEUE", GenerationStatus.QUEUED), ("IN_PROGRESS", GenerationStatus.RUNNING)]:
        generation = read((202, {"status": word, "queue_position": 0}))
        assert generation.status is status
        assert API.may_cancel(generation) is (word == "IN_QUEUE")
    assert (API.cancel_call(ID).method, API.cancel_call(ID).kind) == ("PUT", "cancel")


def test_a_result_that_is_an_error_is_the_failure_of_the_generation() -> None:
    flagged = {"loc": ["body", "prompt"], "msg": "flagged", "type": "content_policy_violation"}
    failed = read((200, COMPLETED), (422, {"detail": [flagged]}))
    assert (failed.status, failed.error_code) == (GenerationStatus.FAILED, "422.content_policy_violation")
    assert failed.error_message == "body.prompt: flagged"
    assert read((200, COMPLETED), (400, {"detail": "no"})).error_code == "400"
    internal = {"detail": [{"type": "internal_server_error", "msg": "m"}]}
    assert read((200, COMPLETED), (500, internal)).status is GenerationStatus.FAILED
    stated = read((200, {**COMPLETED, "error": "Request timed out", "error_type": "request_timeout"}))
    assert (stated.status, stated.error_code) == (GenerationStatus.FAILED, "request_timeout")


def test_a_result_that_cannot_be_read_proves_nothing() -> None:
    for status, cls in [
        (401, errors.SeedanceAuthenticationError),
        (404, errors.SeedanceNotFoundError),
        (429, errors.SeedanceRateLimitError),
        (502, errors.SeedanceServerError),
    ]:
        assert type(failed_read("fal", reply(200, COMPLETED), reply(status, b"<html>"))) is cls


def test_a_locked_account_has_no_credits() -> None:
    locked = "User is locked. Reason: Exhausted balance. Top up your balance."
    for detail, cls in [
        (locked, errors.SeedanceInsufficientCreditsError),
        ("no", errors.SeedanceForbiddenError),
    ]:
        assert type(declined(Refused, "fal", reply(403, {"detail": detail}))) is cls


def test_a_lost_submission_is_found_by_its_value_alone() -> None:
    other, own = (
        {"request_id": f"r{number}", "endpoint_id": TEXT, "json_input": {"end_user_id": user}}
        for number, user in enumerate(("airflow-10", "airflow-1"))
    )
    first_page = {"items": [other, {"request_id": "r9"}], "has_more": True, "next_cursor": "Mg=="}
    pages = [reply(200, first_page), reply(200, {"items": [own], "has_more": False})]
    found, steps = drive(API.look_up_flow("airflow-1", NOW, NOW), pages)
    assert found == ID
    first, second = calls(steps)
    assert API.url_of(first, API.default_base_url) == "https://api.fal.ai/v1/models/requests/by-endpoint"
    # A relay, or the emulator, has everything at its own address.
    assert API.url_of(first, "http://relay/fal") == "http://relay/fal/v1/models/requests/by-endpoint"
    query = dict(second.query)
    assert (query["cursor"], query["expand"]) == ("Mg==", "payloads")
    assert query["start"] == (NOW - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert drive(API.look_up_flow("other", NOW, NOW), [reply(200, {"items": []})])[0] is None


def test_published_prices() -> None:
    for request_, usd in [
        (video(duration=10), 3.034),
        (video(duration=10, resolution="480p"), 1.406),
        (video(model=PRO_15), 0.2592),
        (video(model=PRO_15, generate_audio=False), 0.1296),
        (image(num_images=3), 0.12),
        # Its length is the model's choice.
        (video(), None),
        (video(duration=10, extra_params={"resolution": "1080p"}), None),
        (video(model="bytedance/seedance-2.0/us/text-to-video", duration=10), None),
    ]:
        assert prepare("fal", request_).price.cost_usd == usd


def test_the_signature_of_a_callback() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    public = [
        urlsafe_b64encode(each.public_key().public_bytes_raw()).decode().rstrip("=") for each in (other, key)
    ]
    keys = {"keys": [{"kty": "OKP", "x": "rubbish"}, 5, *({"kty": "OKP", "x": x} for x in public)]}
    values = {"request-id": "r1", "user-id": "u1", "timestamp": "1000"}
    message = "\n".join((*values.values(), hashlib.sha256(b"{}").hexdigest()))
    values["signature"] = key.sign(message.encode()).hex()
    headers = {f"x-fal-webhook-{name}": value for name, value in values.items()}
    assert API.is_signed(keys, headers, b"{}", 1299)
    assert not API.is_signed(keys, headers, b"{} ", 1000)
    assert not API.is_signed(keys, headers, b"{}", 1301)
    assert not API.is_signed(keys, {**headers, "x-fal-webhook-user-id": "u2"}, b"{}", 1000)
    assert not API.is_signed(keys, {**headers, "x-fal-webhook-signature": "zz"}, b"{}", 1000)
    assert not API.is_signed(keys, {}, b"{}", 1000)
    for none in ({}, {"keys": []}, {"keys": keys["keys"][2:3]}):
        assert not API.is_signed(none, headers, b"{}", 1000)
