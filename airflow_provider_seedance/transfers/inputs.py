"""The operator's arguments, in every form that a Dag or a template gives them. Nothing is sent."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.manifest import read_manifest
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.storage.location import StorageLocation
from airflow_provider_seedance.urls import redact_url

Overwrite = Literal["yes", "no", "if-changed"]

#: Limit of a rejected value that an error quotes.
MAX_QUOTED_CHARS = 60


@dataclass(frozen=True, kw_only=True)
class TransferItem:
    """
    One generation to transfer.

    :param key: Key of its batch item; the generation id where there is none.
    :param sha256: Of its outputs, as far as known.
    """

    generation: Generation
    key: str
    sha256: tuple[str | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TransferInput:
    """
    All generations to transfer.

    :param single: The argument was one generation, not a batch or a list.
    :param left_out: Number of items that failed or were not submitted, so that they have no output.
    :param broken: Keys of items that are reported as succeeded and cannot be transferred, with the reason.
    """

    items: tuple[TransferItem, ...]
    single: bool = False
    left_out: int = 0
    broken: tuple[tuple[str, errors.SeedanceError], ...] = ()


def read_input(value: Any) -> TransferInput:
    """
    Read the operator's ``generation``: a result, a batch result, its manifest, a list of results, or their text.

    :raises SeedanceRequestError: it has no outputs to transfer; nothing was sent, a retry cannot help.
    :raises SeedanceConfigurationError: there is no such manifest.
    """
    if isinstance(value, str) and not is_path(value):
        value = _from_text(value)
    if is_path(value):
        return _from_manifest(value.strip() if isinstance(value, str) else value)
    if isinstance(value, Mapping) and "succeeded" in value and "counts" in value:
        return _from_batch(value)
    if isinstance(value, Iterable) and not isinstance(value, (Mapping, Generation, str, bytes)):
        entries = [_from_text(entry) if isinstance(entry, str) else entry for entry in value]
        for entry in entries:
            _to_generation(entry)  # anything but a result is a mistake in the Dag
        if entries:
            return _collect(entries)
    return TransferInput(items=(_to_item(value),), single=True)


def is_path(value: Any) -> bool:
    """Return whether a value names a manifest. The URL of a video does not, though it looks like a path."""
    if not isinstance(value, str):
        return isinstance(value, ObjectStoragePath)
    text = value.strip()
    scheme, separator, _ = text.partition("://")
    if "\n" in text or scheme.lower() in ("http", "https"):
        return False
    has_scheme = bool(separator) and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.\-]*", scheme) is not None
    return has_scheme or text.startswith("/") or text.endswith((".jsonl", ".ndjson"))


def _from_batch(value: Mapping[str, Any]) -> TransferInput:
    if value.get("manifest"):
        return _from_manifest(value["manifest"])
    succeeded, rest = value.get("succeeded"), (value.get("failed"), value.get("not_submitted"))
    if not isinstance(succeeded, (list, tuple)):
        raise _not_a_result("its succeeded is not a list")
    return _collect(succeeded, left_out=sum(len(part) for part in rest if isinstance(part, (list, tuple))))


def _from_manifest(path: Any) -> TransferInput:
    lines = read_manifest(path)
    succeeded = [line for line in lines if line.get("status") == GenerationStatus.SUCCEEDED.value]
    return _collect(succeeded, left_out=len(lines) - len(succeeded))


def _collect(entries: Iterable[Any], *, left_out: int = 0) -> TransferInput:
    items: list[TransferItem] = []
    broken: list[tuple[str, errors.SeedanceError]] = []
    for number, entry in enumerate(entries, start=1):
        try:
            if _to_generation(entry).status is not GenerationStatus.SUCCEEDED:
                left_out += 1
                continue
            items.append(_to_item(entry))
        except errors.SeedanceRequestError as error:
            # One item is not a reason to let the URLs of all others expire.
            name = entry.get("key") or entry.get("generation_id") if isinstance(entry, Mapping) else None
            broken.append((str(name or f"item {number}"), error))
    return TransferInput(items=tuple(items), left_out=left_out, broken=tuple(broken))


def _to_item(value: Any) -> TransferItem:
    generation = _to_generation(value)
    generation_id = generation.generation_id
    if generation.status is not GenerationStatus.SUCCEEDED:
        raise _not_a_result(
            f"generation {generation_id} is {generation.status.value}, so there is nothing to transfer"
        )
    if not generation.urls or not all(url.strip() for url in generation.urls):
        raise _not_a_result(f"generation {generation_id} has no output URLs")
    fields = value if isinstance(value, Mapping) else {}
    key, hashes = fields.get("key"), fields.get("sha256")
    return TransferItem(
        generation=generation,
        key=str(key) if key is not None else generation_id,
        sha256=tuple(map(_sha256, hashes if isinstance(hashes, (list, tuple)) else [hashes])),
    )


def _sha256(value: Any) -> str | None:
    text = value.strip().lower() if isinstance(value, str) else ""
    return text if re.fullmatch(r"[0-9a-f]{64}", text) else None


def _to_generation(value: Any) -> Generation:
    if isinstance(value, Generation):
        return value
    try:
        return Generation.from_result(value)
    except ValueError as error:
        raise _not_a_result(str(error)) from None


def _from_text(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text.strip())
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    raise _not_a_result(f"it is the text {shorten(redact_url(text), MAX_QUOTED_CHARS)!r}")


def _not_a_result(reason: str) -> errors.SeedanceRequestError:
    return errors.SeedanceRequestError(
        f"generation cannot be transferred: {reason}. Give the operator the result of one Seedance or Seedream task, "
        "such as generation=video.output or \"{{ ti.xcom_pull(task_ids='video') }}\", of a batch task, or the path of "
        "its manifest. Nothing was sent."
    )


def read_overwrite(value: Any) -> Overwrite:
    """
    Read the operator's ``overwrite``.

    :raises SeedanceConfigurationError: it has another value; nothing was sent.
    """
    words: Mapping[str, Overwrite] = {"true": "yes", "false": "no", "if-changed": "if-changed"}
    word = words.get(str(value).strip().lower()) if isinstance(value, (bool, str)) else None
    if word is None:
        raise errors.SeedanceConfigurationError(
            f"overwrite is {value!r}; it takes True, False or 'if-changed'. Nothing was sent."
        )
    return word


def read_flag(name: str, value: Any) -> bool:
    """
    Read an argument that is true or false, also as the text that a template renders.

    :raises SeedanceConfigurationError: it has another value; nothing was sent.
    """
    words = {"true": True, "false": False}
    word = words.get(str(value).strip().lower()) if isinstance(value, (bool, str)) else None
    if word is None:
        raise _unusable(f"{name} is {value!r}; it takes True or False.")
    return word


def read_destination(
    destination: Any, conn_id: str | None, *, single_file: bool, name_template: str | None
) -> tuple[StorageLocation, bool]:
    """
    Read the operator's ``destination``, and whether it is a directory.

    :param single_file: There is one output of one generation.
    :raises SeedanceConfigurationError: it cannot be used; nothing was sent.
    """
    text = str(destination).strip() if destination is not None else ""
    if text in ("", "None"):
        raise _unusable("destination is empty; it takes a path such as s3://bucket/videos/.")
    location = StorageLocation.of(destination, conn_id)
    is_local_directory = location.is_local_directory
    if text.endswith("/") or (is_local_directory and not (single_file and isinstance(destination, str))):
        return location, True
    if not single_file:
        raise _unusable(
            f"destination {text!r} is one file: a batch and several outputs need a directory, written as text with "
            "a / at the end."
        )
    if name_template is not None:
        raise _unusable(
            f"name_template names files in a directory, and destination {text!r} is a file: write a directory "
            "as text with a / at the end, or leave name_template out."
        )
    if is_local_directory:
        raise _unusable(f"destination {text!r} is a directory: write it with a / at the end.")
    return location, False


def _unusable(reason: str) -> errors.SeedanceConfigurationError:
    return errors.SeedanceConfigurationError(f"{reason} Nothing was sent.")


def shorten(text: str, max_chars: int) -> str:
    """Return a text for messages, cut to a length."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
