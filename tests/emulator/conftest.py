from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.emulator.models import MediaSpec
from emulator.vendor import VALID_SUBMITS, Vendor

Start = Callable[..., SeedanceEmulator]


@pytest.fixture
def start(start_emulator: Start) -> Start:
    """Start emulators with arguments of the test; renders end at once, and files need no codec."""
    return partial(start_emulator, key="emulator-key")


@pytest.fixture
def emulator(start: Start) -> SeedanceEmulator:
    return start()


@pytest.fixture(scope="session")
def http() -> Iterator[httpx.Client]:
    """One client for all tests: its TLS context takes longer to create than most tests run."""
    with httpx.Client(trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[MediaSpec]:
    """Specifications of the files that were to be encoded, in place of the encoder, which has tests of its own."""
    specs: list[MediaSpec] = []

    def note(spec: MediaSpec, path: Path) -> None:
        specs.append(spec)
        path.write_bytes(b"encoded")

    encoder = pytest.importorskip("airflow_provider_seedance.emulator.media_encoder")
    monkeypatch.setattr(encoder, "encode_video", note)
    return specs


@pytest.fixture
def vendor(http: httpx.Client) -> Callable[..., Vendor]:
    """A client of one service: ``vendor(emulator, "ark")``."""

    def make(emulator: SeedanceEmulator, api: str, key: str = "emulator-key") -> Vendor:
        return Vendor(http=http, base=emulator.base_url(api), key=key, api=api)

    return make


@pytest.fixture(params=sorted(VALID_SUBMITS))
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(emulator: SeedanceEmulator, api: str, vendor: Callable[..., Vendor]) -> Vendor:
    """A client of each service, one after the other."""
    return vendor(emulator, api)


@pytest.fixture
def ark(emulator: SeedanceEmulator, vendor: Callable[..., Vendor]) -> Vendor:
    return vendor(emulator, "ark")
