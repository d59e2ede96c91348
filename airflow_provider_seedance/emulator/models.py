"""The values that the emulator works with: settings, requests as understood, renders, links."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from airflow_provider_seedance.emulator.media_encoder import MediaSpec

APIS = ("seedance2api", "seedanceapi-v1", "seedanceapi-v2", "runbase", "ark")
SHAPES = ("documented", "flat", "nested")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an emulator behaves; see :class:`SeedanceEmulator` for the meaning of each."""

    key: str = "emulator-key"
    speed: float = 60.0
    render_seconds: float | None = None
    url_lifetime: float | None = None
    credits: float | None = None
    images_as_task: bool = False
    shape: str = "documented"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.speed <= 0:
            raise ValueError("speed must be above 0")
        if self.shape not in SHAPES:
            raise ValueError(f"shape must be one of {', '.join(SHAPES)}")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a render failed.

    :param code: the vendor's code, or ``None`` for the service's usual one.
    """

    message: str
    code: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How and when (seconds since the epoch) a render ended, and at how many percent."""

    status: str
    at: float
    progress: int
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A valid request, as its service understood it.

    :param media: ``video`` or ``image``.
    :param request: the request with its defaults, as the service reports it.
    :param sent: the body as it was sent, for the ledger.
    :param resolution: 480p, 720p, 1080p or 4k; what a render takes and costs depends on it.
    :param fast: whether the model is one of the fast ones.
    :param credits: the published price, or ``None`` where there is none.
    :param renewable: whether asking again gives a new URL after the old one has expired.
    :param url_lifetime: how long the service's URLs live by its documents, in emulated seconds.
    :param expires_after: how long it may wait and render, in emulated seconds.
    :param details: whatever else the service wants to find again.
    """

    api: str
    generation_id: str
    media: str
    model: str
    prompt: str
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
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A render as it is at this moment.

    :param status: queued, running, succeeded, failed, cancelled or expired.
    :param progress: percent, 0 to 100.
    :param created_at: seconds since the epoch, like ``ended_at``.
    :param queue_seconds: emulated seconds in the queue; ``render_seconds``: emulated seconds after it.
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
    failure: Failure | None
    credits: float
    callback_url: str | None
    queue_seconds: float
    render_seconds: float


@dataclass(frozen=True, kw_only=True)
class Link:
    """A URL handed out for one output: an opaque token that may expire (in emulated seconds)."""

    token: str
    api: str
    generation_id: str
    prompt: str
    name: str
    spec: MediaSpec
    expires: float | None


class Render:
    """A render's record. Only :class:`Backend` changes it, under its lock."""

    def __init__(
        self, *, draft: Draft, queue: float, rendering: float, begun: float, at: float, credits: float
    ) -> None:
        self.draft = draft
        self.queue = queue
        self.rendering = rendering
        self.begun = begun
        self.at = at
        self.credits = credits
        self.planned_failure: Failure | None = None
        self.failed_items: frozenset[int] = frozenset()
        self.ending: Ending | None = None
        self.links: dict[str, Link] = {}

    @property
    def id(self) -> str:
        """The generation id."""
        return self.draft.generation_id
