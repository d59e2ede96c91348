"""An emulator of another process, through its control API."""

from __future__ import annotations

import json
import urllib.error
from typing import Any

from airflow_provider_seedance.emulator.interface import EmulatorInterface, FaultHandle, FaultSpec
from airflow_provider_seedance.emulator.json_http import open_url

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

    @property
    def url(self) -> str:
        return self._url

    def call(self, method: str, path: str, /, **body: Any) -> Any:
        url = f"{self.url}/_emulator/{path}"
        try:
            with open_url(method, url, body or None, timeout=_TIMEOUT_SECONDS) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                message = error.read().decode(errors="replace")
            raise (KeyError if error.code == 404 else ValueError)(message) from None

    def add_fault(self, spec: FaultSpec) -> RemoteFault:
        fields = {**vars(spec), "options": dict(spec.options)}
        return RemoteFault(client=self, fault_id=self.call("POST", "faults", **fields)["id"])
