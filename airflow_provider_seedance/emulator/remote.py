"""An emulator of another process, through its control API."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from airflow_provider_seedance.emulator.interface import EmulatorInterface, FaultHandle, FaultSpec
from airflow_provider_seedance.emulator.ledger import EmulatorLedger
from airflow_provider_seedance.emulator.models import EmulatedGeneration, RenderFailure

_TIMEOUT_SECONDS = 30.0


class RemoteFault(FaultHandle):
    """A fault of an emulator in another process."""

    def __init__(self, *, client: SeedanceEmulatorClient, fault_id: str) -> None:
        self.id = fault_id
        self._client = client

    @property
    def used(self) -> int:
        return int(self._client.call("GET", f"faults/{self.id}")["used"])

    def remove(self) -> None:
        self._client.call("DELETE", f"faults/{self.id}")

    def release(self) -> None:
        self._client.call("POST", f"faults/{self.id}/release")


class SeedanceEmulatorClient(EmulatorInterface):
    """
    An emulator that runs in another process, with the methods of :class:`SeedanceEmulator`.

    :param url: Its address, such as ``http://127.0.0.1:8123``.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        # The emulator is on this machine or near it, never behind the environment's proxy.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method: str, path: str, **body: Any) -> Any:
        """Call the control API; see :meth:`EmulatorInterface.post`."""
        request = urllib.request.Request(  # noqa: S310 (the URL is the tester's own)
            f"{self.url}/_emulator/{path}",
            data=json.dumps(body).encode() if body else None,
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
    def url(self) -> str:
        return self._url

    @property
    def key(self) -> str:
        return str(self.call("GET", "")["key"])

    @property
    def ledger(self) -> EmulatorLedger:
        """A copy of the ledger as it is now."""
        return EmulatorLedger.from_dict(self.call("GET", "ledger"))

    @property
    def generations(self) -> list[EmulatedGeneration]:
        return [_generation(data) for data in self.call("GET", "generations")]

    def generation(self, generation_id: str) -> EmulatedGeneration:
        return _generation(self.call("GET", f"generations/{generation_id}"))

    def add_fault(self, spec: FaultSpec) -> RemoteFault:
        fields = {**vars(spec), "options": dict(spec.options)}
        return RemoteFault(client=self, fault_id=self.call("POST", "faults", **fields)["id"])

    def post(self, path: str, **body: Any) -> Any:
        return self.call("POST", path, **body)


def _generation(data: dict[str, Any]) -> EmulatedGeneration:
    failure = data.pop("failure")
    return EmulatedGeneration(**data, failure=RenderFailure(**failure) if failure else None)
