"""The hook: the connection, and the services behind it, for operators and for users' own code."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.validation import Prepared, prepare_request
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.generations import (
    Estimate,
    Generation,
    GenerationRequest,
    GenerationStatus,
    Media,
    utc_now,
)
from airflow_provider_seedance.polling.outcomes import generation_of, raise_unless_succeeded
from airflow_provider_seedance.settings import Settings, read_settings

if TYPE_CHECKING:
    from airflow_provider_seedance.apis.messages import HttpCall
    from airflow_provider_seedance.client.api_client import AsyncClient, Client
    from airflow_provider_seedance.client.flows import Cancellation

log = logging.getLogger(__name__)


class SeedanceHook(BaseHook):
    """
    Submits, reads, awaits and cancels generations at the service of a connection.

    ``submit`` and ``asubmit`` **cost money and remember nothing**: the promise to submit at most once is
    kept by the operators. Reading, waiting and estimating cost nothing but quota.

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

    # ------------------------------------------------------------------ connection

    @property
    def settings(self) -> Settings:
        """
        The connection, read once.

        :raises SeedanceConfigurationError: it is malformed.
        """
        if self._settings is None:
            self._settings = self._accept(self.get_connection(self.seedance_conn_id))
        return self._settings

    async def asettings(self) -> Settings:
        """Return the connection, read once, without blocking the event loop."""
        if self._settings is None:
            self._settings = await look_up_settings(self.seedance_conn_id)
        return self._settings

    def _accept(self, connection: Any) -> Settings:
        settings = read_settings(self.seedance_conn_id, connection)
        for warning in settings.warnings:
            log.warning("%s", warning)
        return settings

    def get_conn(self) -> Client:
        """Return a client of the service; close it after use, or use it as a context manager."""
        from airflow_provider_seedance.client.api_client import Client

        return Client(self.settings)

    async def aget_conn(self) -> AsyncClient:
        """Return an asynchronous client of the service; close it after use."""
        from airflow_provider_seedance.client.api_client import AsyncClient

        return AsyncClient(await self.asettings())

    def test_connection(self) -> tuple[bool, str]:
        """Make a call that cannot cost money, and tell whether the service takes the key."""
        try:
            with self.get_conn() as client:
                return True, client.run(flows.probe_flow(self.settings.api, utc_now))
        except errors.SeedanceError as error:
            return False, str(error)
        except AirflowNotFoundException as error:
            return False, f"There is no connection {self.seedance_conn_id!r}: {error}"

    # ------------------------------------------------------------------ requests

    def prepare(self, request: GenerationRequest) -> Prepared:
        """
        Fill in the defaults of a request and validate it; nothing is sent.

        :raises SeedanceRequestError: the service does not take it.
        """
        return prepare_request(self.settings, request)

    def estimate(self, request: GenerationRequest) -> Estimate:
        """
        Return what a request costs by the published prices; unknown where none are published.

        :raises SeedanceRequestError: the service does not take the request.
        """
        prepared = self.prepare(request)
        return self.settings.api.price(prepared.request) or Estimate()

    def submit(self, request: GenerationRequest) -> Generation:
        """
        Submit a generation. **It is billed from the moment the service takes it.**

        Repeated only while the service provably did not take it, for a few seconds.

        :raises SeedanceRequestError: the service does not take the request; not billed.
        :raises SeedanceRateLimitError: the quota is used up; not billed, see ``retry_after``.
        :raises SeedanceUncertainSubmitError: nobody can tell whether it was billed; do not repeat blindly.
        """
        call, prepared = _submission(self.settings, request)
        with self.get_conn() as client:
            outcome = client.run(flows.submit_flow(self.settings.api, call, prepared, utc_now))
        return flows.raise_outcome(outcome)

    async def asubmit(self, request: GenerationRequest) -> Generation:
        """Submit a generation; see :meth:`submit`."""
        settings = await self.asettings()
        call, prepared = _submission(settings, request)
        async with await self.aget_conn() as client:
            outcome = await client.run(flows.submit_flow(settings.api, call, prepared, utc_now))
        return flows.raise_outcome(outcome)

    # ------------------------------------------------------------------ generations

    def get_generation(
        self, generation_id: str, media: Media = "video", *, announced: bool = False
    ) -> Generation:
        """
        Read a generation.

        :param announced: Whether its end was announced by a callback: where results have an address of their
            own, that is asked first.
        :raises SeedanceNotFoundError: the service does not know it.
        :raises SeedanceError: its state could not be read, which says nothing about it.
        """
        with self.get_conn() as client:
            flow = flows.final_status_flow if announced else flows.status_flow
            return client.run(flow(self.settings.api, generation_id, media, utc_now))

    async def aget_generation(self, generation_id: str, media: Media = "video") -> Generation:
        """Read a generation; see :meth:`get_generation`."""
        settings = await self.asettings()
        async with await self.aget_conn() as client:
            return await client.run(flows.status_flow(settings.api, generation_id, media, utc_now))

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

        :param timeout: Seconds of patience, by the wall clock; two hours more at the most where the quota keeps
            us from the last reading.
        :param poll_interval: Seconds between status requests; ``None`` chooses them.
        :raises SeedanceTimeoutError: patience ended; the render goes on and is billed.
        :raises SeedanceGenerationFailedError: it failed, expired or was cancelled.
        """
        generation = self.wait_for_end(
            generation_id,
            timeout,
            media=media,
            poll_interval=poll_interval,
            estimated_wait=estimated_wait,
        )
        return raise_unless_succeeded(generation)

    def wait_for_end(
        self,
        generation_id: str,
        timeout: float,
        *,
        media: Media = "video",
        poll_interval: float | None = None,
        estimated_wait: float | None = None,
        report: Callable[[Generation], None] | None = None,
    ) -> Generation:
        """
        Wait until a generation has ended, however it ended; see :meth:`wait`.

        :param report: Called with every reading, to show progress.
        """
        from airflow_provider_seedance.polling.wait_state import begin, on_poll

        waiting = _waiting(generation_id, media, time.time() + timeout, poll_interval, estimated_wait)
        step = begin(waiting, time.time())
        seen: GenerationStatus | None = None
        with self.get_conn() as client:
            while step.kind == "wait":
                time.sleep(max(0.0, step.at - time.time()))
                reading = _attempt(client, generation_id, media)
                step = on_poll(step.waiting, reading, time.time())
                if report and isinstance(reading, Generation):
                    report(reading)
                if step.waiting.last and step.waiting.last.status is not seen:
                    seen = step.waiting.last.status
                    log.info("Generation %s is %s.", generation_id, seen.value)
        return generation_of(step, timeout)

    async def await_generation(
        self,
        generation_id: str,
        timeout: float = 3600,  # noqa: ASYNC109 (a deadline by the wall clock, the same as the twin's)
        *,
        media: Media = "video",
        poll_interval: float | None = None,
    ) -> Generation:
        """Wait until a generation has succeeded; see :meth:`wait`."""
        from airflow_provider_seedance.polling.wait_state import begin, on_poll

        settings = await self.asettings()
        step = begin(_waiting(generation_id, media, time.time() + timeout, poll_interval, None), time.time())
        async with await self.aget_conn() as client:
            while step.kind == "wait":
                await asyncio.sleep(max(0.0, step.at - time.time()))
                flow = flows.status_flow(settings.api, generation_id, media, utc_now, once=True)
                reading: Generation | errors.SeedanceError
                try:
                    reading = await client.run(flow)
                except errors.SeedanceError as error:
                    reading = error
                step = on_poll(step.waiting, reading, time.time())
        return raise_unless_succeeded(generation_of(step, timeout))

    def cancel(self, generation_id: str, media: Media = "video") -> Cancellation:
        """
        Cancel a generation where that is safe: on ``ark``, and only while it is queued.

        Anywhere else it goes on and is billed; the returned reason says so.
        """
        with self.get_conn() as client:
            return client.run(flows.cancel_flow(self.settings.api, generation_id, media, utc_now))

    async def acancel(self, generation_id: str, media: Media = "video") -> Cancellation:
        """Cancel a generation where that is safe; see :meth:`cancel`."""
        settings = await self.asettings()
        async with await self.aget_conn() as client:
            return await client.run(flows.cancel_flow(settings.api, generation_id, media, utc_now))


async def look_up_settings(conn_id: str) -> Settings:
    """Read a connection on an event loop."""
    from airflow.providers.common.compat.connection import get_async_connection

    return read_settings(conn_id, await get_async_connection(conn_id))


def _submission(settings: Settings, request: GenerationRequest) -> tuple[HttpCall, GenerationRequest]:
    prepared = prepare_request(settings, request)
    for line in (*prepared.defaults, *prepared.warnings):
        log.info("%s", line)
    call = settings.api.submit_call(prepared.request, image_timeout=settings.image_timeout)
    return call, prepared.request


def _waiting(
    generation_id: str,
    media: Media,
    deadline: float,
    poll_interval: float | None,
    estimated_wait: float | None,
) -> Any:
    from airflow_provider_seedance.polling.schedule import Knowledge
    from airflow_provider_seedance.polling.wait_state import WORKER_QUOTA_PATIENCE, WaitState

    return WaitState(
        generation_id=generation_id,
        media=media,
        deadline=deadline,
        known=Knowledge(poll_interval=poll_interval, estimated_wait=estimated_wait),
        quota_patience=WORKER_QUOTA_PATIENCE,
    )


def _attempt(client: Client, generation_id: str, media: Media) -> Generation | errors.SeedanceError:
    flow = flows.status_flow(client.settings.api, generation_id, media, utc_now, once=True)
    try:
        return client.run(flow)
    except errors.SeedanceError as error:
        return error
