"""The steps of reading a reply, and the values of requests and replies."""

from __future__ import annotations

import tracemalloc

from airflow_provider_seedance.apis import parsing
from airflow_provider_seedance.apis.messages import HttpCall, HttpReply
from airflow_provider_seedance.apis.registry import get_api


def test_values() -> None:
    for read, value, found in [
        (parsing.unwrap, {"data": {"a": 1}, "b": 2}, {"a": 1}),
        (parsing.unwrap, {"data": [], "b": 2}, {"data": [], "b": 2}),
        (parsing.unwrap, {"b": 2}, {"b": 2}),
        (parsing.strings, "a", ("a",)),
        (parsing.strings, ["a", "", 5, None, "b"], ("a", "b")),
        *[(parsing.strings, value, ()) for value in (None, {}, "")],
        (parsing.urls, "a", ("a",)),
        (
            parsing.urls,
            ["a", {"url": "b"}, {"video_url": "c"}, 5, None, "", {}, {"url": 5}, ["d"]],
            ("a", "b", "c"),
        ),
        (parsing.urls, {"url": "b"}, ("b",)),
        (parsing.urls, {"url": ["b", "c"]}, ("b", "c")),
        *[(parsing.urls, value, ()) for value in (None, "", {}, 5)],
        (parsing.text, "a", "a"),
        (parsing.text, 5, "5"),
        *[(parsing.text, value, None) for value in ("", True, None, [])],
        *[
            (parsing.is_moderation, code, True)
            for code in ("InputTextSensitiveContentDetected", "SENSITIVE_CONTENT", "content_policy_violation")
        ],
        *[(parsing.is_moderation, code, True) for code in ("NSFW", "ContentModeration")],
        *[(parsing.is_moderation, code, False) for code in ("INVALID_PROMPT", None)],
    ]:
        assert read(value) == found


def test_outputs_may_be_objects() -> None:
    for api, body in [
        ("seedanceapi-v1", {"status": "SUCCESS", "response": [{"url": "https://a.example/v.mp4"}]}),
        ("seedanceapi-v2", {"status": "SUCCESS", "response": [{"video_url": "https://a.example/v.mp4"}]}),
        ("runbase", {"status": "succeeded", "output": {"urls": [{"url": "https://a.example/v.mp4"}]}}),
        ("runbase", {"status": "succeeded", "output": [{"url": "https://a.example/v.mp4"}]}),
        ("ark", {"status": "succeeded", "content": {"video_url": {"url": "https://a.example/v.mp4"}}}),
        (
            "seedance2api",
            {"status": "completed", "result": {"video_url": [{"url": "https://a.example/v.mp4"}]}},
        ),
    ]:
        assert get_api(api).outputs(body) == ("https://a.example/v.mp4",)


def test_local_ids_depend_on_the_content_alone() -> None:
    first = parsing.local_id({"a": 1, "b": [2]})
    assert first == parsing.local_id({"b": [2], "a": 1})
    assert first != parsing.local_id({"a": 1, "b": [3]})
    assert first.startswith("local-")
    assert len(first) == 30


def test_a_body_other_than_json_reads_as_none() -> None:
    for body in [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000]:
        assert HttpReply(200, body=body).json is None


def test_an_excerpt_is_one_short_line() -> None:
    assert HttpReply(200, body=b"a\r\n b\xff" + b"c" * 1000).excerpt(10) == "a b\ufffdcccccc…"


def test_of_a_long_message_only_the_beginning_is_taken_apart() -> None:
    said = "ab " * 1_000_000
    tracemalloc.start()
    try:
        line = HttpReply(400).line(said)
        excerpt = HttpReply(400, body=said.encode()).excerpt()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(line), len(excerpt)) == (1001, 301)
    assert peak < 5_000_000


def test_a_secret_at_the_edge_of_what_is_looked_at_does_not_show() -> None:
    """White space shrinks, so that even the end of what is looked at may be shown."""
    secret = "sk-0123456789abcdef"
    for before in [65_530, 65_536, 65_500, 50_000, 262_140]:
        for blank in [" ", "\N{IDEOGRAPHIC SPACE}"]:
            said = "refused" + blank * before + secret + " " * 1000 + "more " * 1000
            reply = HttpReply(400, body=said.encode(), redact=lambda text: text.replace(secret, "***"))
            for shown in (reply.line(said), reply.excerpt()):
                assert "sk-" not in shown


def test_a_call_is_of_one_kind_and_does_not_show_its_body() -> None:
    assert HttpCall(method="POST", path="/x", json={}).kind == "submit"
    assert HttpCall(method="POST", path="/x").kind == HttpCall(method="DELETE", path="/x").kind == "cancel"
    assert "secret" not in repr(HttpCall(method="POST", path="/x", json={"prompt": "secret"}))
