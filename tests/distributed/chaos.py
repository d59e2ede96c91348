"""Kill components at random, by a seed, and restart them."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import psutil  # type: ignore[import-untyped]
from cluster import Cluster
from history import Doubt, Place
from local_airflow.processes import TaskProcess
from tcp_proxy import TcpProxy

#: Relative frequency of each kind of accident.
ACCIDENTS = {
    "task": 5,
    "worker": 2,
    "triggerer": 2,
    "scheduler": 1,
    "api-server": 1,
    "outage": 2,
    "database restarts": 0.25,
    "database away": 0.25,
    "broker restarts": 0.25,
    "broker away": 0.25,
}

#: Further accidents where there is a ledger.
ACCIDENTS_OF_A_LEDGER = {"ledger restarts": 0.25, "ledger away": 0.25}

#: Seconds between two accidents.
PAUSES = (2.0, 7.0)

#: Seconds until what was killed is started again.
ABSENCES = (0.0, 4.0)

#: Seconds for which the database or the broker is away that does not come back at once.
BLACKOUT = 10.0

#: Seconds for which the service cannot be reached.
OUTAGES = (1.0, 8.0)


@dataclass(frozen=True)
class Accident:
    """
    Something that happened.

    :param at: Time, in seconds since 1970; ``until``, when it was over.
    :param hit: The task instances that were being executed by what was killed.
    """

    kind: str
    at: float
    until: float
    hit: frozenset[Place] = frozenset()

    def explains(self, doubt: Doubt) -> bool:
        """
        Return whether this explains an uncertain submission.

        A try that was killed knows nothing any more; one that goes on has lost its connection. A ledger may have
        written an intent, and ended before it said so: then nothing was sent, and no later try can know.
        """
        if doubt.same_try:
            return self.kind == "outage" and self.at <= doubt.recorded_at and self.until >= doubt.intended_at
        if self.kind.startswith("ledger"):
            return self.at - 1 <= doubt.intended_at <= self.until
        return doubt.place in self.hit and doubt.intended_at <= self.until and self.at <= doubt.recorded_at


class Chaos:
    """
    Accidents of every kind.

    Each kind happens once before there is anything twice, in an order that the seed decides.

    :param seed: Decides what happens when; what is hit depends on what runs at that moment.
    :param say: Called with a line for each accident.
    """

    def __init__(
        self, cluster: Cluster, tcp_proxy: TcpProxy, seed: int, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.kills: Counter[str] = Counter()
        #: Components that ended without having been killed: what their own supervisor has to be for.
        self.collapsed: Counter[str] = Counter()
        self.accidents: list[Accident] = []
        self._cluster = cluster
        self._cable = tcp_proxy
        self._random = random.Random(seed)
        self._kinds = ACCIDENTS | (ACCIDENTS_OF_A_LEDGER if cluster.ledger else {})
        self._first = self._random.sample(list(self._kinds), len(self._kinds))
        self._say = say
        self._began = time.monotonic()
        self._mends_at: float | None = None

    def rage(self, seconds: float) -> None:
        """Let accidents happen for so long; afterwards everything runs again."""
        self._began = time.monotonic()
        due: list[tuple[float, str]] = []
        following = self._began
        while (now := time.monotonic()) < self._began + seconds or due or self._mends_at is not None:
            for moment, name in list(due):
                if moment <= now:
                    due.remove((moment, name))
                    self._cluster.launch(name)
            if self._mends_at is not None and self._mends_at <= now:
                self._mends_at = None
                self._cable.mend()
                self._last_outage(until=time.time())
            for name in self._cluster.dead():
                self.collapsed[name.rstrip("-12")] += 1
                self._say(f"{now - self._began:6.1f} s  {name} ended by itself")
                self._cluster.kill(name)
                due.append((now + 1, name))
            if following <= now < self._began + seconds:
                following = now + self._random.uniform(*PAUSES)
                if name := self._strike():
                    due.append((now + self._random.uniform(*ABSENCES), name))
            time.sleep(0.1)

    def _strike(self) -> str | None:
        """Let one accident happen; returns the component that is to be started again."""
        kinds = self._first or self._random.choices(list(self._kinds), list(self._kinds.values()))
        kind, before = kinds.pop(), self.kills.total()
        struck = self._strike_with(kind)
        if self.kills.total() == before and kinds is self._first:
            self._first.insert(0, kind)  # there was nothing to hit
        return struck

    def _strike_with(self, kind: str) -> str | None:
        at = time.monotonic() - self._began
        if kind == "outage":
            if self._mends_at is None:  # two outages at a time are one
                self._count(kind, at)
                self._cable.cut()
                self._mends_at = time.monotonic() + self._random.uniform(*OUTAGES)
            return None
        if kind == "task":
            # Sometimes with the process of the worker that watches over it.
            self._kill_task(at, supervised=self._random.random() < 0.7)
            return None
        if kind.startswith(("database", "broker", "ledger")):
            self._black_out(kind, at)
            return None
        name = kind if kind == "api-server" else f"{kind}-{self._random.choice((1, 2))}"
        if not self._cluster.healthy(name):
            # What is not back yet cannot be lost: on a slow machine nothing would ever work.
            return None
        hit = self._cluster.task_processes(name) if kind == "worker" else []
        self._count(kind, at, name, hit)
        self._cluster.kill(name)
        return name

    def _black_out(self, kind: str, at: float) -> None:
        self._count(kind, at)
        cluster = self._cluster
        backends = {"database": cluster.postgres, "broker": cluster.redis, "ledger": cluster.ledger}
        backend = backends[kind.partition(" ")[0]]
        assert backend is not None
        with cluster.without(backend):
            if kind.endswith("away"):
                time.sleep(BLACKOUT)

    def _kill_task(self, at: float, *, supervised: bool) -> None:
        tasks = self._cluster.task_processes()
        if not tasks:
            return
        victim = self._random.choice(tasks)
        self._count("task" if supervised else "task and supervisor", at, hit=[victim])
        with contextlib.suppress(psutil.NoSuchProcess):
            if not supervised and victim.supervisor is not None:
                victim.supervisor.kill()
            victim.runner.kill()

    def _count(self, kind: str, at: float, name: str | None = None, hit: Iterable[TaskProcess] = ()) -> None:
        self.kills[kind] += 1
        places = self._cluster.places(hit)
        now = time.time()
        # Until what dies is dead, on a busy machine.
        self.accidents.append(Accident(name or kind, now, now + 3.0, places))
        suffix = f" {sorted(places)}" if places else ""
        self._say(f"{at:6.1f} s  {time.strftime('%H:%M:%S')}  {name or kind}{suffix}")

    def _last_outage(self, until: float) -> None:
        at = max(index for index, accident in enumerate(self.accidents) if accident.kind == "outage")
        self.accidents[at] = replace(self.accidents[at], until=until)
