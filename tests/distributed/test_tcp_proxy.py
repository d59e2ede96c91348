"""The TCP proxy: after it has cut all connections it accepts new ones, at the same address."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from tcp_proxy import TcpProxy

from airflow_provider_seedance.testing import SeedanceEmulator


def test_a_cable_that_was_cut_and_mended_leads_to_the_same_place(emulator: SeedanceEmulator) -> None:
    tcp_proxy = TcpProxy(int(emulator.url.rpartition(":")[2]))
    url = f"{tcp_proxy.url}/_emulator/ledger"
    try:
        for _ in range(3):
            with urllib.request.urlopen(url, timeout=30) as reply:
                assert reply.status == 200
            tcp_proxy.cut()
            with pytest.raises(urllib.error.URLError, match="refused"):
                urllib.request.urlopen(url, timeout=30)
            tcp_proxy.mend()
        with urllib.request.urlopen(url, timeout=30) as reply:
            assert reply.status == 200
    finally:
        tcp_proxy.close()
