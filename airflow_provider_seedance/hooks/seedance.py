"""Hook: the connection, and the service behind it, for operators and for user code."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.base import Flow
from airflow_provider_seedance.apis.messages import SubmitOutcome
from airflow_provider_seedance.apis.validation import Prepared, prepare_request
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.client.api_client import AsyncClient, Client
from airflow_provider_seedance.client.flows import Cancellation
from airflow_provider_seedance.generations import (
    Estimate,
    Generation,
    GenerationRequest,
    GenerationStatus,
    Media,
    utc_now,
)
from airflow_provider_seedance.ledger import shared_state_changer
from airflow_provider_seedance.ledger.configuration import read_config
from airflow_provider_seedance.polling.blocking_wait import run_blocking
from airflow_provider_seedance.polling.hub import wait_for_generation
from airflow_provider_seedance.polling.outcomes import (
    after_resume,
    generation_of,
    raise_unless_succeeded,
    timed_out,
)
from airflow_provider_seedance.polling.wait_state import WaitState, default_timing
from airflow_provider_seedance.settings import Settings, read_settings
from airflow_provider_seedance.submission.preflight import CLEAR_DISCARDS_RECORD
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_4_PLUS

log = logging.getLogger(__name__)

T = TypeVar("T")


class SeedanceHook(BaseHook):
    """
    Hook that submits, reads, awaits and cancels generations at the service of a connection.

    ``submit`` and ``asubmit`` **cost money and keep no record**: only the operators submit at most once. Reading,
    waiting and estimating cost nothing but quota.

    :param seedance_conn_id: The Airflow connection, of type ``seedance``.
    """

    conn_name_attr = "seedance_conn_id"
    default_conn_name = "seedance_default"
    conn_type = "seedance"
    hook_name = "Seedance"

    def __init__(self, seedance_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seedance_conn_id = seedance_conn_id
        self._settings: Settings | None = None

    @property
    def settings(self) -> Settings:
        """
        The connection, read once.

        :raises SeedanceConfigurationError: it is malformed.
        """
        if self._settings is None:
            connection = self.get_connection(self.seedance_conn_id)
            self._settings = _settings_of(self.seedance_conn_id, connection)
            for warning in self._settings.warnings:
                log.warning("%s", warning)
        return self._settings

    async def asettings(self) -> Settings:
        """Return the connection, read once, without blocking the event loop."""
        if self._settings is None:
            self._settings = await look_up_settings(self.seedance_conn_id)
        return self._settings

    def get_conn(self) -> Client:
        """Return a client of the service; close it after use, or use it as a context manager."""
        return Client(self.settings)

    async def aget_conn(self) -> AsyncClient:
        """Return an asynchronous client of the service; close it after use."""
        return AsyncClient(await self.asettings())

    def test_connection(self) -> tuple[bool, str]:
        """Return whether the service accepts the key, by a call that cannot cost money."""
        try:
            answer = self._run(flows.probe_flow(self.settings.api, utc_now, self.settings.model))
            answer = " ".join((answer, *self.settings.warnings))
            ledger = read_config()
            if ledger is not None:
                return True, (
                    f"{answer} Submissions are recorded in the ledger under the namespace {ledger.namespace!r}, which no "
                    "other Airflow may use: it would take these renders for its own."
                )
            return True, f"{answer} {CLEAR_DISCARDS_RECORD}" if AIRFLOW_V_3_4_PLUS else answer
        except errors.SeedanceError as error:
            return False, str(error)
        except AirflowNotFoundException as error:
            return False, f"There is no connection {self.seedance_conn_id!r}: {error}"

    def _run(self, flow: Flow[T]) -> T:
        with self.get_conn() as client:
            return client.run(flow)

    async def _arun(self, flow: Flow[T]) -> T:
        async with await self.aget_conn() as client:
            return await client.run(flow)

    def prepare(self, request: GenerationRequest) -> Prepared:
        """
        Fill in the defaults of a request and validate it; nothing is sent.

        :raises SeedanceRequestError: the service does not take it.
        """
        return prepare_request(self.settings, request)

    def estimate(self, request: GenerationRequest) -> Estimate:
        """
        Return the cost of a request by the prices of the connection, else the published ones, else unknown.

        :raises SeedanceRequestError: the service does not take the request.
        """
        return self.prepare(request).price

    def submit(self, request: GenerationRequest) -> Generation:
        """
        Submit a generation. **It is billed from the moment the service takes it.**

        Repeated only while the service provably did not take it, for a few seconds.

        :raises SeedanceRequestError: the service does not take the request; not billed.
        :raises SeedanceRateLimitError: the quota is used up; not billed, see ``retry_after``.
        :raises SeedanceUncertainSubmitError: it is unknown whether it was billed; do not repeat it without checking.
        """
        return self.submit_prepared(_prepared(self.settings, request))

    def submit_prepared(self, prepared: Prepared) -> Generation:
        """Submit a request that :meth:`prepare` returned; see :meth:`submit`."""
        return _submitted(prepared, self._run(_submission(self.settings, prepared)))

    async def asubmit(self, request: GenerationRequest) -> Generation:
        """Submit a generation; see :meth:`submit`."""
        settings = await self.asettings()
        prepared = _prepared(settings, request)
        return _submitted(prepared, await self._arun(_submission(settings, prepared)))

    def get_generation(
        self, generation_id: str, media: Media = "video", *, announced: bool = False
    ) -> Generation:
        """
        Read a generation.

        :param announced: Whether its end was announced by a callback: where results have an address of their
            own, that is read first.
        :raises SeedanceNotFoundError: the service does not know it.
        :raises SeedanceError: its state could not be read, which says nothing about it.
        """
        flow = flows.final_status_flow if announced else flows.status_flow
        return self._run(flow(self.settings.api, generation_id, media, utc_now))

    async def aget_generation(self, generation_id: str, media: Media = "video") -> Generation:
        """Read a generation; see :meth:`get_generation`."""
        api = (await self.asettings()).api
        return await self._arun(flows.status_flow(api, generation_id, media, utc_now))

    def wait(
        self,
        generation_id: str,
        timeout: float = 3600,
        *,
        media: Media = "video",
        poll_interval: float | None = None,
        estimated_wait: float | None = None,
    ) -> Generation:
        """
        Wait until a generation has succeeded.

        :param timeout: Seconds by the wall clock, extended by at most two hours if a rate limit prevents the last
            status request.
        :param poll_interval: Seconds between status requests; ``None`` is adaptive.
        :raises SeedanceTimeoutError: the timeout has passed; the render goes on and is billed.
        :raises SeedanceGenerationFailedError: it failed, expired or was cancelled.
        """
        generation = self.wait_for_end(
            generation_id, timeout, media=media, poll_interval=poll_interval, estimated_wait=estimated_wait
        )
        return raise_unless_succeeded(generation)

    def wait_for_end(self, generation_id: str, timeout: float, **options: Any) -> Generation:
        """Wait until a generation has ended, successfully or not; see :meth:`wait`."""
        _ = self.settings  # read here, because a worker's connection is read synchronously
        return run_blocking(lambda: self._await_end(generation_id, timeout, **options))

    async def await_generation(
        self,
        generation_id: str,
        timeout: float = 3600,  # noqa: ASYNC109 (a deadline by the wall clock, the same as the twin's)
        *,
        media: Media = "video",
        poll_interval: float | None = None,
    ) -> Generation:
        """Wait until a generation has succeeded; see :meth:`wait`."""
        return raise_unless_succeeded(
            await self._await_end(generation_id, timeout, media=media, poll_interval=poll_interval)
        )

    async def _await_end(
        self,
        generation_id: str,
        timeout: float,  # noqa: ASYNC109 (a deadline by the wall clock)
        *,
        media: Media = "video",
        poll_interval: float | None = None,
        estimated_wait: float | None = None,
        result_defaults: Mapping[str, Any] | None = None,
        durations: Sequence[float] = (),
        report: Callable[[Generation], None] | None = None,
    ) -> Generation:
        """
        Wait in the hub, and send a last status request at the deadline.

        :param durations: Seconds that the latest generations like it took, oldest first.
        :param report: Called with every reading.
        """
        settings = await self.asettings()

        async def look_up(conn_id: str) -> Settings:
            return settings if conn_id == self.seedance_conn_id else await look_up_settings(conn_id)

        deadline, max_quota_wait = time.time() + timeout, default_timing().max_worker_quota_wait
        state = WaitState(
            generation_id=generation_id,
            media=media,
            deadline=deadline,
            poll_interval=poll_interval,
            estimated_wait=estimated_wait,
            result_defaults=dict(result_defaults or {}),
            durations=tuple(durations),
            max_quota_wait=max_quota_wait,
        )
        on_status = _StatusLog(report)
        while True:
            step = await wait_for_generation(
                state, self.seedance_conn_id, look_up, not_before=0.0, report=on_status
            )
            if step.kind != "deadline":
                return generation_of(step, timeout)
            reading = await self._read_once(settings, generation_id, media)
            resume = after_resume(reading, deadline=deadline, now=time.time(), max_quota_wait=max_quota_wait)
            if resume.kind == "ended" and resume.generation is not None:
                on_status(resume.generation)
                return resume.generation
            if resume.kind != "wait":
                raise timed_out(generation_id, timeout, resume.generation, state.result_defaults)
            left = deadline + max_quota_wait - resume.until
            state = replace(state, deadline=resume.until, max_quota_wait=max(0.0, left))

    async def _read_once(
        self, settings: Settings, generation_id: str, media: Media
    ) -> Generation | errors.SeedanceError:
        try:
            return await self._arun(flows.status_flow(settings.api, generation_id, media, utc_now, once=True))
        except errors.SeedanceError as error:
            return error

    def cancel(self, generation_id: str, media: Media = "video") -> Cancellation:
        """
        Cancel a generation where that is safe: where the service can, and only while it is queued.

        Anywhere else it goes on and is billed; the returned reason says so.
        """
        return self._run(flows.cancel_flow(self.settings.api, generation_id, media, utc_now))

    async def acancel(self, generation_id: str, media: Media = "video") -> Cancellation:
        """Cancel a generation where that is safe; see :meth:`cancel`."""
        api = (await self.asettings()).api
        return await self._arun(flows.cancel_flow(api, generation_id, media, utc_now))


async def look_up_settings(conn_id: str) -> Settings:
    """Read a connection on an event loop."""
    return _settings_of(conn_id, await get_async_connection(conn_id))


def _settings_of(conn_id: str, connection: Any) -> Settings:
    settings = read_settings(conn_id, connection)
    if not settings.api.reports_quota:
        return settings  # without loading SQLAlchemy
    return replace(settings, change_in_ledger=shared_state_changer())


def _prepared(settings: Settings, request: GenerationRequest) -> Prepared:
    prepared = prepare_request(settings, request)
    for line in (*prepared.defaults, *prepared.warnings):
        log.info("%s", line)
    return prepared


def _submitted(prepared: Prepared, outcome: SubmitOutcome) -> Generation:
    return flows.raise_outcome(outcome).with_defaults(prepared.result_defaults.as_dict())


def _submission(settings: Settings, prepared: Prepared) -> Flow[SubmitOutcome]:
    call = settings.api.submit_call(prepared.request, image_timeout=settings.image_timeout)
    return flows.submit_flow(settings.api, call, prepared.request, utc_now)


class _StatusLog:
    """Log of each new status of a generation, which passes the readings on."""

    def __init__(self, report: Callable[[Generation], None] | None) -> None:
        self._report = report
        self._status: GenerationStatus | None = None

    def __call__(self, reading: Generation) -> None:
        if self._report:
            self._report(reading)
        if reading.status is not self._status:
            self._status = reading.status
            log.info("Generation %s is %s.", reading.generation_id, reading.status.value)
