"""The emulator as a whole: what tests and demos use."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from airflow_provider_seedance.emulator.callbacks import CallbackSender
from airflow_provider_seedance.emulator.clock import Clock
from airflow_provider_seedance.emulator.control import Control
from airflow_provider_seedance.emulator.faults import Fault, Faults
from airflow_provider_seedance.emulator.ledger import Ledger
from airflow_provider_seedance.emulator.media_encoder import MediaStore
from airflow_provider_seedance.emulator.media_server import MEDIA_PREFIX
from airflow_provider_seedance.emulator.models import APIS, Failure, Generation, Settings
from airflow_provider_seedance.emulator.quota import Quota
from airflow_provider_seedance.emulator.server import EmulatorServer, Parts
from airflow_provider_seedance.emulator.services.ark import Ark
from airflow_provider_seedance.emulator.services.base import Service
from airflow_provider_seedance.emulator.services.runbase import Runbase
from airflow_provider_seedance.emulator.services.seedance2api import Seedance2Api
from airflow_provider_seedance.emulator.services.seedanceapi import SeedanceApiV1, SeedanceApiV2
from airflow_provider_seedance.emulator.state import Backend

_SERVICES: tuple[type[Service], ...] = (Seedance2Api, SeedanceApiV1, SeedanceApiV2, Runbase, Ark)


def service_url(url: str, api: str) -> str:
    """The base URL of a service of the emulator at this address.

    :raises ValueError: for an API that doesn't exist.
    """
    for service in _SERVICES:
        if service.api == api:
            return url + service.prefix
    raise ValueError(f"Unknown API {api!r}; there are {', '.join(APIS)}")


def connection_fields(url: str, api: str, key: str, extra: dict[str, Any]) -> dict[str, Any]:
    """The Airflow connection to a service of the emulator at this address."""
    host = urlsplit(url).hostname or "127.0.0.1"
    return {
        "conn_type": "seedance",
        "host": service_url(url, api),
        "password": key,
        "extra": {"api": api, "media_hosts": [host], **extra},
    }


class SeedanceEmulator:
    """A local stand-in for all five services, over real HTTP.

    ::

        with SeedanceEmulator(speed=600) as emulator:
            monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", emulator.connection_json("ark"))
            ...
            assert len(emulator.ledger.submissions) == 1

    :param host: address to listen at.
    :param port: 0 takes a free one.
    :param speed: how many times faster than in reality renders run; 1 is realistic. *Emulated* seconds
        are real seconds times this.
    :param media: whether to encode the files that were asked for; otherwise every video is the same tiny
        MP4 and every image the same tiny PNG, and neither PyAV nor Pillow is needed.
    :param key: the API key of every service.
    :param render_seconds: emulated seconds from submission to the end of every render, instead of a
        realistic time; 0 ends them at once.
    :param url_lifetime: emulated seconds for which media URLs work; without it they work for good, and
        those of ``ark`` for 24 hours. All services but ``ark`` give a new URL when asked again.
    :param rate_limit: a quota of ``(requests, window)`` for each service and key, the window in real
        seconds.
    :param credits: what the account holds; ``None`` is unlimited.
    :param images_as_task: whether ``seedance2api`` answers image requests with a task to poll.
    :param shape: which of the shapes that documents and clients show to answer with: ``documented``,
        ``flat`` or ``nested``.
    :param seed: decides the realistic render times.
    :param clock: gives real time in seconds since the epoch; for tests of the emulator itself.
    :param log: called with one line per request.
    :raises ImportError: if ``media`` is wanted and a codec is missing.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        speed: float = 60.0,
        media: bool = True,
        key: str = "emulator-key",
        render_seconds: float | None = None,
        url_lifetime: float | None = None,
        rate_limit: tuple[int, float] | None = None,
        credits: float | None = None,
        images_as_task: bool = False,
        shape: str = "documented",
        seed: int = 0,
        clock: Callable[[], float] = time.time,
        log: Callable[[str], None] | None = None,
    ) -> None:
        settings = Settings(
            key=key,
            speed=speed,
            render_seconds=render_seconds,
            url_lifetime=url_lifetime,
            credits=credits,
            images_as_task=images_as_task,
            shape=shape,
            seed=seed,
        )
        self.key = key
        self.speed = speed
        self.ledger = Ledger()
        self.faults = Faults()
        self._address = (host, port)
        self._backend = Backend(
            settings=settings,
            clock=Clock(speed=speed, source=clock),
            ledger=self.ledger,
            faults=self.faults,
        )
        self._media = MediaStore(real=media)
        services = {service.api: service(backend=self._backend, media=self._media) for service in _SERVICES}
        self._parts = Parts(
            backend=self._backend,
            services=services,
            media=self._media,
            quota=Quota(rate_limit),
            callbacks=CallbackSender(backend=self._backend, services=services),
            control=Control(self),
            log=log,
        )
        self._server: EmulatorServer | None = None

    # Running

    def start(self) -> None:
        """Listen and serve, in threads.

        :raises OSError: if the port is taken.
        """
        if self._server is not None or self._backend.stopping.is_set():
            raise RuntimeError("An emulator can be started once")
        try:
            self._server = EmulatorServer(self._address, self._parts)
        except OSError:
            self.stop()
            raise
        self._backend.media_url = self.url + MEDIA_PREFIX
        self._server.start()

    def stop(self) -> None:
        """Break all connections, end all threads, remove all files."""
        self._backend.stopping.set()
        if self._server is not None:
            self._server.stop()
        self._parts.callbacks.stop()
        self._media.close()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens, such as ``http://127.0.0.1:8123``.

        :raises RuntimeError: before it was started.
        """
        if self._server is None:
            raise RuntimeError("The emulator is not running")
        host, port = self._server.server_address[:2]
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(host), str(host))  # noqa: S104
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def base_url(self, api: str) -> str:
        """The base URL of a service.

        :param api: seedance2api, seedanceapi-v1, seedanceapi-v2, runbase or ark.
        """
        return service_url(self.url, api)

    def connection(self, api: str, **extra: Any) -> dict[str, Any]:
        """The Airflow connection to a service.

        :param extra: more of the connection's extra.
        """
        return connection_fields(self.url, api, self.key, extra)

    def connection_json(self, api: str, **extra: Any) -> str:
        """The same as JSON, for an environment variable such as ``AIRFLOW_CONN_SEEDANCE_DEFAULT``."""
        return json.dumps(self.connection(api, **extra))

    # Faults and limits

    def fault(
        self,
        kind: str,
        on: str | None = None,
        api: str | None = None,
        prompt: str | None = None,
        times: int | None = 1,
        *,
        generation_id: str | None = None,
        **options: Any,
    ) -> Fault:
        """Let something go wrong.

        ==================  =====================================================================
        kind                what happens, and its options
        ==================  =====================================================================
        ``refuse``          an error in the service's own shape: ``status`` (400), ``code``, ``message``
        ``delay``           wait before the request is looked at: ``seconds`` (the request is accepted even
                            if the client has gone), or ``hold=True`` until released (it is not, then)
        ``drop_reply``      accept and bill, then close the connection without a byte
        ``hold_reply``      accept and bill, then answer when released, if the client is still there
        ``cut``             reset the connection before anything is accepted
        ``cut_body``        send headers and half of the body, or ``after`` bytes, then reset
        ``rubbish``         200 with bytes that are no JSON, or ``status``, ``body``, ``headers``; the
                            request is accepted unless ``accept=False``
        ``rate_limit``      429 with the service's headers: ``retry_after`` seconds (1; ``None`` for no
                            header), ``retry_after_date=True``, ``limit``
        ``redirect``        ``status`` (307) to ``location``
        ``gateway_error``   ``status`` (502) with an HTML page; accepted only with ``accept=True``
        ``fail``            the render fails: ``message``, ``code``; of images only those in ``items``
        ``no_range``        the media server ignores ranges
        ``short_length``    the media server announces ``extra`` (1000) bytes more than it sends
        ==================  =====================================================================

        :param on: the requests it strikes at: submit, status, result, list, cancel, media or any.
            Without it: media for the last two kinds, submit for the others.
        :param api: only this service.
        :param prompt: only generations of this prompt; ``*`` stands for any text.
        :param times: how often; ``None`` until it is removed.
        :param generation_id: only requests about this generation.
        :return: a handle that tells how often it was ``used``, and can ``release()``, ``remove()``
            and ``wait()``.
        :raises ValueError: for a kind, point or option that does not exist.
        """
        return self.faults.add(
            kind,
            on=on,
            api=api,
            prompt=prompt,
            generation_id=generation_id,
            times=times,
            options=options,
        )

    def set_rate_limit(self, limit: int | None, window_seconds: float = 3600.0) -> None:
        """Change the standing quota.

        :param limit: requests per window, for each service and key; ``None`` for no quota.
        :param window_seconds: real seconds.
        """
        self._parts.quota.set(None if limit is None else (limit, window_seconds))

    # Generations

    @property
    def credits(self) -> float | None:
        """What is left in the account; ``None`` is unlimited."""
        return self._backend.credits

    @property
    def generations(self) -> list[Generation]:
        """All generations as they are now, oldest first."""
        return [self._backend.view(render) for render in self._backend.renders()]

    def generation(self, generation_id: str) -> Generation:
        """One generation as it is now.

        :raises KeyError: if it is unknown.
        """
        return self._backend.view(self._backend.get(generation_id))

    def finish(self, generation_id: str) -> None:
        """Let a render end now.

        :raises ValueError: if it has ended, like the three that follow.
        """
        self._backend.finish(generation_id)

    def fail(self, generation_id: str, message: str, code: str | None = None) -> None:
        """Let a render fail now."""
        self._backend.end(generation_id, "failed", Failure(message=message, code=code))

    def expire(self, generation_id: str) -> None:
        """Let a render expire now: it waited or ran for too long. Services other than ``ark`` have no
        such status and report a failure.
        """
        self._backend.end(generation_id, "expired")

    def cancel_remote(self, generation_id: str) -> None:
        """Cancel a render as a person does at the vendor's console; nothing is billed for it."""
        self._backend.cancel(generation_id)

    def forget(self, generation_id: str) -> None:
        """Remove a record: the service answers 404 from now on."""
        self._backend.forget(generation_id)

    def expire_urls(self, generation_id: str | None = None) -> None:
        """Let the media URLs handed out so far expire now, of one generation or of all."""
        self._backend.expire_urls(generation_id)

    def hold(self) -> None:
        """Let no render progress or end until :meth:`release`."""
        self._backend.hold()

    def release(self) -> None:
        """Let renders go on after :meth:`hold`."""
        self._backend.release()
