"""
The emulator's HTTP server: connections, routing, and faults that need the socket.

It is built on the standard library, because faults have to reset a socket in the middle of a reply, close a
connection without a byte, and announce a wrong length. Uvicorn with Starlette and pytest-httpserver hide the socket
and correct such replies.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from airflow_provider_seedance.emulator.callback_sender import CallbackSender
from airflow_provider_seedance.emulator.control import CONTROL_PREFIX, Control
from airflow_provider_seedance.emulator.faults import Fault
from airflow_provider_seedance.emulator.ledger import RequestEntry
from airflow_provider_seedance.emulator.media_server import MEDIA_PREFIX, find_link, serve_media
from airflow_provider_seedance.emulator.media_store import MediaStore
from airflow_provider_seedance.emulator.models import Link
from airflow_provider_seedance.emulator.rate_limiter import RateLimiter
from airflow_provider_seedance.emulator.replies import fault_reply, rate_limit_headers, rate_limited
from airflow_provider_seedance.emulator.services.service import (
    ApiError,
    Call,
    Reply,
    Route,
    Service,
    json_reply,
)
from airflow_provider_seedance.emulator.state import Backend

_MAX_BODY_BYTES = 64 * 1024 * 1024
_JOIN_TIMEOUT_SECONDS = 5.0


@dataclass(kw_only=True)
class IncomingRequest:
    """An HTTP request, with its service, purpose and prompt as far as known."""

    call: Call
    service: Service | None = None
    link: Link | None = None
    route: Route = field(default_factory=Route)
    api: str = ""
    prompt: str | None = None


@dataclass(kw_only=True)
class Parts:
    """The components behind the HTTP server."""

    backend: Backend
    services: Mapping[str, Service]
    media: MediaStore
    rate_limiter: RateLimiter
    callbacks: CallbackSender
    control: Control
    log: Callable[[str], None] | None = None


class EmulatorServer(ThreadingHTTPServer):
    """HTTP server that runs until :meth:`stop`, which leaves no thread and no socket behind; port 0 is a free one."""

    daemon_threads = True
    request_queue_size = 512
    timeout = 0.05  # seconds between two looks at `stopping`; macOS cannot end the wait with the socket

    def __init__(self, address: tuple[str, int], parts: Parts) -> None:
        self.parts = parts
        self._guard = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._main: threading.Thread | None = None
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Handler)

    def start(self) -> None:
        """Serve in a thread of its own."""
        self._main = threading.Thread(target=self._serve, name="seedance-emulator", daemon=True)
        self._main.start()

    def _serve(self) -> None:
        while not self.parts.backend.stopping.is_set():
            self.handle_request()

    def stop(self) -> None:
        """Close all connections and end all threads."""
        self.parts.backend.stopping.set()
        if self._main is not None:
            with suppress(OSError):  # macOS refuses it, and the timeout ends the wait
                self.socket.shutdown(socket.SHUT_RDWR)
            self._main.join(_JOIN_TIMEOUT_SECONDS)
        self.server_close()
        with self._guard:
            still_open = dict(self._open)
        for connection in still_open:
            with suppress(OSError):  # it has just been closed
                connection.shutdown(socket.SHUT_RDWR)
        for thread in still_open.values():
            thread.join(_JOIN_TIMEOUT_SECONDS)

    def server_bind(self) -> None:
        """Bind without a DNS lookup of this machine's name, which can take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread that :meth:`stop` can end."""
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="seedance-emulator-connection",
            daemon=True,
        )
        with self._guard:
            self._open[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._guard:
            self._open.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log errors other than a client that disconnects."""
        error = sys.exception()
        if self.parts.log is not None and not isinstance(error, OSError):
            self.parts.log(f"error in the emulator: {error!r}")


class Handler(BaseHTTPRequestHandler):
    """Handler of the requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "seedance-emulator"
    sys_version = ""
    disable_nagle_algorithm = True
    # Send headers and body in one packet.
    wbufsize = -1
    server: EmulatorServer

    def finish(self) -> None:
        """Close the connection's files, even if the client has disconnected."""
        try:
            super().finish()
        except OSError:
            self.rfile.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Do nothing: the emulator has its own log."""

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_DELETE = do_PUT = do_PATCH = do_HEAD = do_OPTIONS = do_GET

    def _serve(self) -> None:
        parts = self.server.parts
        body = self._read_body()
        if body is None:
            return
        split = urlsplit(self.path)
        if split.path.startswith(CONTROL_PREFIX):
            status, answer = parts.control.handle(self.command, split.path, body)
            self._send(json_reply(answer, status=status))
            return
        call = Call(
            method=self.command,
            path=split.path,
            query=parse_qs(split.query, keep_blank_values=True),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
        )
        request = _identify(parts, call)
        position = parts.backend.ledger.add(_entry(parts.backend, request))
        delays, fault = parts.backend.faults.reserve(
            request.route.kind, request.api, request.prompt, request.route.generation_id
        )
        reply = self._answer(request, delays, fault)
        generation_id = reply.generation_id if reply else None
        lost = fault is not None and fault.kind in ("drop_reply", "hold_reply")
        status_sent = None if reply is None or lost else reply.status
        parts.backend.ledger.answered(position, status_sent, generation_id)
        if fault is not None:
            fault.record_use()
        self._log(request, status_sent, generation_id, fault)
        if reply is not None:
            self._deliver(reply, fault, position)

    def _read_body(self) -> bytes | None:
        """Return the body, or reply with an error and return ``None`` if it cannot be read."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdigit() or int(length) > _MAX_BODY_BYTES:
            self.close_connection = True
            status = 411 if "Transfer-Encoding" in self.headers else 413 if length.isdigit() else 400
            self._send(json_reply({"error": "the body cannot be read"}, status=status))
            return None
        return self.rfile.read(int(length))

    def _answer(self, request: IncomingRequest, delays: list[Fault], fault: Fault | None) -> Reply | None:
        """Return the reply, or ``None`` if the connection was closed before anything was accepted."""
        parts = self.server.parts
        for delay in delays:
            delay.record_use()
            if delay.options.get("hold") and not delay.hold(self._client_gone):
                self.close_connection = True
                return None
            parts.backend.stopping.wait(float(delay.options.get("seconds", 0)))
        if parts.backend.stopping.is_set():
            self.close_connection = True
            return None
        if fault is not None and fault.kind == "cut":
            self._reset()
            return None
        if fault is not None and fault.kind in _REPLY_FAULTS:
            reply = fault_reply(fault, request.service, request.api, parts.backend.clock.wall())
            if fault.options.get("accept", fault.kind == "rubbish"):
                return replace(reply, generation_id=self._handle(request, fault).generation_id)
            return reply
        return self._handle(request, fault)

    def _handle(self, request: IncomingRequest, fault: Fault | None) -> Reply:
        parts = self.server.parts
        call = request.call
        if request.route.kind == "media":
            ranges = fault is None or fault.kind != "no_range"
            return serve_media(parts.backend, parts.media, request.link, call.headers, ranges=ranges)
        if request.service is None:
            return json_reply({"error": f"No service at {call.path}"}, status=404)
        now = parts.backend.clock.wall()
        key = call.headers.get("x-api-key") or call.headers.get("authorization", "")
        limit = parts.rate_limiter.spend(request.api, key.rpartition(" ")[2], now)
        headers = rate_limit_headers(request.api, limit, now) if limit else {}
        if limit and not limit.allowed:
            return rate_limited(request.service, headers)
        reply = self._call_service(request.service, call)
        if request.route.kind == "submit":
            render = parts.backend.find(request.api, reply.generation_id or "")
            if render is not None and render.draft.callback_url:
                parts.callbacks.watch(render.id)
        return replace(reply, headers={**reply.headers, **headers})

    def _call_service(self, service: Service, call: Call) -> Reply:
        try:
            return service.handle(call)
        except Exception as error:
            # An error of the emulator itself: reported to the client, not lost in a thread.
            return service.error(ApiError(f"The emulator failed: {error!r}", status=500))

    def _deliver(self, reply: Reply, fault: Fault | None, position: int) -> None:
        """Send the reply, or the part of it that a fault leaves."""
        kind = fault.kind if fault is not None else ""
        if fault is not None and kind == "hold_reply":
            if not fault.hold(self._client_gone):
                self.close_connection = True
                return
            self.server.parts.backend.ledger.answered(position, reply.status, reply.generation_id)
        if kind == "drop_reply":
            self.close_connection = True
        elif fault is not None and kind == "cut_body":
            after = fault.options.get("after")
            self._send(reply, only=len(reply.body) // 2 if after is None else int(after))
            self.wfile.flush()
            self._reset()
        elif fault is not None and kind == "short_length":
            self._send(reply, announced=len(reply.body) + int(fault.options.get("extra", 1000)))
            self.close_connection = True
        else:
            self._send(reply)

    def _send(self, reply: Reply, *, only: int | None = None, announced: int | None = None) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body) if announced is None else announced))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[:only])
        self.wfile.flush()

    def _reset(self) -> None:
        """Close the connection with a reset instead of an orderly end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The descriptor closes with the last of the handler's files, before the server's own orderly shutdown.
        self.connection.close()

    def _client_gone(self) -> bool:
        """Return whether the client has closed the connection, or the emulator stops."""
        if self.server.parts.backend.stopping.is_set():
            return True
        try:
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def _log(
        self, request: IncomingRequest, status: int | None, generation_id: str | None, fault: Fault | None
    ) -> None:
        if self.server.parts.log is not None:
            call = request.call
            outcome = f"{status or 'no reply'} {generation_id or ''} {f'({fault.kind})' if fault else ''}"
            self.server.parts.log(f"{call.method} {call.full_path} -> {' '.join(outcome.split())}")


_REPLY_FAULTS = ("refuse", "rate_limit", "redirect", "gateway_error", "rubbish")


def _identify(parts: Parts, call: Call) -> IncomingRequest:
    if call.path.startswith(f"{MEDIA_PREFIX}/"):
        return _identify_media(parts.backend, call)
    for api, service in parts.services.items():
        if call.path.startswith(f"{service.prefix}/"):
            call = replace(call, prefix=service.prefix, path=call.path.removeprefix(service.prefix))
            route = service.route(call)
            prompt = None
            if route.kind == "submit":
                prompt = service.prompt_of(call.json())
            elif route.generation_id and (render := parts.backend.find(api, route.generation_id)):
                prompt = render.draft.prompt
            return IncomingRequest(call=call, service=service, route=route, api=api, prompt=prompt)
    return IncomingRequest(call=call)


def _identify_media(backend: Backend, call: Call) -> IncomingRequest:
    link = find_link(backend, call.path, call.query)
    if link is None:
        return IncomingRequest(call=call, route=Route(kind="media", generation_id=call.path.split("/")[2]))
    return IncomingRequest(
        call=call,
        link=link if call.method in ("GET", "HEAD") else None,
        route=Route(kind="media", generation_id=link.draft.generation_id),
        api=link.draft.api,
        prompt=link.draft.prompt,
    )


def _entry(backend: Backend, request: IncomingRequest) -> RequestEntry:
    call = request.call
    body = call.json() if call.body else None
    if body is None and call.body:
        body = call.body.decode(errors="replace")
    masked = ("authorization", "x-api-key")
    return RequestEntry(
        at=backend.clock.wall(),
        api=request.api,
        method=call.method,
        path=call.full_path,
        query=dict(call.query),
        headers={name: "***" if name in masked else value for name, value in call.headers.items()},
        body=body,
        generation_id=request.route.generation_id,
        kind=request.route.kind,
    )
