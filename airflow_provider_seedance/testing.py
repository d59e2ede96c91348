"""
For tests of your own Dags: an emulator of the services, and its pytest fixture.

::

    def test_my_dag(seedance_emulator, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", seedance_emulator.connection_json("ark"))
        ...

``@pytest.mark.seedance_emulator(speed=1, shape="flat")`` passes arguments to the emulator. The emulator
needs the extra ``airflow-provider-seedance[emulator]``.

pytest loads this module in every session of an environment that has the provider, so it imports the emulator
on first use only.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
    from airflow_provider_seedance.emulator.remote import RemoteFault, SeedanceEmulatorClient

__all__ = ["RemoteFault", "SeedanceEmulator", "SeedanceEmulatorClient"]

_MODULES = {"SeedanceEmulator": "emulator", "SeedanceEmulatorClient": "remote", "RemoteFault": "remote"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"airflow_provider_seedance.emulator.{_MODULES[name]}"), name)


try:
    import pytest
except ImportError:  # outside of a test session only the classes are used
    pass
else:

    def pytest_configure(config: pytest.Config) -> None:
        """Register the marker."""
        config.addinivalue_line(
            "markers", "seedance_emulator(**arguments): arguments of the seedance_emulator fixture"
        )

    @pytest.fixture
    def seedance_emulator(request: pytest.FixtureRequest) -> Iterator[SeedanceEmulator]:
        """Run an emulator for one test; the marker ``seedance_emulator`` passes arguments to it."""
        marker = request.node.get_closest_marker("seedance_emulator")
        emulator_class = __getattr__("SeedanceEmulator")
        with emulator_class(**(marker.kwargs if marker else {})) as emulator:
            yield emulator
