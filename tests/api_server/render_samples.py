"""Tasks and results as the Renders page reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from airflow_provider_seedance.api_server.renders import Task, renders_of

BEGUN = datetime(2026, 5, 1, 12, tzinfo=UTC)
ENDED = datetime(2026, 5, 1, 12, 2, tzinfo=UTC)


def result(generation_id: str = "g1", **more: Any) -> dict[str, Any]:
    return {
        "generation_id": generation_id,
        "api": "seedanceapi-v1",
        "media": "video",
        "status": "succeeded",
        "model": "seedance-1.5-pro",
        "url": f"https://media.example/{generation_id}.mp4",
        "urls": [f"https://media.example/{generation_id}.mp4"],
        "duration": 8,
        "resolution": "720p",
        "credits": 28,
        "cost_usd": 0.14,
        "created_at": "2026-05-01T12:00:05+00:00",
        "completed_at": "2026-05-01T12:01:35+00:00",
        "expires_at": None,
        **more,
    }


def video(state: str | None = "success", returned: Any = None, **more: Any) -> Task:
    xcoms = dict(more.pop("xcoms", {}))
    if returned is not None:
        xcoms["return_value"] = returned
    given: dict[str, Any] = {
        "task_id": "video",
        "operator": "SeedanceGenerateVideoOperator",
        "started_at": BEGUN,
        "ended_at": ENDED if state in ("success", "failed") else None,
        "fields": {"prompt": "A boat", "model": "None"},
    }
    return Task(state=state, xcoms=xcoms, **{**given, **more})


def batch(returned: Any = None, state: str | None = "success", **more: Any) -> Task:
    given: dict[str, Any] = {"task_id": "batch", "operator": "SeedanceGenerateVideoBatchOperator"}
    return video(state, returned, **{**given, **more})


def store(*paths: str, generation_id: Any = "g1", state: str = "success", **more: Any) -> Task:
    returned = {"path": paths[0], "paths": list(paths), "bytes": 1, "sha256": ["0"]}
    return Task(
        task_id="store",
        operator="SeedanceToObjectStorageOperator",
        state=state,
        xcoms={"return_value": {**returned, "generation_id": generation_id, **more}},
        fields={"destination": paths[0].rpartition("/")[0] + "/"},
    )


def nothing(path: str) -> Iterable[Mapping[str, Any]]:
    raise AssertionError(f"{path} is not to be read")


def shown(*tasks: Task) -> list[dict[str, Any]]:
    found = renders_of(tasks, nothing)
    json.dumps(found, allow_nan=False)  # goes to the page as it is
    return found
