"""Client of the REST API of a private Airflow, the same code path as the UI."""

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
        # One request at a time: concurrent writes may lock the sqlite file for a long time.
        self._lock = threading.Lock()
        # Requests go to loopback, never through a proxy that is configured on the machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def token(self, user: str | None = None) -> str:
        """Return a bearer token of a user of the simple auth manager, by default the administrator."""
        user = user or self._admin
        if user is None:
            answer = self._send("GET", "/auth/token")
        else:
            password = json.loads(self._passwords.read_text())[user]
            answer = self._send("POST", "/auth/token", {"username": user, "password": password})
        return str(answer["access_token"])

    def request(
        self, method: str, path: str, body: Any = None, query: Mapping[str, Any] | None = None
    ) -> Any:
        """Send a request below ``/api/v2`` and return the parsed response."""
        path = f"/api/v2{path}?{urllib.parse.urlencode(query, doseq=True)}" if query else f"/api/v2{path}"
        with self._lock:
            self._token = self._token or self.token()
            try:
                return self._send(method, path, body, self._token)
            except ApiError as error:
                if error.status != 401:
                    raise
            # A token expires after a day, and a restart with new keys invalidates all tokens.
            self._token = self.token()
            return self._send(method, path, body, self._token)

    def healthy(self) -> bool:
        """Return whether the server responds."""
        try:
            self._send("GET", "/api/v2/version", timeout=10)
        except (ApiError, OSError):
            return False
        return True

    def _send(
        self, method: str, path: str, body: Any = None, token: str | None = None, timeout: float = 180.0
    ) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        attempts = 3
        for attempt in range(1, attempts + 1):
            try:
                with self._opener.open(request, timeout=timeout) as response:
                    text = response.read().decode()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                with error:
                    text = error.read().decode(errors="replace")
                # Two processes wrote to the sqlite file at the same time.
                if "database is locked" in text and attempt < attempts:
                    time.sleep(0.5)
                    continue
                raise ApiError(method, path, error.code, text) from None
        raise AssertionError("unreachable")


def quoted(part: str) -> str:
    """Return a run id or similar, escaped as one segment of a path."""
    return urllib.parse.quote(part, safe="")
