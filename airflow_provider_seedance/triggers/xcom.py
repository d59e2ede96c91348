"""XCom that triggers write: results, and the progress of generations (Airflow 3.3 and later)."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any, Self

from airflow.sdk.bases.xcom import BaseXCom

from airflow_provider_seedance.generations import Generation, iso
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_3_PLUS

log = logging.getLogger(__name__)

#: Key of the XCom with the progress, which the Renders page shows: of a generation in percent, of a batch the results
#: of the generations that have ended since its task deferred.
PROGRESS_KEY = "seedance_progress"

#: Minimum increase that is written: each write costs a request to the API server.
MIN_STEP_PERCENT = 5

#: Minimum time between two writes for a batch.
MIN_WRITE_INTERVAL_SECONDS = 5.0

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


class EndsReporter:
    """Reporter of the generations of a batch that have ended, which writes in the background until the wait ends."""

    def __init__(self, ti: Any) -> None:
        self._ti = ti
        self._ended: list[dict[str, Any]] = []
        self._writing = self._closed = False
        self._context = contextvars.copy_context()

    def __enter__(self) -> Self:
        """Return the reporter."""
        return self

    def __exit__(self, *_: object) -> None:
        """Start no further write: the worker that resumes reports the same ends."""
        self._closed = True

    def __call__(self, generation: Generation) -> None:
        """Write the result of a generation soon; never raises."""
        if not AIRFLOW_V_3_3_PLUS or self._ti is None or self._closed:
            return
        end = iso(generation.completed_at or generation.read_at)
        self._ended.append({**generation.result(), "completed_at": end, "error": generation.error_message})
        if not self._writing:
            self._writing = True
            task = asyncio.create_task(self._write(), context=self._context)
            _pushes.add(task)
            task.add_done_callback(_pushes.discard)

    async def _write(self) -> None:
        written = 0
        while written < len(self._ended) and not self._closed:
            written = len(self._ended)
            try:
                await push(self._ti, PROGRESS_KEY, self._ended)
            except Exception as error:
                # Optional: the worker that resumes the task reports the ends.
                log.debug("The ended generations of a batch could not be written: %s", error)
            await asyncio.sleep(MIN_WRITE_INTERVAL_SECONDS)
        self._writing = False
