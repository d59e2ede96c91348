"""Results of generations and of batches, media files of many encoders, and the task that stores them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import TaskInstance

from airflow_provider_seedance.exceptions import SeedanceError, SeedanceMediaError
from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator
from transfers.server import MediaServer, Reply

FOLDER = Path(__file__).parent / "media"


def sample(name: str) -> bytes:
    """Return the content of a media file."""
    return (FOLDER / name).read_bytes()


def single(*urls: str, **changes: Any) -> dict[str, Any]:
    """Return the result of a generation with these outputs."""
    return {
        "generation_id": "gen-1",
        "api": "seedanceapi-v2",
        "media": "video",
        "status": "succeeded",
        "model": "seedance-2.0",
        "url": urls[0] if urls else None,
        "urls": list(urls),
        "duration": 5,
        "resolution": "720p",
        "credits": None,
        "cost_usd": None,
        "created_at": None,
        "completed_at": None,
        "expires_at": None,
        **changes,
    }


def data_of(key: str) -> bytes:
    """Return the content of the output of an item."""
    return key.encode() * 1000


def items(host: MediaServer, *keys: str) -> list[dict[str, Any]]:
    """Return the results of a batch with items of these keys, and serve their outputs."""
    return [
        single(host.put(f"/{number}.mp4", data_of(key)), generation_id=f"gen-{key}", key=key)
        for number, key in enumerate(keys)
    ]


def batch(succeeded: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return the result of a batch task."""
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


def operator(generation: Any, destination: Any, **arguments: Any) -> SeedanceToObjectStorageOperator:
    """Return a task with two retries."""
    return SeedanceToObjectStorageOperator(
        task_id="store", generation=generation, destination=destination, **{"retries": 2, **arguments}
    )


def run(
    generation: Any, destination: Any, context: dict[str, Any] | None = None, **arguments: Any
) -> dict[str, Any]:
    """Run a task and return its result, which Airflow can store."""
    result = operator(generation, destination, **arguments).execute(context or {})  # type: ignore[arg-type]
    json.dumps(result)
    return result


def run_into(
    directory: Any, generation: Any, context: dict[str, Any] | None = None, **arguments: Any
) -> dict[str, Any]:
    """Run a task with a directory as destination."""
    return run(generation, f"{directory}/", context, **arguments)


def names_in(directory: Path) -> list[str]:
    """Return the files in a directory and below."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


class Transfer:
    """Tries of one task that stores outputs of a media host in a directory."""

    def __init__(self, host: MediaServer, directory: Any) -> None:
        self.host, self.directory, self.ti = host, directory, TaskInstance()

    def run(self, results: Any, **arguments: Any) -> dict[str, Any]:
        """Run a try; a list is the result of a batch."""
        value = batch(results) if isinstance(results, list) else results
        return run_into(self.directory, value, {"ti": self.ti}, **arguments)

    def fail(
        self, kind: type[SeedanceError], results: Any, message: str | None = None, **arguments: Any
    ) -> SeedanceError:
        """Run a try that fails, and return its error."""
        with pytest.raises(kind, match=message) as caught:
            self.run(results, **arguments)
        return caught.value

    def fail_for_the_second_file(self, results: Any, message: str, **arguments: Any) -> SeedanceError:
        """Run a try in which the media host refuses the second file."""
        self.host.always["/1.mp4"] = Reply(status=500)
        error = self.fail(SeedanceMediaError, results, message, **arguments)
        del self.host.always["/1.mp4"]
        self.host.requests.clear()
        return error
