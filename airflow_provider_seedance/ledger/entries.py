"""Rows of the ledger: the identity of a task, and the columns of a record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import conf
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import String

from airflow_provider_seedance.generations import GenerationStatus, read_number, read_usage
from airflow_provider_seedance.ledger.search_text import NO_WORDS, prompt_text, token
from airflow_provider_seedance.ledger.tables import submissions
from airflow_provider_seedance.polling.duration_model import kind_of
from airflow_provider_seedance.submission.records import Record, RecordState
from airflow_provider_seedance.submission.store import SubmissionDetails

#: Limit of a stored result, whose links may be data URLs. A longer one is read from the service again.
MAX_RESULT_BYTES = 256 * 1024

#: Fields of a record that are columns; the column `record` has the others.
RECORD_COLUMNS = (
    *("state", "status", "generation_id", "conn_id", "ti_id", "max_tries", "try_number"),
    *("intended_at", "submitted_at", "ended_at"),
)


@dataclass(frozen=True, kw_only=True)
class TaskIdentity:
    """
    Identity of a task instance that outlives its tries, its clears and its Dag run.

    :param loop_index: Pass of a task loop (Airflow 3.4), -1 outside of loops.
    """

    namespace: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    loop_index: int = -1

    @classmethod
    def of(cls, namespace: str, context: Any) -> TaskIdentity:
        """Return the identity of the task instance that is running."""
        ti = context["ti"]
        return cls(
            namespace=namespace,
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            task_id=ti.task_id,
            map_index=int(getattr(ti, "map_index", -1)),
            # Its index and not its region, which a clear replaces.
            loop_index=int(getattr(context.get("loop"), "index", -1)),
        )

    @property
    def instance(self) -> str:
        """Digest of the identity: the columns are too long for a key of MySQL."""
        return hashlib.sha256(json.dumps(list(asdict(self).values())).encode()).hexdigest()[:32]

    def columns(self) -> dict[str, Any]:
        """Return the columns that identify the task."""
        return {"instance": self.instance, **asdict(self)}


@dataclass(slots=True)
class LedgerEntry:
    """
    One row: a submission of one record key.

    :param number: Number of the submission among those of its key.
    :param record: ``None`` for a key that is registered, and submitted later.
    :param stored: Whether the row exists.
    :param dirty: Whether it differs from what is stored.
    :param result: The result for people and reports, without signatures.
    """

    key: str
    number: int = 1
    record: Record | None = None
    stored: bool = False
    dirty: bool = True
    result: dict[str, Any] | None = None

    @property
    def was_submitted(self) -> bool:
        """Return whether a submission was, or may have been, sent for it."""
        return self.record is not None and self.record.state is not RecordState.NOT_SUBMITTED

    def columns(self) -> dict[str, Any]:
        """Return the columns of the record."""
        record = self.record
        if record is None:
            return {"state": RecordState.NOT_SUBMITTED.value, "search_text": NO_WORDS}
        result = public_result(record.result) if record.result is not None else self.result
        known = {**record.result_defaults, **{k: v for k, v in (result or {}).items() if v is not None}}
        shown = {name: clipped(name, known.get(name)) for name in ("model", "resolution")}
        return {
            **{name: getattr(record, name) for name in RECORD_COLUMNS},
            "state": record.state.value,
            "status": record.status.value if record.status else None,
            "fingerprint": record.fingerprint.digest(),
            **{
                name: clipped(name, getattr(record.fingerprint, name))
                for name in ("api", "base_url", "media")
            },
            **shown,
            "search_model": token(shown["model"]),
            "duration": read_number(known.get("duration")),
            "kind": None if record.reused_from else kind_of(record.fingerprint.media, record.result_defaults),
            "estimated_credits": read_number(record.result_defaults.get("credits")),
            "estimated_cost_usd": read_number(record.result_defaults.get("cost_usd")),
            "credits": _actual(record, record.reported_credits, "credits"),
            "cost_usd": _actual(record, record.reported_cost_usd, "cost_usd"),
            "output_tokens": (read_usage(known.get("usage")) or {}).get("output_tokens"),
            "result": result,
            "record": {**_remainder(record), **stored_result(record.result)},
        }

    @classmethod
    def of_row(cls, row: Any) -> LedgerEntry:
        """
        Read a row.

        :raises SeedanceRecordError: it is damaged, or of another version.
        """
        entry = cls(row["record_key"], row["number"], stored=True, dirty=False, result=row["result"])
        if row["record"] is not None:
            value = {**row["record"], **{name: row[name] for name in RECORD_COLUMNS}}
            result = row["result"] if value.pop("result_is_complete", False) else None
            sealed = value.pop("sealed_result", None)
            entry.record = Record.from_value({**value, "result": _unseal(sealed) if sealed else result})
        return entry


def details_columns(task: TaskIdentity, details: SubmissionDetails, *, prompts: bool) -> dict[str, Any]:
    """Return the columns of the details of a submission."""
    item_key = clipped("item_key", details.item_key)
    prompt = clipped("prompt", details.prompt) if prompts else None
    return {
        "item_key": item_key,
        "prompt": prompt,
        "search_text": prompt_text(task.namespace, task.dag_id, item_key, prompt),
        "reuse_key": details.reuse_key,
    }


def public_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result whose links have no query, which may sign them, and no embedded data."""
    urls = [_public_url(url) for url in result.get("urls") or ()]
    frame = result.get("last_frame_url")
    known = {"last_frame_url": _public_url(frame)} if isinstance(frame, str) else {}
    return {**result, **known, "urls": urls, "url": urls[0] if urls else None}


