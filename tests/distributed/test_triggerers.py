"""Two triggerers: they share the waiting, the loss of one costs nothing, and one quota bounds both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import accounts
import pytest
from cluster import Cluster

from airflow_provider_seedance.testing import SeedanceEmulator

TIMEOUT_SECONDS = 300.0

#: More than one triggerer takes at a time.
RENDERS = 24

#: Maximum rounds of starts until both triggerers have triggers.
WAVES = 5


@pytest.fixture
def held(emulator: SeedanceEmulator) -> Iterator[None]:
    """Hold all renders until the test releases them."""
    emulator.hold()
    yield
    emulator.release()


def deferred(cluster: Cluster, run: accounts.Run) -> int:
    return sum(row["state"] == "deferred" for row in cluster.task_instances(run.dag_id, run.run_id))


def wave(cluster: Cluster, number: int) -> accounts.Run:
    """Start renders, and wait until each is with a triggerer."""
    prompts = [f"a boat that moves, {number}.{each}" for each in range(RENDERS)]
    run = accounts.start(cluster, "mapped", prompts)
    cluster.wait_until(lambda: deferred(cluster, run) == RENDERS, TIMEOUT_SECONDS, "deferred tasks")
    cluster.wait_until(
        lambda: sum(cluster.triggerers().values()) == (number + 1) * RENDERS,
        TIMEOUT_SECONDS,
        "renders at triggerers",
    )
    return run


def check_all_paid_once(cluster: Cluster, emulator: SeedanceEmulator, run: accounts.Run) -> None:
    assert cluster.wait_run(run.dag_id, run.run_id, TIMEOUT_SECONDS) == "success"
    sums = accounts.settle(cluster, emulator, [run])
    assert set(sums.paid.values()) == {1}
    assert sorted(sums.delivered) == sorted(run.prompts)


def test_the_loss_of_a_triggerer_moves_its_renders_and_nothing_else(
    cluster: Cluster, emulator: SeedanceEmulator, held: None
) -> None:
    runs = [wave(cluster, 0)]
    while min(cluster.triggerers().values()) == 0:
        # Renders that come a few at a time can all meet the same triggerer, by chance.
        assert len(runs) < WAVES, "one triggerer takes everything"
        runs.append(wave(cluster, len(runs)))
    print("renders at each triggerer:", sorted(cluster.triggerers().values()))
    waiting = RENDERS * len(runs)
    sent = Counter(entry.kind for entry in emulator.ledger.requests)

    cluster.kill("triggerer-1")
    cluster.wait_until(
        lambda: list(cluster.triggerers().values()) == [waiting],
        TIMEOUT_SECONDS,
        "all renders at one triggerer",
    )
    since = Counter(entry.kind for entry in emulator.ledger.requests) - sent
    assert set(since) <= {"status"}

    emulator.release()
    for run in runs:
        check_all_paid_once(cluster, emulator, run)
    assert not [entry for entry in emulator.ledger.requests if entry.kind == "cancel"]
    cluster.launch("triggerer-1")
    cluster.wait_healthy("triggerer-1")


def test_one_quota_bounds_both(cluster: Cluster, emulator: SeedanceEmulator) -> None:
    prompts = [f"a boat that is counted, {number}" for number in range(RENDERS)]
    before = len(emulator.ledger.requests)
    window = 15.0
    emulator.set_rate_limit(30, window)
    try:
        run = accounts.start(cluster, "mapped", prompts, "seedance_s2a")
        check_all_paid_once(cluster, emulator, run)
    finally:
        emulator.set_rate_limit(None)
    requests = emulator.ledger.requests[before:]
    refused = [entry for entry in requests if entry.status == 429]
    windows = (requests[-1].at - requests[0].at) / window + 1
    print(f"{len(requests)} requests in {windows:.1f} windows, {len(refused)} of them refused")
    # Four machines that cannot see each other's notes: each may learn of an empty window by one refusal.
    assert len(refused) <= 4 * windows
    assert {row["state"] for row in cluster.task_instances(run.dag_id, run.run_id)} == {"success"}
