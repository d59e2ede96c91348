"""Simulated polling of single renders, shared by the tables of ``polling.py`` and the plot of ``polling_frontier.py``."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from optimum import Times

from airflow_provider_seedance.polling import duration_model
from airflow_provider_seedance.polling.duration_model import DurationModel, DurationModels, prior_model
from airflow_provider_seedance.polling.schedule import next_poll
from airflow_provider_seedance.polling.wait_state import MAX_PROGRESS_READINGS, WaitState

#: Spreads of render times that are compared.
SIGMAS = (0.2, 0.35, 0.6)

#: Renders before a model counts as learned.
HISTORY = 300

#: Percentage points by which reported progress is wrong.
NOISE = 5.0


@dataclass(frozen=True)
class Result:
    """Means over many renders; ``p95`` is the 95th percentile of the delay, in seconds."""

    polls: float
    delay: float
    p95: float

    @classmethod
    def of(cls, seen: Iterable[tuple[int, float]]) -> Result:
        """Average polls and delay of each render."""
        polls, delays = np.array(list(seen)).T
        return cls(float(polls.mean()), float(delays.mean()), float(np.quantile(delays, 0.95)))


def polled(end: float, wait: Callable[[int, float], float]) -> tuple[int, float]:
    """Return polls and delay of a render; ``wait`` returns the seconds after a number of polls at a time."""
    now, polls = 0.0, 0
    while now < end:
        now += wait(polls, now)
        polls += 1
    return polls, now - end


def wait_state(**known: Any) -> WaitState:
    """Return the state of a wait."""
    return WaitState(generation_id="g", media="video", deadline=0.0, **known)


def by_model(model: DurationModel) -> Callable[[int, float], float]:
    """Return the package's own schedule."""
    return lambda polls, now: next_poll(wait_state(poll_count=polls), elapsed=now, model=model)


def with_progress(end: float, queued: float, model: DurationModel, rng: random.Random) -> tuple[int, float]:
    """Return polls and delay of a render that reports progress."""
    now, polls, progress = 0.0, 0, ()
    while True:
        now += next_poll(wait_state(poll_count=polls, progress=progress), elapsed=now, model=model)
        polls += 1
        if now >= end:
            return polls, now - end
        percent = 0
        if now > queued:
            true = 100 * (now - queued) / (end - queued)
            percent = int(min(99, max(0, round(true + rng.uniform(-NOISE, NOISE)))))
        progress = (*progress, (now, float(percent)))[-MAX_PROGRESS_READINGS:]


def fixed(seconds: float) -> Callable[[int, float], float]:
    """Return a fixed interval."""
    return lambda *_: seconds


def backoff(first: float, factor: float, longest: float) -> Callable[[int, float], float]:
    """Return an exponential backoff."""
    return lambda polls, _: min(longest, first * factor**polls)


def learned(times: Times, history: int = HISTORY, seed: int = 1) -> DurationModel:
    """Return the model after a history of renders, observed through the package's own polls only."""
    known = DurationModels()
    for end in times.draw(history, seed)[1]:
        observe(known, float(end))
    return known.of("kind")


def observe(known: DurationModels, end: float) -> tuple[int, float]:
    """Poll one render to its end, and learn from it."""
    wait = by_model(known.of("kind"))
    low = now = 0.0
    polls = 0
    while now < end:
        low, now = now, now + wait(polls, now)
        polls += 1
    known.observe("kind", low, now)
    return polls, now - end


def tune_to(delay: float, run: Callable[[], Result]) -> None:
    """Adjust the worth of a second until the mean delay is as given."""
    low, high = 0.02, 50.0
    for _ in range(12):
        set_worth(math.sqrt(low * high))
        if run().delay > delay:
            low = duration_model.DELAY_COST
        else:
            high = duration_model.DELAY_COST


WORTH, _GAP = duration_model.DELAY_COST, duration_model.GAP_SECONDS


def set_worth(worth: float) -> None:
    """Set the worth of a second of delay in polls; the gaps without a history follow from it."""
    duration_model.DELAY_COST = worth
    duration_model.GAP_SECONDS = _GAP * math.sqrt(WORTH / worth)


def without_plan(model: DurationModel) -> DurationModel:
    """Return the same model without a cached plan."""
    return model if model is prior_model() else DurationModel(model.weights)


def learned_result(ends: np.ndarray, model: DurationModel) -> Result:
    """Poll renders by a model of their duration."""
    wait = by_model(without_plan(model))
    return Result.of(polled(float(end), wait) for end in ends)


def progress_result(times: Times, model: DurationModel, count: int) -> Result:
    """Poll renders that report progress."""
    rng, model = random.Random(4), without_plan(model)
    queued, ends = times.draw(count, 5)
    return Result.of(
        with_progress(float(end), float(queue), model, rng) for queue, end in zip(queued, ends, strict=True)
    )
