"""The emulator of all services, for tests and the demo."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Self

from airflow_provider_seedance.emulator.callback_sender import CallbackSender
from airflow_provider_seedance.emulator.clock import Clock
from airflow_provider_seedance.emulator.control import Control
from airflow_provider_seedance.emulator.faults import Fault, Faults
from airflow_provider_seedance.emulator.interface import EmulatorInterface, FaultSpec
from airflow_provider_seedance.emulator.ledger import EmulatorLedger
from airflow_provider_seedance.emulator.media_server import MEDIA_PREFIX
from airflow_provider_seedance.emulator.media_store import MediaStore
from airflow_provider_seedance.emulator.models import EmulatorOptions
from airflow_provider_seedance.emulator.rate_limiter import RateLimiter
from airflow_provider_seedance.emulator.server import EmulatorServer, Parts
from airflow_provider_seedance.emulator.services.ark import Ark
from airflow_provider_seedance.emulator.services.fal import Fal
from airflow_provider_seedance.emulator.services.openrouter import OpenRouter
from airflow_provider_seedance.emulator.services.replicate import Replicate
from airflow_provider_seedance.emulator.services.runbase import Runbase
from airflow_provider_seedance.emulator.services.seedance2api import Seedance2Api
from airflow_provider_seedance.emulator.services.seedanceapi import SeedanceApiV1, SeedanceApiV2
from airflow_provider_seedance.emulator.services.service import Service
from airflow_provider_seedance.emulator.state import Backend

_SERVICES: tuple[type[Service], ...] = (
    Seedance2Api,
    SeedanceApiV1,
    SeedanceApiV2,
    Runbase,
    Ark,
    Fal,
    Replicate,
    OpenRouter,
)


class SeedanceEmulator(EmulatorInterface):
    """
    A local emulator of all services, over real HTTP.
    ::

        with SeedanceEmulator(speed=600) as emulator:
            monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", emulator.connection_json("ark"))
            ...
            assert len(emulator.ledger.submissions) == 1

    :param host: Address to listen at.
    :param port: Port; 0 chooses a free one.
    :param speed: Speed of generations, as a multiple of a real service's. *Emulated* seconds are real
        seconds times this.
    :param media: Whether to encode real files; otherwise every video is the same tiny MP4 and every image
        the same tiny PNG or JPEG, and neither PyAV nor Pillow is needed.
    :param key: The API key of every service.
    :param render_seconds: Emulated seconds from submission to the end of every generation, instead of a
        realistic time; 0 ends them at once.
    :param url_lifetime: Lifetime of media URLs in emulated seconds; by default a day for ``ark`` and ``openrouter``, an hour
        for ``replicate``, and unlimited for the others, which return a new URL for each request after that.
    :param rate_limit: ``(requests, window)`` for each service and key, the window in real seconds.
    :param limits: Whether ``ark`` refuses calls above its documented limits, in emulated seconds (real ones below speed 1): a
        list and 20 reads a second, 600 submissions a minute of a model, 15 at 4k, and 500 images. With it ``ark`` also renders
        as many videos of a model and tier at a time as ``concurrency`` says, one at 4k, and queues the others.
    :param concurrency: Of the account at ``ark``: 10 for enterprises, 3 for individuals.
    :param credits: Balance of the account; ``None`` is unlimited.
    :param images_as_task: Whether ``seedance2api`` answers image requests with a task to poll.
    :param shape: Form of the replies, where documents and clients differ: ``documented``, ``flat`` or ``nested``. The last
        two have the codes of the table of errors of ``seedance2api``, where its examples have others.
    :param strict: Whether to leave out what no document of a service says: error codes and bodies, fields, callbacks,
        ``Retry-After``, and the fields and models that only clients use.
    :param seed: Seed of the realistic render times.
    :param clock: Returns the real time in seconds since the epoch; for tests of the emulator itself.
    :param log: Called with one line per request.
    :raises ImportError: ``media`` is set and a codec is missing.
    """

    _server: EmulatorServer | None = None

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
        limits: bool = True,
        concurrency: int = 10,
        credits: float | None = None,
        images_as_task: bool = False,
        shape: str = "documented",
        strict: bool = False,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.speed, self.faults = speed, Faults()
        self._address = (host, port)
        options = EmulatorOptions(
            key=key,
            speed=speed,
            render_seconds=render_seconds,
            url_lifetime=url_lifetime,
            credits=credits,
            images_as_task=images_as_task,
            shape=shape,
            seed=seed,
            limits=limits,
            concurrency=concurrency,
            strict=strict,
        )
        time_of_renders, ledger = Clock(speed=speed, source=clock), EmulatorLedger()
        self._backend = Backend(options=options, clock=time_of_renders, ledger=ledger, faults=self.faults)
        store, rate_limiter = MediaStore(real=media), RateLimiter(rate_limit)
        services = {service.api: service(backend=self._backend, media=store) for service in _SERVICES}
        self._parts = Parts(
            backend=self._backend,
            services=services,
            media=store,
            rate_limiter=rate_limiter,
            callbacks=CallbackSender(backend=self._backend, services=services),
            control=Control(backend=self._backend, rate_limiter=rate_limiter),
            log=log,
        )

    # Running

    def start(self) -> None:
        """
        Listen and serve, in threads.

        :raises OSError: the port is in use.
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
        """Close all connections, end all threads, remove all files."""
        self._backend.stopping.set()
        if self._server is not None:
            self._server.stop()
        self._parts.callbacks.stop()
        self._parts.media.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """
        The address, such as ``http://127.0.0.1:8123``.

        :raises RuntimeError: before the start.
        """
        if self._server is None:
            raise RuntimeError("The emulator is not running")
        host, port = self._server.server_address[:2]
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(host), str(host))  # noqa: S104
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    @property
    def ledger(self) -> EmulatorLedger:
        return self._backend.ledger

    def add_fault(self, spec: FaultSpec) -> Fault:
        return self.faults.add(spec)

    def call(self, method: str, path: str, /, **body: Any) -> Any:
        return self._parts.control.call(method, path, body)

    @property
    def credits(self) -> float | None:
        """Balance of the account; ``None`` is unlimited."""
        return self._backend.credits
