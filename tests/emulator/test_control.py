from __future__ import annotations

import httpx

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator


def test_replies(emulator: SeedanceEmulator, http: httpx.Client) -> None:
    for method, path, body, status in [
        ("GET", "", None, 200),
        ("GET", "ledger", None, 200),
        ("GET", "generations", None, 200),
        ("GET", "faults", None, 200),
        ("GET", "lunch", None, 404),
        ("GET", "faults/none", None, 404),
        ("GET", "generations/none", None, 404),
        ("POST", "generations/none/finish", {}, 404),
        ("POST", "generations/none/paint", {}, 404),
        ("POST", "lunch", {}, 404),
        ("POST", "faults", {}, 400),
        ("POST", "faults", {"kind": "explode"}, 400),
        ("POST", "faults", [], 400),
        ("PUT", "hold", {}, 404),
        ("POST", "hold", {}, 200),
        ("POST", "release", {}, 200),
        ("POST", "expire_urls", {}, 200),
        ("POST", "rate_limit", {"limit": 5, "window_seconds": 60}, 200),
        ("DELETE", "faults", None, 200),
    ]:
        reply = http.request(method, f"{emulator.url}/_emulator/{path}", json=body)
        assert reply.status_code == status, reply.text
        assert ("error" in reply.json()) is (status >= 400)


def test_faults_with_options_at_the_top(emulator: SeedanceEmulator, http: httpx.Client) -> None:
    url = f"{emulator.url}/_emulator/faults"
    fault = http.post(url, json={"kind": "refuse", "on": "status", "times": None, "status": 404}).json()
    assert (fault["on"], fault["times"], fault["options"]) == ("status", None, {"status": 404})
    assert http.get(f"{url}/{fault['id']}").json()["active"]
    assert not http.delete(f"{url}/{fault['id']}").json()["active"]


def test_control_calls_are_not_in_the_ledger(emulator: SeedanceEmulator, http: httpx.Client) -> None:
    http.get(f"{emulator.url}/_emulator/ledger")
    assert emulator.ledger.requests == []
