"""
What a service accepts for each argument, as data: a rule judges a value and says what it takes.

The adapters list a rule per argument; an argument without a rule does not exist at that service.
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
    """What one argument accepts."""

    @abc.abstractmethod
    def accepts(self, value: Any) -> bool:
        """Whether the service documents this value."""

    @abc.abstractmethod
    def describe(self) -> str:
        """Say what is accepted, to follow the word *takes*."""

    def warning(self, value: Any) -> str | None:
        """Say what is doubtful about a value that is accepted, or ``None``."""
        return None


@dataclass(frozen=True)
class Text(Rule):
    """Text of at most ``longest`` characters (not bytes)."""

    longest: int | None = None

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and (self.longest is None or len(value) <= self.longest)

    def describe(self) -> str:
        return f"text of at most {self.longest} characters" if self.longest else "text"


@dataclass(frozen=True)
class OneOf(Rule):
    """One of a few documented values."""

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
    """Text of a form, such as a size in pixels."""

    pattern: str
    description: str

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None

    def describe(self) -> str:
        return self.description


@dataclass(frozen=True)
class Whole(Rule):
    """A whole number in a range, ends included; ``also`` holds special values outside of it."""

    least: int | None = None
    most: int | None = None
    unit: str = ""
    also: tuple[int, ...] = ()

    def accepts(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        if value in self.also:
            return True
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def describe(self) -> str:
        if self.least is None or self.most is None:
            return f"a whole number{self.unit}"
        special = "".join(f" or {value}" for value in self.also)
        return f"a whole number from {self.least} to {self.most}{self.unit}{special}"


@dataclass(frozen=True)
class Flag(Rule):
    """True or false."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, bool)

    def describe(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Model(Rule):
    """A model name. The services add models faster than documents follow: an unknown one only warns."""

    known: tuple[str, ...]
    prefixes: tuple[str, ...] = ()

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str)

    def describe(self) -> str:
        return f"a model name such as {', '.join(self.known)}"

    def warning(self, value: Any) -> str | None:
        if value in self.known or str(value).startswith(self.prefixes or ("\0",)):
            return None
        return f"model {value!r} is not one that is documented ({', '.join(self.known)}); sent as it is"


@dataclass(frozen=True)
class Undocumented(Rule):
    """An argument the documents leave out but clients are seen to send: passed on, with a warning."""

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

    :param most: How many at the most; ``None`` where no limit is documented.
    :param roles: The roles that may be given; none means that roles do not exist here.
    :param schemes: URL schemes taken beside https.
    """

    most: int | None = None
    roles: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()

    def accepts(self, value: Any) -> bool:
        return not self.problems(value, MediaHosts())

    def describe(self) -> str:
        count = f"at most {self.most} image{'s' if self.most != 1 else ''}" if self.most else "images"
        other = f" (or {', '.join(self.schemes)} URLs)" if self.schemes else ""
        roles = f", each with a role of {', '.join(self.roles)} or none" if self.roles else ""
        return f"{count} as https URLs{other}{roles}"

    def problems(self, value: Iterable[Any], hosts: MediaHosts) -> list[str]:
        """Return what is wrong with each input, in words that name it."""
        inputs = list(value)
        found = []
        images = [item for item in inputs if getattr(item, "role", None) not in _NOT_IMAGES]
        if self.most is not None and len(images) > self.most:
            found.append(f"{len(images)} images were given")
        for number, item in enumerate(inputs, 1):
            if not isinstance(item, MediaInput):
                found.append(f"image {number} is {item!r}, neither a URL nor a dict with a url")
                continue
            if item.role is not None and item.role not in self.roles:
                found.append(f"image {number} has the role {item.role!r}")
            if item.role == "draft_task" or item.url.split(":", 1)[0].lower() in self.schemes:
                continue
            if wrong := input_url_problem(item.url, hosts):
                found.append(f"image {number} {wrong}")
        return found
