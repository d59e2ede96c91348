"""Reading the operator's arguments, in every form that a Dag or a template gives them; nothing is sent."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.urls import show_url

if TYPE_CHECKING:
    from airflow_provider_seedance.transfers.storage import Place

Overwrite = Literal["yes", "no", "if-changed"]


def read_generation(value: Any) -> tuple[Generation, str | None]:
    """
    Read the operator's ``generation``: a result, or its text as templates write it.

    :returns: The generation, and the key of a batch item if it is one.
    :raises SeedanceRequestError: it is not a result with outputs; nothing was sent, a retry cannot help.
    """
    if isinstance(value, Generation):
        generation, key = value, None
    else:
        result = _from_text(value) if isinstance(value, str) else value
        try:
            generation = Generation.from_result(result)
        except ValueError as error:
            raise _not_a_result(str(error)) from None
        key = result.get("key")
    if generation.status is not GenerationStatus.SUCCEEDED:
        raise _not_a_result(
            f"generation {generation.generation_id} is {generation.status.value}, so there is nothing to transfer"
        )
    if not generation.urls or not all(url.strip() for url in generation.urls):
        raise _not_a_result(f"generation {generation.generation_id} has no output URLs")
    return generation, str(key) if key is not None else None


def _from_text(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text.strip())
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    shown = show_url(text)
    raise _not_a_result(f"it is the text {shown[:60] + '…' if len(shown) > 60 else shown!r}")


def _not_a_result(why: str) -> errors.SeedanceRequestError:
    return errors.SeedanceRequestError(
        f"generation cannot be transferred: {why}. Give the operator the result of one Seedance or Seedream task, "
        "such as generation=video.output or \"{{ ti.xcom_pull(task_ids='video') }}\"; for several, map over them "
        "with .expand(generation=…). Nothing was sent."
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


def against_a_file(place: Place, text: str, count: int, template: str | None) -> str | None:
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
