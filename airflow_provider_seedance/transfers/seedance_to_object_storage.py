"""
Transfer of generated media to object storage.

Result URLs expire, some within an hour; the copy does not. A transfer costs nothing: it may fail, be retried
and be cleared as often as needed without a new render.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Asset, BaseOperator

from airflow_provider_seedance.exceptions import SeedanceConfigurationError
from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.policies.retry import SeedanceTaskMixin

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath
    from airflow.sdk.definitions.context import Context

log = logging.getLogger(__name__)


class SeedanceToObjectStorageOperator(SeedanceTaskMixin, BaseOperator):
    """
    Operator that copies the outputs of a generation, or of a whole batch, to object storage, and returns where they are.

    A file becomes visible under its name only when it is whole and its length was checked. Until then it is a
    temporary file on the worker: the worker's disk needs room for ``max_parallel`` files. Nothing is paid: the
    transfer generates nothing.

    A file that cannot be stored does not stop the others; at the end the task fails with one error that names
    those that could not. A retry leaves the files that are whole and stores the others.

    The result is ``{"path", "paths": […], "bytes", "sha256": […], "generation_id", "problems": […]}``: the first
    path and all paths, the bytes of all files together, the SHA-256 of each, and what is not as requested, in words.
    For a batch ``path`` is the directory, ``generation_id`` is ``None``, and there are ``generation_ids`` (one for
    each path) and the numbers of files ``stored`` and ``skipped``.

    :param generation: The result of a Seedance or Seedream task; or of a batch task, the path of its manifest,
        or a list of results. A manifest is read with the connection in its own path
        (``s3://my_conn@bucket/manifest.jsonl``), as it was written. A template.
    :param destination: A path of Airflow's object storage (``s3://bucket/key.mp4``, ``file:///data/out.mp4``), as
        text or an ``ObjectStoragePath``. One that ends in ``/`` is a directory; several outputs need one. As
        ``ObjectStoragePath`` drops the ``/`` at the end, write directories as text. A template.
    :param name_template: Names of the files in a directory: text with ``{generation_id}``, ``{index}``
        (from 1), ``{ext}``, ``{media}``, ``{model}`` and ``{key}``. By default ``{generation_id}.{ext}``, of a
        batch ``{key}.{ext}``, and with several outputs ``-{index}`` before the extension. A template.
    :param max_parallel: Maximum number of parallel downloads, over all generations.
    :param seedance_conn_id: The connection that generated, or the list of connections of the task that did: then the first
        one of the service that the result names. It renews URLs that have expired, and its ``media_hosts``, ``proxy``,
        ``verify`` and ``timeout`` apply. Its key is never sent to a media host. A template.
    :param object_storage_conn_id: The connection of the store. A template.
    :param overwrite: ``True`` replaces existing files. ``False`` fails if one exists. ``"if-changed"`` leaves a
        file that has the length which the media host announces, or the ``sha256`` of its item where the item
        has one. A retry does so for every value of ``overwrite``. A template.
    :param verify: ``"warn"`` looks into each file before it becomes visible, logs what is not as requested, and lists
        it in ``problems`` of the result. ``"fail"`` fails the task after all files are stored; they are kept.
        ``None`` does not look. A template.
    :param sidecar: Whether to write ``<name>.json`` beside each file: what was requested, service, model, generation
        id, times, cost, SHA-256, and what the look found. A template.
    """

    template_fields: Sequence[str] = (
        "generation",
        "destination",
        "name_template",
        "seedance_conn_id",
        "object_storage_conn_id",
        "overwrite",
        "verify",
        "sidecar",
    )

    def __init__(
        self,
        *,
        generation: Any,
        destination: str | ObjectStoragePath,
        name_template: str | None = None,
        max_parallel: int = 4,
        seedance_conn_id: str | Sequence[str] = "seedance_default",
        object_storage_conn_id: str | None = None,
        overwrite: bool | str = True,
        verify: str | None = "warn",
        sidecar: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.generation = generation
        self.destination = destination
        self.name_template = name_template
        self.max_parallel = max_parallel
        self.seedance_conn_id = seedance_conn_id
        self.object_storage_conn_id = object_storage_conn_id
        self.overwrite = overwrite
        self.verify = verify
        self.sidecar = sidecar
        self.set_retry_policy()
        if isinstance(max_parallel, bool) or not isinstance(max_parallel, int) or max_parallel < 1:
            raise SeedanceConfigurationError(
                f"max_parallel is {max_parallel!r}; it takes a whole number of downloads, at least 1."
            )
        # Created by `execute`: a Dag's operators are copied, and events cannot be.
        self._stop: threading.Event | None = None
        #: The result and the generations of this process, for lineage.
        self._delivered: tuple[dict[str, Any], Sequence[Generation]] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Copy every output, then return where they are."""
        from airflow_provider_seedance.transfers.transfer_run import run  # on workers only

        self._stop = threading.Event()
        try:
            result, event_extra, generations = run(
                **{name: getattr(self, name) for name in SeedanceToObjectStorageOperator.template_fields},
                max_parallel=self.max_parallel,
                is_retry=self._is_retry(context),
                stop=self._stop,
            )
        finally:
            self._stop = None
        self._describe_events(context, event_extra)
        self._delivered = result, generations
        return result

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return the stored files for OpenLineage, where it is installed."""
        from airflow_provider_seedance.observability import lineage  # on workers only

        return lineage.of_transfer(*(self._delivered or (None, ())))

    def on_kill(self) -> None:
        """Stop all downloads and remove their temporary files."""
        if self._stop is not None:
            self._stop.set()

    def _is_retry(self, context: Context) -> bool:
        if context.get("task_reschedule_count"):
            return True  # by the retry policy, with the number of the same try
        # Not the first try, nor the first one after a clear, which adds the retries of the task to max_tries.
        max_tries, try_number = (getattr(context.get("ti"), n, None) for n in ("max_tries", "try_number"))
        if max_tries is None or try_number is None:
            return False
        return bool(try_number > max_tries - (self.retries or 0) + 1)

    def _describe_events(self, context: Context, extra: dict[str, Any]) -> None:
        events = context.get("outlet_events")
        if events is None:
            return
        for outlet in self.outlets:
            if not isinstance(outlet, Asset):
                continue
            try:
                events[outlet].extra.update(extra)
            except Exception as error:
                # The files are stored, and Airflow sends the event all the same.
                log.warning("The event of asset %s could not be described: %s", outlet, error)
