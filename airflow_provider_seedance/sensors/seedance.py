"""The sensor: waits for a generation that something else submitted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException, BaseSensorOperator, PokeReturnValue

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, Media
from airflow_provider_seedance.links.seedance import SeedanceOutputLink
from airflow_provider_seedance.policies.retry import SeedanceTaskMixin

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_provider_seedance.hooks.seedance import SeedanceHook


class SeedanceGenerationSensor(SeedanceTaskMixin, BaseSensorOperator):
    """
    Waits for a generation and returns the same result as the operator that submits one. Pays nothing.

    :param generation_id: The generation. A template.
    :param media: ``video`` or ``image``.
    :param seedance_conn_id: The Airflow connection, of type ``seedance``. A template.
    :param poll_interval: Seconds between status requests; ``None`` chooses them.
    :param timeout: Seconds of patience, by the wall clock.
    :param deferrable: Whether to wait in the triggerer, without a worker.
    """

    template_fields: Sequence[str] = ("generation_id", "media", "seedance_conn_id")
    operator_extra_links = (SeedanceOutputLink(),)

    #: For the link; see the operators.
    output_url: str | None = None

    #: How often in a row the service did not know the generation.
    _not_found = 0

    def __init__(
        self,
        *,
        generation_id: str,
        media: Media = "video",
        seedance_conn_id: str = "seedance_default",
        poll_interval: float | None = None,
        timeout: float = 3600,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("poke_interval", poll_interval or 30)
        super().__init__(timeout=timeout, **kwargs)
        self.generation_id = generation_id
        self.media: Media = media
        self.seedance_conn_id = seedance_conn_id
        self.poll_interval = poll_interval
        self.deferrable = deferrable
        self.set_retry_policy()

    def execute(self, context: Context) -> Any:
        """Return the result if the generation has ended; otherwise wait, in the triggerer or here."""
        try:
            return self._execute(context)
        except errors.SeedanceError as error:
            # Airflow does this for every error of a deferred sensor, but only for some while it pokes.
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"Skipped instead of failed: {error}") from error
            raise

    def _execute(self, context: Context) -> Any:
        self.output_url = ""
        self._check()
        if not self.deferrable:
            return super().execute(context)
        reading: Any = None
        try:
            reading = self._read()
        except errors.SeedanceNotFoundError as error:
            self._not_known_yet(error)
        if isinstance(reading, Generation) and reading.status.terminal:
            return self._deliver(reading)
        self._defer(time.time() + self._seconds())
        return None

    def poke(self, context: Context) -> PokeReturnValue:
        """Read the generation once."""
        from airflow_provider_seedance.polling.wait_state import NOT_FOUND_LIMIT

        # Rescheduled sensors begin anew each time; there, the number of readings stands in for the misses.
        missed = max(self._not_found, int(context.get("task_reschedule_count") or 0))
        reading: Any = None
        try:
            reading = self._read()
        except errors.SeedanceNotFoundError as error:
            if missed + 1 >= NOT_FOUND_LIMIT:
                raise
            self._not_known_yet(error)
            self._not_found += 1
        else:
            self._not_found = 0
        if not isinstance(reading, Generation) or not reading.status.terminal:
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._deliver(reading))

    def execute_complete(
        self, context: Context, event: Any = None, deadline: float | None = None
    ) -> dict[str, Any]:
        """Deliver after a deferral; asks the service where the event is not a complete answer."""
        from airflow_provider_seedance.polling.outcomes import after_resume, timed_out
        from airflow_provider_seedance.triggers.seedance import read_event

        self.output_url = ""
        generation = read_event(event, self.generation_id)
        if generation is not None:
            return self._deliver(generation)
        now = time.time()
        deadline = now if deadline is None else deadline
        step = after_resume(self._read(), deadline=deadline, now=now)
        if step.kind == "ended" and step.generation is not None:
            return self._deliver(step.generation)
        if step.kind == "wait":
            self._defer(step.until, deadline=deadline, rate_limited=step.rate_limited)
        raise timed_out(self.generation_id, self._seconds(), step.generation)

    def _check(self) -> None:
        if not isinstance(self.generation_id, str) or not self.generation_id.strip():
            raise errors.SeedanceConfigurationError(
                f"generation_id is {self.generation_id!r}; it must be the id of a generation. Nothing was sent."
            )
        if self.media not in ("video", "image"):
            raise errors.SeedanceConfigurationError(
                f"media is {self.media!r}; it takes 'video' or 'image'. Nothing was sent."
            )

    def _hook(self) -> SeedanceHook:
        from airflow_provider_seedance.hooks.seedance import SeedanceHook

        return SeedanceHook(self.seedance_conn_id)

    def _read(self) -> Generation | errors.SeedanceError:
        """
        Send one status request.

        :return: The generation, or an error after which a later request may succeed.
        :raises SeedanceError: a later request cannot succeed.
        """
        try:
            return self._hook().get_generation(self.generation_id, self.media)
        except errors.SeedanceError as error:
            if not error.retry_helps:
                raise
            self.log.warning("The state of generation %s could not be read: %s", self.generation_id, error)
            return error

    def _not_known_yet(self, error: errors.SeedanceNotFoundError) -> None:
        """Go on after a first "not found": a service may know a new id a little late."""
        if error.http_status is None:  # said without asking: no service keeps a record under this id
            raise error
        self.log.warning("%s A new generation may be known a little late; asking again.", error.message)

    def _deliver(self, generation: Generation) -> dict[str, Any]:
        from airflow_provider_seedance.polling.outcomes import raise_unless_succeeded

        raise_unless_succeeded(generation)
        self.log.info("%s", generation.summary())
        self.output_url = generation.url or ""
        return generation.result()

    def _seconds(self) -> float:
        timeout: Any = self.timeout
        return timeout.total_seconds() if isinstance(timeout, timedelta) else float(timeout)

    def _defer(self, until: float, *, deadline: float | None = None, rate_limited: bool = False) -> None:
        """
        Defer until a point in time.

        :param deadline: When the timeout passes, if that is not ``until``.
        :param rate_limited: Whether a rate limit extends the wait past the deadline.
        """
        from airflow_provider_seedance.polling.wait_state import deferral_timeout
        from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger

        self.defer(
            trigger=SeedanceGenerationTrigger(
                seedance_conn_id=self.seedance_conn_id,
                generation_id=self.generation_id,
                media=self.media,
                deadline=until,
                poll_interval=self.poll_interval,
                # Another task submitted it; the end of this wait is not a reason to cancel it.
                cancel_on_kill=False,
            ),
            method_name="execute_complete",
            kwargs={"deadline": until if deadline is None else deadline},
            timeout=deferral_timeout(until, time.time(), rate_limited=rate_limited),
        )
