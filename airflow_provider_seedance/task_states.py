"""Reading what Airflow says of a task instance, for the question whether anybody goes on with its render."""

from __future__ import annotations

from typing import Any

#: States of a task instance in which nobody goes on with its render.
ABANDONED = frozenset({"failed", "success", "skipped", "removed"})


def state_of(states: Any, run_id: str, task_id: str, map_index: int | None) -> str | None:
    """Find the state of a task instance in what Airflow answers; ``None`` where it is not to be found."""
    run = states.get(run_id) if isinstance(states, dict) else None
    if not isinstance(run, dict):
        return None
    name = task_id if map_index is None or map_index < 0 else f"{task_id}_{map_index}"
    state = run.get(name)
    return str(getattr(state, "value", state)) if state is not None else None
