"""The four fates of a submission, for every service, status and body."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import ALL_APIS, NOW, accepted, declined, fixture, image, reply, submit, video

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.messages import (
    Accepted,
    NotAccepted,
    Refused,
    TransportFailure,
    Uncertain,
)
from airflow_provider_seedance.apis.registry import get_api


def own_error(name: str, code: str = "SOME_CODE", message: str = "because") -> dict[str, Any]:
    """Return an error body as the service itself writes it."""
    return {
        "seedance2api": {"status": "error", "error": {"code": code, "message": message}},
        "seedanceapi-v1": {"code": code, "message": message},
        "seedanceapi-v2": {"code": code, "message": message},
        "runbase": {"error": {"code": code, "message": message}},
        "ark": {"error": {"code": code, "message": message, "param": "", "type": "Error"}},
        "fal": {"detail": message, "error_type": code},
        "openrouter": {"error": {"code": code, "message": message}},
        "replicate": {"title": code, "detail": message, "status": 503},
    }[name]


FOREIGN = {
    "html": b"<html><body>Service Unavailable</body></html>",
    "empty": b"",
    "json": {"message": "no healthy upstream"},
    "json status": {"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "d"},
    "list": [],
    "number": 503,
    "cut": b'{"status": "error", "error": {"code": "SERV',
    "binary": b"\xff\xfe\x00\x01",
}


@pytest.mark.parametrize("name", ALL_APIS)
class TestEveryService:
    def test_a_request_without_a_reply_may_be_repeated_only_if_it_never_left(self, name: str) -> None:
        for fate, sent in ((NotAccepted, False), (Uncertain, True)):
            error = declined(fate, name, TransportFailure("no answer", sent=sent))
            assert type(error) is errors.SeedanceConnectionError
            assert (error.method, error.retry_after) == ("POST", None)

    def test_a_429_may_be_repeated_with_any_body(self, name: str) -> None:
        for body in (None, *FOREIGN.values()):
            assert type(declined(NotAccepted, name, reply(429, body))) is errors.SeedanceRateLimitError

    def test_the_wait_after_too_many_requests(self, name: str) -> None:
        for headers, seconds in (
            ({}, None),
            ({"retry-after": "7"}, 7),
            ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
            ({"retry-after": "Sat, 07 Feb 2026 10:41:00 GMT"}, 60),
            ({"x-ratelimit-retryafter": "3600"}, 3600),
            ({"retry-after": "7", "x-ratelimit-retryafter": "3600"}, 7),
            ({"x-ratelimit-reset": str(int(NOW.timestamp()) + 90)}, 90),
        ):
            error = declined(NotAccepted, name, reply(429, own_error(name), headers))
            assert error.retry_after == seconds, headers

    def test_quota_headers_say_nothing_about_an_overloaded_service(self, name: str) -> None:
        headers = {"x-ratelimit-retryafter": "3600", "x-ratelimit-reset": "9999999999"}
        error = declined(NotAccepted, name, reply(503, own_error(name), headers))
        assert error.retry_after is None
        error = declined(NotAccepted, name, reply(503, own_error(name), {**headers, "retry-after": "3"}))
        assert error.retry_after == 3

    def test_unavailable_may_be_repeated_if_the_service_says_so_in_its_own_words(self, name: str) -> None:
        error = declined(NotAccepted, name, reply(503, own_error(name)))
        assert type(error) is errors.SeedanceServerError
        for body in FOREIGN.values():
            assert isinstance(submit(name, reply(503, body)), Uncertain), body

    def test_three_4xx_are_uncertain(self, name: str) -> None:
        for status in (408, 409, 425):
            for body in (own_error(name), b"<html>"):
                assert declined(Uncertain, name, reply(status, body)).http_status == status

    def test_every_other_4xx_is_a_refusal_with_any_body(self, name: str) -> None:
        for body in (None, own_error(name), b"<html>", {"id": "x", "task_id": "x"}):
            for status in (*range(400, 408), *range(410, 425), *range(426, 429), 430, 451, 499):
                error = declined(Refused, name, reply(status, body))
                assert (error.http_status, error.retry_helps) == (status, False), body

    def test_every_other_status_is_uncertain_with_any_body(self, name: str) -> None:
        redirects = (300, 301, 302, 303, 304, 307, 308)
        for body in (None, own_error(name), b"<html>", {"id": "x", "task_id": "x"}):
            for status in (100, *redirects, 500, 501, 502, 504, 505, 507, *range(520, 528), 530, 599, 600):
                assert isinstance(submit(name, reply(status, body)), Uncertain), (status, body)

    def test_an_unreadable_or_idless_2xx_is_uncertain_and_shows_the_body(self, name: str) -> None:
        bodies = (b"", b"<html>", b'{"id": "cut', b"null", b"[]", b'"accepted"', b"{}", b'{"ok": true}')
        for body in (*bodies, b"\xff\xfe"):
            for status in (200, 201, 202, 204):
                error = declined(Uncertain, name, reply(status, body))
                assert (type(error), error.http_status) == (errors.SeedanceServerError, status)
                assert body.decode(errors="replace") in error.message

    def test_an_empty_id_is_none(self, name: str) -> None:
        for value in ("", "  ", None, True, [], {}):
            ids = {"id": value, "task_id": value}
            body = {**ids, "run_id": value, "data": ids}
            assert isinstance(submit(name, reply(200, body)), Uncertain), body

    def test_an_id_is_acceptance(self, name: str) -> None:
        field = "task_id" if name.startswith("seedance") else get_api(name).id_fields[0]
        with_error = {field: "g1", "status": "queued", **own_error(name)}
        bodies = ({field: "g1"}, {"data": {field: "g1"}}, with_error, {field: "g1", "error": "deprecated"})
        for status in (200, 201, 202, 299):
            for body in bodies:
                generation = accepted(name, reply(status, body))
                assert generation.generation_id.removeprefix("bytedance:seedance-2.0:") == "g1"
                assert generation.api == name

    def test_the_services_error_shape_with_2xx_is_a_refusal(self, name: str) -> None:
        for code, cls in (
            ("SOME_CODE", errors.SeedanceRequestError),
            ("INTERNAL_ERROR", errors.SeedanceRequestError),
            ("SERVICE_UNAVAILABLE", errors.SeedanceRequestError),
            ("INVALID_API_KEY", errors.SeedanceAuthenticationError),
            ("UNAUTHORIZED", errors.SeedanceAuthenticationError),
            ("INSUFFICIENT_CREDITS", errors.SeedanceInsufficientCreditsError),
            ("FORBIDDEN", errors.SeedanceForbiddenError),
            ("RATE_LIMITED", errors.SeedanceRateLimitError),
            ("CONTENT_MODERATION_FAILED", errors.SeedanceModerationError),
            ("SENSITIVE_CONTENT", errors.SeedanceModerationError),
        ):
            error = declined(Refused, name, reply(200, own_error(name, code)))
            assert (type(error), error.vendor_code) == (cls, code)
            assert "because" in error.message

    def test_an_output_without_an_id_is_acceptance_under_a_local_id(self, name: str) -> None:
        url = "https://cdn.example.com/1.mp4"
        body = {
            "seedance2api": {"status": "success", "data": {"images": [{"url": url}]}},
            "seedanceapi-v1": {"code": 200, "data": {"status": "SUCCESS", "response": [url]}},
            "seedanceapi-v2": {"code": 200, "data": {"status": "SUCCESS", "response": [url]}},
            "runbase": {"status": "succeeded", "output": {"urls": [url]}},
            "ark": {"data": [{"url": url}], "created": 1770460200},
            "fal": {"status": "COMPLETED", "video": {"url": url}},
            "replicate": {"status": "succeeded", "output": url},
            "openrouter": {"status": "completed", "unsigned_urls": [url]},
        }[name]
        generation = accepted(name, reply(200, body))
        assert generation.generation_id.startswith("local-")
        assert generation.urls == (url,)
        assert generation.status.value == "succeeded"

        # Success without an output is only the beginning.
        body = {"id": "g1", "task_id": "g1", "request_id": "g1", "status": "success"}
        assert accepted(name, reply(200, body)).status.value == "queued"

    def test_messages_say_what_a_reply_without_an_error_of_the_service_means(self, name: str) -> None:
        blocked = declined(Refused, name, reply(403, b"error code: 1010"))
        assert type(blocked) is errors.SeedanceForbiddenError
        assert "edge of the network" in blocked.message
        assert "1010" in blocked.message
        redirect = reply(302, headers={"location": "https://elsewhere.example"})
        assert "not followed" in declined(Uncertain, name, redirect).message
        assert len(declined(Refused, name, reply(400, b"x" * 100_000)).message) < 600


def test_a_gateways_json_is_not_taken_for_the_services() -> None:
    for name, body in [
        ("seedance2api", {"error": "upstream failed"}),
        ("seedance2api", {"error": {"code": 503, "message": "no healthy upstream", "status": "UNAVAILABLE"}}),
        ("seedanceapi-v1", {"timestamp": "t", "status": 503, "error": "Service Unavailable", "path": "/v1"}),
        ("seedanceapi-v2", {"error": "upstream failed"}),
        ("runbase", {"error": "upstream failed"}),
        ("runbase", {"timestamp": "t", "status": 503, "error": "Service Unavailable", "path": "/runs"}),
        ("runbase", {"error": {"status": 503, "path": "/runs"}}),
        ("runbase", {"error": "Service Unavailable", "message": "down", "code": 503}),
        ("ark", {"error": "upstream failed"}),
        ("ark", {"error": {"code": 503, "message": "no healthy upstream", "status": "UNAVAILABLE"}}),
    ]:
        assert isinstance(submit(name, reply(503, body)), Uncertain)


@pytest.mark.parametrize("name", ["ark", "runbase"])
def test_an_error_whose_id_may_be_that_of_the_request_is_a_refusal(name: str) -> None:
    error = declined(Refused, name, reply(200, {"id": "req-1", **own_error(name)}))
    assert error.generation_id is None
    assert "because" in error.message
    output = {"output": {"urls": ["https://a.example/v.mp4"]}, "data": [{"url": "https://a.example/v.mp4"}]}
    for more in ({"status": "failed"}, output):
        assert isinstance(submit(name, reply(200, {"id": "g1", **own_error(name), **more})), Accepted)


@pytest.mark.parametrize("name", ["seedance2api", "ark"])
def test_the_fates_are_the_same_for_images(name: str) -> None:
    success = fixture("ark_image_success" if name == "ark" else "seedance2api_image_success")
    for answer, fate in [
        (reply(200, success), Accepted),
        (reply(429), NotAccepted),
        (reply(503, own_error(name)), NotAccepted),
        (reply(503, b"<html>"), Uncertain),
        (reply(400, own_error(name)), Refused),
        (reply(500, own_error(name)), Uncertain),
        (reply(200, {}), Uncertain),
        (TransportFailure("m", sent=True), Uncertain),
        (TransportFailure("m", sent=False), NotAccepted),
    ]:
        assert isinstance(submit(name, answer, image()), fate)


def test_an_image_task_without_images_is_polled() -> None:
    body = {"status": "success", "data": {"task_id": "t"}}
    generation = accepted("seedance2api", reply(200, body), image())
    assert generation.media == "image"
    assert not generation.status.terminal


def test_a_submission_that_failed_at_once_was_taken_all_the_same() -> None:
    generation = accepted("runbase", reply(201, {"id": "r1", "status": "failed", "error": "no luck"}))
    assert (generation.status.value, generation.error_message) == ("failed", "no luck")


def test_the_facts_of_the_request_fill_in_what_the_reply_leaves_out() -> None:
    created = reply(200, fixture("seedanceapi_v1_created"))
    generation = accepted("seedanceapi-v1", created, video(duration=8, resolution="480p"))
    assert (generation.duration, generation.resolution) == (8, "480p")
