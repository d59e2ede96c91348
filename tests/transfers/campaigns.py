"""What campaigns return, for the tests of the transfer of many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator
from transfers.server import MediaServer

#: The record of what is stored, beside the files.
RECORD = "seedance-stored.jsonl"


def data_of(key: str) -> bytes:
    return key.encode() * 1000


def made(host: MediaServer, *names: str) -> list[dict[str, Any]]:
    """What a campaign returns for items of these keys."""
    return [
        {
            "key": key,
            "generation_id": f"gen-{key}",
            "api": "seedanceapi-v2",
            "media": "video",
            "status": "succeeded",
            "model": "seedance-2.0",
            "urls": [host.put(f"/{number}.mp4", data_of(key))],
        }
        for number, key in enumerate(names)
    ]


def batch(succeeded: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "succeeded": succeeded,
        "failed": [],
        "not_submitted": [],
        "counts": {},
        "credits": None,
        "cost_usd": None,
        "manifest": None,
        **changes,
    }


def run(generation: Any, destination: Any, context: dict[str, Any] | None = None, **arguments: Any) -> Any:
    task = SeedanceToObjectStorageOperator(
        task_id="store", generation=generation, destination=f"{destination}/", **arguments
    )
    return task.execute(context or {})


def record(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / RECORD).read_text().splitlines()]
