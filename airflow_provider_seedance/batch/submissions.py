"""Submissions of the items of a batch: one for each connection that can make the item."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from airflow_provider_seedance.batch.items import BatchItem
from airflow_provider_seedance.batch.resume_state import Refusal
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.polling.wait_state import WaitState
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.decisions import SubmissionPolicy
from airflow_provider_seedance.submission.store import RecordStore
from airflow_provider_seedance.submission.submission_result import NotTaken
from airflow_provider_seedance.submission.submitter import FallbackSubmission, Submission


@dataclass(frozen=True, kw_only=True)
class BatchConnection:
    """
    A connection of a batch.

    :param quota: Quota state shared between processes, or ``None`` to ignore it.
    """

    client: Client
    quota: SharedQuota | None = None


@dataclass(kw_only=True)
class ItemSubmissions:
    """
    Common parts of the submissions of a batch.

    :param connections: The connections, in order, by their ids.
    :param attempt: The running try, without a request.
    :param deferrable: Whether the task waits for a service in the triggerer.
    :param input_digests: Digests of inputs that were downloaded, by their URLs.
    """

    connections: Mapping[str, BatchConnection]
    records: RecordStore
    policy: SubmissionPolicy
    attempt: rec.Attempt
    deferrable: bool
    input_digests: dict[str, str] = field(default_factory=dict)

    def fallback(
        self,
        item: BatchItem,
        closed: Mapping[str, NotTaken] | None = None,
        refusals: Mapping[str, Refusal] | None = None,
        granted: str | None = None,
    ) -> FallbackSubmission:
        """
        Return the submission of one item.

        :param closed: Connections that are not tried now, by their ids.
        :param refusals: Refusals of the connections that have accepted nothing since, by their ids.
        :param granted: The connection at which the triggerer has granted a submission.
        """
        submissions = [self.submission(item, conn_id, refusals, granted) for conn_id in item.prepared]
        return FallbackSubmission(submissions=submissions, unfit=item.unfit, closed=closed or {})

    def submission(
        self,
        item: BatchItem,
        conn_id: str,
        refusals: Mapping[str, Refusal] | None = None,
        granted: str | None = None,
    ) -> Submission:
        """Return the submission of one item through one connection."""
        connection, prepared = self.connections[conn_id], item.prepared[conn_id]
        refusal = refusals.get(conn_id) if refusals else None
        return Submission(
            client=connection.client,
            store=self.records,
            key=item.record_key,
            item_key=item.key,
            prepared=prepared,
            attempt=self.attempt,
            policy=self.policy,
            # Short waits inline would add up over thousands of items.
            retry_inline=False,
            shared_quota=None if conn_id == granted else connection.quota,
            input_digests=self.input_digests,
            refused_since=(refusal.since if refusal else time.time()) if self.deferrable else None,
        )

    def settings_of(self, conn_id: str) -> Settings:
        """Return the settings of a connection."""
        return self.connections[conn_id].client.settings

    def paid_conn_id(self, item: BatchItem, record: rec.Record) -> str:
        """Return the connection of a record, which may have been renamed."""
        conn_id = record.conn_id
        return conn_id if conn_id in item.prepared else self.fallback(item).owner_of(record).conn_id

    def waits(self, items: Iterable[BatchItem]) -> list[tuple[str, WaitState]]:
        """Return the waits for the generations of some items, with their connections."""
        return [(str(item.conn_id), self._wait_state(item)) for item in items]

    def _wait_state(self, item: BatchItem) -> WaitState:
        return WaitState(
            generation_id=str(item.generation_id),
            media="video",
            deadline=item.deadline,
            submitted_at=item.submitted_at,
            estimated_wait=item.estimated_wait,
            result_defaults=dict(self._record(item).result_defaults),
        )

    def _copy(self, record: rec.Record) -> Generation | None:
        return self.records.stored_copy(record) if record.reused_from else None

    def _record(self, item: BatchItem) -> rec.Record:
        record = self.records.read(item.record_key)
        assert record is not None
        return record
