"""A client of the REST API of a private Airflow: what a person does in the UI, on the same code path."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class ApiError(Exception):
    """The API server refused a request. Trying again does not help."""

    def __init__(self, method: str, path: str, status: int, body: str) -> None:
        super().__init__(f"{method} {path}: {status} {body}")
        self.status = status
        self.body = body


class Api:
    """Requests to one API server, as an administrator."""

    def __init__(self, url: str, passwords: Path, *, admin: str | None) -> None:
        self.url = url
        self._passwords = passwords
        self._admin = admin
        self._token: str | None = None
        # One request at a time: what writes at the same moment may lock the one database file for long.
        self._one = threading.Lock()
        # Loopback only: a proxy configured on the machine has no business here.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def token(self, user: str | None = None) -> str:
        """A bearer token for a user of the simple auth manager; without one, of the administrator."""
        user = user or self._admin
        if user is None:
            answer = self._send("GET", "/auth/token", None, {})
        else:
            password = json.loads(self._passwords.read_text())[user]
            answer = self._send("POST", "/auth/token", {"username": user, "password": password}, {})
        return str(answer["access_token"])

    def request(
        self, method: str, path: str, body: Any = None, query: Mapping[str, Any] | None = None
    ) -> Any:
        """The parsed answer to one request below ``/api/v2``."""
        with self._one:
            return self._request(method, path, body, query)

    def _request(self, method: str, path: str, body: Any, query: Mapping[str, Any] | None) -> Any:
        if query:
            path = f"{path}?{urllib.parse.urlencode(query, doseq=True)}"
        if self._token is None:
            self._token = self.token()
        try:
            return self._send(method, f"/api/v2{path}", body, {"Authorization": f"Bearer {self._token}"})
        except ApiError as error:
            if error.status != 401:
                raise
        # A token ends after a day, and a restart with other keys ends all of them.
        self._token = self.token()
        return self._send(method, f"/api/v2{path}", body, {"Authorization": f"Bearer {self._token}"})

    def healthy(self) -> bool:
        """Whether the server answers."""
        try:
            self._send("GET", "/api/v2/version", None, {}, timeout=2)
        except (ApiError, OSError):
            return False
        return True

    def _send(
        self, method: str, path: str, body: Any, headers: Mapping[str, str], timeout: float = 30.0
    ) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310  (always our own http URL)
            self.url + path,
            data=data,
            method=method,
            headers={"Content-Type": "application/json", "Accept": "application/json", **headers},
        )
        attempts = 3
        for attempt in range(1, attempts + 1):
            try:
                with self._opener.open(request, timeout=timeout) as response:
                    text = response.read().decode()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                with error:
                    text = error.read().decode(errors="replace")
                # Two processes wrote to the one database file at the same moment.
                if "database is locked" in text and attempt < attempts:
                    time.sleep(0.5)
                    continue
                raise ApiError(method, path, error.code, text) from None
        raise AssertionError("unreachable")


def quoted(part: str) -> str:
    """A run id and the like as one part of a path."""
    return urllib.parse.quote(part, safe="")
