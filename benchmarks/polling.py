"""
When to poll: polls against delay, beside the alternatives and the optimum.

    python benchmarks/polling.py [--renders 10000] [--plot docs/polling-frontier.png]

Renders are simulated, polls are planned by the package itself. Its one knob, what a second of delay is
worth, is turned until the mean delay is that of the comparison; then polls are counted.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from optimum import Times, fewest_polls

from airflow_provider_seedance.polling import duration_model, schedule
from airflow_provider_seedance.polling.duration_model import DurationModel, DurationModels, unlearned
from airflow_provider_seedance.polling.schedule import Knowledge, next_poll

SIGMAS = (0.2, 0.35, 0.6)
MEDIANS = (30.0, 60.0, 120.0, 300.0, 600.0)
DELAY = 5.0
HISTORY = 300
NOISE = 5.0

#: The targets: against the optimum once learned, without history, soon after a change; polls with progress;
#: 95th percentile of the delay against that of polling every ten seconds.
LEARNED, NO_HISTORY, CHANGED, PROGRESS, TAIL = 1.12, 1.5, 1.25, 4.0, 2.0
FIXED_P95 = 9.5


@dataclass(frozen=True)
class Result:
    """Means over many renders; ``p95`` is the 95th percentile of the delay, in seconds."""

    polls: float
    delay: float
    p95: float

    @classmethod
    def of(cls, seen: Iterable[tuple[int, float]]) -> Result:
        """Sum up polls and delay of each render."""
        polls, delays = np.array(list(seen)).T
        return cls(float(polls.mean()), float(delays.mean()), float(np.quantile(delays, 0.95)))


# ---------------------------------------------------------------------- one render


def polled(end: float, wait: Callable[[int, float], float]) -> tuple[int, float]:
    """Return polls and delay of a render, with the wait after so many polls at a moment."""
    now, polls = 0.0, 0
    while now < end:
        now += wait(polls, now)
        polls += 1
    return polls, now - end


def by_belief(belief: DurationModel) -> Callable[[int, float], float]:
    """Return the package's own schedule."""
    return lambda asked, now: next_poll(Knowledge(asked=asked), elapsed=now, belief=belief)


def with_progress(end: float, queued: float, belief: DurationModel, rng: random.Random) -> tuple[int, float]:
    """Return polls and delay of a render that reports progress."""
    now, polls, told = 0.0, 0, ()
    while True:
        now += next_poll(Knowledge(asked=polls, progress=told), elapsed=now, belief=belief)
        polls += 1
        if now >= end:
            return polls, now - end
        percent = 0
        if now > queued:
            true = 100 * (now - queued) / (end - queued)
            percent = int(min(99, max(0, round(true + rng.uniform(-NOISE, NOISE)))))
        told = (*told, (now, float(percent)))[-schedule.KEPT_PROGRESS :]


def fixed(seconds: float) -> Callable[[int, float], float]:
    """Poll every so many seconds."""
    return lambda *_: seconds


def backoff(first: float, factor: float, longest: float) -> Callable[[int, float], float]:
    """Poll ever less often."""
    return lambda asked, _: min(longest, first * factor**asked)


# ---------------------------------------------------------------------- the knob


def learned(times: Times, history: int = HISTORY, seed: int = 1) -> DurationModel:
    """Return what is believed after so many renders, seen through the package's own polls only."""
    known = DurationModels()
    for end in times.draw(history, seed)[1]:
        observe(known, float(end))
    return known.of("kind")


def observe(known: DurationModels, end: float) -> tuple[int, float]:
    """Poll one render to its end, and learn from it."""
    wait = by_belief(known.of("kind"))
    low = now = 0.0
    polls = 0
    while now < end:
        low, now = now, now + wait(polls, now)
        polls += 1
    known.learn("kind", low, now)
    return polls, now - end


def turn_to(delay: float, run: Callable[[], Result]) -> None:
    """Turn the knob until the mean delay is as wanted."""
    low, high = 0.02, 50.0
    for _ in range(12):
        set_worth(math.sqrt(low * high))
        if run().delay > delay:
            low = duration_model.PATIENCE
        else:
            high = duration_model.PATIENCE


_WORTH, _GAP = duration_model.PATIENCE, duration_model.GAP


def set_worth(worth: float) -> None:
    """Set what a second of delay is worth; without history, the gaps follow from it."""
    duration_model.PATIENCE = worth
    duration_model.GAP = _GAP * math.sqrt(_WORTH / worth)


