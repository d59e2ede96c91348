"""The service's own client, `replicate`, against the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator

replicate = pytest.importorskip("replicate")

KEY = "r8_key"
VIDEO = "bytedance/seedance-2.0"


@pytest.fixture
def client(emulator: SeedanceEmulator) -> Iterator[Any]:
    client = replicate.Client(api_token=KEY, base_url=f"{emulator.url}/replicate")
    client.poll_interval = 0.01
    yield client
    client._client.close()


def test_a_video_and_images(client: Any, emulator: SeedanceEmulator) -> None:
    made = client.predictions.create(model=VIDEO, input={"prompt": "a kite", "duration": 5})
    assert (made.status, made.output) == ("starting", None)
    emulator.finish(made.id)
    made.wait()
    assert (made.status, made.output.startswith(emulator.url)) == ("succeeded", True)
    assert [each.id for each in client.predictions.list().results] == [made.id]
    assert client.predictions.get(made.id).input == {"prompt": "a kite", "duration": 5}
    sent = {"prompt": "a kite", "sequential_image_generation": "auto", "max_images": 2}
    made = client.models.predictions.create("bytedance/seedream-4.5", input=sent)
    emulator.finish(made.id)
    made.reload()
    assert len(made.output) == 2


def test_cancelling_and_the_signature_of_a_webhook(client: Any, emulator: SeedanceEmulator) -> None:
    made = client.predictions.create(model=VIDEO, input={"prompt": "a kite"})
    made.cancel()
    made.reload()
    assert (made.status, emulator.ledger.submissions[0].billed) == ("canceled", 0)
    headers = emulator._parts.services["replicate"].callback_headers(emulator.generation(made.id), b"{}")
    secret = client.webhooks.default.secret()
    client.webhooks.validate(headers=headers, body="{}", secret=secret)
    with pytest.raises(replicate.webhook.InvalidSignatureError):
        client.webhooks.validate(headers=headers, body="{ }", secret=secret)


def test_an_invalid_input(client: Any, emulator: SeedanceEmulator) -> None:
    with pytest.raises(replicate.exceptions.ReplicateError, match="duration") as caught:
        client.predictions.create(model=VIDEO, input={"prompt": "a kite", "duration": 40})
    assert caught.value.status == 422
    assert emulator.ledger.submissions == []
