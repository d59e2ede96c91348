"""Kills whatever there is, at random but by a seed, and keeps starting it again."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable

import psutil  # type: ignore[import-untyped]
from cable import Cable
from cluster import Cluster

#: How often each kind of accident happens, relative to the others.
ACCIDENTS = {"task": 5, "worker": 2, "triggerer": 2, "scheduler": 1, "api-server": 1, "outage": 2}

#: Seconds between two accidents.
PAUSES = (2.0, 7.0)

#: Seconds until what was killed is started again.
ABSENCES = (0.0, 4.0)

#: Seconds for which the service cannot be reached.
OUTAGES = (1.0, 8.0)


class Chaos:
    """
    Accidents of every kind, until it is stopped.

    :param seed: Decides what happens when; what is hit depends on what runs at that moment.
    :param say: Called with a line for each accident.
    """

    def __init__(
        self, cluster: Cluster, cable: Cable, seed: int, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.kills: Counter[str] = Counter()
        #: Components that ended without having been killed: what their own supervisor has to be for.
        self.collapsed: Counter[str] = Counter()
        self._cluster = cluster
        self._cable = cable
        self._random = random.Random(seed)
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
            for name in self._cluster.dead():
                self.collapsed[name.rpartition("-")[0] or name] += 1
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
        kind = self._random.choices(list(ACCIDENTS), list(ACCIDENTS.values()))[0]
        at = time.monotonic() - self._began
        if kind == "outage":
            if self._mends_at is None:  # two outages at a time are one
                self._cable.cut()
                self._mends_at = time.monotonic() + self._random.uniform(*OUTAGES)
                self._count(kind, at)
            return None
        if kind == "task":
            # Sometimes with the process of the worker that watches over it.
            self._kill_task(at, supervised=self._random.random() < 0.7)
            return None
        name = kind if kind == "api-server" else f"{kind}-{self._random.choice((1, 2))}"
        if not self._cluster.healthy(name):
            # What is not back yet cannot be lost: on a slow machine nothing would ever work.
            return None
        self._cluster.kill(name)
        self._count(kind, at, name)
        return name

    def _kill_task(self, at: float, *, supervised: bool) -> None:
        tasks = self._cluster.task_processes()
        if not tasks:
            return
        victim = self._random.choice(tasks)
        with contextlib.suppress(psutil.NoSuchProcess):
            if not supervised and victim.supervisor is not None:
                victim.supervisor.kill()
            victim.runner.kill()
            self._count("task" if supervised else "task and supervisor", at)

    def _count(self, kind: str, at: float, name: str | None = None) -> None:
        self.kills[kind] += 1
        self._say(f"{at:6.1f} s  {name or kind}")
