"""
Hundreds of deferred generations in a real triggerer: waiting, ending by hand, taking over, resuming.

The small form of ``benchmarks/triggerer.py``, with the same parts.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from benchmarks.deferred import Bench

COUNT = 240
ENDED = 30

#: Seconds for anything that must happen: only a test that fails waits that long.
TIMEOUT_SECONDS = 480.0


@pytest.fixture
def bench(tmp_path: Path, database_template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A private Airflow without any process, and a status server."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import deferred

    with deferred.bench(COUNT, tmp_path, database_template) as made:
        yield made


def test_a_killed_triggerers_work_is_taken_over_without_submitting_or_cancelling(bench: Bench) -> None:
    from deferred import wait_until

    bench.fill("ours", COUNT, poll_interval=2.0)
    first = bench.start("first", timeout=TIMEOUT_SECONDS)
    # Every trigger waits by now, and each connection was looked up once.
    wait_until(lambda: bench.ask("counts")["renders"] == COUNT, TIMEOUT_SECONDS, "the first round")
    assert bench.lookups() == 3

    bench.mark_failed(ENDED)
    # Airflow drops the triggers of those that were ended, and asks them to clean up; nothing is cancelled.
    wait_until(
        lambda: bench.number("select count(*) from trigger") == COUNT - ENDED,
        TIMEOUT_SECONDS,
        "the triggers of those that were ended",
    )
    first.stop(signal.SIGKILL)
    second = bench.start("second", timeout=TIMEOUT_SECONDS)
    bench.ask("finish")
    wait_until(lambda: bench.deferred() == 0, TIMEOUT_SECONDS, "all to resume")

    counts = bench.ask("counts")
    states = dict(bench.query("select state, count(*) from task_instance group by state"))
    assert states == {"failed": ENDED, "scheduled": COUNT - ENDED}
    assert set(counts) == {"GET", "read", "renders"}
    wait_until(lambda: not second.connections(bench.port), TIMEOUT_SECONDS, "the connections to be closed")
    assert first.logged("Traceback") + second.logged("Traceback") == 0
