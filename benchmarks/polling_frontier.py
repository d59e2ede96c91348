"""Plot of polls against delay for each way of polling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from optimum import Times, fewest_polls
from poll_simulation import (
    SIGMAS,
    WORTH,
    Result,
    backoff,
    fixed,
    learned,
    learned_result,
    polled,
    progress_result,
    set_worth,
)

from airflow_provider_seedance.polling.duration_model import prior_model

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

RENDERS = 2000
DELAYS = (2.5, 3.5, 5.0, 7.0, 10.0, 14.0)
WORTHS = (0.25, 0.5, 1.0, 1.4, 2.5, 5.0)

# Wong's palette, which the colour-blind can tell apart.
FIXED, BACKOFF, OURS, NOTHING, PROGRESS = "#56B4E9", "#E69F00", "#0072B2", "#009E73", "#CC79A7"


def draw(path: Path) -> None:
    """Draw the frontier for each spread of render times."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, panels = plt.subplots(1, len(SIGMAS), figsize=(11, 4.6), sharey=True, constrained_layout=True)
    for panel, sigma in zip(panels, SIGMAS, strict=True):
        _panel(panel, Times(120.0, sigma))
    panels[0].set_ylabel("polls for each render")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Polls and delay until the end of a render is noticed: median 120 s, queueing of 20 s")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(panel: Axes, times: Times) -> None:
    ends = [float(end) for end in times.draw(RENDERS, 11)[1]]

    def line(results: list[Result], label: str, colour: str, marker: str) -> None:
        panel.plot(
            [got.delay for got in results],
            [got.polls for got in results],
            marker,
            color=colour,
            label=label,
            ms=4,
        )

    def each(run: Callable[[float], Result], values: tuple[float, ...]) -> list[Result]:
        results = []
        for value in values:
            set_worth(value)
            results.append(run(value))
        set_worth(WORTH)
        return results

    line(
        [Result.of(polled(end, fixed(2 * delay)) for end in ends) for delay in DELAYS],
        "fixed interval",
        FIXED,
        "s-",
    )
    caps = (6.0, 9.0, 14.0, 20.0, 30.0)
    line(
        [Result.of(polled(end, backoff(2.0, 1.5, cap)) for end in ends) for cap in caps],
        "exponential backoff, capped",
        BACKOFF,
        "^-",
    )
    model = learned(times)
    line(
        each(lambda _: learned_result(times.draw(RENDERS, 12)[1], prior_model()), WORTHS),
        "nothing learned yet",
        NOTHING,
        "D-",
    )
    line(each(lambda _: learned_result(times.draw(RENDERS, 12)[1], model), WORTHS), "learned", OURS, "o-")
    line(each(lambda _: progress_result(times, model, 800), WORTHS), "learned, with progress", PROGRESS, "v-")
    panel.plot(
        DELAYS,
        [fewest_polls(times, delay) for delay in DELAYS],
        "k--",
        lw=1.2,
        label="optimum, distribution known",
    )
    panel.set(title=f"sigma {times.sigma:g}", xlabel="mean delay in seconds", xlim=(2, 14), ylim=(0, 32))
    panel.grid(alpha=0.25)
