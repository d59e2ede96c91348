"""Driver of the entries of one task instance into its submission."""

from __future__ import annotations

from typing import Any

from helpers import video
from support import PROMPT, Store, TaskInstance, emulator_settings

from airflow_provider_seedance.apis.validation import prepare_request
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import Generation, GenerationRequest
from airflow_provider_seedance.ledger.task_state import TaskStateStore
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.decisions import SubmissionPolicy
from airflow_provider_seedance.submission.submission_result import AwaitingCallback, HasGeneration, RetryLater
from airflow_provider_seedance.submission.submitter import FallbackSubmission, Submission


class Task:
    """Task instance with a store in memory, on a service over real sockets."""

    def __init__(
        self, services: SeedanceEmulator, api: str, request: GenerationRequest | None = None
    ) -> None:
        self.services, self.api = services, api
        self.request = request or video(PROMPT)
        self.store, self.ti = Store(), TaskInstance()
        #: Whether this Airflow has a task state store.
        self.stored = True
        #: Whether the worker retries a rejected submission itself.
        self.retry_inline = True

    def enter(
        self, request: GenerationRequest | None = None, **policy: Any
    ) -> HasGeneration | RetryLater | AwaitingCallback:
        """Enter the task as the operator does."""
        settings = emulator_settings(self.services, self.api)
        prepared = prepare_request(settings, request or self.request)
        with Client(settings) as client:
            submission = Submission(
                client=client,
                store=TaskStateStore(self.store if self.stored else None),
                prepared=prepared,
                attempt=rec.Attempt(
                    fingerprint=rec.NO_REQUEST, max_tries=self.ti.max_tries, try_number=self.ti.try_number
                ),
                policy=SubmissionPolicy(**policy),
                retry_inline=self.retry_inline,
            )
            return FallbackSubmission(submissions=[submission]).submit_or_attach()

    def attach(self, request: GenerationRequest | None = None, **policy: Any) -> HasGeneration:
        outcome = self.enter(request, **policy)
        assert isinstance(outcome, HasGeneration)
        return outcome

    def submit(self, request: GenerationRequest | None = None, **policy: Any) -> Generation:
        return self.attach(request, **policy).generation

    def retry(self, request: GenerationRequest | None = None, **policy: Any) -> Generation:
        """Enter the next try, as an automatic retry does."""
        self.ti.retry()
        return self.submit(request, **policy)

    def clear(self, request: GenerationRequest | None = None, **policy: Any) -> Generation:
        """Enter the next try, as a person's clear does."""
        self.ti.clear()
        return self.submit(request, **policy)

    @property
    def posts(self) -> int:
        return len(self.services.ledger.posts())

    @property
    def submitted(self) -> list[str]:
        return [submission.generation_id for submission in self.services.ledger.submissions]
