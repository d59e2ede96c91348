"""XCom as the memory of a deferral that failed: a problem with it never fails a task whose render is paid for."""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger(__name__)


def push_xcom(ti: Any, key: str, value: Any) -> bool:
    """Push a value of the running try, and return whether that succeeded; never raises."""
    try:
        ti.xcom_push(key=key, value=value)
        return True
    except Exception as error:
        log.warning("XCom %s could not be pushed: %s", key, error)
        return False


def pull_xcom(ti: Any, key: str) -> Any:
    """Return what the running try pushed, or ``None``; never raises."""
    try:
        return ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)
    except Exception as error:
        log.warning("XCom %s could not be pulled: %s", key, error)
        return None
