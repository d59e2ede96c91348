"""
The renders of the emulated services, and their state by the clock.

Nothing runs in the background: the state of a render is computed from the clock for each request. *Emulated*
seconds are real seconds times the speed; render times are emulated seconds, reported times are real ones.
"""

from __future__ import annotations

import math
import random
import secrets
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow_provider_seedance.emulator import models
from airflow_provider_seedance.emulator.clock import Clock
from airflow_provider_seedance.emulator.faults import Faults
from airflow_provider_seedance.emulator.ledger import DeletionEntry, EmulatorLedger, SubmissionEntry

DAY = 86_400.0
_WAIT_SECONDS = 0.01
_RESOLUTION_COST = {"480p": 0.5, "720p": 1.0, "1080p": 2.0, "4k": 6.0}
_RESOLUTION_TIME = {"480p": 0.7, "720p": 1.0, "1080p": 1.35, "4k": 2.0}


class OutOfCreditsError(Exception):
    """The account has too few credits for this render."""


class Backend:
    """The state behind all services: renders, account, links, ledger and faults."""

    def __init__(
        self, *, options: models.EmulatorOptions, clock: Clock, ledger: EmulatorLedger, faults: Faults
    ) -> None:
        self.options = options
        self.clock = clock
        self.ledger = ledger
        self.faults = faults
        self.lock = threading.RLock()
        self.media_url = ""
        self.stopping = threading.Event()
        self.credits = options.credits
        self._renders: dict[str, models.EmulatedRender] = {}
        self._links: dict[str, models.Link] = {}
        self._repeats: Counter[tuple[str, str, str]] = Counter()

    # Submitting

    def submit(self, draft: models.Draft) -> models.EmulatedRender:
        """Accept and bill a render, or raise :class:`OutOfCreditsError`."""
        with self.lock:
            price = draft.credits if draft.credits is not None else _plausible_price(draft)
            if self.credits is not None and price > self.credits:
                raise OutOfCreditsError
            fault = self.faults.failing(draft.api, draft.prompt)
            if self.credits is not None:
                self.credits -= price
            queue, rendering = self._timing(draft)
            started, at = self.clock.rendered(), self.clock.wall()
            render = models.EmulatedRender(
                draft=draft, queue=queue, rendering=rendering, started=started, at=at, credits=price
            )
            if fault is not None:
                _plan_failure(render, fault.options)
            if draft.slots is not None:
                draft.slots.add(render)
            self._renders[render.id] = render
            self.ledger.add(
                SubmissionEntry(
                    at=render.at,
                    api=draft.api,
                    generation_id=render.id,
                    media=draft.media,
                    prompt=draft.prompt,
                    request=draft.sent,
                    billed=price,
                    callback_url=draft.callback_url,
                )
            )
            return render

    def _timing(self, draft: models.Draft) -> tuple[float, float]:
        """Return the seconds in the queue and of rendering: the same for the same seed and requests."""
        repeated = (draft.api, draft.model, draft.prompt)
        self._repeats[repeated] += 1
        # Not for secrets: a test must see the same times again.
        chance = random.Random(f"{self.options.seed}|{repeated}|{self._repeats[repeated]}")  # noqa: S311
        if draft.media == "image":
            queue, rendering = chance.uniform(0, 1), chance.uniform(4, 10) * (1 + 0.3 * (draft.outputs - 1))
        else:
            queue = chance.uniform(5, 20)
            rendering = (25 + 11 * draft.spec.seconds) * chance.uniform(0.85, 1.15)
        rendering *= _RESOLUTION_TIME.get(draft.resolution, 1.0) * (0.5 if draft.fast else 1.0)
        fixed = self.options.render_seconds
        if fixed is not None:
            queue = min(queue, fixed / 10)
            rendering = fixed - queue
        return queue, rendering

    # Reading

    def find(self, api: str, generation_id: str) -> models.EmulatedRender | None:
        """Return the render of this id, if it belongs to this service."""
        with self.lock:
            render = self._renders.get(generation_id)
            return render if render is not None and render.draft.api == api else None

    def get(self, generation_id: str) -> models.EmulatedRender:
        """Return the render of this id, or raise ``KeyError``."""
        with self.lock:
            return self._renders[generation_id]

    def renders(self, api: str | None = None) -> list[models.EmulatedRender]:
        """Return all renders, oldest first."""
        with self.lock:
            return [render for render in self._renders.values() if api in (None, render.draft.api)]

    def view(self, render: models.EmulatedRender) -> models.EmulatedGeneration:
        """Return the current state of a render."""
        with self.lock:
            status, progress = self._progress(render)
            ending, draft = render.ending, render.draft
            passed = self.clock.rendered() - render.started
            return models.EmulatedGeneration(
                id=render.id,
                api=draft.api,
                media=draft.media,
                model=draft.model,
                prompt=draft.prompt,
                request=draft.request,
                status=status,
                progress=progress,
                created_at=render.at,
                ended_at=ending.at if ending else None,
                failure=ending.failure if ending else None,
                credits=render.credits,
                callback_url=draft.callback_url,
                queue_seconds=passed if math.isinf(render.queue) else render.queue,
                render_seconds=render.rendering,
            )

    def wait(self, render: models.EmulatedRender) -> models.EmulatedGeneration:
        """Block until a render has ended, or the emulator stops."""
        while True:
            generation = self.view(render)
            if generation.ended_at is not None or self.stopping.wait(_WAIT_SECONDS):
                return generation

    def _progress(self, render: models.EmulatedRender) -> tuple[str, int]:
        self._end_if_due(render)
        if render.ending is not None:
            return render.ending.status, render.ending.progress
        passed = self.clock.rendered() - render.started
        # A render is queued at first even if the queue takes no time.
        return ("queued", 0) if passed <= render.queue else ("running", _percent(render, passed))

    def _end_if_due(self, render: models.EmulatedRender) -> None:
        """Record the end of a render that is due; none is due while renders are on hold."""
        if render.draft.slots is not None:
            render.draft.slots.advance(self.clock.rendered())
        if render.ending is not None or self.clock.held:
            return
        passed = self.clock.rendered() - render.started
        needed = render.queue + render.rendering
        limit = render.draft.expires_after
        if limit is not None and limit < needed:
            needed, status, failure = limit, "expired", None
        elif render.planned_failure is not None:
            status, failure = "failed", render.planned_failure
        else:
            status, failure = "succeeded", None
        if passed >= needed:
            at = self.clock.wall() - (passed - needed) / self.clock.speed
            self._record_end(render, status, max(render.at, at), needed, failure)

    def _record_end(
        self,
        render: models.EmulatedRender,
        status: str,
        at: float,
        passed: float,
        failure: models.RenderFailure | None,
    ) -> None:
        progress = 100 if status == "succeeded" else _percent(render, passed)
        render.queue = min(render.queue, passed)
        render.ending = models.Ending(status=status, at=at, progress=progress, failure=failure)

    # Links

    def urls(self, render: models.EmulatedRender) -> list[str]:
        """Return a URL per successful output; see :meth:`url`."""
        return [
            self.url(render, f"{index}.{render.draft.spec.format}", self.spec(render, index))
            for index in range(render.draft.outputs)
            if index not in render.failed_items
        ]

    def spec(self, render: models.EmulatedRender, index: int) -> models.MediaSpec:
        """Return the media of one output."""
        return replace(render.draft.spec, variant=index)

    def url(self, render: models.EmulatedRender, name: str, spec: models.MediaSpec) -> str:
        """Return the URL of one file: the same until it expires, then a new one if the service renews it."""
        with self.lock:
            link = render.links.get(name)
            if link is None or (self.link_expired(link) and render.draft.renewable):
                link = self._link(render, name, spec)
            return f"{self.media_url}/{render.id}/{name}?token={link.token}"

    def _link(self, render: models.EmulatedRender, name: str, spec: models.MediaSpec) -> models.Link:
        lifetime = self.options.url_lifetime
        if lifetime is None:
            lifetime = render.draft.url_lifetime
        start = self.clock.elapsed()
        if not render.draft.renewable and render.ending is not None:
            # Such URLs live from the end of the render, not from the first status request.
            start -= (self.clock.wall() - render.ending.at) * self.clock.speed
        link = models.Link(
            token=secrets.token_urlsafe(12),
            draft=render.draft,
            name=name,
            spec=spec,
            expires=None if lifetime is None else start + lifetime,
        )
        render.links[name] = self._links[link.token] = link
        return link

    def link(self, token: str) -> models.Link | None:
        """Return the link of this token, expired or not."""
        with self.lock:
            return self._links.get(token)

    def link_expired(self, link: models.Link) -> bool:
        """Return whether a link has expired."""
        return link.expires is not None and self.clock.elapsed() >= link.expires

    def expire_urls(self, generation_id: str | None = None) -> None:
        """Expire the URLs handed out so far."""
        with self.lock:
            renders = self.renders() if generation_id is None else [self.get(generation_id)]
            for render in renders:
                # URLs that are not renewed exist from the end of the render, also without a status request.
                if not render.draft.renewable and self.view(render).status == "succeeded":
                    self.urls(render)
                for name, link in render.links.items():
                    expired = replace(link, expires=-math.inf)
                    render.links[name] = self._links[link.token] = expired

    # Changes

    def end(self, generation_id: str, status: str, failure: models.RenderFailure | None = None) -> None:
        """End a render now, or raise ``ValueError`` if it has ended already."""
        with self.lock:
            render = self.get(generation_id)
            self._end_if_due(render)
            if render.ending is not None:
                raise ValueError(f"{generation_id} has already {render.ending.status}")
            passed = self.clock.rendered() - render.started
            self._record_end(render, status, self.clock.wall(), passed, failure)
            if render.draft.slots is not None:
                render.draft.slots.free(render)

    def finish(self, generation_id: str) -> None:
        """End a render now: it succeeds, or fails if a fault planned that."""
        failure = self.get(generation_id).planned_failure
        self.end(generation_id, "failed" if failure else "succeeded", failure)

    def fail(
        self, generation_id: str, message: str = "The generation failed.", code: str | None = None
    ) -> None:
        """Let a render fail now."""
        self.end(generation_id, "failed", models.RenderFailure(message=message, code=code))

    def expire(self, generation_id: str) -> None:
        """Let a render expire now."""
        self.end(generation_id, "expired")

    def cancel(self, generation_id: str) -> None:
        """Cancel a render; nothing is billed for it."""
        with self.lock:
            render = self.get(generation_id)
            self.end(generation_id, "cancelled")
            self.refund(render)

    def refund(self, render: models.EmulatedRender) -> None:
        """Refund the credits of a render."""
        with self.lock:
            if self.credits is not None:
                self.credits += render.credits
            render.credits = 0
            self.ledger.refunded(render.id)

    def forget(self, generation_id: str) -> None:
        """Remove the record of a render: the service no longer knows it."""
        with self.lock:
            del self._renders[generation_id]

    def delete(self, render: models.EmulatedRender) -> None:
        """Cancel a queued render, or destroy the record of a finished one."""
        with self.lock:
            was = self.view(render).status
            change, effect = (self.cancel, "cancelled") if was == "queued" else (self.forget, "deleted")
            change(render.id)
            at, api = self.clock.wall(), render.draft.api
            self.ledger.add(DeletionEntry(at=at, api=api, generation_id=render.id, was=was, effect=effect))

    def hold(self) -> None:
        """Stop the progress of all renders until :meth:`release`."""
        with self.lock:
            for render in self.renders():
                self._end_if_due(render)
            self.clock.hold()

    def release(self) -> None:
        """Continue after :meth:`hold`."""
        with self.lock:
            self.clock.release()


def _plan_failure(render: models.EmulatedRender, options: Mapping[str, Any]) -> None:
    message = options.get("message") or "The generation failed."
    failure = models.RenderFailure(message=message, code=options.get("code"))
    items = options.get("items")
    if items is None or len(set(items)) >= render.draft.outputs:
        render.planned_failure = failure
    else:
        render.failed_items = dict.fromkeys(items, failure)


def _percent(render: models.EmulatedRender, passed: float) -> int:
    """Return the progress of a render that has not succeeded (yet)."""
    if render.rendering <= 0 or passed <= render.queue:
        return 0
    return max(0, min(99, int(100 * (passed - render.queue) / render.rendering)))


def _plausible_price(draft: models.Draft) -> float:
    """Return a plausible price for services that publish none."""
    factor = _RESOLUTION_COST.get(draft.resolution, 1.0) * (0.5 if draft.fast else 1.0)
    if draft.media == "image":
        return float(math.ceil(4 * factor * draft.outputs))
    return float(math.ceil(3.5 * draft.spec.seconds * factor * (2 if draft.spec.audio else 1)))
