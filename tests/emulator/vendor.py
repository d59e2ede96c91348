"""A minimal client of the emulated services."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.emulator.ledger import CallbackEntry

ARK_TASKS = "/contents/generations/tasks"

VALID_SUBMITS: dict[str, tuple[str, dict[str, Any]]] = {
    "seedance2api": (
        "/seedance/generate",
        {"prompt": "a red kite", "model": "seedance-1.5-pro", "duration": 5},
    ),
    "seedanceapi-v1": ("/generate", {"prompt": "a red kite", "duration": "4"}),
    "seedanceapi-v2": ("/generate", {"prompt": "a red kite", "model": "seedance-2.0-fast", "duration": 5}),
    "runbase": ("/runs", {"model": "bytedance/seedance-1.5-pro", "input": {"prompt": "a red kite"}}),
    "ark": (
        ARK_TASKS,
        {"model": "seedance-1-5-pro-251215", "content": [{"type": "text", "text": "a red kite"}]},
    ),
    "fal": ("/bytedance/seedance-2.0/text-to-video", {"prompt": "a red kite"}),
    "openrouter": ("/videos", {"model": "bytedance/seedance-2.0", "prompt": "a red kite"}),
    "replicate": ("/models/bytedance/seedance-2.0/predictions", {"input": {"prompt": "a red kite"}}),
}
#: Statuses of an accepted submission other than 200.
ACCEPTED = {"replicate": 201, "openrouter": 202}
STATUS_PATHS = {
    "seedance2api": "/tasks/{}",
    "seedanceapi-v1": "/status?task_id={}",
    "seedanceapi-v2": "/status?task_id={}",
    "runbase": "/runs/{}",
    "ark": ARK_TASKS + "/{}",
    "replicate": "/predictions/{}",
    "openrouter": "/videos/{}",
}


@dataclass(frozen=True, kw_only=True)
class Vendor:
    http: httpx.Client
    emulator: SeedanceEmulator
    api: str
    #: By default, the one that the emulator accepts.
    key: str | None = None

    def call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        authorization = f"{get_api(self.api).auth_scheme} {self.key or self.emulator.key}"
        headers = {"Authorization": authorization, **arguments.pop("headers", {})}
        return self.http.request(
            method, self.emulator.base_url(self.api) + path, headers=headers, **arguments
        )

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        return self.call("GET", path, **arguments)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.call("POST", path, json=body)

    def submit(self, prompt: str | None = None) -> httpx.Response:
        """A valid request."""
        path, body = VALID_SUBMITS[self.api]
        return self.post(path, body if prompt is None else with_prompt(body, prompt))

    def submit_id(self, prompt: str | None = None) -> str:
        return self.id_of(self.submit(prompt))

    def id_of(self, reply: httpx.Response) -> str:
        """Return the id in the reply to a submission."""
        body = reply.raise_for_status().json()
        data = body.get("data", body)
        if "status_url" in data:
            app = str(data["status_url"]).partition(f"/{self.api}/")[2].partition("/requests/")[0]
            return ":".join((*app.split("/"), data["request_id"]))
        return str(data.get("task_id") or data.get("id") or data.get("run_id"))

    def status(self, generation_id: str) -> httpx.Response:
        if self.api == "fal":
            *app, request_id = generation_id.split(":")
            return self.get(f"/{'/'.join(app)}/requests/{request_id}/status")
        return self.get(STATUS_PATHS[self.api].format(generation_id))

    def callbacks(self, count: int = 1) -> list[CallbackEntry]:
        """Wait until the emulator has sent this number of callbacks, and return all."""
        deadline = time.monotonic() + 60
        while len(self.emulator.ledger.callbacks) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return list(self.emulator.ledger.callbacks)


Vendors = Callable[..., Vendor]


class Time:
    """Clock of an emulator that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def with_prompt(body: dict[str, Any], prompt: str) -> dict[str, Any]:
    body = copy.deepcopy(body)
    if "content" in body:
        body["content"][0]["text"] = prompt
    elif "input" in body:
        body["input"]["prompt"] = prompt
    else:
        body["prompt"] = prompt
    return body
