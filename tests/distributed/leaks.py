"""Resources of a whole Airflow: processes, open files, connections."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

import psutil  # type: ignore[import-untyped]
from cluster import Cluster
from local_airflow.processes import session_members


def strays(cluster: Cluster) -> list[str]:
    """Processes that belong to this Airflow and to none of its living components."""
    known = set(session_members(cluster.pid(name) for name in cluster.names if cluster.runs(name)))
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in known or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get("SEEDANCE_CLUSTER") == cluster.mark:
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found


def open_files(sessions: Iterable[int]) -> dict[int, int]:
    """Return the number of descriptors of each process of the sessions."""
    found = {}
    for pid in session_members(sessions):
        with contextlib.suppress(OSError):
            found[pid] = len(os.listdir(f"/proc/{pid}/fd"))
    return found
