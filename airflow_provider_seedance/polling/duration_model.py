"""
How long renders take, as far as it was seen: what the schedule goes by.

Renders of one kind (service, model, duration, resolution) take about the same time. What is believed of a
kind is a weight for each of some hundred hypotheses: *the time from submission to end is lognormal, with
such a median and such a spread*. Every end that is noticed lies between two readings, and each
hypothesis gains or loses by the chance it gave to that interval. Before that, a small share of all
weight goes back to the prior: so a kind that suddenly becomes slower or faster is learned anew within
a few renders, while one that stays the same is known ever better (the *fixed share* update of Herbster
and Warmuth, 1998).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from functools import cache, cached_property
from itertools import accumulate, pairwise

from airflow_provider_seedance.polling.poll_plan import Plan, plan

#: What one second of delay is worth, in polls, for a render of :data:`REFERENCE` seconds; it makes for about
#: five seconds of delay on average.
PATIENCE = 1.4
REFERENCE = 120.0

#: With this power of a render's length its polls are cheaper: a render of an hour may take more of them than
#: one of a minute, but not sixty times as many.
LENGTH_POWER = 0.5

#: Share of the weight that goes back to the prior with every render.
SHARE = 0.01

#: So many kinds are remembered, those seen last.
MOST_KINDS = 200

#: A vendor's estimate may be wrong by this factor, as the standard deviation of its logarithm.
ESTIMATE_SPREAD = 0.5

# Times are cells of a grid that is even in their logarithm.
_STEP = 0.025
_CELLS = math.ceil(math.log(6 * 3600.0) / _STEP)
TIMES = tuple(math.exp(_STEP * cell) for cell in range(_CELLS + 1))
_MEDIANS = range(math.ceil(math.log(3.0) / _STEP), math.ceil(math.log(7200.0) / _STEP), 3)
_SPREADS = (0.12, 0.2, 0.3, 0.42, 0.6, 0.85)
_SPREAD_WEIGHTS = (0.5, 1.0, 1.5, 1.5, 1.0, 0.5)

# An unknown kind most likely takes between half a minute and a quarter of an hour.
_LIKELY = (math.log(30.0), math.log(750.0))
_FALL = 0.4
_POSSIBLE = 1e-4

# Without any history: the first look, at what fails at once and at what is quick; ...
_FIRST_LOOK = 12.0
# By then nearly all renders of an unknown kind have ended.
_MOST_ENDED = 160.0
# ... then so many seconds between two at the time of reference, and slowly fewer. That keeps the number of polls
# in proportion to what the optimum takes, for kinds of half a minute as for those of ten (benchmarks/polling.py).
GAP, GAP_POWER = 10.0, -0.45
# From here on it is not about to end: gaps grow with the square of the time that has passed.
_LONG, _GROWTH = 1000.0, 2

# Hypotheses with less weight are planned for by the prior's share only.
_NEGLIGIBLE = 1e-4
# No render is impossible: whatever happened, some hypothesis goes on.
_LEAST_CHANCE = 1e-9

_Weights = tuple[tuple[float, ...], ...]


class _Spread:
    """A lognormal distribution on the grid: the chance of each distance from its median, in cells."""

    def __init__(self, sigma: float) -> None:
        self.reach = math.ceil(4.5 * sigma / _STEP)
        self.below = [
            0.5 * (1.0 + math.erf(cell * _STEP / sigma / math.sqrt(2)))
            for cell in range(-self.reach, self.reach + 1)
        ]
        self.within = [after - before for before, after in pairwise(self.below)]

    def until(self, distance: int) -> float:
        """Return the chance of less than so many cells above the median."""
        return self.below[min(max(distance + self.reach, 0), 2 * self.reach)]


_LOGNORMAL = tuple(_Spread(sigma) for sigma in _SPREADS)


def _normal(weights: Sequence[Sequence[float]]) -> _Weights:
    total = math.fsum(map(math.fsum, weights))
    return tuple(tuple(weight / total for weight in row) for row in weights)


def _prior() -> _Weights:
    medians = []
    for cell in _MEDIANS:
        outside = max(0.0, _LIKELY[0] - cell * _STEP, cell * _STEP - _LIKELY[1])
        medians.append(math.exp(-0.5 * (outside / _FALL) ** 2) + _POSSIBLE)
    return _normal([[weight * median for median in medians] for weight in _SPREAD_WEIGHTS])


PRIOR = _prior()


class DurationModel:
    """
    What is believed of the time that a kind of render takes. Never changes.

    :param weights: Of every hypothesis, by spread and median.
    """

    def __init__(self, weights: _Weights = PRIOR) -> None:
        self.weights = weights
        self._expecting: dict[int, DurationModel] = {}

    def after(self, elapsed: float) -> float:
        """Return when to poll next, in seconds since the submission; infinite where nothing is believed."""
        return self._plan.after(elapsed)

    def by(self, share: float) -> float:
        """Return by when this share of such renders has ended, in seconds since the submission."""
        ended = list(accumulate(self.masses[0]))
        return TIMES[min(bisect_left(ended, share * ended[-1]), _CELLS)]

    @cached_property
    def _plan(self) -> Plan:
        masses, costs = self.masses
        return plan(TIMES, masses, costs, patience=PATIENCE)

    @cached_property
    def masses(self) -> tuple[list[float], list[float]]:
        """How likely the end is in each cell; the same weighted with the cost of a poll."""
        masses, costs, seen = [0.0] * (_CELLS + 1), [0.0] * (_CELLS + 1), 0.0
        for spread, median, weight in self._hypotheses():
            if weight < _NEGLIGIBLE and self.weights is not PRIOR:
                continue
            seen += weight
            cost = weight * price(TIMES[median])
            for distance, chance in enumerate(spread.within, start=1 - spread.reach):
                if 0 <= median + distance <= _CELLS:
                    masses[median + distance] += weight * chance
                    costs[median + distance] += cost * chance
        if seen < 1.0 - 1e-9:
            for cell, (mass, cost) in enumerate(zip(*_prior_masses(), strict=True)):
                masses[cell] += (1.0 - seen) * mass
                costs[cell] += (1.0 - seen) * cost
        return masses, costs

    def learned(self, low: float, high: float) -> DurationModel:
        """Return what is believed after a render that ended between two moments, in seconds."""
        first, last = _cell(low), _cell(high)
        rows = []
        for row, prior, spread in zip(self.weights, PRIOR, _LOGNORMAL, strict=True):
            chances = (
                spread.until(last - median) - spread.until(first - median) + _LEAST_CHANCE
                for median in _MEDIANS
            )
            rows.append(
                [
                    ((1 - SHARE) * weight + SHARE * before) * chance
                    for weight, before, chance in zip(row, prior, chances, strict=True)
                ]
            )
        return DurationModel(_normal(rows))

    def expecting(self, seconds: float | None) -> DurationModel:
        """Return what is believed of a render for which the service gave an estimate."""
        if seconds is None or not TIMES[0] <= seconds <= TIMES[-1]:
            return self
        # To the next fifth: estimates repeat themselves, and so do the plans that follow from them.
        bucket = round(math.log(seconds) / 0.2)
        if bucket not in self._expecting:
            tilt = [
                math.exp(-0.5 * ((cell * _STEP - bucket * 0.2) / ESTIMATE_SPREAD) ** 2) + 1e-3
                for cell in _MEDIANS
            ]
            rows = [[weight * lean for weight, lean in zip(row, tilt, strict=True)] for row in self.weights]
            self._expecting[bucket] = DurationModel(_normal(rows))
        return self._expecting[bucket]

    def _hypotheses(self) -> Iterator[tuple[_Spread, int, float]]:
        for spread, row in zip(_LOGNORMAL, self.weights, strict=True):
            for median, weight in zip(_MEDIANS, row, strict=True):
                yield spread, median, weight


class _Unlearned(DurationModel):
    """What is believed of a kind that was never seen."""

    def after(self, elapsed: float) -> float:
        """Return when to poll next: there is no distribution to plan by, so polls come evenly."""
        if elapsed < 0.8 * _FIRST_LOOK:
            return _FIRST_LOOK
        gap: float = GAP * (min(elapsed, _LONG) / REFERENCE) ** GAP_POWER
        return elapsed + gap * max(1.0, elapsed / _LONG) ** _GROWTH

    def by(self, share: float) -> float:
        """Return by when nearly all have ended: what is likely, not what is possible."""
        return _MOST_ENDED


def price(median: float) -> float:
    """Return what a poll costs for renders of about this length."""
    return float((REFERENCE / median) ** LENGTH_POWER)


def _cell(seconds: float) -> int:
    """Return the cell a time lies in; one before all that are likely where no time has passed."""
    return bisect_left(TIMES, seconds) if seconds > 0 else -_CELLS


@cache
def unlearned() -> DurationModel:
    """Return what is believed of a kind that was never seen; all of them share one plan."""
    return _Unlearned()


@cache
def _prior_masses() -> tuple[list[float], list[float]]:
    return unlearned().masses


class _Kind:
    """What is believed of a kind, and what its plans are made from for now."""

    def __init__(self) -> None:
        self.latest = self.planned = unlearned()
        self.seen = 0
        self.unplanned = 0

    def learn(self, low: float, high: float) -> None:
        self.latest = self.latest.learned(low, high)
        self.seen += 1
        self.unplanned += 1
        # A new plan costs milliseconds, and one more render changes little once many were seen.
        if self.unplanned >= min(10, self.seen / 20):
            self.planned, self.unplanned = self.latest, 0


class DurationModels:
    """What a process has learned, kind by kind; without clock or storage, and of bounded size."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()

    def of(self, kind: Hashable) -> DurationModel:
        """Return what is believed of a kind."""
        known = self._kinds.get(kind)
        if known is None:
            return unlearned()
        self._kinds.move_to_end(kind)
        return known.planned

    def learn(self, kind: Hashable, low: float, high: float) -> None:
        """
        Take in that a render ended.

        :param low: Seconds after its submission until which it was known not to have ended.
        :param high: Seconds after its submission at which it was known to have ended.
        """
        if not 0.0 <= low < high < math.inf:
            return
        known = self._kinds.pop(kind, None) or _Kind()
        self._kinds[kind] = known
        known.learn(low, high)
        if len(self._kinds) > MOST_KINDS:
            self._kinds.popitem(last=False)
