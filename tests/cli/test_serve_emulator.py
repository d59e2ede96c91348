"""``emulator``: its output and its end."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time

import httpx

from airflow_provider_seedance.cli.serve_emulator import serve
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.emulator.interface import APIS


def wait_for(lines: list[str], text: str) -> str:
    deadline = time.monotonic() + 60
    while True:
        found = [line for line in lines if text in line]
        if found:
            return found[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_prints_connections_and_requests() -> None:
    lines: list[str] = []
    stop = threading.Event()
    emulator = SeedanceEmulator(media=False, log=lines.append)
    thread = threading.Thread(target=serve, args=(emulator,), kwargs={"echo": lines.append, "stop": stop})
    thread.start()
    ledger = wait_for(lines, "/_emulator/ledger").rpartition(" ")[2]
    url = ledger.removesuffix("/_emulator/ledger")
    for api in APIS:
        assert any(line.startswith(f"# {api}: {url}/{api}") for line in lines)
    exported = [re.fullmatch(r"export AIRFLOW_CONN_SEEDANCE_DEFAULT='(.*)'", line) for line in lines]
    connections = [json.loads(match[1]) for match in exported if match]
    assert [connection["extra"]["api"] for connection in connections] == list(APIS)
    assert httpx.get(f"{url}/ark/api/v3/x", trust_env=False).status_code == 401
    assert "GET /ark/api/v3/x -> 401" in lines
    stop.set()
    thread.join()
    assert lines[-1] == "The emulator has stopped."


def test_signals_stop_it_and_their_handlers_are_restored() -> None:
    lines: list[str] = []
    before = signal.getsignal(signal.SIGTERM)

    def interrupt() -> None:
        wait_for(lines, "/_emulator/ledger")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    serve(SeedanceEmulator(media=False), echo=lines.append)
    thread.join()
    assert lines[-1] == "The emulator has stopped."
    assert signal.getsignal(signal.SIGTERM) is before
