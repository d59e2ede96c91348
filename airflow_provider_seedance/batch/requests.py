"""
Requests of a batch: a list, the text of a list, or a file in object storage.

Every problem is reported at once, before anything is sent: a batch that stops at its first typing error would
be corrected, and paid for, in pieces.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import islice, zip_longest
from pathlib import PurePath
from typing import Any, NoReturn

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.items import BatchItem
from airflow_provider_seedance.generations import VideoRequest, did_you_mean, is_unset
from airflow_provider_seedance.storage.jsonl import read_text
from airflow_provider_seedance.submission.decisions import listed

log = logging.getLogger(__name__)

#: Maximum number of requests of one batch; more belong into several tasks.
MAX_ITEMS = 10_000

#: Maximum size of a file of requests.
MAX_FILE_BYTES = 64 * 1024 * 1024

#: Maximum length of a key.
MAX_KEY_CHARS = 200

_ARGUMENTS = frozenset(item.name for item in fields(VideoRequest))

#: Names beside the arguments of the request.
_IDENTITY = ("key", "take")

#: Suffixes of files of requests; the sentence of a prompt may end in another one.
_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt")

_TAKES = "it takes a list of prompts or of dicts of request arguments, or the path of a JSONL or CSV file"
_IN_A_LIST = " (put a single request in a list: requests=[…])"
_NOTHING_BILLED = "Nothing was sent, nothing is billed."


class _InvalidEntry(ValueError):
    """Problem of one request, which leaves the others usable."""


def read_requests(
    value: Any, defaults: Mapping[str, Any] | None = None, *, keep: bool = False
) -> list[BatchItem]:
    """
    Read the requests of a batch.

    :param value: A list of prompts or of dicts of request arguments with an optional ``key`` and ``take``; the text
        of such a list, as templates write it; or the path of a JSONL or CSV file of them.
    :param defaults: Arguments for every request; an item's own win, except where they are ``None``.
    :param keep: Whether an invalid request fails its item only.
    :return: In the order of the list.
    :raises SeedanceRequestError: with every problem; a retry cannot help.
    :raises SeedanceConfigurationError: the file is not there or cannot be used; a retry cannot help.
    :raises SeedanceMediaError: the store could not be read; a retry helps.
    """
    problems: list[str] = []
    base = {name: given for name, given in (defaults or {}).items() if not is_unset(given)}
    items: list[BatchItem] = []
    count = 0
    for where, entry in islice(_entries(value, problems), MAX_ITEMS + 1):
        try:
            items.append(_item(count, entry, base))
        except _InvalidEntry as error:
            problem = f"{where} {error}"
            if keep:
                items.append(_failed_item(count, entry, problem))
            else:
                problems.append(problem)
        count += 1
    _find_duplicate_keys(items, problems)
    if problems:
        raise errors.SeedanceRequestError(
            f"The requests cannot be used: {listed(problems, '; ')}. {_NOTHING_BILLED} Correct them and clear the task."
        )
    if count > MAX_ITEMS:
        raise errors.SeedanceRequestError(
            f"There are more than {MAX_ITEMS} requests, the maximum of one task. {_NOTHING_BILLED} Divide "
            "them among several tasks."
        )
    if not items:
        log.warning("requests is empty (%.200r): there is nothing to render.", value)
    return items


# ---------------------------------------------------------------------- sources

#: A request, after its place in the source, for messages.
_Entry = tuple[str, Any]


def _entries(value: Any, problems: list[str]) -> Iterator[_Entry]:
    if isinstance(value, str):
        text = value.strip()
        if text[:1] in ("[", "("):
            return _numbered(_literal(text, "requests is text that"))
        if "\n" in text or text[:1] == "{" or text in ("", "None") or _is_prompt(text):
            raise _unusable(f"requests is the text {text[:60]!r}{_IN_A_LIST if text else ''}")
        return _file(text, problems)
    if isinstance(value, (set, frozenset)):
        # A retry would find other positions, and with them other keys.
        raise _unusable("requests is a set, which has no order")
    if isinstance(value, PurePath):
        return _file(str(value), problems)
    if hasattr(value, "open") and hasattr(value, "name"):
        return _file(value, problems)
    if isinstance(value, Iterable) and not isinstance(value, (Mapping, bytes, bytearray, memoryview)):
        return _numbered(value)
    raise _unusable(f"requests is {_kind(value)}{_IN_A_LIST if isinstance(value, Mapping) else ''}")


def _is_prompt(text: str) -> bool:
    """Return whether a text reads like a prompt rather than like a path."""
    path = PurePath(text)
    if path.is_absolute() or "://" in text or text[0] in ".~":
        return False
    return path.suffix.lower() not in _SUFFIXES if " " in text else not path.suffix and "/" not in text


def _unusable(what: str) -> errors.SeedanceRequestError:
    return errors.SeedanceRequestError(f"{what}; {_TAKES}. {_NOTHING_BILLED}")


def _numbered(values: Iterable[Any]) -> Iterator[_Entry]:
    for index, value in enumerate(values):
        yield f"request {index}", value


def _literal(text: str, what: str) -> Iterable[Any]:
    for parse in (_json, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, (list, tuple)):
            return found
    raise errors.SeedanceRequestError(
        f"{what} is not a list in JSON or Python: {text[:60]!r}. {_NOTHING_BILLED}"
    )


def _json(text: str) -> Any:
    # Python silently uses the last value of a repeated name, and a render of the wrong one would be paid for.
    return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def _file(path: Any, problems: list[str]) -> Iterator[_Entry]:
    text = read_text(path, max_bytes=MAX_FILE_BYTES, what="requests")
    begins = text[:4096].lstrip()[:1]
    suffix = PurePath(str(path)).suffix.lower()
    if suffix == ".csv":
        return _rows(text, problems)
    if suffix in (".jsonl", ".ndjson"):
        return _lines(text)
    if begins == "[":
        return _numbered(_literal(text.strip(), f"{str(path)!r}"))
    return _lines(text) if begins in ("{", '"', "") else _rows(text, problems)


def _split(text: str) -> Iterator[str]:
    # splitlines() also splits inside text, and split() holds the file twice.
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _lines(text: str) -> Iterator[_Entry]:
    for number, line in enumerate(_split(text), start=1):
        if not line.strip():
            continue
        entry: Any
        try:
            entry = _json(line)
        except (ValueError, RecursionError) as error:
            # The decoder's own line number is always 1.
            at = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            entry = _InvalidEntry(f"is not JSON ({at})")
        yield f"line {number}", entry


def _rows(text: str, problems: list[str]) -> Iterator[_Entry]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=_delimiter(text))
    names: list[str] | None = None
    try:
        for row in reader:
            where = f"line {reader.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if names is None:
                names = [cell.strip() for cell in row]
                if wrong := _header_problems(names):
                    problems.extend(f"the header ({where}) {problem}" for problem in wrong)
                    return
                continue
            cells = [(name, cell) for name, cell in zip_longest(names, row, fillvalue="") if cell.strip()]
            entry: Any = {name: _cell(name, cell) for name, cell in cells}
            if unnamed := [cell for name, cell in cells if not name]:
                entry = _InvalidEntry(f"has {unnamed[0][:40]!r} in a column without a name")
            yield where, entry
    except csv.Error as error:
        problems.append(f"line {reader.line_num} is not CSV ({error})")


def _delimiter(text: str) -> str:
    """Return the delimiter of the columns: spreadsheets write semicolons where the comma is the decimal point."""
    header = text.lstrip().split("\n", 1)[0]
    return max(",;\t", key=header.count)


def _header_problems(names: Sequence[str]) -> list[str]:
    given = [name for name in names if name]
    found = [f"has the column {name!r} twice" for name in sorted(set(given)) if given.count(name) > 1]
    unknown = sorted(set(given) - _ARGUMENTS - {*_IDENTITY})
    if unknown:
        found.append(f"has {_unknown(unknown)}")
    if "prompt" not in given:
        found.append("has no column 'prompt' (columns are divided by commas, semicolons or tabs)")
    return found


def _cell(name: str, cell: str) -> Any:
    """Split a cell that holds several values; the request itself reads numbers and flags."""
    if name != "images":
        return cell
    text = cell.strip()
    return text if text[:1] in ("[", "{") or text.startswith("data:") else text.split()


# ---------------------------------------------------------------------- items


def _item(index: int, entry: Any, defaults: Mapping[str, Any]) -> BatchItem:
    """
    Read one request.

    :raises _InvalidEntry: it cannot be used.
    """
    if isinstance(entry, _InvalidEntry):
        raise entry
    if isinstance(entry, str):
        entry = {"prompt": entry}
    if not isinstance(entry, Mapping):
        raise _InvalidEntry(f"is {_kind(entry)}, neither a prompt nor a dict of request arguments")
    given = {str(name): value for name, value in entry.items()}
    take = _take(given.pop("take", None))
    key = _key(given.pop("key", None), index, take)
    if unknown := sorted(set(given) - _ARGUMENTS):
        raise _InvalidEntry(f"has {_unknown(unknown)}")
    own = {name: value for name, value in given.items() if name == "prompt" or not is_unset(value)}
    arguments = {**defaults, **own}
    if wrong := _prompt_problem(arguments):
        raise _InvalidEntry(wrong)
    return BatchItem(key=key, take=take, arguments=arguments)


def _failed_item(index: int, entry: Any, problem: str) -> BatchItem:
    """Return the item of an invalid request, under its own key where that can be used."""
    try:
        key = _key(entry.get("key"), index) if isinstance(entry, Mapping) else str(index)
    except _InvalidEntry:
        key = str(index)
    item = BatchItem(key=key, arguments={})
    item.fail(errors.SeedanceRequestError(f"The request cannot be used: {problem}. {_NOTHING_BILLED}"))
    return item


def _unknown(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:5])
    question = did_you_mean([name[:40] for name in names[:5]], [*_ARGUMENTS, *_IDENTITY])
    return (
        f"the unknown argument{'s'[: len(names) - 1]} {shown} ({question.strip()}{' ' if question else ''}A request takes "
        f"{', '.join(sorted(_ARGUMENTS))}; fields of the service that have no argument go into extra_params)"
    )


def _prompt_problem(arguments: Mapping[str, Any]) -> str | None:
    prompt = arguments.get("prompt")
    if prompt is None:
        return "has no prompt"
    if not isinstance(prompt, str):
        return f"has a prompt that is {_kind(prompt)}, not text"
    # With an input, some services need no prompt; the adapter of the service decides.
    if is_unset(prompt) and not arguments.get("images"):
        return "has an empty prompt"
    return None


def _take(value: Any) -> int | None:
    if is_unset(value):
        return None
    text = value.strip() if isinstance(value, str) else ""
    take = int(text) if text.isdecimal() and len(text) < 6 else value
    if isinstance(take, bool) or not isinstance(take, int) or not 1 <= take <= MAX_ITEMS:
        raise _InvalidEntry(f"has the take {_preview(value)}; a take is a whole number from 1 to {MAX_ITEMS}")
    return take


def _key(value: Any, index: int, take: int | None = None) -> str:
    """Return the key, with the number of a take from 2 on: rows of the same key then differ."""
    if value is None or value == "":
        return str(index)
    key = ""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        # Python refuses to write a number of thousands of digits as text.
        key = value if isinstance(value, str) else f"{value}" if abs(value) < 10**MAX_KEY_CHARS else ""
    suffix = f"-{take}" if take and take > 1 else ""
    if not key.strip() or len(key + suffix) > MAX_KEY_CHARS or not key.isprintable():
        raise _InvalidEntry(
            f"has the key {_preview(value)}; a key is printable text of at most {MAX_KEY_CHARS} characters"
        )
    return key + suffix


def _find_duplicate_keys(items: Iterable[BatchItem], problems: list[str]) -> None:
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        if item.key in seen:
            problems.append(f"requests {seen[item.key]} and {index} have the same key {item.key[:60]!r}")
        seen.setdefault(item.key, index)


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _preview(value: Any) -> str:
    return repr(value[:40]) if isinstance(value, str) else f"of type {_kind(value)}"
