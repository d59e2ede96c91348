"""Everything is killed, again and again: is each render paid for once, and does each arrive?"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import accounts
import history
import pytest
from backends import PostgresDatabase
from chaos import Chaos
from cluster import Cluster
from tcp_proxy import TcpProxy

from airflow_provider_seedance.testing import SeedanceEmulator

#: Seconds for the end of all runs after the last kill, on a machine that has other things to do.
TIMEOUT_SECONDS = 900.0

#: Renders of each run: tasks of their own, mapped tasks, items of a batch.
SIZES = {"single": 1, "mapped": 10, "batch": 20}


def plan(renders: int) -> list[tuple[str, list[str]]]:
    """A tenth of the renders alone, a fifth mapped, the others in batches; mixed."""
    names = iter(f"boat {number} of a fleet" for number in range(renders))
    shares = {"single": renders // 10, "mapped": renders // 5, "batch": renders}
    by_kind = []
    for kind, share in shares.items():
        mine = list(islice(names, share))
        size = SIZES[kind]
        by_kind.append([(kind, mine[at : at + size]) for at in range(0, len(mine), size)])
    order = sorted(
        ((place + 0.5) / len(runs), run) for runs in by_kind for place, run in enumerate(runs) if run[1]
    )
    return [run for _, run in order]


def service(number: int) -> str:
    """Every fourth run renders where a submission can be looked up whose reply was lost."""
    return "seedance_ark" if number % 4 == 3 else "seedance_default"


def wait(look: Callable[[], Any], what: Callable[[], object], cluster: Cluster) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not look():
        cluster.revive()
        if time.monotonic() > deadline:
            raise TimeoutError(f"still waiting for {what()}")
        time.sleep(1)


def check_uncertain(
    cluster: Cluster,
    emulator: SeedanceEmulator,
    chaos: Chaos,
    runs: list[accounts.Run],
    sums: accounts.Accounts,
) -> None:
    """Only what was killed, or cut off, between its intent and its id may be uncertain."""
    mine = {(run.dag_id, run.run_id) for run in runs}
    doubts = [doubt for doubt in history.doubts(cluster.history) if doubt.place[:2] in mine]
    unexplained = []
    for doubt in doubts:
        why = [accident for accident in chaos.accidents if accident.explains(doubt)]
        cause = why[0].kind if why else "nothing"
        print(f"uncertain: {doubt}: {cause}")
        unexplained += [] if why else [doubt]
    billed = {
        entry.generation_id: entry for entry in emulator.ledger.submissions if entry.prompt in sums.orphans
    }
    print("billed, and their ids unknown:", [(entry.api, entry.prompt) for entry in billed.values()])

    assert unexplained == []
    assert len(doubts) == len(sums.uncertain)
    assert [found for found in billed if history.was_recorded(cluster.history, found)] == []
    # If a service lists its generations, every accepted submission is found.
    assert [entry for entry in billed.values() if entry.api == "ark"] == []


def test_every_render_is_paid_once_and_arrives(
    cluster: Cluster, emulator: SeedanceEmulator, tcp_proxy: TcpProxy, pytestconfig: pytest.Config
) -> None:
    seconds = pytestconfig.getoption("--chaos-seconds")
    seed = pytestconfig.getoption("--chaos-seed")
    planned = plan(pytestconfig.getoption("--chaos-renders"))
    chaos = Chaos(cluster, tcp_proxy, seed, say=lambda line: print(line, flush=True))
    runs: list[accounts.Run] = []
    began = time.monotonic()

    def begin() -> None:
        # Spread over the time in which things are killed, so that all of it hits something.
        for number, (kind, prompts) in enumerate(planned):
            while time.monotonic() < began + 0.8 * seconds * number / len(planned):
                time.sleep(0.1)
            run_id = f"chaos-{number}"
            while True:  # the API server may be dead; the run id makes the repetition harmless
                try:
                    conf = {"prompts": prompts, "connection": service(number)}
                    cluster.trigger(kind, run_id=run_id, conf=conf)
                    break
                except Exception as error:
                    if "409" in str(error):
                        break
                    time.sleep(1)
            runs.append(accounts.Run(kind, run_id, tuple(prompts)))

    starter = threading.Thread(target=begin, name="starter")
    starter.start()
    chaos.rage(seconds)
    wait(lambda: not starter.is_alive(), lambda: f"run {len(runs)} to start", cluster)
    wait(lambda: not accounts.unfinished(cluster, runs), lambda: accounts.unfinished(cluster, runs), cluster)
    took = time.monotonic() - began

    sums = accounts.settle(cluster, emulator, runs)
    kills = ", ".join(f"{kind} {count}" for kind, count in sorted(chaos.kills.items()))
    print(
        f"\nseed {seed}: {sum(chaos.kills.values())} accidents in {seconds:.0f} s ({kills});"
        f" ended by themselves: {dict(chaos.collapsed)}\n{sums}\n{took:.0f} s altogether"
    )
    for prompt, why in sums.lost.items():
        print(f"lost: {prompt}: {why}")

    assert sums.duplicates == []
    assert sums.lost == {}
    assert sorted(sums.delivered + sums.uncertain) == sorted(p for _, prompts in planned for p in prompts)
    check_uncertain(cluster, emulator, chaos, runs, sums)
    assert not [entry for entry in emulator.ledger.requests if entry.kind == "cancel"]
    assert [
        generation.prompt
        for generation in emulator.generations
        if generation.status in ("queued", "running") and generation.prompt not in sums.orphans
    ] == [], "no task waits for these"

    cluster.wait_whole()
    stuck = "SELECT dag_id, run_id FROM task_instance WHERE state = 'deferred'"
    assert cluster.database.rows(stuck) == []
    wait(lambda: not cluster.database.rows("SELECT id FROM trigger"), lambda: "triggers to be gone", cluster)
    wait(
        lambda: tcp_proxy.connections == 0,
        lambda: f"{tcp_proxy.connections} connections to the service",
        cluster,
    )
    wait(lambda: not cluster.strays(), cluster.strays, cluster)
    wait(lambda: not cluster.task_processes(), cluster.task_processes, cluster)
    descriptors = sorted(cluster.open_files("triggerer-1") + cluster.open_files("triggerer-2"))
    print("descriptors of the triggerers' processes:", descriptors)
    print("connections to the database:", cluster.database.connections())
    if cluster.ledger:
        print("connections to the ledger:", PostgresDatabase(cluster.ledger).connections())
    left = cluster.temporary_files()
    print("files left:", Counter(file.name.partition("-")[0] for file in left))
    assert descriptors[-1] < 60
    # One note of each quota and of each rate of submissions on each machine.
    assert [file for file in left if not file.name.startswith(("quota-", "rate-"))] == []
    assert cluster.database.connections() < 100
