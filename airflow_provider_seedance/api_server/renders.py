"""
What the page shows of a run: pure functions of what Airflow knows about its task instances.

A render is found in the XComs of the task that made it, in a batch result or its manifest; stored files are found
in the results of transfers, and belong to a render by its generation id. Everything here was written by tasks and
by the service, so every value may be of any type: what has another than expected is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

#: XCom keys that are read; see `airflow_provider_seedance.operators` for who writes them.
RESULT_KEY = "return_value"
ID_KEY = "generation_id"
PROGRESS_KEY = "seedance_progress"

#: The operators of this package, by the name that Airflow keeps of a task instance's class.
IMAGE_OPERATORS = frozenset({"SeedreamGenerateImageOperator"})
BATCH_OPERATORS = frozenset({"SeedanceGenerateVideoBatchOperator"})
GENERATING = (
    IMAGE_OPERATORS
    | BATCH_OPERATORS
    | {"SeedanceGenerateVideoOperator", "_SeedanceVideoDecoratedOperator", "@task.seedance_video"}
)
SENSORS = frozenset({"SeedanceGenerationSensor"})
TRANSFERS = frozenset({"SeedanceToObjectStorageOperator"})
OURS = GENERATING | SENSORS | TRANSFERS

#: What a browser may be given from storage, by the end of the name. No SVG: it can carry scripts.
MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".avif": "image/avif",
}

#: Order of the states in totals and filters.
STATES = (
    "waiting",
    "queued",
    "running",
    "retrying",
    "succeeded",
    "failed",
    "expired",
    "cancelled",
    "skipped",
)

_STATE_OF_TASK = {
    None: "waiting",
    "scheduled": "waiting",
    "queued": "queued",
    "running": "running",
    "restarting": "running",
    "deferred": "running",
    "awaiting_input": "waiting",
    "up_for_reschedule": "running",
    "up_for_retry": "retrying",
    "success": "succeeded",
    "failed": "failed",
    "upstream_failed": "skipped",
    "skipped": "skipped",
    "removed": "cancelled",
}
_ENDED = frozenset({"succeeded", "failed", "expired", "cancelled", "skipped"})
_FROM_RESULT = ("generation_id", "api", "model", "duration", "resolution", "credits", "cost_usd")

#: Longest prompt and error that are sent to the page, in characters.
LONGEST_TEXT = 4000

ReadManifest = Callable[[str], Iterable[Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """
    A task instance, as far as the page needs it.

    :param label: What Airflow calls a mapped one, where the Dag says so.
    :param xcoms: Its XComs of the keys above.
    :param fields: Its rendered template fields; empty before it ran, and of old runs.
    """

    task_id: str
    map_index: int = -1
    label: str | None = None
    operator: str | None = None
    state: str | None = None
    try_number: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    xcoms: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def result(self) -> Any:
        """What it returned; ``None`` while it is not known to be of its present try."""
        ended = _STATE_OF_TASK.get(self.state, "running") in _ENDED
        return self.xcoms.get(RESULT_KEY) if ended else None


def plain(value: Any) -> Any:
    """Return an XCom without the wrapping that Airflow gives to Python's own collections."""
    if isinstance(value, Mapping):
        if str(value.get("__classname__", "")).startswith("builtins."):
            return plain(value.get("__data__"))
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def read_value(stored: Any) -> Any:
    """Return the value of an XCom, which may be stored as JSON text once more."""
    if isinstance(stored, str) and stored[:1] in ("{", "["):
        try:
            stored = json.loads(stored)
        except (ValueError, RecursionError):
            return stored
    return plain(stored)


# ---------------------------------------------------------------------- stored files

# Not a file that was stored: chained filesystems, queries, and what speaks to other servers.
_ELSEWHERE = re.compile(r"::|[?]|^(?:https?|ftp|data|jsonrpc|github)\b", re.IGNORECASE)


def stored_paths(result: Any) -> list[str]:
    """Return the paths that a transfer's result names; nothing for any other result."""
    if not isinstance(result, Mapping) or "sha256" not in result or "paths" not in result:
        return []
    paths = result["paths"]
    return [path for path in paths if isinstance(path, str)] if isinstance(paths, list) else []


def may_be_read(path: str, destination: Any) -> bool:
    """
    Whether a stored file is where its transfer was told to store.

    :param destination: As it was rendered for the transfer.
    """
    told = destination if isinstance(destination, str) else ""
    scheme, authority, inner = _parts(path)
    told_scheme, told_authority, told_inner = _parts(told)
    folder = told_inner if told.endswith("/") else told_inner.rpartition("/")[0] + "/"
    return (
        bool(told)
        and not _ELSEWHERE.search(path)
        and (scheme, authority) == (told_scheme, told_authority)
        and (inner == told_inner or inner.startswith((folder, told_inner + "/")))
        and ".." not in inner.split("/")
    )


def _parts(path: str) -> tuple[str, str, str]:
    """Return scheme, connection with bucket, and the rest of a path; a plain one is a local file."""
    scheme, separator, rest = path.partition("://")
    if not separator:
        return "file", "", path
    if scheme.lower() in ("file", "local"):
        return "file", "", rest
    authority, _, inner = rest.partition("/")
    return scheme.lower(), authority, "/" + inner


