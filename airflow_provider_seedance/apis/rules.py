"""
Rules for the arguments of a request: each accepts values, and describes what it accepts.

Adapters list a rule per argument; the service has no argument without a rule.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from airflow_provider_seedance.generations import MediaInput
from airflow_provider_seedance.urls import MediaHosts, input_url_problem


class Rule(abc.ABC):
    """Values that one argument accepts."""

    @abc.abstractmethod
    def accepts(self, value: Any) -> bool:
        """Return whether the value is accepted."""

    @abc.abstractmethod
    def describe(self) -> str:
        """Return a description of the accepted values, to follow the word *takes*."""

    def warning(self, value: Any) -> str | None:
        """Return a warning about an accepted value, or ``None``."""
        return None


@dataclass(frozen=True)
class Text(Rule):
    """Text of at most ``max_chars`` characters (not bytes)."""

    max_chars: int | None = None

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and (self.max_chars is None or len(value) <= self.max_chars)

    def describe(self) -> str:
        return f"text of at most {self.max_chars} characters" if self.max_chars else "text"


@dataclass(frozen=True)
class OneOf(Rule):
    """One of the documented values."""

    values: tuple[Any, ...]
    unit: str = ""

    def accepts(self, value: Any) -> bool:
        return not isinstance(value, bool) and isinstance(value, (str, int)) and value in self.values

    def describe(self) -> str:
        listed = [str(value) for value in self.values]
        text = " or ".join([", ".join(listed[:-1]), listed[-1]] if len(listed) > 1 else listed)
        return f"{text}{self.unit}"


@dataclass(frozen=True)
class Pattern(Rule):
    """Text that matches a pattern, such as a size in pixels."""

    pattern: str
    description: str

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None

    def describe(self) -> str:
        return self.description


@dataclass(frozen=True)
class Whole(Rule):
    """A whole number in a range, ends included; ``also`` holds special values outside of it."""

    minimum: int | None = None
    maximum: int | None = None
    unit: str = ""
    also: tuple[int, ...] = ()

    def accepts(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        if value in self.also:
            return True
        return (self.minimum is None or value >= self.minimum) and (
            self.maximum is None or value <= self.maximum
        )

    def describe(self) -> str:
        if self.minimum is None or self.maximum is None:
            return f"a whole number{self.unit}"
        special = "".join(f" or {value}" for value in self.also)
        return f"a whole number from {self.minimum} to {self.maximum}{self.unit}{special}"


@dataclass(frozen=True)
class Flag(Rule):
    """True or false."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, bool)

    def describe(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Model(Rule):
    """Model name. Services add models faster than they document them, so an unknown name is a warning only."""

    known: tuple[str, ...]
    prefixes: tuple[str, ...] = ()

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str)

    def describe(self) -> str:
        return f"a model name such as {', '.join(self.known)}"

    def warning(self, value: Any) -> str | None:
        if value in self.known or str(value).startswith(self.prefixes or ("\0",)):
            return None
        return f"model {value!r} is not documented ({', '.join(self.known)}); sent unchanged"


@dataclass(frozen=True)
class Undocumented(Rule):
    """Argument that is not documented, but that public clients send: sent with a warning."""

    rule: Rule
    note: str

    def accepts(self, value: Any) -> bool:
        return self.rule.accepts(value)

    def describe(self) -> str:
        return self.rule.describe()

    def warning(self, value: Any) -> str | None:
        return f"{value!r} is sent, but {self.note}"


_NOT_IMAGES = ("reference_video", "reference_audio", "draft_task")


@dataclass(frozen=True)
class Inputs(Rule):
    """
    Input media.

    :param maximum: Number of inputs; ``None`` where no limit is documented.
    :param roles: Accepted roles; empty where the service has no roles.
    :param schemes: URL schemes that are accepted in addition to https.
    """

    maximum: int | None = None
    roles: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()

    def accepts(self, value: Any) -> bool:
        return not self.problems(value, MediaHosts())

    def describe(self) -> str:
        count = (
            f"at most {self.maximum} image{'s' if self.maximum != 1 else ''}" if self.maximum else "images"
        )
        other = f" (or {', '.join(self.schemes)} URLs)" if self.schemes else ""
        roles = f", each with a role of {', '.join(self.roles)} or none" if self.roles else ""
        return f"{count} as https URLs{other}{roles}"

    def problems(self, value: Iterable[Any], hosts: MediaHosts) -> list[str]:
        """Return the problems of each input, by its number."""
        inputs = list(value)
        found = []
        images = [item for item in inputs if getattr(item, "role", None) not in _NOT_IMAGES]
        if self.maximum is not None and len(images) > self.maximum:
            found.append(f"{len(images)} images were given")
        for number, item in enumerate(inputs, 1):
            if not isinstance(item, MediaInput):
                found.append(f"image {number} is {item!r}, neither a URL nor a dict with a url")
                continue
            if item.role is not None and item.role not in self.roles:
                found.append(f"image {number} has the role {item.role!r}")
            if item.role == "draft_task" or item.url.split(":", 1)[0].lower() in self.schemes:
                continue
            if problem := input_url_problem(item.url, hosts):
                found.append(f"image {number} {problem}")
        return found
