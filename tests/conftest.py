"""Fixtures of all tests: a private home for Airflow, and services that answer without waiting."""

from __future__ import annotations

import atexit
import gc
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import settings

# A gate must not fall by chance: it runs the same examples each time, and so more of them find nothing new in a
# later run, while developers' runs search on, and so few of them suffice for one run (``make fuzz`` searches for
# longer). Neither limits the time of an example: that depends on the load.
settings.register_profile("searching", deadline=None, max_examples=30)
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=50)
# For thousands of runs, one for each mutant.
settings.register_profile("mutation", derandomize=True, deadline=None, max_examples=20)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "searching"))

# Airflow makes directories where it is imported; the developer's own stay as they are.
_home = tempfile.TemporaryDirectory(prefix="airflow-unit-", ignore_cleanup_errors=True)
atexit.register(_home.cleanup)
os.environ["AIRFLOW_HOME"] = _home.name

HERE = Path(__file__).parent

if TYPE_CHECKING:
    from airflow_provider_seedance.emulator.emulator import SeedanceEmulator


def pytest_configure(config: pytest.Config) -> None:
    from troubleshooting import Messages

    config.pluginmanager.register(Messages())


@cache
def is_integration(path: Path) -> bool:
    """Return whether tests start real processes, by their place; the Makefile names the same files."""
    return path.name == "test_processes.py" or path.is_relative_to(HERE / "integration")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Spare a run of the unit tests the imports of the others."""
    return (config.option.markexpr == "not integration" and is_integration(collection_path)) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_integration(item.path):
            item.add_marker(pytest.mark.integration)
            # They wait for an Airflow, which a busy machine starts in minutes, and for each other; each wait has a limit.
            item.add_marker(pytest.mark.timeout(2700))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Keep modules and tests, a million objects that all stay, out of every collection of garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """
    Keep the tests that share an Airflow in one process, with ``--dist loadgroup``.

    By where they are: xdist 3.8 and its groups write to an attribute that pytest 9.2 no longer reads, and every
    process would start every Airflow.
    """
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByAirflow(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            _, integration, within = nodeid.partition("tests/integration/")
            return re.split("/|::", within)[0] if integration else nodeid

    return ByAirflow(config, log)


@pytest.fixture
def start_emulator() -> Iterator[Callable[..., SeedanceEmulator]]:
    """Start emulators with arguments of the test's own."""
    from support import SECRET

    from airflow_provider_seedance.emulator.emulator import SeedanceEmulator

    # Without the limits of accounts: nothing waits in these tests, so they call faster than any account may.
    quick = {"media": False, "render_seconds": 0, "key": SECRET, "limits": False}
    with ExitStack() as running:
        yield lambda **arguments: running.enter_context(SeedanceEmulator(**{**quick, **arguments}))


@pytest.fixture
def emulator_options() -> dict[str, Any]:
    """Arguments of the emulator; a test that needs others overrides them."""
    return {}


@pytest.fixture
def services(
    start_emulator: Callable[..., SeedanceEmulator], quick: None, emulator_options: dict[str, Any]
) -> SeedanceEmulator:
    """All five services, where renders take no time and nothing waits."""
    return start_emulator(**emulator_options)


@pytest.fixture
def connect(services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make an Airflow connection to a service: ``connect("ark")``."""

    def make(api: str, *, conn_id: str = "seedance_default", **extra: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", services.connection_json(api, **extra))

    return make


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the waiting out of everything that waits."""
    from helpers import set_flow_timing, set_policy, set_submission_timing, set_timing

    set_flow_timing(
        monkeypatch,
        submit_backoff=(0.0,) * 3,
        fallback_backoff=(0.0,) * 5,
        read_backoff=(0.0,) * 2,
        look_up_backoff=(0.0,) * 2,
        result_backoff=(0.0,),
        list_interval=0.0,
        refused_list_backoff=(0.0,) * 3,
    )
    set_submission_timing(monkeypatch, write_backoff=(0.0,) * 5, not_found_backoff=(0.0,) * 3)
    set_timing(
        monkeypatch,
        min_interval=0.01,
        max_interval=0.01,
        max_interval_share=0.0,
        max_backoff=0.01,
        min_trigger_time=0.0,
        min_retry_delay=0.01,
    )
    set_policy(monkeypatch, min_backoff=0.01)


@pytest.fixture(scope="session", autouse=True)
def separate_shared_quotas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give each test a shared quota file of its own, without a fixture for each: most tests write none."""
    from airflow_provider_seedance.polling import shared_quota

    base, numbers = tmp_path_factory.mktemp("seedance-quotas"), count()

    @cache
    def directory_of(test: str) -> Path:
        return base / str(next(numbers))

    def directory() -> Path:
        return directory_of(os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_quota, "directory", directory)
        yield


@pytest.fixture(scope="session")
def empty_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SQLite file of an empty ledger, which most tests copy: migrations take longer than most tests."""
    from airflow_provider_seedance.ledger.configuration import LedgerConfig
    from airflow_provider_seedance.ledger.database import Database

    path = tmp_path_factory.mktemp("ledger") / "empty.db"
    with Database(LedgerConfig(location=f"sqlite:///{path}")).transaction():
        return path


@pytest.fixture
def new_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Configure a ledger in a SQLite file that does not exist yet."""
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", f"sqlite:///{path}")
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", Fernet.generate_key().decode())
    return path


@pytest.fixture
def ledger(empty_tables: Path, new_ledger: Path) -> Path:
    """Configure an empty ledger in a SQLite file."""
    return Path(shutil.copyfile(empty_tables, new_ledger))


@pytest.fixture(params=["sync", "async"])
def either_client(request: pytest.FixtureRequest) -> Any:
    """The synchronous and the asynchronous client, one after the other."""
    from either_client import EitherClient

    return EitherClient(request.param)
