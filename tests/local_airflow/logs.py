"""Task logs of a private Airflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def task_log(
    folder: Path, dag_id: str, run_id: str, task_id: str, try_number: int | None, map_index: int
) -> str:
    """Return the log of a task instance as text: worker's and triggerer's parts of one try, or of all."""
    parts = folder / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
    if map_index >= 0:
        parts /= f"map_index={map_index}"
    if not parts.is_dir():
        return ""
    attempt = "*" if try_number is None else str(try_number)
    files = sorted(
        {*parts.glob(f"attempt={attempt}.log"), *parts.glob(f"attempt={attempt}.log.*")},
        key=lambda path: (int(path.name.split("=")[1].split(".")[0]), path.name),
    )
    return "\n".join(
        _rendered(line) for path in files for line in path.read_text(errors="replace").splitlines()
    )


def _rendered(line: str) -> str:
    """Format a line of a structured log; return any other line unchanged."""
    try:
        record: Any = json.loads(line)
    except ValueError:
        return line
    if not isinstance(record, dict) or "event" not in record:
        return line
    errors = record.pop("error_detail", None)
    head = [str(record.pop(name, "")) for name in ("timestamp", "level", "event")]
    rest = [f"{name}={value}" for name, value in record.items() if name not in {"filename", "lineno", "loc"}]
    text = " ".join([*head, *rest])
    if isinstance(errors, list):
        for error in errors:
            if isinstance(error, dict):
                text += f"\n  {error.get('exc_type')}: {error.get('exc_value')}"
    return text
