"""Reading the operator's arguments, in every form that a Dag or a template gives them; nothing is sent."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.urls import redact_url

if TYPE_CHECKING:
    from airflow_provider_seedance.storage.location import StorageLocation

Overwrite = Literal["yes", "no", "if-changed"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """
    One generation of many.

    :param key: Of its item; its id where it has none.
    :param sha256: Of its outputs, as far as known.
    """

    generation: Generation
    key: str
    sha256: tuple[str | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Many:
    """
    What a campaign made.

    :param left_out: Items that failed or were not submitted: they have nothing to transfer.
    :param broken: Keys of items that are said to have succeeded and cannot be transferred, and why.
    """

    wanted: tuple[Wanted, ...]
    left_out: int = 0
    broken: tuple[tuple[str, errors.SeedanceError], ...] = ()


def read_many(value: Any) -> Many | None:
    """
    Read the operator's ``generation`` if it is many: a batch result, its manifest, or a list of results.

    :returns: ``None`` if it is a single one.
    :raises SeedanceRequestError: it is neither; nothing was sent, a retry cannot help.
    :raises SeedanceConfigurationError: there is no such manifest.
    """
    if isinstance(value, str) and not is_path(value):
        value = _from_text(value)
    if is_path(value):
        return _from_manifest(value.strip() if isinstance(value, str) else value)
    if isinstance(value, Mapping):
        if "succeeded" not in value or "counts" not in value:
            return None
        return _from_batch(value)
    if isinstance(value, (Generation, str, bytes)) or not isinstance(value, Iterable):
        return None
    entries = [_from_text(entry) if isinstance(entry, str) else entry for entry in value]
    for entry in entries:
        _shaped(entry)  # what is no result at all is a mistake in the Dag
    return _gathered(entries, left_out=0) if entries else None


def is_path(value: Any) -> bool:
    """Whether a value names a manifest. The URL of a video does not, though it looks like a path."""
    if not isinstance(value, str):
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        return isinstance(value, ObjectStoragePath)
    text = value.strip()
    scheme, separator, _ = text.partition("://")
    if "\n" in text or scheme.lower() in ("http", "https"):
        return False
    known = bool(separator) and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.\-]*", scheme) is not None
    return known or text.startswith("/") or text.endswith((".jsonl", ".ndjson"))


def _from_batch(value: Mapping[str, Any]) -> Many:
    if value.get("manifest"):
        return _from_manifest(value["manifest"])
    succeeded, rest = value.get("succeeded"), (value.get("failed"), value.get("not_submitted"))
    if not isinstance(succeeded, (list, tuple)):
        raise _not_a_result("its succeeded is not a list")
    return _gathered(succeeded, left_out=sum(len(part) for part in rest if isinstance(part, (list, tuple))))


def _from_manifest(path: Any) -> Many:
    from airflow_provider_seedance.batch.manifest import read_manifest

    lines = read_manifest(path)
    succeeded = [line for line in lines if line.get("status") == GenerationStatus.SUCCEEDED.value]
    return _gathered(succeeded, left_out=len(lines) - len(succeeded))


def _gathered(entries: Iterable[Any], *, left_out: int) -> Many:
    wanted: list[Wanted] = []
    broken: list[tuple[str, errors.SeedanceError]] = []
    for number, entry in enumerate(entries, start=1):
        try:
            generation, key = _shaped(entry)
            if generation.status is not GenerationStatus.SUCCEEDED:
                left_out += 1
                continue
            _check_transferable(generation)
        except errors.SeedanceRequestError as error:
            # One item is no reason to let the URLs of all others expire.
            named = entry.get("key") or entry.get("generation_id") if isinstance(entry, Mapping) else None
            broken.append((str(named or f"item {number}"), error))
            continue
        told = entry.get("sha256") if isinstance(entry, Mapping) else None
        hashes = told if isinstance(told, (list, tuple)) else [told]
        wanted.append(
            Wanted(
                generation=generation,
                key=key if key is not None else generation.generation_id,
                sha256=tuple(map(_hash, hashes)),
            )
        )
    return Many(wanted=tuple(wanted), left_out=left_out, broken=tuple(broken))


def _hash(told: Any) -> str | None:
    """Read a SHA-256 that somebody else wrote; what is none is not known."""
    text = told.strip().lower() if isinstance(told, str) else ""
    return text if re.fullmatch(r"[0-9a-f]{64}", text) else None


def read_generation(value: Any) -> tuple[Generation, str | None]:
    """
    Read the operator's ``generation``: a result, or its text as templates write it.

    :returns: The generation, and the key of a batch item if it is one.
    :raises SeedanceRequestError: it is not a result with outputs; nothing was sent, a retry cannot help.
    """
    generation, key = _shaped(_from_text(value) if isinstance(value, str) else value)
    _check_transferable(generation)
    return generation, key


def _shaped(value: Any) -> tuple[Generation, str | None]:
    if isinstance(value, Generation):
        return value, None
    try:
        generation = Generation.from_result(value)
    except ValueError as error:
        raise _not_a_result(str(error)) from None
    key = value.get("key")
    return generation, str(key) if key is not None else None


def _check_transferable(generation: Generation) -> None:
    if generation.status is not GenerationStatus.SUCCEEDED:
        raise _not_a_result(
            f"generation {generation.generation_id} is {generation.status.value}, so there is nothing to transfer"
        )
    if not generation.urls or not all(url.strip() for url in generation.urls):
        raise _not_a_result(f"generation {generation.generation_id} has no output URLs")


def _from_text(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text.strip())
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    display = redact_url(text)
    raise _not_a_result(f"it is the text {display[:60] + '…' if len(display) > 60 else display!r}")


def _not_a_result(why: str) -> errors.SeedanceRequestError:
    return errors.SeedanceRequestError(
        f"generation cannot be transferred: {why}. Give the operator the result of one Seedance or Seedream task, "
        "such as generation=video.output or \"{{ ti.xcom_pull(task_ids='video') }}\", of a batch task, or the path of "
        "its manifest. Nothing was sent."
    )


def read_overwrite(value: Any) -> Overwrite:
    """
    Read the operator's ``overwrite``.

    :raises SeedanceConfigurationError: it is none of the three; nothing was sent.
    """
    words: Mapping[str, Overwrite] = {"true": "yes", "false": "no", "if-changed": "if-changed"}
    word = words.get(str(value).strip().lower()) if isinstance(value, (bool, str)) else None
    if word is None:
        raise errors.SeedanceConfigurationError(
            f"overwrite is {value!r}; it takes True, False or 'if-changed'. Nothing was sent."
        )
    return word


def destination_text(destination: Any) -> str:
    """
    Return a destination as text.

    :raises SeedanceConfigurationError: there is none; nothing was sent.
    """
    text = str(destination).strip() if destination is not None else ""
    if text in ("", "None"):
        raise errors.SeedanceConfigurationError(
            "destination is empty; it takes a path such as s3://bucket/videos/. Nothing was sent."
        )
    return text


def against_a_file(place: StorageLocation, text: str, count: int, template: str | None) -> str | None:
    """Say why a destination that is one file cannot be used, or return ``None``."""
    if count > 1:
        return (
            f"The generation has {count} outputs, and destination {text!r} is one file: several need a "
            "directory, written as text with a / at the end."
        )
    if template is not None:
        return (
            f"name_template names files in a directory, and destination {text!r} is a file: write a directory "
            "as text with a / at the end, or leave name_template out."
        )
    if place.is_local_directory:
        return f"destination {text!r} is a directory: write it with a / at the end."
    return None