def again(belief: DurationModel) -> DurationModel:
    """Return the same belief with nothing planned yet."""
    return belief if belief is unlearned() else DurationModel(belief.weights)


# ---------------------------------------------------------------------- the tables


class Report:
    """Prints the tables and remembers whether every target is met."""

    def __init__(self, renders: int) -> None:
        self.renders = renders
        self.met = True

    def line(self, *cells: object) -> None:
        """Print a row."""
        print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)

    def head(self, title: str, *cells: str) -> None:
        """Print the head of a table."""
        print(f"\n{title}\n")
        self.line(*cells)
        self.line(*("---" for _ in cells))

    def mark(self, value: float, most: float) -> str:
        """Show a figure beside its target."""
        self.met &= value <= most
        return f"{value:.2f} (at most {most:g})" + ("" if value <= most else " **missed**")

    # -- each target

    def yardstick(self) -> None:
        self.head("The yardstick: median 120 s, mean delay 5 s", "sigma", "every 10 s", "optimum")
        for sigma in SIGMAS:
            times = Times(120.0, sigma)
            every = Result.of(polled(end, fixed(10.0)) for end in times.draw(self.renders, 7)[1])
            self.line(sigma, f"{every.polls:.1f}", f"{fewest_polls(times, DELAY):.1f}")

    def once_learned(self) -> None:
        self.head(
            f"Once learned ({HISTORY} renders before), equal mean delay",
            "sigma",
            "polls",
            "mean delay",
            "95 %",
            "optimum",
            "against it",
        )
        for sigma in SIGMAS:
            times = Times(120.0, sigma)
            belief = learned(times)
            few, many = times.draw(1500, 2)[1], times.draw(self.renders, 3)[1]
            turn_to(DELAY, lambda few=few, belief=belief: self._run(few, belief))
            got = self._run(many, belief)
            self._row(sigma, got, fewest_polls(times, got.delay), LEARNED)
            set_worth(_WORTH)

    def no_history(self) -> None:
        self.head(
            "No history, one prior and one setting of the knob for all medians (mean delay 5 s over all)",
            "sigma",
            "median",
            "polls",
            "mean delay",
            "95 %",
            "optimum at this delay",
            "against it",
            "optimum at 5 s",
            "against it",
        )
        everywhere = []
        for sigma in SIGMAS:
            drawn = {m: Times(m, sigma).draw(2000, int(m))[1] for m in MEDIANS}
            turn_to(DELAY, lambda drawn=drawn: self._run(np.concatenate(list(drawn.values())), unlearned()))
            ratios, others = [], []
            for median in MEDIANS:
                times = Times(median, sigma)
                got = self._run(times.draw(self.renders, int(median) + 1)[1], unlearned())
                own, at_five = fewest_polls(times, round(got.delay, 2)), fewest_polls(times, DELAY)
                ratios.append(got.polls / own)
                others.append(got.polls / at_five)
                self.line(
                    sigma,
                    f"{median:g}",
                    f"{got.polls:.1f}",
                    f"{got.delay:.1f} s",
                    f"{got.p95:.1f} s",
                    f"{own:.1f}",
                    f"{ratios[-1]:.2f}",
                    f"{at_five:.1f}",
                    f"{others[-1]:.2f}",
                )
            everywhere += ratios
            self.line(sigma, "mean", "", "", "", "", f"{np.mean(ratios):.2f}", "", f"{np.mean(others):.2f}")
            set_worth(_WORTH)
        print(f"\nOn average over all of them: {self.mark(float(np.mean(everywhere)), NO_HISTORY)}")

    def progress(self) -> None:
        self.head(
            "With progress reported (integer percent, 5 points of noise, 0 while queued), once learned",
            "sigma",
            "polls",
            "mean delay",
            "95 %",
            "polls before anything was learned, same delay",
        )
        for sigma in SIGMAS:
            times = Times(120.0, sigma)
            cells = []
            for belief in (learned(times), unlearned()):
                turn_to(DELAY, lambda belief=belief, times=times: self._progress(times, belief, 800))
                cells.append(self._progress(times, belief, self.renders))
                set_worth(_WORTH)
            got, before = cells
            self.line(
                sigma,
                self.mark(got.polls, PROGRESS),
                f"{got.delay:.1f} s",
                self._tail(got),
                f"{before.polls:.1f} ({before.delay:.1f} s)",
            )

    def change(self) -> None:
        self.head(
            "A kind that suddenly takes twice or half as long: 50 renders later",
            "sigma",
            "median",
            "polls",
            "mean delay",
            "95 %",
            "optimum at this delay",
            "against it",
        )
        for sigma in SIGMAS:
            for before, after in ((120.0, 240.0), (120.0, 60.0)):
                seen = []
                for repetition in range(max(3, self.renders // 1000)):
                    known = DurationModels()
                    for end in Times(before, sigma).draw(HISTORY, repetition)[1]:
                        observe(known, float(end))
                    for end in Times(after, sigma).draw(50, 100 + repetition)[1]:
                        observe(known, float(end))
                    for end in Times(after, sigma).draw(1000, 200 + repetition)[1]:
                        seen.append(polled(float(end), by_belief(known.of("kind"))))
                got = Result.of(seen)
                optimum = fewest_polls(Times(after, sigma), round(got.delay, 2))
                self.line(
                    sigma,
                    f"{before:g} to {after:g}",
                    f"{got.polls:.1f}",
                    f"{got.delay:.1f} s",
                    f"{got.p95:.1f} s",
                    f"{optimum:.1f}",
                    self.mark(got.polls / optimum, CHANGED),
                )

    def alternatives(self) -> None:
        self.head(
            "Beside the alternatives: median 120 s, sigma 0.35, as each comes",
            "",
            "polls",
            "mean delay",
            "95 %",
            "against the optimum at this delay",
        )
        times = Times(120.0, 0.35)
        ends = times.draw(self.renders, 9)[1]
        for name, wait in ALTERNATIVES.items():
            got = Result.of(polled(float(end), wait) for end in ends)
            self._plain(name, got, times)
        self._plain("this provider, nothing learned", self._run(ends, unlearned()), times)
        self._plain("this provider, learned", self._run(ends, learned(times)), times)
        self._plain(
            "this provider, learned, with progress",
            self._progress(times, learned(times), self.renders),
            times,
        )

    # -- inside

    def _run(self, ends: np.ndarray, belief: DurationModel) -> Result:
        wait = by_belief(again(belief))
        return Result.of(polled(float(end), wait) for end in ends)

    def _progress(self, times: Times, belief: DurationModel, count: int) -> Result:
        rng, belief = random.Random(4), again(belief)
        queued, ends = times.draw(count, 5)
        return Result.of(
            with_progress(float(end), float(queue), belief, rng)
            for queue, end in zip(queued, ends, strict=True)
        )

    def _tail(self, got: Result) -> str:
        self.met &= got.p95 < TAIL * FIXED_P95
        return f"{got.p95:.1f} s" + ("" if got.p95 < TAIL * FIXED_P95 else " **missed**")

    def _row(self, sigma: float, got: Result, optimum: float, most: float) -> None:
        self.line(
            sigma,
            f"{got.polls:.1f}",
            f"{got.delay:.1f} s",
            self._tail(got),
            f"{optimum:.1f}",
            self.mark(got.polls / optimum, most),
        )

    def _plain(self, name: str, got: Result, times: Times) -> None:
        optimum = fewest_polls(times, round(got.delay, 2))
        self.line(
            name, f"{got.polls:.1f}", f"{got.delay:.1f} s", f"{got.p95:.1f} s", f"{got.polls / optimum:.2f}"
        )


ALTERNATIVES = {
    "every 2 s (the vendors' examples)": fixed(2.0),
    "every 10 s": fixed(10.0),
    "every 60 s (HttpSensor's default)": fixed(60.0),
    "backoff 2 s x 1.5, at most 60 s": backoff(2.0, 1.5, 60.0),
    "backoff 2 s x 2, at most 60 s": backoff(2.0, 2.0, 60.0),
    "10 s growing by a quarter to 30 s": backoff(10.0, 1.25, 30.0),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--renders", type=int, default=10_000)
    parser.add_argument("--plot", type=Path, help="draw polls against delay into this file")
    options = parser.parse_args()
    random.seed(1)
    report = Report(options.renders)
    report.yardstick()
    report.alternatives()
    report.once_learned()
    report.no_history()
    report.progress()
    report.change()
    if options.plot:
        from frontier import draw

        draw(options.plot, report)
    print("\nAll targets are met." if report.met else "\nA target is missed.")
    return 0 if report.met else 1


if __name__ == "__main__":
    sys.exit(main())
