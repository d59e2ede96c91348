"""
Number of polls against delay, beside the alternatives and the optimum.

    python benchmarks/polling.py [--renders 10000] [--plot docs/benchmarks/polling-frontier.png]

Renders are simulated, polls are planned by the package itself. Its one parameter, the
worth of a second of delay, is adjusted until the mean delay equals that of the comparison; then polls are counted.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import numpy as np
from optimum import Times, fewest_polls
from poll_simulation import (
    HISTORY,
    SIGMAS,
    WORTH,
    Result,
    backoff,
    by_model,
    fixed,
    learned,
    learned_result,
    observe,
    polled,
    progress_result,
    set_worth,
    tune_to,
)
from polling_frontier import draw

from airflow_provider_seedance.ledger.account import MAX_DURATIONS
from airflow_provider_seedance.polling.duration_model import DurationModel, DurationModels, prior_model

MEDIANS = (30.0, 60.0, 120.0, 300.0, 600.0)
DELAY = 5.0

#: The targets: against the optimum once learned, without history, by the ledger, soon after a change; polls with
#: progress; 95th percentile of the delay against that of polling every ten seconds.
LEARNED, NO_HISTORY, LEDGER, CHANGED, PROGRESS, TAIL = 1.12, 1.5, 1.1, 1.25, 4.0, 2.0
FIXED_P95 = 9.5

COLUMNS = ("polls", "mean delay", "95 %", "optimum at this delay", "against it")


def cells(got: Result, optimum: float, against: str) -> tuple[str, ...]:
    """Return the cells of :data:`COLUMNS`."""
    return (f"{got.polls:.1f}", f"{got.delay:.1f} s", f"{got.p95:.1f} s", f"{optimum:.1f}", against)


class Report:
    """Printer of the tables, which records whether every target is met."""

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

    def mark(self, value: float, limit: float) -> str:
        """Show a figure beside its target."""
        self.met &= value <= limit
        return f"{value:.2f} (at most {limit:g})" + ("" if value <= limit else " **missed**")

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
            model = learned(times)
            few, many = times.draw(1500, 2)[1], times.draw(self.renders, 3)[1]
            tune_to(DELAY, lambda few=few, model=model: learned_result(few, model))
            got = learned_result(many, model)
            self._row(sigma, got, fewest_polls(times, got.delay), LEARNED)
            set_worth(WORTH)

    def no_history(self) -> None:
        self.head(
            "No history, one prior and one setting for all medians (mean delay 5 s over all)",
            "sigma",
            "median",
            *COLUMNS,
            "optimum at 5 s",
            "against it",
        )
        everywhere = []
        for sigma in SIGMAS:
            drawn = {m: Times(m, sigma).draw(2000, int(m))[1] for m in MEDIANS}
            tune_to(
                DELAY, lambda drawn=drawn: learned_result(np.concatenate(list(drawn.values())), prior_model())
            )
            ratios, baselines = [], []
            for median in MEDIANS:
                times = Times(median, sigma)
                got = learned_result(times.draw(self.renders, int(median) + 1)[1], prior_model())
                own, at_five = fewest_polls(times, round(got.delay, 2)), fewest_polls(times, DELAY)
                ratios.append(got.polls / own)
                baselines.append(got.polls / at_five)
                measured = cells(got, own, f"{ratios[-1]:.2f}")
                self.line(sigma, f"{median:g}", *measured, f"{at_five:.1f}", f"{baselines[-1]:.2f}")
            everywhere += ratios
            self.line(
                sigma, "mean", "", "", "", "", f"{np.mean(ratios):.2f}", "", f"{np.mean(baselines):.2f}"
            )
            set_worth(WORTH)
        print(f"\nOn average over all of them: {self.mark(float(np.mean(everywhere)), NO_HISTORY)}")

    def by_ledger(self) -> None:
        self.head(
            f"A restarted triggerer that is given {MAX_DURATIONS} durations by the ledger, as it comes",
            "sigma",
            "median",
            *COLUMNS,
        )
        ratios = []
        for sigma in SIGMAS:
            for median in MEDIANS:
                times = Times(median, sigma)
                model = DurationModel.of(map(float, times.draw(MAX_DURATIONS, 50)[1]))
                got = learned_result(times.draw(self.renders, int(median) + 1)[1], model)
                optimum = fewest_polls(times, round(got.delay, 2))
                ratios.append(got.polls / optimum)
                self.line(sigma, f"{median:g}", *cells(got, optimum, f"{ratios[-1]:.2f}"))
        print(f"\nOn average over all of them: {self.mark(float(np.mean(ratios)), LEDGER)}")

    def progress(self) -> None:
        self.head(
            "With progress reported (integer percent, 5 points of noise, 0 while queued), once learned",
            "sigma",
            "polls",
            "mean delay",
            "95 %",
            "polls with nothing learned, same delay",
        )
        for sigma in SIGMAS:
            times = Times(120.0, sigma)
            cells = []
            for model in (learned(times), prior_model()):
                tune_to(DELAY, lambda model=model, times=times: progress_result(times, model, 800))
                cells.append(progress_result(times, model, self.renders))
                set_worth(WORTH)
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
            *COLUMNS,
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
                        seen.append(polled(float(end), by_model(known.of("kind"))))
                got = Result.of(seen)
                optimum = fewest_polls(Times(after, sigma), round(got.delay, 2))
                against = self.mark(got.polls / optimum, CHANGED)
                self.line(sigma, f"{before:g} to {after:g}", *cells(got, optimum, against))

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
        self._plain("this provider, nothing learned", learned_result(ends, prior_model()), times)
        self._plain("this provider, learned", learned_result(ends, learned(times)), times)
        self._plain(
            "this provider, learned, with progress",
            progress_result(times, learned(times), self.renders),
            times,
        )

    # -- rows

    def _tail(self, got: Result) -> str:
        self.met &= got.p95 < TAIL * FIXED_P95
        return f"{got.p95:.1f} s" + ("" if got.p95 < TAIL * FIXED_P95 else " **missed**")

    def _row(self, sigma: float, got: Result, optimum: float, limit: float) -> None:
        self.line(
            sigma,
            f"{got.polls:.1f}",
            f"{got.delay:.1f} s",
            self._tail(got),
            f"{optimum:.1f}",
            self.mark(got.polls / optimum, limit),
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
    report.by_ledger()
    report.progress()
    report.change()
    if options.plot:
        draw(options.plot)
    print("\nAll targets are met." if report.met else "\nA target is missed.")
    return 0 if report.met else 1


if __name__ == "__main__":
    sys.exit(main())
