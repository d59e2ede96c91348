"""Driver of one batch task with two connections, each to an emulator of its own."""

from __future__ import annotations

from collections import Counter
from typing import Any

from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from operators.batch_runner import Batch, make
from operators.fallback_task import CONNECTIONS, TwoConnections
from operators.generation_task import Connect


class FallbackBatch(TwoConnections, Batch):
    def __init__(self, primary: SeedanceEmulator, fallback: SeedanceEmulator, connect: Connect) -> None:
        super().__init__(primary, connect)
        self.primary, self.fallback = primary, fallback
        self.deferred: Any = None

    def meet(self, conn_id: str, outcome: str, prompt: str | None = None) -> None:  # type: ignore[override]
        """Give a connection an outcome for every item, or for one."""
        super().meet(conn_id, outcome, prompt=prompt, times=None)

    def hold(self) -> None:
        """Let renders end only when the test says so."""
        self.primary.hold()
        self.fallback.hold()

    def release(self) -> None:
        """Let every render end."""
        self.primary.release()
        self.fallback.release()

    def make(self, requests: Any, **arguments: Any) -> None:
        """Make the operator of the following entries."""
        self.op = make(requests, **{"seedance_conn_id": CONNECTIONS, "on_item_failure": "keep", **arguments})

    def finish(self, requests: Any, **arguments: Any) -> Any:
        """Run a new operator through all its deferrals."""
        self.make(requests, **arguments)
        return self.enter()

    def begin(self, requests: Any = None, **arguments: Any) -> errors.SeedanceError | None:
        """Run until the first deferral; return the error if there is none."""
        if requests is not None:
            self.make(requests, **arguments)
        self.deferred = None
        try:
            self.op.execute(self.context)
        except TaskDeferred as deferred:
            self.deferred = deferred
        except errors.SeedanceError as error:
            return error
        return None

    @property
    def bills_at(self) -> tuple[list[str], list[str]]:
        """Return the prompts of the renders that each service bills."""
        primary, fallback = (
            sorted(submission.prompt for submission in service.ledger.submissions)
            for service in (self.primary, self.fallback)
        )
        return primary, fallback

    @property
    def most_bills(self) -> int:
        """Return how often the request that was billed most was billed."""
        primary, fallback = self.bills_at
        return max(Counter([*primary, *fallback]).values(), default=0)

    @property
    def waits_at(self) -> dict[str, int]:
        """Return the connections that the latest deferral polls, with the number of renders at each."""
        return {conn_id: len(ids) for conn_id, ids in self.deferred.trigger.billed_to.items()}
