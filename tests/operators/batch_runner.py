"""Driver of one batch task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow_provider_seedance.operators.batch_run import BatchTiming
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoBatchOperator
from operators.generation_task import Tries


def make(
    requests: Any = ("a",), timing: BatchTiming | None = None, **arguments: Any
) -> SeedanceGenerateVideoBatchOperator:
    op = SeedanceGenerateVideoBatchOperator(
        **{"task_id": "task", "requests": requests, "poll_interval": 0.01, **arguments}
    )
    op.timing = timing
    return op


class Batch(Tries):
    make = staticmethod(make)

    def run(self, requests: Any, **arguments: Any) -> Any:
        """Run a new operator through all its deferrals."""
        self.prepare(requests, **arguments)
        return self.enter()

    @property
    def paid(self) -> list[str]:
        return [submission.prompt for submission in self.services.ledger.submissions]

    def paid_ids_in(self, message: str) -> bool:
        """Return whether a message names all submitted generations."""
        return all(one in message for one in self.ids)


def keys(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["key"] for entry in entries]


def kinds(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the key and the kind of each failure."""
    return [(entry["key"], entry["kind"]) for entry in result["failed"]]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
