"""
Rules for the arguments of a request: each accepts values, and describes what it accepts.

Adapters list a rule per argument; the service has no argument without a rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from airflow_provider_seedance.urls import MediaHosts, MediaInput, input_url_problem


@dataclass(frozen=True)
class Rule:
    """
    Values that one argument accepts.

    :param accepts: Returns whether a value is accepted.
    :param takes: Description of the accepted values, to follow the word *takes*.
    :param warning: Returns a warning about an accepted value, or ``None``.
    :param problems: Returns the problems of each item, where the value is a list of input media.
    """

    accepts: Callable[[Any], bool]
    takes: str
    warning: Callable[[Any], str | None] = lambda _: None
    problems: Callable[[Any, MediaHosts], list[str]] | None = None


def text(max_chars: int | None = None) -> Rule:
    """Return the rule for text of at most ``max_chars`` characters (not bytes)."""
    takes = f"text of at most {max_chars} characters" if max_chars else "text"
    return Rule(
        lambda value: isinstance(value, str) and (max_chars is None or len(value) <= max_chars), takes
    )


def one_of(values: tuple[Any, ...], unit: str = "") -> Rule:
    """Return the rule for one of the documented values."""

    def accepts(value: Any) -> bool:
        return not isinstance(value, bool) and isinstance(value, (str, int)) and value in values

    *first, last = map(str, values)
    return Rule(accepts, f"{', '.join(first)} or {last}{unit}" if first else f"{last}{unit}")


def pattern(expression: str, takes: str) -> Rule:
    """Return the rule for text that matches a pattern, such as a size in pixels."""
    return Rule(lambda value: isinstance(value, str) and re.fullmatch(expression, value) is not None, takes)


def whole_number(
    minimum: int | None = None, maximum: int | None = None, unit: str = "", also: tuple[int, ...] = ()
) -> Rule:
    """Return the rule for a whole number in a range, ends included; ``also`` holds special values outside of it."""

    def accepts(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        large_enough = minimum is None or value >= minimum
        return value in also or (large_enough and (maximum is None or value <= maximum))

    bounds = "" if minimum is None or maximum is None else f" from {minimum} to {maximum}"
    return Rule(accepts, f"a whole number{bounds}{unit}{''.join(f' or {value}' for value in also)}")


def flag() -> Rule:
    """Return the rule for true or false."""
    return Rule(lambda value: isinstance(value, bool), "true or false")


def model_name(
    known: tuple[str, ...], prefixes: tuple[str, ...] = (), retired: Mapping[str, str] | None = None
) -> Rule:
    """
    Return the rule for a model; an unknown name is only a warning, because services add models before they document them.

    :param retired: Date since which the service no longer offers a model.
    """
    listed = ", ".join(known)

    def warning(value: Any) -> str | None:
        if value in known or str(value).startswith(prefixes):
            return None
        if since := (retired or {}).get(str(value)):
            return f"model {value!r} is switched off at the service since {since} ({listed}); sent unchanged"
        return f"model {value!r} is not documented ({listed}); sent unchanged"

    return Rule(lambda value: isinstance(value, str), f"a model name such as {listed}", warning)


def undocumented(rule: Rule, note: str) -> Rule:
    """Return the rule for an argument that is not documented, but that public clients send: sent with a warning."""
    return replace(rule, warning=lambda value: f"{value!r} is sent, but {note}")


def inputs(maximum: int | None = None, roles: tuple[str, ...] = (), schemes: tuple[str, ...] = ()) -> Rule:
    """
    Return the rule for input media.

    :param maximum: Number of inputs; ``None`` where no limit is documented.
    :param roles: Accepted roles; empty where the service has no roles.
    :param schemes: URL schemes that are accepted in addition to https.
    """
    problems = partial(_input_problems, maximum, roles, schemes)
    count = f"at most {maximum} image{'s' if maximum != 1 else ''}" if maximum else "images"
    other = f" (or {', '.join(schemes)} URLs)" if schemes else ""
    with_roles = f", each with a role of {', '.join(roles)} or none" if roles else ""
    return Rule(
        lambda value: not problems(value, MediaHosts()),
        f"{count} as https URLs{other}{with_roles}",
        problems=problems,
    )


_NOT_IMAGES = ("reference_video", "reference_audio", "draft_task")


def _input_problems(
    maximum: int | None,
    roles: tuple[str, ...],
    schemes: tuple[str, ...],
    value: Iterable[Any],
    hosts: MediaHosts,
) -> list[str]:
    items = list(value)
    found = []
    images = [item for item in items if getattr(item, "role", None) not in _NOT_IMAGES]
    if maximum is not None and len(images) > maximum:
        found.append(f"{len(images)} images were given")
    for number, item in enumerate(items, 1):
        if not isinstance(item, MediaInput):
            found.append(f"image {number} is {item!r}, neither a URL nor a dict with a url")
            continue
        if item.role is not None and item.role not in roles:
            found.append(f"image {number} has the role {item.role!r}")
        if item.role == "draft_task" or item.url.split(":", 1)[0].lower() in schemes:
            continue
        if problem := input_url_problem(item.url, hosts):
            found.append(f"image {number} {problem}")
    return found


def with_roles(inputs: Iterable[MediaInput]) -> list[tuple[MediaInput, str]]:
    """Return inputs with roles; without any, one or two are frames, and more are references."""
    given, frames = tuple(inputs), ("first_frame", "last_frame")
    plain = len(given) <= 2 and all(item.role in (None, *frames) for item in given)
    free = iter([role for role in frames if plain and role not in {item.role for item in given}])
    return [(item, item.role or next(free, "reference_image")) for item in given]
