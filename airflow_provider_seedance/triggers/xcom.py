"""XCom that triggers write: results, and how far a render is (Airflow 3.3 and later)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from airflow_provider_seedance.version_compat import AIRFLOW_V_3_3_PLUS

log = logging.getLogger(__name__)

#: XCom that tells how far a render is, in percent; the Renders page shows it.
PROGRESS_KEY = "seedance_progress"

#: Fewer percent more than were told last are not worth a write.
STEP = 5

# A task without a reference may be collected.
_telling: set[asyncio.Task[None]] = set()


async def push(ti: Any, key: str, value: Any) -> None:
    """
    Write an XCom of a task instance.

    :param ti: As the trigger knows it.
    :raises Exception: it could not be written.
    """
    from airflow.sdk.bases.xcom import BaseXCom

    await BaseXCom.aset(
        key,
        value,
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        run_id=ti.run_id,
        map_index=ti.map_index if ti.map_index is not None else -1,
    )


class Progress:
    """
    Tells how far a render is, without keeping anybody waiting.

    :param ti: The task instance, as its trigger knows it.
    """

    __slots__ = ("_ti", "_told")

    def __init__(self, ti: Any) -> None:
        self._ti = ti
        self._told = 0

    def __call__(self, percent: float) -> None:
        """Take in what a reading told; never raises."""
        told = round(min(max(percent, 0.0), 100.0)) if percent == percent else 0
        if not AIRFLOW_V_3_3_PLUS or self._ti is None or told < self._told + STEP:
            return
        self._told = told
        task = asyncio.create_task(self._push(told))
        _telling.add(task)
        task.add_done_callback(_telling.discard)

    async def _push(self, percent: int) -> None:
        try:
            await push(self._ti, PROGRESS_KEY, percent)
        except Exception as error:
            # Nice to have: the render goes on, and its end is told in other ways.
            log.debug("The progress of a render could not be told: %s", error)
