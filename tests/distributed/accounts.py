"""The accounts of a run: generations that the service billed, compared with the results in Airflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import history
from cluster import Cluster

from airflow_provider_seedance.emulator.ledger import SubmissionEntry
from airflow_provider_seedance.submission.records import RecordState
from airflow_provider_seedance.testing import SeedanceEmulator

_ENDED = ("success", "failed")


@dataclass(frozen=True)
class Run:
    """A Dag run, and what it was to render."""

    dag_id: str
    run_id: str
    prompts: tuple[str, ...]


@dataclass
class Accounts:
    """The sums at the end, by prompt."""

    renders: int = 0
    paid: Counter[str] = field(default_factory=Counter)
    delivered: list[str] = field(default_factory=list)
    uncertain: list[str] = field(default_factory=list)
    #: Uncertain, and billed: a user has to look for these in the service's console.
    orphans: list[str] = field(default_factory=list)
    #: Neither delivered nor uncertain, and why.
    lost: dict[str, str] = field(default_factory=dict)

    @property
    def duplicates(self) -> list[str]:
        """Requests that were billed more than once."""
        return [prompt for prompt, count in self.paid.items() if count > 1]

    def __str__(self) -> str:
        return (
            f"{self.renders} renders: {len(self.paid)} paid for, {len(self.delivered)} delivered,"
            f" duplicates: {len(self.duplicates)}, losses: {len(self.lost)},"
            f" uncertain: {len(self.uncertain)} ({len(self.orphans)} of them billed)"
        )


def start(cluster: Cluster, kind: str, prompts: Sequence[str], connection: str = "seedance_default") -> Run:
    """Start a run that makes these renders."""
    run_id = cluster.trigger(kind, conf={"prompts": list(prompts), "connection": connection})
    return Run(kind, run_id, tuple(prompts))


def unfinished(cluster: Cluster, runs: Sequence[Run]) -> list[str]:
    """The runs that have not ended, with the states of their tasks."""
    rows = cluster.database.rows(
        "SELECT r.dag_id, r.run_id, r.state, ti.state AS task, COUNT(*) AS found FROM dag_run r"
        " LEFT JOIN task_instance ti ON ti.dag_id = r.dag_id AND ti.run_id = r.run_id"
        " WHERE NOT r.state = ANY(?) GROUP BY 1, 2, 3, 4",
        list(_ENDED),
    )
    mine = {(run.dag_id, run.run_id) for run in runs}
    return [str(row) for row in rows if (row["dag_id"], row["run_id"]) in mine]


def settle(cluster: Cluster, emulator: SeedanceEmulator, runs: Sequence[Run]) -> Accounts:
    """Draw up the accounts of runs that have ended."""
    submissions: list[SubmissionEntry] = emulator.ledger.submissions
    wanted = {prompt for run in runs for prompt in run.prompts}
    sold = {entry.generation_id: entry.prompt for entry in submissions if entry.prompt in wanted}
    accounts = Accounts(renders=len(wanted), paid=Counter(sold.values()))
    for run in runs:
        if run.dag_id == "batch":
            _settle_batch(cluster, run, sold, accounts)
        else:
            _settle_tasks(cluster, run, sold, accounts)
    known = {*accounts.delivered, *accounts.uncertain, *accounts.lost}
    accounts.lost |= dict.fromkeys(wanted - known, "no task ended with it")
    accounts.orphans = [prompt for prompt in accounts.uncertain if prompt in accounts.paid]
    return accounts


def _settle_tasks(cluster: Cluster, run: Run, sold: dict[str, str], accounts: Accounts) -> None:
    for row in cluster.task_instances(run.dag_id, run.run_id):
        if row["task_id"] != "render":
            continue
        index = row["map_index"]
        prompt = run.prompts[max(0, index)]
        place = (run.dag_id, run.run_id, "render")
        if row["state"] == "success":
            result = cluster.xcom(*place, map_index=index) or {}
            if sold.get(result.get("generation_id", "")) == prompt and result.get("urls"):
                accounts.delivered.append(prompt)
            else:
                accounts.lost[prompt] = f"success with {result}"
            continue
        record = history.last(cluster.history, (run.dag_id, run.run_id, index))
        if row["state"] == "failed" and record and record.state is RecordState.UNCERTAIN:
            accounts.uncertain.append(prompt)
        else:
            accounts.lost[prompt] = f"{row['state']} in try {row['try_number']}, record {record}"


def _settle_batch(cluster: Cluster, run: Run, sold: dict[str, str], accounts: Accounts) -> None:
    result = cluster.xcom(run.dag_id, run.run_id, "render") or {}
    for entry in result.get("succeeded", []):
        prompt = sold.get(entry["generation_id"])
        if prompt == run.prompts[int(entry["key"])]:
            accounts.delivered.append(prompt)
    for entry in result.get("failed", []):
        prompt = run.prompts[int(entry["key"])]
        if entry["kind"] == "uncertain":
            accounts.uncertain.append(prompt)
        else:
            accounts.lost[prompt] = f"{entry['kind']}: {entry['error']}"
    if not result:
        state = cluster.task_state(run.dag_id, run.run_id, "render")
        accounts.lost |= dict.fromkeys(run.prompts, f"the batch is {state}")