def served_path(task: Task, index: int) -> str | None:
    """Return the path of a file that a task instance has stored, if the page may play it; else ``None``."""
    paths = stored_paths(task.result) if task.operator in TRANSFERS else []
    if index >= len(paths) or not media_type_of(paths[index]):
        return None
    return paths[index] if may_be_read(paths[index], task.fields.get("destination")) else None


def media_type_of(path: str) -> str | None:
    """Return the content type of a stored file, or ``None`` if the page does not play such files."""
    return MEDIA_TYPES.get(PurePosixPath(path).suffix.lower())


def _files(tasks: Iterable[Task]) -> dict[str, list[dict[str, Any]]]:
    """Find the stored files by the id of their generation."""
    found: dict[str, list[dict[str, Any]]] = {}
    for task in tasks:
        result = task.result
        paths = stored_paths(result)
        if not paths:
            continue
        ids = result.get("generation_ids")
        # The result of one generation names it once, that of many names it for each path.
        owners = ids if isinstance(ids, list) else [result.get("generation_id")] * len(paths)
        for index, (path, owner) in enumerate(zip(paths, owners, strict=False)):
            kind = media_type_of(path)
            if isinstance(owner, str) and kind and served_path(task, index):
                found.setdefault(owner, []).append(
                    {
                        "task_id": task.task_id,
                        "map_index": task.map_index,
                        "index": index,
                        "name": PurePosixPath(path).name,
                        "path": path,
                        "media": kind.partition("/")[0],
                    }
                )
    return found


# ---------------------------------------------------------------------- renders


def renders_of(tasks: Sequence[Task], read_manifest: ReadManifest) -> list[dict[str, Any]]:
    """
    Return the renders of a run, in the order of its task instances.

    :param read_manifest: Reads the manifest that a batch result names; may raise anything, which is shown.
    """
    files = _files(tasks)
    found: list[dict[str, Any]] = []
    places: dict[str, int] = {}
    # Who made a render comes before who waited for it, and both before who only passed its result on.
    for task in sorted(tasks, key=_rank):
        for render in _of_task(task, read_manifest):
            generation_id = render["generation_id"]
            if generation_id in places:
                _complete(found[places[generation_id]], render)
                continue
            if generation_id is not None:
                places[generation_id] = len(found)
            found.append(render)
    for render in found:
        render["files"] = files.get(render["generation_id"], [])
    order = {(task.task_id, task.map_index): number for number, task in enumerate(tasks)}
    return sorted(found, key=lambda render: order[render["task_id"], render["map_index"]])


def _rank(task: Task) -> int:
    if task.operator in GENERATING:
        return 0
    if task.operator in SENSORS:
        return 2
    return 1 if task.xcoms.get(ID_KEY) and task.operator not in TRANSFERS else 3


def _of_task(task: Task, read_manifest: ReadManifest) -> Iterator[dict[str, Any]]:
    result = task.result
    if task.operator in TRANSFERS or stored_paths(result):
        return
    if isinstance(result, Mapping) and "counts" in result and "succeeded" in result:
        yield from _of_batch(task, result, read_manifest)
        return
    known = task.operator in GENERATING or task.operator in SENSORS or _text(task.xcoms.get(ID_KEY))
    shaped = [item for item in (result if isinstance(result, list) else [result]) if _is_result(item)]
    if shaped:
        for number, item in enumerate(shaped):
            yield _render(task, item, number if len(shaped) > 1 else None)
    elif known:
        yield _render(task, {}, None)


def _is_result(value: Any) -> bool:
    return isinstance(value, Mapping) and _text(value.get("generation_id")) is not None and "urls" in value


def _of_batch(task: Task, result: Mapping[str, Any], read_manifest: ReadManifest) -> Iterator[dict[str, Any]]:
    if "estimate" in result:  # a dry run: nothing was rendered
        return
    path = _text(result.get("manifest"))
    if path:
        try:
            # Nothing but what a batch of ours was told to write: XCom can name anything.
            if task.operator not in BATCH_OPERATORS or path != task.fields.get("manifest_path"):
                raise LookupError(path)
            lines = list(read_manifest(path))
        except Exception:
            # The store may be out of the API server's reach. What Airflow itself knows is still told.
            yield _render(task, {}, None) | {
                "credits": _number(result.get("credits")),
                "cost_usd": _number(result.get("cost_usd")),
                "error": "The manifest of this campaign cannot be read from here.",
                "count": _count(result),
            }
            return
    else:
        lines = [
            *({"status": "succeeded", **item} for item in _mappings(result.get("succeeded"))),
            *({"status": "failed", **item} for item in _mappings(result.get("failed"))),
            *({"status": "not_submitted", "key": key} for key in _list(result.get("not_submitted"))),
        ]
    prompts = _prompts(task.fields.get("requests"))
    for number, line in enumerate(lines):
        render = _render(task, line, number)
        render["key"] = key = _text(line.get("key"))
        if key is not None and not _text(line.get("prompt")):
            render["prompt"] = prompts.get(key, render["prompt"])
        yield render


