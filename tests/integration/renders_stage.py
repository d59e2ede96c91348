"""The Airflow and the browser of the tests of the Renders page."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import pytest
from harness import TestAirflow

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

EXAMPLES = Path(__file__).parents[2] / "example_dags"
EXAMPLE = "example_seedance_image_to_video"
DAG = "priced_image_to_video"
SECRET = "secret_dag"
HOSTILE = "Boat\"'><img src=x onerror=\"window.hacked='prompt'\"><script>window.hacked='script'</script>"
#: Id that Airflow allows for a run, and that a page must encode.
BIG = "manual__2026-01-01T00:00:00+00:00/a b&c=d?e#f%2F"
MANY = 1000

#: Seconds for anything that must appear: only a test that fails waits that long.
TIMEOUT_SECONDS = 300.0

#: The example, at a service with prices.
PRICED = (EXAMPLES / f"{EXAMPLE}.py").read_text().replace(EXAMPLE, DAG)
PRICED = PRICED.replace('"retries": 2', '"seedance_conn_id": "seedance_v1"')

TWO_USERS = {
    ("core", "auth_manager"): "two_users.TwoUsers",
    ("core", "simple_auth_manager_all_admins"): "False",
    ("core", "simple_auth_manager_users"): "admin:admin,viewer:viewer",
}

AUTH_MANAGER = """
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

class TwoUsers(SimpleAuthManager):
    '''The second user may not read one of the Dags.'''

    def is_authorized_dag(self, *, method, user, access_entity=None, details=None):
        if user.username == "viewer" and details is not None and details.id == "secret_dag":
            return False
        return super().is_authorized_dag(method=method, user=user, access_entity=access_entity, details=details)
"""

SECRET_DAG = f"""
import os
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator
from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator

with DAG("{SECRET}", schedule=None):
    video = SeedanceGenerateVideoOperator(
        task_id="video", prompt={HOSTILE!r}, aspect_ratio="16:9", poll_interval=2, seedance_conn_id="seedance_v1"
    )
    SeedanceToObjectStorageOperator(
        task_id="store",
        generation=video.output,
        destination=os.environ["SEEDANCE_EXAMPLE_DESTINATION"] + "/secret.mp4",
    )
    EmptyOperator(task_id="other")
"""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The Airflow, and its runs by Dag id."""

    airflow: TestAirflow
    runs: dict[str, str]
    stored: Path

    @property
    def url(self) -> str:
        return self.airflow.url

    def api(self, dag_id: str, what: str = "renders", run_id: str | None = None, **query: Any) -> str:
        run = quote(run_id or self.runs[dag_id], safe="")
        return f"/seedance/api/dags/{quote(dag_id, safe='')}/runs/{run}/{what}?{urlencode(query)}"

    def ask(
        self,
        path: str,
        user: str | None = "admin",
        method: str = "GET",
        content: bytes | None = None,
        **headers: str,
    ) -> Answer:
        """Send a request as a user, or without a login for ``None``."""
        if user is not None:
            token = self.airflow.api.token(None if user == "admin" else user)
            headers["Authorization"] = f"Bearer {token}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, content, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())

    def renders(self, dag_id: str, user: str = "admin", **query: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(self.api(dag_id, **query), user).json["renders"]
        return found

    def page(self, dag_id: str, run_id: str | None = None) -> str:
        run = quote(run_id or self.runs[dag_id], safe="")
        return f"{self.url}/seedance/renders?dag_id={quote(dag_id, safe='')}&run_id={run}"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), None)


