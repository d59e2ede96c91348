"""
Requests and generations: frozen values without I/O.

:class:`VideoRequest` and :class:`ImageRequest` hold the arguments of an operator, normalized (numbers written as text,
one URL instead of a list, the result of an image task as an input) but not validated: the adapter of the service does it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, Literal, Self

import pendulum

from airflow_provider_seedance.exceptions import SeedanceRequestError
from airflow_provider_seedance.urls import media_inputs, parsed

Media = Literal["video", "image"]

#: Units of the cost of a generation, and the arguments of an operator that limit it.
Unit = Literal["credits", "cost_usd"]
MAX_ARGUMENTS: Mapping[Unit, str] = {"credits": "max_credits", "cost_usd": "max_cost_usd"}


class GenerationStatus(StrEnum):
    """Status of a generation, the same for all services."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """True for a final status."""
        return self not in (GenerationStatus.QUEUED, GenerationStatus.RUNNING)


_WORDS: Mapping[str, GenerationStatus] = {
    word: status
    for status, words in {
        GenerationStatus.QUEUED: "queued in_queue pending submitted accepted waiting created",
        GenerationStatus.RUNNING: "running processing in_progress in-progress started starting",
        GenerationStatus.SUCCEEDED: "success succeeded completed complete done",
        GenerationStatus.FAILED: "failed failure fail error",
        GenerationStatus.CANCELLED: "cancelled canceled aborted",
        GenerationStatus.EXPIRED: "expired timeout",
    }.items()
    for word in words.split()
}


def read_status_word(word: object) -> tuple[GenerationStatus, bool]:
    """
    Return the status for a service's word in any case, and whether the word is documented.

    An undocumented word counts as running: taking it for an end could lose a paid render, and the deadline bounds the wait.
    """
    known = _WORDS.get(str(word).strip().lower()) if isinstance(word, str) else None
    return (known, True) if known else (GenerationStatus.RUNNING, False)


def is_unset(value: object) -> bool:
    """Return whether an argument was left out: a template renders ``None`` as the text "None"."""
    return value is None or (isinstance(value, str) and value.strip() in ("", "None"))


def did_you_mean(names: str | Iterable[str], known: Iterable[str]) -> str:
    """Return a question about the known names that misspelt ones resemble, for the end of a message, or ``""``."""
    similar = [
        match
        for name in ([names] if isinstance(names, str) else names)
        for match in difflib.get_close_matches(name.strip().lower().replace(" ", "_"), known, n=1)
    ]
    return f" Did you mean {', '.join(map(repr, dict.fromkeys(similar)))}?" if similar else ""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 render``, ``2 renders``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def amount(unit: Unit, value: float) -> str:
    """Return an amount for messages."""
    text = f"{value:,.6f}".rstrip("0").rstrip(".")
    cents = "0" if text[-2:-1] == "." else ""
    return f"${text}{cents}" if unit == "cost_usd" else f"{text} credits"


def cost_text(credits: float | None, cost_usd: float | None) -> str | None:
    """Return a cost for messages, such as ``28 credits ($0.14)``; ``None`` if it is unknown."""
    usd = None if cost_usd is None else amount("cost_usd", cost_usd)
    if credits is None:
        return usd
    return amount("credits", credits) + (f" ({usd})" if usd else "")


def _number(value: Any) -> Any:
    if isinstance(value, str):
        for parse in (int, float):  # a float would lose digits of a long seed
            try:
                value = parse(value)
                break
            except ValueError:
                continue
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value


def _flag(value: Any) -> Any:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower(), value)
    return value


@dataclass(frozen=True, kw_only=True)
class _Request:
    """Base of both kinds of request."""

    media: ClassVar[Media]
    _numbers: ClassVar[tuple[str, ...]] = ()
    _flags: ClassVar[tuple[str, ...]] = ()

    prompt: str
    model: str | None = None
    resolution: str | None = None
    images: Any = None
    seed: int | None = None
    extra_params: Any = None

    def __post_init__(self) -> None:
        readers: dict[str, Callable[[Any], Any]] = {
            **dict.fromkeys(self._numbers, _number),
            **dict.fromkeys(self._flags, _flag),
            "images": lambda value: media_inputs(value) or None if value else None,
            "extra_params": parsed,
        }
        for item in fields(self):
            if item.name != "prompt":
                value = getattr(self, item.name)
                read = readers.get(item.name, lambda value: value)
                object.__setattr__(self, item.name, None if is_unset(value) else read(value))

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """
        Make a request from operator arguments.

        :raises SeedanceRequestError: an argument does not exist; nothing was sent, a retry cannot help.
        """
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(arguments) - known)
        if unknown:
            raise SeedanceRequestError(
                f"There is no request argument {', '.join(unknown)}; {cls.media} requests take "
                f"{', '.join(sorted(known))}.{did_you_mean(unknown, known)} Fields of the service that have no "
                "argument go into extra_params. Nothing was sent."
            )
        if "prompt" not in arguments:
            raise SeedanceRequestError(f"The {cls.media} request needs a prompt. Nothing was sent.")
        return cls(**arguments)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that are set."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def with_default(self, **defaults: Any) -> Self:
        """Return a copy with values for arguments that are not set."""
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, **missing) if missing else self


@dataclass(frozen=True, kw_only=True)
class VideoRequest(_Request):
    """
    Request for a Seedance video. Which arguments and values are accepted depends on the service.

    :param prompt: Description of the video; services accept 300 to 2000 characters or more.
    :param model: Model name (default: that of the connection, then of the service).
    :param duration: Length of the clip in seconds.
    :param resolution: Resolution: ``480p``, ``720p``, ``1080p`` or ``4k``.
    :param aspect_ratio: Aspect ratio, such as ``16:9``.
    :param fps: Frames per second.
    :param images: Input images: a URL, a list of URLs, the result of an image task, or dicts of
        ``url`` and ``role`` (``ark``).
    :param seed: Number that makes a render repeatable as far as the model allows.
    :param generate_audio: Whether the clip gets a sound track.
    :param fixed_lens: Whether the camera stands still.
    :param watermark: Whether "AI generated" is printed on the clip (``ark``).
    :param return_last_frame: Whether the result gets the last frame as an image, as the input of the next clip (``ark``).
    :param draft: Whether to make a cheap preview, of which ``{"draft_task": id}`` in ``images`` makes the final (``ark``).
    :param service_tier: Service tier: ``default``, or ``flex`` for half the price and a longer wait (``ark``).
    :param extra_params: Further fields of the service, such as ``{"priority": 9}``, sent unchecked.
    """

    media: ClassVar[Media] = "video"
    _numbers: ClassVar[tuple[str, ...]] = ("duration", "fps", "seed")
    _flags: ClassVar[tuple[str, ...]] = (
        *("generate_audio", "fixed_lens", "watermark", "return_last_frame", "draft"),
    )

    duration: int | None = None
    aspect_ratio: str | None = None
    fps: int | None = None
    generate_audio: bool | None = None
    fixed_lens: bool | None = None
    watermark: bool | None = None
    return_last_frame: bool | None = None
    draft: bool | None = None
    service_tier: str | None = None


@dataclass(frozen=True, kw_only=True)
class ImageRequest(_Request):
    """
    Request for one or several Seedream images.

    :param prompt: Description of the images.
    :param model: Model name (default: that of the connection, then of the service).
    :param resolution: Size of the image, such as ``2048x2048`` or ``4k``.
    :param quality: Quality: ``standard`` or ``high`` (``seedance2api``).
    :param num_images: Number of images; each is billed.
    :param style: Artistic style (``seedance2api``).
    :param images: Reference images (``ark``).
    :param seed: Number that makes a render repeatable as far as the model allows.
    :param watermark: Whether "AI generated" is printed on the images, as ``ark`` does by default.
    :param output_format: Format of the file: ``png`` or ``jpeg`` (``ark``).
    :param extra_params: Further fields of the service, such as ``{"optimize_prompt_options": {"mode": "fast"}}``, sent unchecked.
    """

    media: ClassVar[Media] = "image"
    _numbers: ClassVar[tuple[str, ...]] = ("num_images", "seed")
    _flags: ClassVar[tuple[str, ...]] = ("watermark",)

    quality: str | None = None
    num_images: int | None = None
    style: str | None = None
    watermark: bool | None = None
    output_format: str | None = None


GenerationRequest = VideoRequest | ImageRequest

#: Fields that the request determines, for services that do not report them.
_FROM_REQUEST = ("model", "duration", "resolution", "credits", "cost_usd")
_RESULT_NUMBERS = ("duration", "credits", "cost_usd", "seed", "fps")
#: Arguments that a delivered file is compared with.
COMPARED = ("duration", "resolution", "aspect_ratio", "generate_audio", "num_images", "output_format")
_RESULT_TEXTS = ("model", "resolution", "aspect_ratio", "last_frame_url", "error_message")
_RESULT_TIMES = ("created_at", "completed_at", "expires_at")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """
    A generation, as the service described it last.

    :param generation_id: The service's id (opaque), or ``local-`` and a digest for a synchronous reply without an id.
    :param urls: URLs of the outputs, in the service's order; empty until it succeeded.
    :param duration: Length of the clip in seconds.
    :param credits: Credits consumed, in the service's own unit.
    :param cost_usd: Cost in US dollars.
    :param reused_from: Task instance that had paid for it, if another one delivers it.
    :param expires_at: End of the outputs' availability.
    :param progress: Percent done, 0 to 100, where the service reports it.
    :param estimated_wait: Expected duration of the render in seconds, where the service reports it.
    :param last_frame_url: The last frame of a video as an image, where it was requested.
    :param usage: Amounts that the service counted: ``output_tokens``, ``generated_images`` of images, and ``processing_seconds``.
    :param outputs: ``id``, ``width``, ``height``, ``format`` and ``size_bytes`` of each output, where the service reports them.
    :param error_message: Reason of a failure in the service's words, or what failed of a group that succeeded in part.
    :param request: Arguments that a delivered file is compared with, as far as the other values do not state them.
    :param word: The service's own status word.
    :param documented: Whether that word is documented; an undocumented one counts as running.
    :param read_at: Time of this reading, where a wait made it.
    """

    generation_id: str
    api: str
    media: Media
    status: GenerationStatus
    model: str | None = None
    urls: tuple[str, ...] = ()
    duration: float | None = None
    resolution: str | None = None
    credits: float | None = None
    cost_usd: float | None = None
    usage: Mapping[str, float] | None = None
    reused_from: Mapping[str, Any] | None = None
    created_at: datetime | None = None
    completed_at: datetime | None = None
    expires_at: datetime | None = None
    seed: int | None = None
    aspect_ratio: str | None = None
    fps: float | None = None
    last_frame_url: str | None = None
    outputs: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    progress: float | None = None
    estimated_wait: float | None = None
    error_message: str | None = None
    error_code: str | None = None
    request: Mapping[str, Any] | None = field(default=None, hash=False)
    word: str | None = None
    documented: bool = True
    read_at: datetime | None = field(default=None, compare=False)

    @property
    def url(self) -> str | None:
        """The first output."""
        return self.urls[0] if self.urls else None

    @property
    def output_tokens(self) -> float | None:
        """The tokens of the output, where the service counted them."""
        return (self.usage or {}).get("output_tokens")

    def output_gone(self, now: datetime) -> bool:
        """Return whether the generation succeeded, but has no output that can be downloaded (any more)."""
        if self.status is not GenerationStatus.SUCCEEDED:
            return False
        return not self.urls or (self.expires_at is not None and self.expires_at <= now)

    def with_defaults(self, result_defaults: Mapping[str, Any]) -> Generation:
        """
        Return a copy in which values that the service does not report are taken from the request.

        A generation that ended without success costs only what the service reports.
        """
        unpaid = self.status.terminal and self.status is not GenerationStatus.SUCCEEDED
        missing: dict[str, Any] = {
            name: result_defaults.get(name)
            for name in _FROM_REQUEST
            if getattr(self, name) is None and not (unpaid and name in ("credits", "cost_usd"))
        }
        rates = ("usd_per_credit", "usd_per_million_tokens", "usd_per_image", "fixed_usd")
        rate, per_million, per_image, fixed = (result_defaults.get(name) for name in rates)
        if rate is not None and self.credits is not None:
            missing["cost_usd"] = round(self.credits * rate, 6)
        elif fixed is not None and not unpaid:
            missing["cost_usd"] = fixed
        elif per_million is not None and self.output_tokens is not None and self.cost_usd is None:
            missing["cost_usd"] = round(self.output_tokens * per_million / 1e6, 6)
        elif per_image is not None and self.media == "image" and self.urls and self.cost_usd is None:
            missing["cost_usd"] = round(len(self.urls) * per_image, 6)
        if source := result_defaults.get("reused_from"):
            missing |= {"credits": 0.0, "cost_usd": 0.0, "reused_from": source}
        filled = replace(self, **missing)
        stated = {name: getattr(filled, name, None) for name in COMPARED} | {"num_images": len(self.urls)}
        unstated = {k: value for k, value in result_defaults.items() if k in stated and value != stated[k]}
        return replace(filled, request=unstated) if unstated and not unpaid and self.urls else filled

    def result(self) -> dict[str, Any]:
        """Return the generation as the JSON value that goes into XCom; unknown values are ``None``."""
        return {
            **{name: getattr(self, name) for name in ("generation_id", "api", "media")},
            "status": self.status.value,
            "model": self.model,
            "url": self.url,
            "urls": list(self.urls),
            **{name: getattr(self, name) for name in ("duration", "resolution", "credits", "cost_usd")},
            **{name: iso(getattr(self, name)) for name in _RESULT_TIMES},
            **{name: getattr(self, name) for name in ("seed", "aspect_ratio", "fps", "last_frame_url")},
            **{name: dict(getattr(self, name) or {}) or None for name in ("usage", "reused_from")},
            **({"outputs": [dict(output) for output in self.outputs]} if self.outputs else {}),
            **({"request": dict(self.request)} if self.request else {}),
            **({"error_message": self.error_message} if self.error_message else {}),
        }

    def summary(self) -> str:
        """Return outputs and cost in one line, the last one of a task's log."""
        outputs = [
            self.media,
            None if self.duration is None else f"{self.duration:g} s",
            self.resolution,
            f"{len(self.urls)} outputs" if len(self.urls) > 1 else None,
            None if self.output_tokens is None else f"{self.output_tokens} tokens",
        ]
        paid = f"cost {cost_text(self.credits, self.cost_usd) or 'not reported by the service'}"
        model = f" with {self.model}" if self.model else ""
        partly = f" In part only: {self.error_message}." if self.error_message else ""
        return f"Generation {self.generation_id} succeeded{model}: {', '.join(filter(None, outputs))}; {paid}.{partly}"

    @classmethod
    def from_result(cls, result: object) -> Generation:
        """
        Read a value that :meth:`result` wrote.

        It may have been edited since: values beside the outputs that have another type are ignored, because the
        paid output can be delivered without them.

        :raises ValueError: it is not the result of a generation.
        """
        if not isinstance(result, Mapping):
            raise ValueError(f"expected the result of a generation (a dict), got {type(result).__name__}")
        missing = [key for key in ("generation_id", "api", "media", "status", "urls") if key not in result]
        if missing:
            raise ValueError(f"this is not the result of a generation: it has no {', '.join(missing)}")
        urls = result["urls"]
        if not isinstance(urls, (list, tuple)) or not all(isinstance(url, str) for url in urls):
            raise ValueError("the urls of a result must be a list of strings")
        texts = [result[name] for name in ("generation_id", "api", "media")]
        if not all(isinstance(text, str) for text in texts) or result["media"] not in ("video", "image"):
            raise ValueError("the generation_id and api of a result must be text, its media video or image")
        status, documented = read_status_word(result["status"])
        rest: dict[str, Any] = {
            **{name: _text(result.get(name)) for name in _RESULT_TEXTS},
            **{name: read_number(result.get(name)) for name in _RESULT_NUMBERS},
            **{name: read_time(result.get(name)) for name in _RESULT_TIMES},
            "usage": read_usage(result.get("usage")),
            "reused_from": source if isinstance(source := result.get("reused_from"), Mapping) else None,
            "outputs": read_outputs(result.get("outputs")),
            **{name: result[name] for name in ("generation_id", "api", "media")},
        }
        return cls(
            status=status,
            documented=documented,
            urls=tuple(urls),
            request=dict(request) if isinstance(request := result.get("request"), Mapping) else None,
            **rest,
        )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """
    Cost of a request by the prices of its connection, or those that its service publishes.

    :param credits: Credits, or ``None`` where the service publishes no price.
    :param cost_usd: US dollars, or ``None`` where the service publishes no price.
    :param output_tokens: Tokens of the output, where the service counts them and the request determines them.
    """

    credits: float | None = None
    cost_usd: float | None = None
    output_tokens: float | None = None


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def iso(moment: datetime | None) -> str | None:
    """Format a time as ISO 8601 in UTC."""
    return pendulum.instance(moment).in_timezone("UTC").isoformat() if moment else None


