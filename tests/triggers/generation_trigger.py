"""A trigger of a generation, as the task instance ``task`` of the run ``run`` of the Dag ``dag`` defers with it."""

from __future__ import annotations

import time
from typing import Any

from support import TaskInstance

from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger


def make(generation_id: str, *, map_index: int = -1, **arguments: Any) -> SeedanceGenerationTrigger:
    values: dict[str, Any] = {
        "seedance_conn_id": "seedance_default",
        "generation_id": generation_id,
        "deadline": time.time() + 3600,
        "poll_interval": 0.01,
    }
    trigger = SeedanceGenerationTrigger(**{**values, **arguments})
    trigger.task_instance = TaskInstance(map_index=map_index)
    return trigger
