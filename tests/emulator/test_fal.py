"""The emulated fal.ai, where its own client (tests/clients) does not reach."""

from __future__ import annotations

import json

from airflow_provider_seedance.apis.fal import API
from emulator.vendor import Vendors


def test_callbacks_are_signed_with_the_published_key(vendor: Vendors) -> None:
    client = vendor("fal")
    generation = client.emulator.generation(client.submit_id())
    service = client.emulator._parts.services["fal"]
    body = json.dumps(service.callback_body(generation)).encode()
    headers = service.callback_headers(generation, body)
    lower = {name.lower(): value for name, value in headers.items()}
    keys = client.get("/.well-known/jwks.json").json()
    now = float(headers["X-Fal-Webhook-Timestamp"])
    assert API.is_signed(keys, lower, body, now)
    assert not API.is_signed(keys, lower, body + b" ", now)


def test_the_list_has_what_has_ended(vendor: Vendors) -> None:
    client, path = vendor("fal"), "/v1/models/requests/by-endpoint"
    ids = [client.submit_id(f"kite {number}") for number in range(3)]
    query = {"endpoint_id": "bytedance/seedance-2.0/text-to-video", "limit": 2, "expand": "payloads"}
    first = client.get(path, params=query).json()
    assert [item["json_input"]["prompt"] for item in first["items"]] == ["kite 2", "kite 1"]
    last = client.get(path, params={**query, "cursor": first["next_cursor"]}).json()
    assert (last["has_more"], ids[0].endswith(last["items"][0]["request_id"])) == (False, True)
    client.emulator.hold()
    client.submit_id("kite 3")
    assert client.get(path, params=query).json() == first
    assert client.get(path).status_code == 400
    assert client.get(path, params={"x": 1}).status_code == 400