def read_time(value: object) -> datetime | None:
    """Parse ISO 8601 text, in UTC without an offset, or seconds since 1970; return ``None`` for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        if isinstance(value, (int, float)):
            return pendulum.from_timestamp(value)
        parsed = pendulum.parse(value.strip(), tz="UTC") if isinstance(value, str) and value.strip() else None
        return parsed.in_timezone("UTC") if isinstance(parsed, pendulum.DateTime) else None
    except (ValueError, OverflowError, OSError, TypeError):
        return None


def read_usage(value: object) -> dict[str, float] | None:
    """Return the amounts that a service counted, by the names of the result; ``None`` if none is known."""
    given = value if isinstance(value, Mapping) else {}
    counted = {name: given.get(name) for name in ("generated_images", "processing_seconds")}
    counted["output_tokens"] = given.get("output_tokens", given.get("completion_tokens"))
    known = {name: number for name, item in counted.items() if (number := read_number(item)) is not None}
    return known or None


def read_outputs(value: object) -> tuple[dict[str, Any], ...]:
    """Return the details of the outputs in a list; nothing if none has any."""
    items = [item for item in value if isinstance(item, Mapping)] if isinstance(value, (list, tuple)) else []
    texts, numbers = ("id", "format"), ("width", "height", "size_bytes")
    readers = {**dict.fromkeys(texts, _text), **dict.fromkeys(numbers, read_number)}
    found = [{name: read(item.get(name)) for name, read in readers.items()} for item in items]
    return tuple(found) if any(any(each.values()) for each in found) else ()


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def read_number(value: object) -> float | int | None:
    """Return a finite number, given as a number or as text; ``None`` for anything else."""
    number = _number(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return None
    try:
        return number if math.isfinite(number) else None
    except OverflowError:  # an integer of hundreds of digits
        return None