@contextlib.contextmanager
def open_browser(profile: Path, airflow: TestAirflow) -> Iterator[Chrome]:
    """
    Run the browser of an administrator who has logged in through Airflow's own form.

    Skip the test where there is no browser.
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    binary = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("Chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1600,1000",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service(driver))
    browser.set_script_timeout(TIMEOUT_SECONDS)
    try:
        passwords = json.loads((airflow.home / "simple_auth_manager_passwords.json.generated").read_text())
        browser.get(airflow.url)
        wait(browser, "return document.querySelector('input[type=password]') !== null", "the login form")
        browser.find_element("css selector", "input[name=username]").send_keys("admin")
        browser.find_element("css selector", "input[type=password]").send_keys(passwords["admin"] + "\n")
        wait(browser, "return !location.pathname.includes('login')", "the first page of Airflow")
        yield browser
    finally:
        browser.quit()


@contextlib.contextmanager
def signed_in(browser: Chrome, stage: Stage, user: str) -> Iterator[None]:
    """Let the browser be that of another user."""
    browser.get(f"{stage.url}/seedance/renders")
    cookie = browser.get_cookie("_token")
    browser.add_cookie({"name": "_token", "value": stage.airflow.api.token(user)})
    try:
        yield
    finally:
        browser.get(f"{stage.url}/seedance/renders")
        browser.delete_cookie("_token")
        if cookie is not None:
            browser.add_cookie({"name": "_token", "value": cookie["value"]})


@contextlib.contextmanager
def sized(browser: Chrome, width: int) -> Iterator[None]:
    """Let the window be as wide as that of another device."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def count(browser: Chrome, selector: str) -> int:
    """Return the number of elements."""
    return len(browser.find_elements("css selector", selector))


def wait(browser: Chrome, script: str, what: str, *arguments: Any) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    looks: Callable[[Any], Any] = lambda driver: driver.execute_script(script, *arguments)  # noqa: E731
    return WebDriverWait(browser, TIMEOUT_SECONDS).until(looks, message=f"no sign of {what}")


def enter_frame(browser: Chrome) -> None:
    """Go on in the page that Airflow shows in a frame."""
    wait(browser, "return document.querySelector('iframe') !== null", "the frame")
    browser.switch_to.frame(browser.find_element("css selector", "iframe"))


def open_page(browser: Chrome, address: str) -> None:
    browser.get("about:blank")  # an address that differs in its fragment only would load nothing
    browser.get(address)
    wait(browser, "return document.body.classList.contains('ready')", "the page")


def copy_renders(stage: Stage) -> None:
    """Write a run of the demo Dag with a thousand renders, copies of the one there is."""
    with contextlib.closing(sqlite3.connect(stage.airflow.database.path, timeout=120)) as connection:
        connection.row_factory = sqlite3.Row
        run = stage.runs[DAG]
        (source,) = connection.execute("SELECT * FROM dag_run WHERE run_id = ? AND dag_id = ?", (run, DAG))
        run_key = 100_000
        changed = {"id": run_key, "run_id": BIG, "logical_date": None, "state": "success"}
        _insert(connection, "dag_run", {**dict(source), **changed})
        (task,) = connection.execute(
            "SELECT * FROM task_instance WHERE run_id = ? AND task_id = 'video'", (run,)
        )
        # Since Airflow 3.4, an XCom belongs to an attempt.
        by_attempt = stage.airflow.database.keeps_attempts
        table, of_task = ("xcom_v2", "task_instance_id") if by_attempt else ("xcom", "task_id")
        (value,) = connection.execute(
            f"SELECT * FROM {table} WHERE {of_task} = ? AND key = 'return_value'"
            + ("" if by_attempt else f" AND run_id = '{run}'"),
            (task["id"] if by_attempt else "video",),
        )
        result = json.loads(value["value"])
        for index in range(MANY):
            here = {"run_id": BIG, stage.airflow.database.index_column: index}
            task_id = uuid.uuid4().hex
            _insert(connection, "task_instance", {**dict(task), **here, "id": task_id})
            copy = {**result, "generation_id": f"copy-{index}"}
            if index == 1:
                copy |= {"model": HOSTILE, "urls": ["javascript:window.hacked='url'"], "resolution": HOSTILE}
            changed = (
                {"id": uuid.uuid4().hex, "task_instance_id": task_id}
                if by_attempt
                else {**here, "dag_run_id": run_key}
            )
            _insert(connection, table, {**dict(value), **changed, "value": json.dumps(copy)})
        connection.commit()


def _insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    names = ", ".join(f'"{name}"' for name in row)
    places = ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", tuple(row.values()))
