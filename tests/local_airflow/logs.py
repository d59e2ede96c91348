"""Component and task logs of a private Airflow."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class LineFollower:
    """Thread that passes every line appended to some files to a callback."""

    def __init__(self, files: Mapping[str, Path], on_line: Callable[[str, str], None]) -> None:
        self._files = files
        self._on_line = on_line
        # Skip lines of an earlier start.
        self._positions = {name: path.stat().st_size if path.exists() else 0 for name, path in files.items()}
        self._partial = dict.fromkeys(files, b"")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="airflow log lines", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Pass the remaining lines and end the thread."""
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(0.2):
            self._read()
        self._read()

    def _read(self) -> None:
        for name, path in self._files.items():
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(self._positions[name])
                data = file.read()
            self._positions[name] += len(data)
            *lines, self._partial[name] = (self._partial[name] + data).split(b"\n")
            for line in lines:
                self._on_line(name, line.decode(errors="replace").rstrip("\r"))


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
