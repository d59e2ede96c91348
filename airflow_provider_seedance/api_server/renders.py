"""
Content of the Renders page: pure functions of the task instances of a run.

Renders come from the XComs of the tasks that made them, and from batch results and manifests. Stored files come from
the results of transfers, and belong to a render by its generation id. A batch that goes on or has failed has a report.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from airflow_provider_seedance.api_server.xcom_values import (
    MAX_TEXT_CHARS,
    is_http_url,
    iso_of,
    list_of,
    number_of,
    parse_xcom,
    readable_of,
    scalar_of,
    text_of,
)
from airflow_provider_seedance.apis.registry import console_of
from airflow_provider_seedance.generations import ImageRequest, VideoRequest
from airflow_provider_seedance.operators.task_xcom import ENDS_AT_KEY, ERROR_KEY, REPORT_KEY
from airflow_provider_seedance.transfers.file_names import MEDIA_TYPES
from airflow_provider_seedance.triggers.xcom import PROGRESS_KEY

log = logging.getLogger(__name__)

#: XCom keys that operators and triggers write.
RESULT_KEY = "return_value"
ID_KEY = "generation_id"

#: Operators of this package, by the class name that Airflow stores.
IMAGE_OPERATORS = frozenset({"SeedreamGenerateImageOperator"})
BATCH_OPERATORS = frozenset({"SeedanceGenerateVideoBatchOperator"})
GENERATION_OPERATORS = (
    IMAGE_OPERATORS
    | BATCH_OPERATORS
    | {"SeedanceGenerateVideoOperator", "_SeedanceVideoDecoratedOperator", "@task.seedance_video"}
)
SENSORS = frozenset({"SeedanceGenerationSensor"})
TRANSFER_OPERATORS = frozenset({"SeedanceToObjectStorageOperator"})
SEEDANCE_OPERATORS = GENERATION_OPERATORS | SENSORS | TRANSFER_OPERATORS

TERMINAL_STATES = ("succeeded", "failed", "uncertain", "expired", "cancelled", "skipped")

#: States of renders, in the order of totals and filters.
STATES = ("waiting", "queued", "running", "retrying", *TERMINAL_STATES)

#: Arguments of requests, which are rendered fields of their operators.
_ARGUMENTS = tuple(dict.fromkeys(item.name for kind in (VideoRequest, ImageRequest) for item in fields(kind)))

#: By the state of the task instance; in any other state its generation is running.
_STATE_OF_TASK: dict[str | None, str] = {
    **dict.fromkeys((None, "scheduled", "awaiting_input"), "waiting"),
    **dict.fromkeys(("upstream_failed", "skipped"), "skipped"),
    "queued": "queued",
    "up_for_retry": "retrying",
    "success": "succeeded",
    "failed": "failed",
    "removed": "cancelled",
}
UNITS = ("credits", "cost_usd")
_FROM_RESULT = ("generation_id", "api", "model", "duration", "resolution", *UNITS)

#: Identity of a task instance among those of its run: task, map index and region.
Place = tuple[str, int, str]

ReadManifest = Callable[[str], Iterable[Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """
    A task instance.

    :param label: Its ``map_index_template``, rendered.
    :param region: From Airflow 3.4 on: the task loop or expansion it belongs to, and its index there.
    :param iteration: The pass of the task loop it belongs to, as the worker writes it into the ledger.
    :param xcoms: Its XComs of the keys above.
    :param fields: Its rendered template fields; empty before it ran, and in old runs.
    """

    task_id: str
    map_index: int = -1
    region: str = ""
    iteration: int | None = None
    label: str | None = None
    operator: str | None = None
    state: str | None = None
    try_number: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    xcoms: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        """Identity among the tasks of a run."""
        return self.task_id, self.map_index, self.region

    @property
    def result(self) -> Any:
        """Its return value; ``None`` until it has ended, since the XCom may be of an earlier try."""
        return self.xcoms.get(RESULT_KEY) if self.shown_state in TERMINAL_STATES else None

    @property
    def report(self) -> Mapping[str, Any]:
        """The report of a batch without a result, or the result of a generation that failed."""
        report = self.xcoms.get(REPORT_KEY)
        return report if isinstance(report, Mapping) else {}

    @property
    def ended_since(self) -> dict[str, Mapping[str, Any]]:
        """The generations in flight of its report that have ended since, by their ids."""
        reported = _mappings(self.report.get("items"))
        in_flight = {
            text_of(item.get("generation_id")) for item in reported if item.get("status") == "running"
        }
        named = {text_of(item.get("generation_id")): item for item in _mappings(self.xcoms.get(PROGRESS_KEY))}
        return {name: named[name] for name in in_flight & named.keys() if name}

    @property
    def error(self) -> str | None:
        """The message of the error that failed its latest try."""
        return text_of(self.xcoms.get(ERROR_KEY)) if self.state in ("failed", "up_for_retry") else None

    @property
    def shown_state(self) -> str:
        """Its state, as one of :data:`STATES`."""
        return _STATE_OF_TASK.get(self.state, "running")

    @property
    def why_not_again(self) -> str | None:
        """The reason for which a clear must not render one of its requests again, or ``None``."""
        if self.shown_state not in TERMINAL_STATES:
            return "The task has not ended."
        if self.iteration is not None:
            return "In a task loop, a clear would repeat the other passes as well."
        if self.operator in BATCH_OPERATORS and self.fields.get("on_clear") != "reuse":
            return "A clear may pay for all items of this batch: its on_clear is not 'reuse', or Airflow has forgotten it."
        return None


# Not a stored file: chained filesystems, queries, and protocols of other servers.
_FOREIGN = re.compile(r"::|[?]|^(?:https?|ftp|data|jsonrpc|github)\b", re.IGNORECASE)

_LOCAL = ("file", "")


def stored_paths(result: Any) -> list[str]:
    """Return the paths in the result of a transfer; an empty list for any other result."""
    if not isinstance(result, Mapping) or "sha256" not in result:
        return []
    return [path for path in list_of(result.get("paths")) if isinstance(path, str)]


def is_in_destination(path: str, destination: Any) -> bool:
    """
    Return whether a path is within the destination of its transfer: the file itself, or a file in the directory.

    In the root of a bucket only its direct children are: a user who can change XComs could read the whole bucket.

    :param destination: The rendered field.
    """
    if not isinstance(destination, str) or not destination or _FOREIGN.search(path):
        return False
    store, inner = _split(path)
    expected_store, expected = _split(destination)
    if store != expected_store or ".." in inner.split("/"):
        return False
    # A path object has no slash at its end; the transfer takes one only for a local directory.
    if not destination.endswith("/") and (inner == expected or store != _LOCAL):
        return inner == expected
    folder = expected.rstrip("/") + "/"
    return inner.startswith(folder) and (folder != "/" or inner.count("/") == 1)


def _split(path: str) -> tuple[tuple[str, str], str]:
    """Return the store (scheme, and connection with bucket) and the path in it; a bare path is a local file."""
    scheme, separator, rest = path.partition("://")
    if not separator:
        return _LOCAL, path
    if scheme.lower() in ("file", "local"):
        return _LOCAL, rest
    authority, _, inner = rest.partition("/")
    return (scheme.lower(), authority), "/" + inner


def playable_path(task: Task, index: int) -> str | None:
    """Return the path of a file that a task instance stored; ``None`` if the page must not play it."""
    paths = stored_paths(task.result) if task.operator in TRANSFER_OPERATORS else []
    path = paths[index] if index < len(paths) else ""
    playable = media_type_of(path) and is_in_destination(path, task.fields.get("destination"))
    return path if playable else None


def media_type_of(path: str) -> str | None:
    """Return the content type of a stored file; ``None`` if the page does not play such files."""
    return MEDIA_TYPES.get(PurePosixPath(path).suffix.lower().removeprefix("."))


def _files(tasks: Iterable[Task]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for task in tasks:
        if not (paths := stored_paths(task.result)):
            continue
        # The result of a batch has an id for each path, that of one generation a single id.
        ids = task.result.get("generation_ids")
        owners = ids if isinstance(ids, list) else [task.result.get("generation_id")] * len(paths)
        for index, (path, owner) in enumerate(zip(paths, owners, strict=False)):
            if isinstance(owner, str) and playable_path(task, index):
                file = {
                    "task_id": task.task_id,
                    "map_index": task.map_index,
                    "region": task.region,
                    "index": index,
                    "name": PurePosixPath(path).name,
                    "path": path,
                    "media": str(media_type_of(path)).partition("/")[0],
                }
                found.setdefault(owner, []).append(file)
    return found


def renders_of(tasks: Sequence[Task], read_manifest: ReadManifest) -> list[dict[str, Any]]:
    """
    Return the renders of a run, in the order of its task instances.

    :param read_manifest: Reads the manifest of a batch result. It may raise any error, which the page shows.
    """
    files = _files(tasks)
    found: list[dict[str, Any]] = []
    by_id: dict[str, dict[str, Any]] = {}
    # The task that made a render comes before a sensor for it, and both before tasks that returned its result.
    for task in sorted(tasks, key=_rank):
        for render in _renders_of_task(task, read_manifest):
            generation_id = render["generation_id"]
            if generation_id in by_id:
                _merge(by_id[generation_id], render)
                continue
            if generation_id is not None:
                by_id[generation_id] = render
            render["files"] = files.get(generation_id, [])
            found.append(render)
    order = {task.place: number for number, task in enumerate(tasks)}
    return sorted(found, key=lambda render: order[render["task_id"], render["map_index"], render["region"]])


def _rank(task: Task) -> int:
    if task.operator in GENERATION_OPERATORS:
        return 0
    if task.operator in SENSORS:
        return 2
    return 1 if task.xcoms.get(ID_KEY) and task.operator not in TRANSFER_OPERATORS else 3


def _renders_of_task(task: Task, read_manifest: ReadManifest) -> Iterator[dict[str, Any]]:
    result = task.result
    if task.operator in TRANSFER_OPERATORS or stored_paths(result):
        return
    if is_batch_result(result):
        yield from _renders_of_batch(task, result, read_manifest)
        return
    if isinstance(task.report.get("items"), list):
        yield from _renders_of_items(task, _reported_items(task))
        return
    results = [item for item in (result if isinstance(result, list) else [result]) if _is_result(item)]
    for number, item in enumerate(results):
        yield _render(task, item, number if len(results) > 1 else None)
    if not results and (task.operator in GENERATION_OPERATORS | SENSORS or text_of(task.xcoms.get(ID_KEY))):
        # Of a generation that failed: the state is that of its task, which may be retried.
        yield _render(task, {name: value for name, value in task.report.items() if name != "status"}, None)


def is_batch_result(result: Any) -> bool:
    """Return whether a result is that of a batch."""
    return isinstance(result, Mapping) and "counts" in result and "succeeded" in result


def _is_result(value: Any) -> bool:
    return isinstance(value, Mapping) and text_of(value.get("generation_id")) is not None and "urls" in value


def _renders_of_batch(
    task: Task, result: Mapping[str, Any], read_manifest: ReadManifest
) -> Iterator[dict[str, Any]]:
    if "estimate" in result:  # a dry run
        return
    try:
        items = _batch_items(task, result, read_manifest)
    except Exception:
        log.warning("A manifest that a result names cannot be read for the Renders page.", exc_info=True)
        # The API server may not reach the store. The result itself still has the totals.
        counts = result.get("counts")
        yield _render(task, {}, None) | {
            "credits": number_of(result.get("credits")),
            "cost_usd": number_of(result.get("cost_usd")),
            "error": "The manifest of this batch cannot be read from here.",
            "count": number_of(counts.get("total")) if isinstance(counts, Mapping) else None,
        }
        return
    yield from _renders_of_items(task, items)


def _renders_of_items(task: Task, items: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    prompts = _prompts(task.fields.get("requests"))
    for number, item in enumerate(items):
        render = _render(task, item, number)
        render["key"] = key = text_of(item.get("key"))
        if key is not None and not render["prompt"]:
            render["prompt"] = prompts.get(key)
        yield render


def _reported_items(task: Task) -> Iterator[Mapping[str, Any]]:
    """Yield the items of a report, with what has ended since."""
    ended = task.ended_since
    goes_on = task.shown_state not in TERMINAL_STATES
    for item in _mappings(task.report["items"]):
        if item.get("status") == "running":
            found = ended.get(str(item.get("generation_id")), {})
            item = {**item, **{name: value for name, value in found.items() if value is not None}}
        if item.get("status") == "not_submitted" and goes_on:
            item = {**item, "status": "waiting"}
        elif item.get("status") == "running" and not goes_on:
            error = "The task ended before this render, which may go on and be billed."
            item = {**item, "status": "failed", "error": error}
        yield item


def _batch_items(
    task: Task, result: Mapping[str, Any], read_manifest: ReadManifest
) -> list[Mapping[str, Any]]:
    if path := text_of(result.get("manifest")):
        # Only the manifest that a batch operator was configured to write: an XCom can name any path.
        if task.operator not in BATCH_OPERATORS or path != task.fields.get("manifest_path"):
            raise LookupError(path)
        return list(read_manifest(path))
    ended = [
        {"status": status, **item}
        for status in ("succeeded", "failed")
        for item in _mappings(result.get(status))
    ]
    return ended + [{"status": "not_submitted", "key": key} for key in list_of(result.get("not_submitted"))]


def _prompts(requests: Any) -> dict[str, str]:
    """Return the prompts of a batch by key, as far as Airflow stored its requests."""
    found: dict[str, str] = {}
    for index, request in enumerate(list_of(parse_xcom(requests))):
        if isinstance(request, str):
            found[str(index)] = request[:MAX_TEXT_CHARS]
        elif isinstance(request, Mapping) and isinstance(request.get("prompt"), str):
            found[str(request.get("key", index))] = request["prompt"][:MAX_TEXT_CHARS]
    return found


def _render(task: Task, result: Mapping[str, Any], number: int | None) -> dict[str, Any]:
    state = _state(task, result)
    submitted = number is None and state not in ("waiting", "queued", "retrying")
    unfinished = task.operator in BATCH_OPERATORS and not result
    requests = parse_xcom(task.fields.get("requests")) if unfinished else None
    progress = number_of(task.xcoms.get(PROGRESS_KEY))
    request = _request(task, result)
    generation_id = text_of(result.get("generation_id")) or (
        text_of(task.xcoms.get(ID_KEY)) if submitted else None
    )
    return {
        "id": "/".join(str(part) for part in (*task.place, number) if part not in ("", None)),
        "task_id": task.task_id,
        "map_index": task.map_index,
        "region": task.region,
        "iteration": task.iteration,
        "label": task.label,
        "key": None,
        "try_number": task.try_number,
        **{name: scalar_of(result.get(name)) for name in _FROM_RESULT},
        "output_tokens": number_of(mapping_of(result.get("usage")).get("output_tokens")),
        "generation_id": generation_id,
        "console": console_of(result.get("api"), generation_id),
        "model": text_of(result.get("model")) or text_of(request.get("model")),
        "media": text_of(result.get("media")) or ("image" if task.operator in IMAGE_OPERATORS else "video"),
        "prompt": text_of(result.get("prompt")) or text_of(request.get("prompt")),
        "request": request,
        "state": state,
        "task_state": task.state,
        "progress": None if state != "running" or progress is None else int(min(max(progress, 0), 100)),
        "ends_at": text_of(task.xcoms.get(ENDS_AT_KEY)) if state == "running" and number is None else None,
        "error": text_of(result.get("error")) or (task.error if number is None else None),
        **_times(task, result, state, number),
        "urls": [url for url in list_of(result.get("urls")) if is_http_url(url)],
        "expires_at": text_of(result.get("expires_at")),
        "count": len(requests) if isinstance(requests, list) else None,
        "files": [],
    }


def _request(task: Task, result: Mapping[str, Any]) -> dict[str, str | float]:
    """Return the arguments of the request that are known, without those that are not set."""
    known = {**task.fields, "prompt": task.fields.get("prompt") or task.fields.get("_prompt")}
    request = {name: known.get(name) for name in _ARGUMENTS} | {**mapping_of(result.get("request"))}
    shown = {str(name): readable_of(value) for name, value in request.items()}
    return {name: value for name, value in shown.items() if value is not None}


def _times(task: Task, result: Mapping[str, Any], state: str, number: int | None) -> dict[str, str | None]:
    """Return start and end: of an item its own, not those of the task."""
    start, end = text_of(result.get("created_at")), text_of(result.get("completed_at"))
    if number is None:
        # A task that waits may have those of an earlier try.
        begun = task.shown_state != "waiting"
        start, end = start or (iso_of(task.started_at) if begun else None), end or iso_of(task.ended_at)
    elif state in TERMINAL_STATES and end is None:
        start = None
    return {"started_at": start, "ended_at": end if state in TERMINAL_STATES else None}


def _state(task: Task, result: Mapping[str, Any]) -> str:
    status = text_of(result.get("status"))
    if status == "not_submitted":
        return "skipped"
    failed = status == "failed" or task.shown_state == "failed"
    if failed and (kind := result.get("kind")) in ("cancelled", "expired", "uncertain"):
        return str(kind)
    if status in ("waiting", "running", "succeeded", "failed", "cancelled", "expired"):
        return status
    # Deferred without an id, the task waits for the quota before it submits.
    if task.state == "deferred" and task.operator not in BATCH_OPERATORS | SENSORS:
        return "running" if text_of(task.xcoms.get(ID_KEY)) else "queued"
    return task.shown_state


def _merge(render: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Fill the unknown fields of a render from another task instance with the same generation."""
    for name in (*_FROM_RESULT, "output_tokens", "prompt", "expires_at", "console"):
        if render[name] is None:
            render[name] = other[name]
    render["request"] = render["request"] or other["request"]
    render["urls"] = render["urls"] or other["urls"]


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in list_of(value) if isinstance(item, Mapping)]


def mapping_of(value: Any) -> Mapping[str, Any]:
    """Return a mapping; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}
