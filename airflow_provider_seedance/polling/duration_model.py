"""
Durations of generations, as observed or as the ledger has them: the input of the poll schedule.

Generations of one kind (service, model, duration, resolution) take about the same time. The model of a kind is a
weight for each of some hundred hypotheses: *the time from submission to end is lognormal, with this median and this
spread*. Each end is observed as an interval between two polls, and each hypothesis is weighted with the probability
of that interval. Before that, a small share of the weight returns to the prior, so that a kind that becomes slower or
faster is learned within a few generations (the *fixed share* update of Herbster and Warmuth, 1998).
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from itertools import accumulate, pairwise
from statistics import NormalDist

from airflow_provider_seedance.generations import read_number
from airflow_provider_seedance.polling.poll_plan import PollPlan, plan

#: Cost of one second of delay, in polls, for a generation of :data:`REFERENCE_SECONDS`; it yields about five seconds
#: of delay on average.
DELAY_COST = 1.4
REFERENCE_SECONDS = 120.0

#: Exponent by which polls of longer generations are cheaper: a generation of an hour may take more polls than one of
#: a minute, but not sixty times as many.
LENGTH_EXPONENT = 0.5

#: Share of the weight that returns to the prior with every observed generation.
PRIOR_SHARE = 0.01

#: Share by which a duration is uncertain that is known as one number.
DURATION_PRECISION = 0.03

#: Maximum number of kinds in memory; the one learned longest ago is dropped.
MAX_KINDS = 200

#: Standard deviation of the logarithm of a vendor's estimate.
ESTIMATE_SPREAD = 0.5

# Times are cells of a logarithmic grid.
_STEP = 0.025
_CELLS = math.ceil(math.log(6 * 3600.0) / _STEP)
TIMES = tuple(math.exp(_STEP * cell) for cell in range(_CELLS + 1))
_MEDIANS = range(math.ceil(math.log(3.0) / _STEP), math.ceil(math.log(7200.0) / _STEP), 3)
_SPREADS = (0.12, 0.2, 0.3, 0.42, 0.6, 0.85)
_SPREAD_WEIGHTS = (0.5, 1.0, 1.5, 1.5, 1.0, 0.5)

# A kind that was never observed most likely takes between half a minute and a quarter of an hour.
_LIKELY = (math.log(30.0), math.log(750.0))
_FALL = 0.4
_POSSIBLE = 1e-4

# Without observations the first poll finds immediate failures and fast generations.
_FIRST_POLL_SECONDS = 12.0
# By then nearly all generations of an unknown kind have ended.
_NEARLY_ALL_ENDED_SECONDS = 160.0
# Seconds between two later polls at the reference time, and the exponent by which they get shorter. This keeps the
# number of polls proportional to the optimum for kinds of half a minute and of ten (benchmarks/polling.py).
GAP_SECONDS, GAP_EXPONENT = 10.0, -0.45
# From here on an end is unlikely: gaps grow with the square of the elapsed time.
_LONG_SECONDS, _GROWTH = 1000.0, 2

# Hypotheses with less weight are replaced by the prior.
_NEGLIGIBLE = 1e-4
# Minimum probability of an interval, so that no observation rules out every hypothesis.
_MIN_PROBABILITY = 1e-9

_Weights = tuple[tuple[float, ...], ...]


#: Distribution of the distance from the median, in cells, for each spread.
_LOGNORMAL = tuple(NormalDist(sigma=sigma / _STEP) for sigma in _SPREADS)


def _chances(spread: NormalDist) -> tuple[int, list[float]]:
    """Return the first cell, counted from the median, that is not negligible, and the chances from there on."""
    reach = math.ceil(4.5 * spread.stdev)
    below = [spread.cdf(cell) for cell in range(-reach, reach + 1)]
    return 1 - reach, [after - before for before, after in pairwise(below)]


_CHANCES = tuple(map(_chances, _LOGNORMAL))


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
    """Distribution of the durations of a kind of generation, as weights by spread and median; immutable."""

    def __init__(self, weights: _Weights = PRIOR) -> None:
        self.weights = weights
        self._with_estimate: dict[int, DurationModel] = {}

    @staticmethod
    def of(durations: Iterable[float]) -> DurationModel:
        """Return the model after generations that took these seconds, oldest first."""
        model = prior_model()
        for seconds in durations:
            model = model.updated(seconds * (1 - DURATION_PRECISION), seconds)
        return model

    def next_poll_at(self, elapsed: float) -> float:
        """Return the time of the next poll, in seconds since the submission; infinite beyond the plan."""
        return self._plan.next_poll_at(elapsed)

    def quantile(self, share: float) -> float:
        """Return the time by which a share of such generations has ended, in seconds since the submission."""
        ended = list(accumulate(self.masses[0]))
        return TIMES[min(bisect_left(ended, share * ended[-1]), _CELLS)]

    def median_end(self, elapsed: float) -> float | None:
        """Return the time by which half of those that have not ended by now will have ended, in seconds since the submission."""
        later = [(time, mass) for time, mass in zip(TIMES, self.masses[0], strict=True) if time > elapsed]
        half = math.fsum(mass for _, mass in later) / 2
        ended = accumulate(mass for _, mass in later)
        return next((time for (time, _), mass in zip(later, ended, strict=True) if mass >= half > 0), None)

    @cached_property
    def _plan(self) -> PollPlan:
        masses, costs = self.masses
        return plan(TIMES, masses, costs, delay_cost=DELAY_COST)

    @cached_property
    def masses(self) -> tuple[list[float], list[float]]:
        """Probability of an end in each cell; the same weighted with the cost of a poll."""
        masses, costs, seen = [0.0] * (_CELLS + 1), [0.0] * (_CELLS + 1), 0.0
        for (first, chances), row in zip(_CHANCES, self.weights, strict=True):
            for median, weight in zip(_MEDIANS, row, strict=True):
                if weight < _NEGLIGIBLE and self.weights is not PRIOR:
                    continue
                seen += weight
                cost = weight * poll_cost(TIMES[median])
                for cell, chance in enumerate(chances, start=median + first):
                    if 0 <= cell <= _CELLS:
                        masses[cell] += weight * chance
                        costs[cell] += cost * chance
        if seen < 1.0 - 1e-9:
            for cell, (mass, cost) in enumerate(zip(*prior_model().masses, strict=True)):
                masses[cell] += (1.0 - seen) * mass
                costs[cell] += (1.0 - seen) * cost
        return masses, costs

    def updated(self, low: float, high: float) -> DurationModel:
        """Return the model after a generation that ended between two times, in seconds."""
        first, last = _cell(low), _cell(high)
        rows = []
        for row, prior, spread in zip(self.weights, PRIOR, _LOGNORMAL, strict=True):
            chances = (
                spread.cdf(last - median) - spread.cdf(first - median) + _MIN_PROBABILITY
                for median in _MEDIANS
            )
            rows.append(
                [
                    ((1 - PRIOR_SHARE) * weight + PRIOR_SHARE * before) * chance
                    for weight, before, chance in zip(row, prior, chances, strict=True)
                ]
            )
        return DurationModel(_normal(rows))

    def with_estimate(self, seconds: float | None) -> DurationModel:
        """Return the model of a generation for which the service estimated a duration."""
        if seconds is None or not TIMES[0] <= seconds <= TIMES[-1]:
            return self
        # Rounded to the next fifth, so that plans can be reused.
        bucket = round(math.log(seconds) / 0.2)
        if bucket not in self._with_estimate:
            tilt = [
                math.exp(-0.5 * ((cell * _STEP - bucket * 0.2) / ESTIMATE_SPREAD) ** 2) + 1e-3
                for cell in _MEDIANS
            ]
            rows = [[weight * lean for weight, lean in zip(row, tilt, strict=True)] for row in self.weights]
            self._with_estimate[bucket] = DurationModel(_normal(rows))
        return self._with_estimate[bucket]


class _PriorModel(DurationModel):
    """Model of a kind that was never observed."""

    def next_poll_at(self, elapsed: float) -> float:
        """Return the time of the next poll; without a distribution to plan by, polls are spaced evenly."""
        if elapsed < 0.8 * _FIRST_POLL_SECONDS:
            return _FIRST_POLL_SECONDS
        gap: float = GAP_SECONDS * (min(elapsed, _LONG_SECONDS) / REFERENCE_SECONDS) ** GAP_EXPONENT
        return elapsed + gap * max(1.0, elapsed / _LONG_SECONDS) ** _GROWTH

    def quantile(self, share: float) -> float:
        """Return the time by which nearly all have ended; the prior itself is too wide to be useful."""
        return _NEARLY_ALL_ENDED_SECONDS


def poll_cost(median: float) -> float:
    """Return the cost of a poll of generations of about this duration."""
    return float((REFERENCE_SECONDS / median) ** LENGTH_EXPONENT)


def _cell(seconds: float) -> int:
    """Return the cell of a time; for zero one before all likely cells."""
    return bisect_left(TIMES, seconds) if seconds > 0 else -_CELLS


@cache
def prior_model() -> DurationModel:
    """Return the model of a kind that was never observed; all of them share one plan."""
    return _PriorModel()


def kind_of(media: str, request: Mapping[str, object]) -> str:
    """
    Return the key of the generations that take about as long at one service.

    :param request: The model, duration and resolution that were requested, as far as they are known.
    """
    values = [media, request.get("model"), read_number(request.get("duration")), request.get("resolution")]
    text = "|".join(f"{value:g}" if isinstance(value, (int, float)) else str(value) for value in values)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


class _Kind:
    """Latest model of a kind, and the one that plans are made from for now."""

    def __init__(self) -> None:
        self.latest = self.planned = prior_model()
        # The same without durations of the ledger, which contain the time in the queue of the service.
        self.own = self.planned_own = self.latest
        self.observed = 0
        self.unplanned = 0

    def observe(self, low: float, high: float) -> None:
        before, self.latest = self.latest, self.latest.updated(low, high)
        self.own = self.latest if self.own is before else self.own.updated(low, high)
        self.observed += 1
        self.unplanned += 1
        # A new plan costs milliseconds, and one more observation changes little after many.
        if self.unplanned >= min(10, self.observed / 20):
            self.planned, self.planned_own, self.unplanned = self.latest, self.own, 0

    def teach(self, durations: Sequence[float]) -> None:
        if len(durations) > self.observed:
            self.latest = self.planned = DurationModel.of(durations)
            self.observed, self.unplanned = len(durations), 0


class DurationModels:
    """Models of the kinds that a process has observed; without clock or storage, and of bounded size."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()

    def of(self, kind: Hashable, *, queued: bool = False) -> DurationModel:
        """
        Return the model of a kind.

        :param queued: For a generation that was in the queue of the service, without which its age is counted.
        """
        known = self._kinds.get(kind)
        if known is None:
            return prior_model()
        return known.planned_own if queued else known.planned

    def observe(self, kind: Hashable, low: float, high: float) -> None:
        """Learn from a generation that ended between two times, in seconds after its submission."""
        if 0.0 <= low < high < math.inf:
            self._latest(kind).observe(low, high)

    def teach(self, kind: Hashable, durations: Sequence[float]) -> None:
        """Learn from durations in the ledger, in seconds and oldest first, unless more were observed here."""
        if durations:
            self._latest(kind).teach(durations)

    def _latest(self, kind: Hashable) -> _Kind:
        known = self._kinds.pop(kind, None) or _Kind()
        self._kinds[kind] = known
        if len(self._kinds) > MAX_KINDS:
            self._kinds.popitem(last=False)
        return known
