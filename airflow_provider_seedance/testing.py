"""For tests of your own Dags: a local stand-in for the services, and its pytest fixture.

::

    def test_my_dag(seedance_emulator, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", seedance_emulator.connection_json("ark"))
        ...

``@pytest.mark.seedance_emulator(speed=1, shape="flat")`` passes arguments to the emulator. The emulator
needs the extra ``airflow-provider-seedance[emulator]``.

pytest loads this module in every session of whoever has the provider installed, so that it imports
nothing but the standard library until the emulator is asked for.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
    from airflow_provider_seedance.emulator.ledger import Ledger
    from airflow_provider_seedance.emulator.models import Generation

__all__ = ["RemoteFault", "SeedanceEmulator", "SeedanceEmulatorClient"]

_TIMEOUT_SECONDS = 30.0


def __getattr__(name: str) -> Any:
    if name == "SeedanceEmulator":
        from airflow_provider_seedance.emulator.emulator import SeedanceEmulator

        return SeedanceEmulator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class RemoteFault:
    """A fault asked for in an emulator of another process; see :meth:`SeedanceEmulator.fault`."""

    def __init__(self, *, client: SeedanceEmulatorClient, fault_id: str) -> None:
        self.id = fault_id
        self._client = client

    @property
    def used(self) -> int:
        """How often it has struck."""
        return int(self._client.call("GET", f"faults/{self.id}")["used"])

    def remove(self) -> None:
        """Strike no more; requests that it holds go on."""
        self._client.call("DELETE", f"faults/{self.id}")

    def release(self) -> None:
        """Let the requests that it holds, now and later, go on."""
        self._client.call("POST", f"faults/{self.id}/release")

    def wait(self, timeout: float = 10.0, *, used: int = 1) -> bool:
        """Wait until it has struck.

        :param timeout: real seconds.
        :return: whether it has.
        """
        deadline = time.monotonic() + timeout
        while self.used < used:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return True


class SeedanceEmulatorClient:
    """An emulator that runs in another process, with the methods of :class:`SeedanceEmulator`.

    :param url: where it listens, such as ``http://127.0.0.1:8123``.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        # The emulator is on this machine or near it: the environment's proxy has no part in this.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call the control API.

        :param path: below ``/_emulator/``.
        :raises KeyError: for what the emulator doesn't know.
        :raises ValueError: for what it refuses.
        """
        request = urllib.request.Request(  # noqa: S310 (the URL is the tester's own)
            f"{self.url}/_emulator/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        try:
            with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                message = error.read().decode(errors="replace")
            raise (KeyError if error.code == 404 else ValueError)(message) from None

    @property
    def key(self) -> str:
        """The API key of every service."""
        return str(self.call("GET", "")["key"])

    def base_url(self, api: str) -> str:
        """The base URL of a service."""
        from airflow_provider_seedance.emulator.emulator import service_url

        return service_url(self.url, api)

    def connection(self, api: str, **extra: Any) -> dict[str, Any]:
        """The Airflow connection to a service."""
        from airflow_provider_seedance.emulator.emulator import connection_fields

        return connection_fields(self.url, api, self.key, extra)

    def connection_json(self, api: str, **extra: Any) -> str:
        """The same as JSON, for an environment variable."""
        return json.dumps(self.connection(api, **extra))

    @property
    def ledger(self) -> Ledger:
        """The ledger as it is now: a copy, that does not follow."""
        from airflow_provider_seedance.emulator.ledger import Ledger

        return Ledger.from_dict(self.call("GET", "ledger"))

    @property
    def generations(self) -> list[Generation]:
        """All generations as they are now, oldest first."""
        return [_generation(data) for data in self.call("GET", "generations")]

    def generation(self, generation_id: str) -> Generation:
        """One generation as it is now."""
        return _generation(self.call("GET", f"generations/{generation_id}"))

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
    ) -> RemoteFault:
        """Let something go wrong; see :meth:`SeedanceEmulator.fault`."""
        fault = {"kind": kind, "on": on, "api": api, "prompt": prompt, "times": times}
        body = {**fault, "generation_id": generation_id, "options": options}
        return RemoteFault(client=self, fault_id=self.call("POST", "faults", body)["id"])

    def set_rate_limit(self, limit: int | None, window_seconds: float = 3600.0) -> None:
        """Change the standing quota."""
        self.call("POST", "rate_limit", {"limit": limit, "window_seconds": window_seconds})

    def finish(self, generation_id: str) -> None:
        """Let a render end now."""
        self.call("POST", f"generations/{generation_id}/finish")

    def fail(self, generation_id: str, message: str, code: str | None = None) -> None:
        """Let a render fail now."""
        self.call("POST", f"generations/{generation_id}/fail", {"message": message, "code": code})

    def expire(self, generation_id: str) -> None:
        """Let a render expire now."""
        self.call("POST", f"generations/{generation_id}/expire")

    def cancel_remote(self, generation_id: str) -> None:
        """Cancel a render as a person does at the vendor's console."""
        self.call("POST", f"generations/{generation_id}/cancel")

    def forget(self, generation_id: str) -> None:
        """Remove a record: the service answers 404 from now on."""
        self.call("POST", f"generations/{generation_id}/forget")

    def expire_urls(self, generation_id: str | None = None) -> None:
        """Let the media URLs handed out so far expire now."""
        self.call("POST", "expire_urls", {"id": generation_id})

    def hold(self) -> None:
        """Let no render progress or end until :meth:`release`."""
        self.call("POST", "hold")

    def release(self) -> None:
        """Let renders go on."""
        self.call("POST", "release")


def _generation(data: dict[str, Any]) -> Generation:
    from airflow_provider_seedance.emulator.models import Failure, Generation

    failure = data.pop("failure")
    return Generation(**data, failure=Failure(**failure) if failure else None)


try:
    import pytest
except ImportError:  # not a test session: only the classes are of use
    pass
else:

    def pytest_configure(config: pytest.Config) -> None:
        """Make the marker known."""
        config.addinivalue_line(
            "markers", "seedance_emulator(**arguments): arguments of the seedance_emulator fixture"
        )

    @pytest.fixture
    def seedance_emulator(request: pytest.FixtureRequest) -> Iterator[SeedanceEmulator]:
        """A running emulator; the marker ``seedance_emulator`` passes arguments to it."""
        from airflow_provider_seedance.emulator.emulator import SeedanceEmulator

        marker = request.node.get_closest_marker("seedance_emulator")
        with SeedanceEmulator(**(marker.kwargs if marker else {})) as emulator:
            yield emulator