def _count(result: Mapping[str, Any]) -> int | None:
    counts = result.get("counts")
    total = counts.get("total") if isinstance(counts, Mapping) else None
    return total if isinstance(total, int) else None


def _prompts(requests: Any) -> dict[str, str]:
    """Read the prompts of a campaign by key, as far as Airflow kept its requests."""
    requests = read_value(requests)
    found: dict[str, str] = {}
    for index, request in enumerate(requests if isinstance(requests, list) else []):
        if isinstance(request, str):
            found[str(index)] = request[:LONGEST_TEXT]
        elif isinstance(request, Mapping) and isinstance(request.get("prompt"), str):
            found[str(request.get("key", index))] = request["prompt"][:LONGEST_TEXT]
    return found


def _render(task: Task, result: Mapping[str, Any], number: int | None) -> dict[str, Any]:
    state = _state(task, result)
    waiting = state in ("waiting", "queued", "retrying")
    urls = [url for url in _list(result.get("urls")) if is_web_url(url)]
    progress = _number(task.xcoms.get(PROGRESS_KEY))
    images = task.operator in IMAGE_OPERATORS
    ended = state in _ENDED
    return {
        "id": f"{task.task_id}/{task.map_index}" + ("" if number is None else f"/{number}"),
        "task_id": task.task_id,
        "map_index": task.map_index,
        "label": task.label,
        "key": None,
        "try_number": task.try_number,
        **{name: _scalar(result.get(name)) for name in _FROM_RESULT},
        "generation_id": _text(result.get("generation_id"))
        or (None if waiting or number is not None else _text(task.xcoms.get(ID_KEY))),
        "model": _text(result.get("model")) or _text(task.fields.get("model")),
        "media": _text(result.get("media")) or ("image" if images else "video"),
        "prompt": _text(result.get("prompt")) or _prompt(task),
        "state": state,
        "task_state": task.state,
        "progress": None if state != "running" or progress is None else int(min(max(progress, 0), 100)),
        "error": _text(result.get("error")),
        "started_at": _text(result.get("created_at")) or _iso(task.started_at),
        "ended_at": (_text(result.get("completed_at")) or _iso(task.ended_at)) if ended else None,
        "urls": urls,
        "expires_at": _text(result.get("expires_at")),
        "count": _campaign_size(task) if task.operator in BATCH_OPERATORS and not result else None,
        "files": [],
    }


def _state(task: Task, result: Mapping[str, Any]) -> str:
    told = _text(result.get("status"))
    if told == "not_submitted":
        return "skipped"
    if told == "failed" and result.get("kind") in ("cancelled", "expired"):
        return str(result["kind"])
    if told in ("succeeded", "failed", "cancelled", "expired"):
        return told
    state = _STATE_OF_TASK.get(task.state, "running")
    # Deferred without an id, it has not been submitted: it waits for its turn.
    if task.state == "deferred" and task.operator not in BATCH_OPERATORS | SENSORS:
        return "running" if _text(task.xcoms.get(ID_KEY)) else "queued"
    return state


def _prompt(task: Task) -> str | None:
    for name in ("prompt", "_prompt"):
        text = _text(task.fields.get(name))
        if text:
            return text
    return None


def _campaign_size(task: Task) -> int | None:
    requests = read_value(task.fields.get("requests"))
    return len(requests) if isinstance(requests, list) else None


def _complete(render: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Add to a render what another task instance knows of the same generation."""
    for name in (*_FROM_RESULT, "prompt", "expires_at"):
        if render[name] is None:
            render[name] = other[name]
    render["urls"] = render["urls"] or other["urls"]


# ---------------------------------------------------------------------- totals


def totals_of(renders: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the numbers on top: by state, seconds of video, credits, dollars, and how many prices are unknown."""
    counts = {state: sum(render["state"] == state for render in renders) for state in STATES}
    done = [render for render in renders if render["state"] == "succeeded"]
    return {
        "total": len(renders),
        "states": {state: number for state, number in counts.items() if number},
        "credits": _sum(done, "credits"),
        "cost_usd": _sum(done, "cost_usd"),
        "unpriced": sum(render["credits"] is None and render["cost_usd"] is None for render in done),
        "seconds": _sum([render for render in done if render["media"] == "video"], "duration"),
        "stored": sum(bool(render["files"]) for render in renders),
    }


def _sum(renders: Iterable[Mapping[str, Any]], name: str) -> float | None:
    values = [value for render in renders if (value := _number(render[name])) is not None]
    return round(sum(values), 6) if values else None


# ---------------------------------------------------------------------- values of any type


def is_web_url(value: Any) -> bool:
    """Whether a value is the address of something on the web, and not a script or a file."""
    if not isinstance(value, str) or not value.isprintable():
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _text(value: Any) -> str | None:
    return value[:LONGEST_TEXT] if isinstance(value, str) and value and value != "None" else None


def _number(value: Any) -> float | None:
    finite = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15
    return value if finite else None


def _scalar(value: Any) -> str | float | None:
    return _text(value) if isinstance(value, str) else _number(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in _list(value) if isinstance(item, Mapping)]


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
