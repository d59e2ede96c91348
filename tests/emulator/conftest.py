from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.emulator.models import MediaSpec
from emulator.vendor import VALID_SUBMITS, Time, Vendor, Vendors


@pytest.fixture
def emulator(start_emulator: Callable[..., SeedanceEmulator]) -> SeedanceEmulator:
    """An emulator in which renders end at once, and files need no codec."""
    return start_emulator()


@pytest.fixture(scope="session")
def http() -> Iterator[httpx.Client]:
    """One client for all tests: its TLS context takes longer to create than most tests run."""
    with httpx.Client(trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture
def vendor(emulator: SeedanceEmulator, http: httpx.Client) -> Vendors:
    """A client of a service of the emulator: ``vendor("ark")``."""
    return lambda api, **changes: Vendor(http=http, emulator=emulator, api=api, **changes)


@pytest.fixture
def serve(start_emulator: Callable[..., SeedanceEmulator], http: httpx.Client) -> Vendors:
    """A client of a service of an emulator with arguments of the test: ``serve("ark", media=True)``."""
    return lambda api, **arguments: Vendor(http=http, emulator=start_emulator(**arguments), api=api)


@pytest.fixture
def time() -> Time:
    """The time of an emulator that is started with ``clock=time``."""
    return Time()


@pytest.fixture(params=sorted(VALID_SUBMITS))
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(vendor: Vendors, api: str) -> Vendor:
    """A client of each service, one after the other."""
    return vendor(api)


@pytest.fixture
def ark(vendor: Vendors) -> Vendor:
    return vendor("ark")


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
