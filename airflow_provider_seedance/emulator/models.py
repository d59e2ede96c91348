"""The emulator's values: options, validated requests, renders and their slots, links."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Short side in pixels by resolution.
SHORT_SIDE = {"480p": 480, "720p": 720, "1080p": 1080, "4k": 2160}
SHAPES = ("documented", "flat", "nested")


@dataclass(frozen=True, kw_only=True)
class EmulatorOptions:
    """Options of an emulator; see :class:`SeedanceEmulator`."""

    key: str = "emulator-key"
    speed: float = 60.0
    render_seconds: float | None = None
    url_lifetime: float | None = None
    credits: float | None = None
    images_as_task: bool = False
    shape: str = "documented"
    seed: int = 0
    limits: bool = True
    concurrency: int = 10
    strict: bool = False

    def __post_init__(self) -> None:
        if self.speed <= 0:
            raise ValueError("speed must be above 0")
        if self.concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        if self.shape not in SHAPES:
            raise ValueError(f"shape must be one of {', '.join(SHAPES)}")


@dataclass(frozen=True, kw_only=True)
class RenderFailure:
    """The reason of a failed render; without a code it gets the service's usual one."""

    message: str
    code: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The end of a render: status, time (seconds since the epoch) and percentage."""

    status: str
    at: float
    progress: int
    failure: RenderFailure | None = None


@dataclass(frozen=True, kw_only=True)
class MediaSpec:
    """
    Specification of a file.

    :param kind: ``video`` or ``image``.
    :param prompt: The text drawn into it.
    :param width: Pixels, like ``height``.
    :param seconds: Duration of a video.
    :param fps: Frames per second of a video.
    :param audio: Whether a video has a sound track.
    :param format: mp4, mov, png or jpeg.
    :param variant: Position in a group; each looks different.
    """

    kind: str
    prompt: str
    width: int
    height: int
    seconds: float = 0.0
    fps: int = 24
    audio: bool = False
    format: str = "mp4"
    variant: int = 0

    @classmethod
    def video(cls, prompt: str, resolution: str, ratio: str, **options: Any) -> MediaSpec:
        """Return the specification of a video of this resolution and aspect ratio."""
        width, height = frame_size(resolution, ratio)
        return cls(kind="video", prompt=prompt, width=width, height=height, **options)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """
    A validated request.

    :param request: The request with its defaults, as the service reports it.
    :param sent: The body as it was sent, for the ledger.
    :param resolution: 480p, 720p, 1080p or 4k; render time and cost depend on it.
    :param fast: Whether the model is one of the fast ones.
    :param credits: The published price, or ``None`` without one.
    :param renewable: Whether another status request returns a new URL after the old one has expired.
    :param url_lifetime: The documented lifetime of URLs, in emulated seconds.
    :param expires_after: The limit of waiting and rendering, in emulated seconds.
    :param slots: The slots that it shares with other renders.
    """

    api: str
    generation_id: str
    model: str
    request: dict[str, Any]
    sent: dict[str, Any]
    spec: MediaSpec
    resolution: str
    outputs: int = 1
    fast: bool = False
    credits: float | None = None
    callback_url: str | None = None
    renewable: bool = True
    url_lifetime: float | None = None
    expires_after: float | None = None
    slots: RenderSlots | None = None

    @property
    def media(self) -> str:
        """Either ``video`` or ``image``."""
        return self.spec.kind

    @property
    def prompt(self) -> str:
        """The prompt."""
        return self.spec.prompt


@dataclass(frozen=True, kw_only=True)
class EmulatedGeneration:
    """
    The current state of a generation.

    :param status: queued, running, succeeded, failed, cancelled or expired.
    :param progress: Percentage, 0 to 100.
    :param created_at: Seconds since the epoch, like ``ended_at``.
    :param queue_seconds: Emulated seconds in the queue (so far, without a slot); ``render_seconds``: those after it.
    """

    id: str
    api: str
    media: str
    model: str
    prompt: str
    request: dict[str, Any]
    status: str
    progress: int
    created_at: float
    ended_at: float | None
    failure: RenderFailure | None
    credits: float
    callback_url: str | None
    queue_seconds: float
    render_seconds: float

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EmulatedGeneration:
        """Create it from its JSON value."""
        failure = data["failure"]
        return cls(**{**data, "failure": failure and RenderFailure(**failure)})

    @property
    def failure_message(self) -> str:
        """The reason of the end, for services without a status for cancelled and expired tasks."""
        return self.failure.message if self.failure else f"The task is {self.status}."


@dataclass(frozen=True, kw_only=True)
class Link:
    """A URL of one output: an opaque token that may expire (in emulated seconds)."""

    token: str
    draft: Draft
    name: str
    spec: MediaSpec
    expires: float | None


@dataclass(kw_only=True, eq=False)
class EmulatedRender:
    """
    The record of a render. Only :class:`Backend` changes it, under its lock.

    :param queue: Emulated seconds in the queue; infinite until there is a slot.
    :param rendering: Emulated seconds after it.
    :param started: Emulated time of the submission.
    :param at: Real time of the submission, seconds since the epoch.
    :param failed_items: The failures of single outputs of a group that succeeds.
    """

    draft: Draft
    queue: float
    rendering: float
    started: float
    at: float
    credits: float
    planned_failure: RenderFailure | None = None
    failed_items: dict[int, RenderFailure] = field(default_factory=dict)
    ending: Ending | None = None
    links: dict[str, Link] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Generation id."""
        return self.draft.generation_id


class RenderSlots:
    """
    Slots in which the renders of a kind run, in emulated seconds; the others are queued. Only the backend uses it.

    :param limit: Number of renders that run at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._added, self._now = limit, 0, 0.0
        #: Renders by the earliest time of their beginning, and those that have begun by their end, which frees a slot.
        self._queued: list[tuple[float, int, EmulatedRender]] = []
        self._taken: list[tuple[float, int, EmulatedRender]] = []

    def add(self, render: EmulatedRender) -> None:
        """Queue a render until a slot is free."""
        self.advance(render.started)
        self._added += 1
        heapq.heappush(self._queued, (render.started + render.queue, self._added, render))
        render.queue = math.inf

    def free(self, render: EmulatedRender) -> None:
        """Free the slot of a render that ended before its time."""
        self._taken = sorted(taken for taken in self._taken if taken[2] is not render)

    def advance(self, now: float) -> None:
        """Begin the renders whose turn has come."""
        while self._queued:
            earliest, number, render = self._queued[0]
            full = len(self._taken) >= self._limit
            begin = max(earliest, self._taken[0][0] if full else self._now)
            latest = render.started + (render.draft.expires_after or math.inf)
            if render.ending is None and begin > now:
                break
            heapq.heappop(self._queued)
            if render.ending is None and begin < latest:
                render.queue = begin - render.started
                take = heapq.heapreplace if full else heapq.heappush
                take(self._taken, (min(begin + render.rendering, latest), number, render))
        self._now = now


def frame_size(resolution: str, ratio: str) -> tuple[int, int]:
    """Return width and height in pixels, both even, for example of 720p and 16:9."""
    short = SHORT_SIDE[resolution]
    across, down = (int(part) for part in ratio.split(":"))
    long = 2 * round(short * max(across, down) / min(across, down) / 2)
    return (long, short) if across >= down else (short, long)
