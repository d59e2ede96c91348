"""The service's own client, `volcengine-ark-runtime`, against the emulator."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator

ark = pytest.importorskip("volcenginesdkarkruntime")
errors = pytest.importorskip("volcenginesdkarkruntime._exceptions")

VIDEO = "dreamina-seedance-2-0-260128"
IMAGE = "seedream-4-5-251128"
KEY = "ark-key"
TEXT = [{"type": "text", "text": "a kite"}]


@pytest.fixture
def client(emulator: SeedanceEmulator) -> Iterator[Any]:
    with ark.Ark(base_url=emulator.base_url("ark"), api_key=KEY, max_retries=0) as client:
        yield client


def create(client: Any, **arguments: Any) -> str:
    return str(client.content_generation.tasks.create(model=VIDEO, content=TEXT, **arguments).id)


def test_a_video(client: Any, emulator: SeedanceEmulator) -> None:
    tasks = client.content_generation.tasks
    made = create(client, ratio="9:16", duration=5, return_last_frame=True, safety_identifier="user-1")
    pending = tasks.get(task_id=made)
    assert (pending.status, pending.content, pending.usage) == ("queued", None, None)
    emulator.finish(made)
    done = tasks.get(task_id=made)
    assert (done.status, done.ratio, done.duration, done.framespersecond) == ("succeeded", "9:16", 5, 24)
    assert done.usage.completion_tokens == 108_900
    for url in (done.content.video_url, done.content.last_frame_url):
        assert url.startswith(emulator.url)
    assert done.safety_identifier == "user-1"
    emulator.fail(failing := create(client), "no", code="OutputVideoSensitiveContentDetected")
    error = tasks.get(task_id=failing).error
    assert (error.code, error.message) == ("OutputVideoSensitiveContentDetected", "no")


def test_the_list(client: Any, emulator: SeedanceEmulator) -> None:
    tasks = client.content_generation.tasks
    ids = [create(client) for _ in range(3)]
    emulator.finish(ids[0])
    listed = tasks.list(page_num=1, page_size=2)
    assert (listed.total, [task.id for task in listed.items]) == (3, ids[:0:-1])
    assert [task.id for task in tasks.list(status="succeeded", model=VIDEO).items] == ids[:1]
    assert {task.id for task in tasks.list(task_ids=ids[1:]).items} == set(ids[1:])


def test_cancelling(client: Any, emulator: SeedanceEmulator) -> None:
    made = create(client)
    client.content_generation.tasks.delete(task_id=made)
    assert client.content_generation.tasks.get(task_id=made).status == "cancelled"
    assert emulator.ledger.billed == 0
    with pytest.raises(errors.ArkConflictError):
        client.content_generation.tasks.delete(task_id=made)


@pytest.mark.parametrize("response_format", ["url", "b64_json"])
def test_images(response_format: str, start_emulator: Callable[..., SeedanceEmulator]) -> None:
    # Replies to images are synchronous: these renders end at once.
    quick = start_emulator(key=KEY)
    with ark.Ark(base_url=quick.base_url("ark"), api_key=KEY, max_retries=0) as client:
        made = client.images.generate(
            model=IMAGE, prompt="a kite", size="2K", response_format=response_format
        )
    [image] = made.data
    assert (image.size, made.usage.generated_images, made.usage.output_tokens) == ("2048x2048", 1, 16_384)
    if response_format == "url":
        assert image.url.startswith(quick.url)
    else:
        assert base64.b64decode(image.b64_json).startswith(b"\xff\xd8\xff")


def test_refusals(client: Any, emulator: SeedanceEmulator) -> None:
    with pytest.raises(errors.ArkBadRequestError) as caught:
        create(client, duration=99)
    assert (caught.value.code, caught.value.param) == ("InvalidParameter", "duration")
    assert f"Request id: {caught.value.response.headers['x-request-id']}" in caught.value.message
    with (
        ark.Ark(base_url=emulator.base_url("ark"), api_key="wrong", max_retries=0) as wrong,
        pytest.raises(errors.ArkAuthenticationError),
    ):
        create(wrong)
    assert emulator.ledger.submissions == []
