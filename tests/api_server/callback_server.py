"""The callback route of an API server, with a scripted delivery in place of Airflow's database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
from fastapi import FastAPI
from helpers import connection
from support import on_loop

from airflow_provider_seedance.api_server.callback_confirmation import StatusReader
from airflow_provider_seedance.api_server.callback_delivery import Outcome
from airflow_provider_seedance.api_server.callback_limits import CallbackLimits
from airflow_provider_seedance.api_server.callback_queue import CallbackQueue
from airflow_provider_seedance.api_server.callback_routes import make_router
from airflow_provider_seedance.api_server.callback_settings import SettingsCache
from airflow_provider_seedance.callbacks.payload import CallbackPayload
from airflow_provider_seedance.callbacks.tokens import CallbackClaims, sign
from airflow_provider_seedance.settings import Settings, read_settings

SECRET = "signs the addresses"
SIGNATURE_SECRET = "signs the bodies"
SUCCEEDED = b'{"id": "g1", "status": "succeeded"}'
CLAIMS = CallbackClaims(
    dag_id="dag", run_id="run", task_id="task", map_index=-1, conn_id="ours", nonce="n1", expires=2**40
)
TOKEN = sign(CLAIMS, SECRET)


def token_for(secret: str = SECRET, **changes: Any) -> str:
    return sign(replace(CLAIMS, **changes), secret)


class CallbackServer:
    """One process of the API server, where pauses take no time, and the clock advances by them alone."""

    def __init__(self) -> None:
        self.connections: dict[str, Any] = {
            "ours": {"api": "ark", "callback_secret": SECRET},
            "signed": {
                "api": "ark",
                "callback_secret": SECRET,
                "callback_signature_header": "X-Signature",
                "callback_signature_secret": SIGNATURE_SECRET,
            },
            "keys": {"api": "fal", "callback_secret": SECRET},
            "without": {"api": "ark"},
            "broken": "{",
            "away": ConnectionError("the secrets backend is away"),
        }
        #: The settings of every connection, if set.
        self.settings: Settings | None = None
        self.lookups: list[str] = []
        self.calls: list[tuple[CallbackClaims, CallbackPayload, bool, Any]] = []
        self.results: list[Any] = []
        #: Outcomes of the next deliveries; ``resumed`` after these.
        self.outcomes: list[Outcome | Exception] = []
        self.pauses: list[float] = []
        self.start()

    def start(self, **limits_of_test: Any) -> None:
        """Start the process again, with other limits."""
        limits = CallbackLimits(**{"quiet_period": 0.0, **limits_of_test})
        self.reader = StatusReader(limits)
        self.cache = SettingsCache(limits, read=self.read_connection, clock=self.clock)
        self.queue = CallbackQueue(limits, reader=self.reader, clock=self.clock, sleep=self.sleep)
        self.app = FastAPI(redirect_slashes=False)
        self.app.include_router(make_router(self.cache, self.queue))

    def clock(self) -> float:
        return sum(self.pauses)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def read_connection(self, conn_id: str, team: str = "") -> Settings | None:
        conn_id = f"{team}/{conn_id}" if team else conn_id
        self.lookups.append(conn_id)
        extra = self.connections.get(conn_id)
        if isinstance(extra, Exception):
            raise extra
        if extra is None:
            return None
        return self.settings or read_settings(conn_id, connection(extra=extra))

    def deliver(
        self, claims: CallbackClaims, payload: CallbackPayload, *, on_worker: bool = False, event: Any = None
    ) -> Outcome:
        self.calls.append((claims, payload, on_worker, event))
        outcome = self.outcomes.pop(0) if self.outcomes else Outcome(kind="resumed")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def complete_task(self, claims: CallbackClaims, result: Any) -> Outcome:
        self.results.append(result)
        return Outcome(kind="resumed")

    def run(self, do: Callable[[httpx.AsyncClient], Any]) -> Any:
        """Send requests, and wait until all callbacks are delivered."""

        async def session() -> Any:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as http:
                answer = await do(http)
                await self.drain()
                return answer

        return on_loop(session())

    async def drain(self) -> None:
        while tasks := list(self.queue._in_flight.values()):
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)

    def post(
        self, token: str = TOKEN, body: Any = SUCCEEDED, headers: Any = None, method: str = "POST"
    ) -> httpx.Response:
        async def do(http: httpx.AsyncClient) -> httpx.Response:
            return await http.request(method, f"/callbacks/{token}", content=body, headers=headers)

        return self.run(do)  # type: ignore[no-any-return]