def stored_result(result: Mapping[str, Any] | None) -> dict[str, Any]:
    """
    Return the part of the column `record` from which a later try delivers a result.

    It is empty where the result has to be read from the service again.
    """
    if result is None:
        return {}
    if public_result(result) == result:
        return {"result_is_complete": True}
    # A later try needs the signed links, and the ledger must not contain them in a form that works.
    fernet = _fernet()
    sealed = fernet.encrypt(json.dumps(result).encode()).decode() if fernet else ""
    return {"sealed_result": sealed} if 0 < len(sealed) <= MAX_RESULT_BYTES else {}


def _unseal(text: str) -> Any:
    """Return an encrypted result, or ``None`` where the key has changed."""
    fernet = _fernet()
    try:
        return json.loads(fernet.decrypt(text.encode())) if fernet else None
    except InvalidToken:
        return None


def _fernet() -> MultiFernet | None:
    """Return Airflow's Fernet key, with which Airflow encrypts its connections, or ``None`` where it has none."""
    keys = [key.strip() for key in (conf.get("core", "fernet_key", fallback="") or "").split(",")]
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError:  # no key, or not a key
        return None


def clipped(column: str, value: object) -> str | None:
    """Return a text as its column takes it: not too long, and without characters that PostgreSQL refuses."""
    if value is None:
        return None
    text = str(value).replace("\0", "").encode("utf-8", "replace").decode()
    kind = submissions.c[column].type
    return text[: kind.length] if isinstance(kind, String) and kind.length else text


def _public_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not shown)"
    if parts.scheme not in ("http", "https"):
        return f"{parts.scheme}:…"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _remainder(record: Record) -> dict[str, Any]:
    value = record.as_dict()
    return {name: value[name] for name in value if name not in (*RECORD_COLUMNS, "result")}


def _actual(record: Record, reported: float | None, name: str) -> float | None:
    """Return the cost of a generation that has ended: of one that failed, only what the service reported."""
    if record.state is not RecordState.ENDED:
        return None
    if reported is None and record.status is GenerationStatus.SUCCEEDED:
        return read_number(record.result_defaults.get(name))
    return reported or 0.0 if record.status is not GenerationStatus.SUCCEEDED else reported
