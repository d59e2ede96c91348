"""The service's own client, `fal-client`, against the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator

fal_client = pytest.importorskip("fal_client")

TEXT = "bytedance/seedance-2.0/text-to-video"
KEY = "key-id:key-secret"
IMAGE = "fal-ai/bytedance/seedream/v4.5/text-to-image"


@pytest.fixture
def client(emulator: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(fal_client.client, "QUEUE_URL_FORMAT", emulator.base_url("fal") + "/")
    client = fal_client.SyncClient(key=KEY, default_timeout=20)
    yield client
    client._client.close()


def test_a_video_and_images(client: Any, emulator: SeedanceEmulator) -> None:
    handle = client.submit(TEXT, {"prompt": "a kite", "duration": "5", "aspect_ratio": "9:16"})
    assert isinstance(handle.status(), fal_client.Queued)
    generation_id = emulator.ledger.submissions[0].generation_id
    assert generation_id == f"bytedance:seedance-2.0:{handle.request_id}"
    emulator.finish(generation_id)
    done = handle.status(with_logs=True)
    assert isinstance(done, fal_client.Completed)
    assert done.error is None
    assert handle.get()["video"]["url"].startswith(emulator.url)
    # By its id, as well as by the URLs of the reply.
    assert client.result(TEXT, handle.request_id) == handle.get()
    handle = client.submit(IMAGE, {"prompt": "a kite", "num_images": 2, "image_size": "square_hd"})
    emulator.finish(emulator.ledger.submissions[1].generation_id)
    found = handle.get()["images"]
    assert [(image["width"], image["height"]) for image in found] == [(1024, 1024)] * 2


def test_a_wrong_key_is_refused_and_an_invalid_request_fails_with_its_result(
    client: Any, emulator: SeedanceEmulator
) -> None:
    wrong = fal_client.SyncClient(key="wrong")
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        wrong.submit(TEXT, {"prompt": "a kite"})
    assert (caught.value.status_code, emulator.ledger.submissions) == (401, [])
    wrong._client.close()
    handle = client.submit(TEXT, {"prompt": "a kite", "duration": "40"})
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        handle.get()
    assert caught.value.status_code == 422
    assert "duration" in caught.value.message[0]["msg"]
    assert emulator.ledger.submissions[0].billed == 0


def test_cancelling(client: Any, emulator: SeedanceEmulator) -> None:
    handle = client.submit(TEXT, {"prompt": "a kite"})
    handle.cancel()
    done = handle.status()
    assert (done.error_type, emulator.ledger.submissions[0].billed) == ("client_cancelled", 0)
    with pytest.raises(fal_client.FalClientHTTPError):
        handle.cancel()
