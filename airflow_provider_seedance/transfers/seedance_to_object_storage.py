"""
The transfer: what a generation made goes to object storage.

Result URLs expire, some within an hour; the copy does not. A transfer costs nothing: it may fail, be retried
and be cleared as often as needed without a new render.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Asset, BaseOperator

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.policies.retry import SeedanceRetryPolicy
from airflow_provider_seedance.transfers.inputs import (
    against_a_file,
    destination_text,
    read_generation,
    read_many,
    read_overwrite,
)
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_3_PLUS

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath
    from airflow.sdk.definitions.context import Context

    from airflow_provider_seedance.transfers.inputs import Many, Overwrite
    from airflow_provider_seedance.transfers.output import Output, Stored, Transfer

log = logging.getLogger(__name__)


class SeedanceToObjectStorageOperator(BaseOperator):
    """
    Copies the outputs of a generation, or of a whole campaign, to object storage, and returns where they are.

    A file becomes visible under its name only when it is whole and its length was checked. Nothing is paid:
    the transfer generates nothing.

    Of a campaign, one item that cannot be stored stops no other; at the end the task fails with one error that
    names those that could not. What was stored is noted in ``seedance-stored.jsonl`` in the destination, so that
    a retry goes on with the others.

    The result is ``{"path", "paths": […], "bytes", "sha256": […], "generation_id"}``: the first path and all
    paths, the bytes of all files together, and the SHA-256 of each. For a campaign ``path`` is the directory,
    ``generation_id`` is ``None``, and there are ``generation_ids`` (one for each path), the numbers of files
    ``stored`` and ``skipped``, and the path of the record of what is stored (``manifest``).

    :param generation: The result of a Seedance or Seedream task; or of a batch task, the path of its manifest,
        or a list of results. A manifest is read with the connection in its own path
        (``s3://my_conn@bucket/manifest.jsonl``), as it was written. A template.
    :param destination: A path of Airflow's object storage (``s3://bucket/key.mp4``,
        ``file:///data/out.mp4``), as text or an ``ObjectStoragePath``. One that ends in ``/`` is a directory;
        several outputs need one. As ``ObjectStoragePath`` drops the ``/`` at the end, write directories as
        text. A template.
    :param name_template: How files are called in a directory: text with ``{generation_id}``, ``{index}``
        (from 1), ``{ext}``, ``{media}``, ``{model}`` and ``{key}``. By default ``{generation_id}.{ext}``, of a
        campaign ``{key}.{ext}``, and with several outputs ``-{index}`` before the extension. A template.
    :param max_parallel: Outputs that are downloaded at the same time, of all items together.
    :param seedance_conn_id: The connection that generated: it is asked for a new URL when one has expired, and
        its ``media_hosts``, ``proxy``, ``verify`` and ``timeout`` apply. Its key is never sent to a media host.
        A template.
    :param object_storage_conn_id: The connection of the store. A template.
    :param overwrite: ``True`` replaces what is there. ``False`` fails if something is there. ``"if-changed"``
        leaves a file that has the length the media host announces; of a campaign, one that has the hash or
        version that is known of it, without asking the media host. A retry of a campaign leaves what its
        earlier tries stored, whatever this says. A template.
    """

    template_fields: Sequence[str] = (
        "generation",
        "destination",
        "name_template",
        "seedance_conn_id",
        "object_storage_conn_id",
        "overwrite",
    )
    ui_color = "#efe6ff"

    def __init__(
        self,
        *,
        generation: Any,
        destination: str | ObjectStoragePath,
        name_template: str | None = None,
        max_parallel: int = 4,
        seedance_conn_id: str = "seedance_default",
        object_storage_conn_id: str | None = None,
        overwrite: bool | str = True,
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
        if AIRFLOW_V_3_3_PLUS and getattr(self, "retry_policy", None) is None:
            self.retry_policy = SeedanceRetryPolicy()
        if isinstance(max_parallel, bool) or not isinstance(max_parallel, int) or max_parallel < 1:
            raise errors.SeedanceConfigurationError(
                f"max_parallel is {max_parallel!r}; it takes a whole number of downloads, at least 1."
            )
        # Set to end downloads. Made when needed: a Dag's operators are copied, and events cannot be.
        self._stop: threading.Event | None = None
        #: What this process has stored: the result, and of which generations.
        self._delivered: tuple[dict[str, Any], list[Generation]] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Copy every output, then return where they are."""
        from airflow_provider_seedance.client.media_client import MediaClient
        from airflow_provider_seedance.hooks.seedance import SeedanceHook
        from airflow_provider_seedance.transfers.output import FreshUrls, Transfer, show_media_url

        overwrite = read_overwrite(self.overwrite)
        many = read_many(self.generation)
        if many is not None:
            return self._execute_many(context, many, overwrite)
        generation, key = read_generation(self.generation)
        outputs = self._plan(generation, key)
        hook = SeedanceHook(self.seedance_conn_id)
        settings = hook.settings
        if overwrite == "no":
            _refuse_existing(outputs)
        self._stop = threading.Event()
        try:
            with MediaClient(settings) as client:
                transfer = Transfer(
                    client=client,
                    urls=FreshUrls(generation, hook),
                    overwrite=overwrite,
                    stop=self._stop,
                )
                stored = self._run(transfer, outputs)
        finally:
            self._stop = None
        described = {
            "path": stored[0].path,
            "generation_id": generation.generation_id,
            "url": show_media_url(generation.urls[0]),
        }
        self._describe_events(context, described)
        result = {
            "path": stored[0].path,
            "paths": [item.path for item in stored],
            "bytes": sum(item.size for item in stored),
            "sha256": [item.sha256 for item in stored],
            "generation_id": generation.generation_id,
        }
        self._delivered = result, [generation]
        return result

    def _execute_many(self, context: Context, many: Many, overwrite: Overwrite) -> dict[str, Any]:
        from airflow_provider_seedance.client.media_client import MediaClient
        from airflow_provider_seedance.hooks.seedance import SeedanceHook
        from airflow_provider_seedance.storage.location import StorageLocation
        from airflow_provider_seedance.transfers.transfer_run import (
            Errand,
            ManyTransfer,
            describe,
            outputs_of,
        )

        text = destination_text(self.destination)
        place = StorageLocation.of(self.destination, self.object_storage_conn_id or None)
        if not text.endswith("/") and not place.is_local_directory:
            raise errors.SeedanceConfigurationError(
                f"generation is many, and destination {text!r} is one file: they need a directory, written as text "
                "with a / at the end. Nothing was sent."
            )
        outputs = outputs_of(many, place, self._template)
        if many.left_out:
            log.warning(
                "%d of the campaign failed or were not submitted: there is nothing of them to store.",
                many.left_out,
            )
        hook = SeedanceHook(self.seedance_conn_id)
        ti = context.get("ti")
        self._stop = threading.Event()
        try:
            with MediaClient(hook.settings) as client:
                errand = Errand(
                    hook=hook,
                    client=client,
                    place=place,
                    template=self._template,
                    overwrite=overwrite,
                    max_parallel=self.max_parallel,
                    stop=self._stop,
                    by=_identity(ti),
                    again=int(getattr(ti, "try_number", 1) or 1) > 1,
                )
                result = ManyTransfer(errand, outputs, many.broken).run()
        finally:
            self._stop = None
        self._describe_events(context, describe(result))
        self._delivered = result, [wanted.generation for wanted in many.wanted]
        return result

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Tell OpenLineage, where that is installed, what was stored and where."""
        from airflow_provider_seedance.observability import lineage

        return lineage.of_transfer(*(self._delivered or (None, ())))

    @property
    def _template(self) -> str | None:
        return None if self.name_template in (None, "", "None") else self.name_template

    def on_kill(self) -> None:
        """Stop downloading; what was begun is removed."""
        if self._stop is not None:
            self._stop.set()

    # ------------------------------------------------------------------ before anything is sent

    def _plan(self, generation: Generation, key: str | None) -> list[Output]:
        from airflow_provider_seedance.storage.location import StorageLocation
        from airflow_provider_seedance.transfers.file_names import Naming
        from airflow_provider_seedance.transfers.output import Output

        text = destination_text(self.destination)
        count = len(generation.urls)
        template = self._template
        place = StorageLocation.of(self.destination, self.object_storage_conn_id or None)
        directory = text.endswith("/") or (not isinstance(self.destination, str) and place.is_local_directory)
        if not directory:
            why = against_a_file(place, text, count, template)
            if why:
                raise errors.SeedanceConfigurationError(f"{why} Nothing was sent.")
        naming = Naming(
            template=template,
            count=count,
            values={
                "generation_id": generation.generation_id,
                "media": generation.media,
                "model": generation.model,
                "key": key or generation.generation_id,
            },
        )
        naming.check()
        return [
            Output(index, count, generation, url, place, naming if directory else None)
            for index, url in enumerate(generation.urls, start=1)
        ]

    # ------------------------------------------------------------------ the transfer

    def _run(self, transfer: Transfer, outputs: list[Output]) -> list[Stored]:
        from airflow_provider_seedance.transfers.output import joined

        if len(outputs) == 1:
            return [transfer.store(outputs[0])]
        # Not a `with` block: it would wait for downloads that the stop below is to end.
        pool = ThreadPoolExecutor(
            min(self.max_parallel, len(outputs)), thread_name_prefix="seedance-transfer"
        )
        try:
            futures = [pool.submit(transfer.store, output) for output in outputs]
            failures = [error for future in futures if (error := future.exception()) is not None]
            if failures:
                done = [future.result() for future in futures if future.exception() is None]
                raise joined(failures, done, len(outputs))
            return [future.result() for future in futures]
        finally:
            transfer.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

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


def _refuse_existing(outputs: list[Output]) -> None:
    for output in outputs:
        place = output.known_place()
        if place is not None and place.stat() is not None:
            from airflow_provider_seedance.storage.location import exists_error

            raise exists_error(place.display)


def _identity(ti: Any) -> str:
    """Return what a retry of a task instance has in common with the try before, and a clear has not."""
    parts = [getattr(ti, name, None) for name in ("dag_id", "run_id", "task_id", "map_index", "max_tries")]
    return "/".join(str(part) for part in parts)
