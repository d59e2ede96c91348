"""XCom that triggers write: results, and the progress of a generation (Airflow 3.3 and later)."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any

from airflow.sdk.bases.xcom import BaseXCom

from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_3_PLUS

log = logging.getLogger(__name__)

#: Key of the XCom with the progress of a generation in percent; the Renders page shows it.
PROGRESS_KEY = "seedance_progress"

#: Minimum increase that is written: each write costs a request to the API server.
MIN_STEP_PERCENT = 5

# The event loop keeps no reference to a task.
_pushes: set[asyncio.Task[None]] = set()


def task_key(ti: Any) -> dict[str, Any]:
    """Return the arguments by which Airflow identifies a task instance."""
    map_index = ti.map_index if ti.map_index is not None else -1
    return {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": map_index}


async def push(ti: Any, key: str, value: Any) -> None:
    """Write an XCom of the task instance of a trigger."""
    await BaseXCom.aset(key, value, **task_key(ti))


class ProgressReporter:
    """
    Reporter of the progress of a generation, which writes in the background.

    It is made within the trigger: Airflow 3.4 finds the attempt that an XCom belongs to by the context of the trigger,
    and the hub, which calls it, has none.
    """

    def __init__(self, ti: Any) -> None:
        self._ti = ti
        self._reported = 0
        self._context = contextvars.copy_context()

    def __call__(self, reading: Generation) -> None:
        """Write the progress of a reading if it has increased enough; never raises."""
        progress = reading.progress
        if progress is None or progress != progress or reading.status.terminal:
            return
        percent = round(min(max(progress, 0.0), 100.0))
        if not AIRFLOW_V_3_3_PLUS or self._ti is None or percent < self._reported + MIN_STEP_PERCENT:
            return
        self._reported = percent
        task = asyncio.create_task(self._push(percent), context=self._context)
        _pushes.add(task)
        task.add_done_callback(_pushes.discard)

    async def _push(self, percent: int) -> None:
        try:
            await push(self._ti, PROGRESS_KEY, percent)
        except Exception as error:
            # Optional: the end of the generation is reported in other ways.
            log.debug("The progress of a generation could not be written: %s", error)
