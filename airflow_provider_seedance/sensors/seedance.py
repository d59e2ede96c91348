"""Sensor: waits for a generation that something else submitted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException, BaseSensorOperator, PokeReturnValue

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, Media
from airflow_provider_seedance.links.seedance import SeedanceOutputLink
from airflow_provider_seedance.policies.retry import SeedanceTaskMixin

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context


class SeedanceGenerationSensor(SeedanceTaskMixin, BaseSensorOperator):
    """
    Sensor that waits for a generation and returns the result of the operator that submits one. Costs nothing.

    :param generation_id: The generation. A template.
    :param media: ``video`` or ``image``.
    :param seedance_conn_id: The Airflow connection, of type ``seedance``. A template.
    :param poll_interval: Seconds between status requests; ``None`` is adaptive.
    :param timeout: Timeout in seconds, by the wall clock.
    :param deferrable: Whether to wait in the triggerer, without a worker.
    """

    template_fields: Sequence[str] = ("generation_id", "media", "seedance_conn_id")
    operator_extra_links = (SeedanceOutputLink(),)

    #: Value of the link; see the operators.
    output_url: str | None = None

    #: Number of consecutive "not found" replies.
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
            # Airflow does this for every error of a deferred sensor, but only for some errors of a poke.
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"Skipped instead of failed: {error}") from error
            raise

    def _execute(self, context: Context) -> Any:
        self.output_url = ""
        self._validate()
        if not self.deferrable:
            return super().execute(context)
        reading = self._read()
        if isinstance(reading, Generation) and reading.status.terminal:
            return self._deliver(reading)
        self._defer(time.time() + self.timeout)
        return None

    def poke(self, context: Context) -> PokeReturnValue:
        """Send one status request."""
        # Loaded on the worker only, as are the other imports in functions.
        from airflow_provider_seedance.polling.wait_state import default_timing

        # In reschedule mode each poke is a new process; the number of pokes is the upper bound of the misses.
        not_found = 1 + max(self._not_found, int(context.get("task_reschedule_count") or 0))
        reading = self._read()
        if isinstance(reading, errors.SeedanceNotFoundError):
            if not_found >= default_timing().max_not_found:
                raise reading
            self._not_found += 1
        else:
            self._not_found = 0
        if not isinstance(reading, Generation) or not reading.status.terminal:
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._deliver(reading))

    def execute_complete(
        self, context: Context, event: Any = None, deadline: float | None = None
    ) -> dict[str, Any]:
        """Return the result after a deferral; read the status if the event is not complete."""
        from airflow_provider_seedance.polling.outcomes import after_resume, timed_out
        from airflow_provider_seedance.triggers.events import is_unknown, read_event

        self.output_url = ""
        generation = read_event(event, self.generation_id)
        if generation is not None:
            return self._deliver(generation)
        now = time.time()
        deadline = now if deadline is None else deadline
        reading = self._read()
        step = after_resume(reading, deadline=deadline, now=now, repeatedly_unknown=is_unknown(event))
        if step.kind == "ended" and step.generation is not None:
            return self._deliver(step.generation)
        if step.kind == "wait":
            self._defer(step.until, deadline=deadline, rate_limited=step.rate_limited)
        if isinstance(reading, errors.SeedanceNotFoundError):
            raise reading
        raise timed_out(self.generation_id, self.timeout, step.generation, {})

    def _validate(self) -> None:
        generation_id: object = self.generation_id
        if not isinstance(generation_id, str) or generation_id.strip() in ("", "None"):
            raise errors.SeedanceConfigurationError(
                f"generation_id is {generation_id!r}; it must be the id of a generation. A template renders the text "
                "'None' where the task before has returned none. Nothing was sent."
            )
        if self.media not in ("video", "image"):
            raise errors.SeedanceConfigurationError(
                f"media is {self.media!r}; it takes 'video' or 'image'. Nothing was sent."
            )

    def _read(self) -> Generation | errors.SeedanceError:
        """Return the generation, or an error after which a later request may succeed; raise others."""
        from airflow_provider_seedance.hooks.seedance import SeedanceHook

        try:
            return SeedanceHook(self.seedance_conn_id).get_generation(self.generation_id, self.media)
        except errors.SeedanceError as error:
            # A service may know a new id late, unless it keeps no record of it at all.
            late = isinstance(error, errors.SeedanceNotFoundError) and error.http_status is not None
            if not error.retry_helps and not late:
                raise
            self.log.warning("The state of generation %s could not be read: %s", self.generation_id, error)
            return error

    def _deliver(self, generation: Generation) -> dict[str, Any]:
        from airflow_provider_seedance.polling.outcomes import raise_unless_succeeded

        raise_unless_succeeded(generation)
        self.log.info("%s", generation.summary())
        self.output_url = generation.url or ""
        return generation.result()

    def _defer(self, until: float, *, deadline: float | None = None, rate_limited: bool = False) -> None:
        """Defer until a time, which a rate limit may put past the deadline of the wait."""
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
