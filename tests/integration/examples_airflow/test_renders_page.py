"""The Renders page in a real browser, on a real Airflow that two users look at."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from harness import TestAirflow
from renders_stage import (
    BIG,
    DAG,
    HOSTILE,
    MANY,
    PRICED,
    SECRET,
    SECRET_DAG,
    TIMEOUT_SECONDS,
    Stage,
    copy_renders,
    count,
    enter_frame,
    open_page,
    signed_in,
    sized,
    wait,
)
from versions import SCOPED_VIEWS

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="module")
def stage(examples: TestAirflow, stored: Path) -> Stage:
    """The Airflow of the examples, a Dag that one user may not see, and runs of it and another that have begun."""
    examples.write_dag(DAG, PRICED)
    examples.write_dag(SECRET, SECRET_DAG)
    runs = {}
    for dag_id in (DAG, SECRET):
        examples.wait_parsed(dag_id)
        examples.unpause(dag_id)
        runs[dag_id] = examples.trigger(dag_id)
    return Stage(airflow=examples, runs=runs, stored=stored)


@pytest.fixture(scope="module")
def finished(stage: Stage) -> Stage:
    """The same, when both runs have ended."""
    for dag_id, run_id in stage.runs.items():
        assert stage.airflow.wait_run(dag_id, run_id) == "success"
    return stage


# ---------------------------------------------------------------------- in the browser


def test_it_is_live_while_the_run_goes_on(browser: Chrome, stage: Stage) -> None:
    open_page(browser, stage.page(SECRET))
    wait(browser, "return document.querySelectorAll('.card').length === 1", "the render")
    browser.execute_script("window.here = document.querySelector('.card')")
    wait(browser, "return window.here.dataset.state === 'succeeded'", "the end of the render")
    # Without loading the page again, and the same card.
    wait(browser, "return window.here.isConnected && window.here.querySelector('.file')", "the stored file")
    wait(browser, "return document.getElementById('live-text').textContent === 'Ended'", "the end of the run")


def test_the_tab_of_the_run_plays_the_video(browser: Chrome, finished: Stage) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    run = quote(finished.runs[DAG], safe="")
    browser.get(f"{finished.url}/dags/{DAG}/runs/{run}")
    tab = (
        "[...document.querySelectorAll('a')]"
        ".find((link) => link.textContent.trim() === 'Renders' && link.href.endsWith('/plugin/seedance-run'))"
    )
    # In one step: the page may draw it anew.
    wait(browser, f"const tab = {tab}; if (tab) tab.click(); return Boolean(tab)", "the tab")
    enter_frame(browser)
    wait(browser, "return document.querySelectorAll('.card').length === 2", "the renders")
    video = "const video = document.querySelector('video');"
    source = wait(browser, f"{video} return video && video.currentTime > 0 && video.src", "the video playing")
    assert source.startswith(f"{finished.url}/seedance/api/dags/{DAG}/runs/{run}/media")
    before = browser.execute_script(f"{video} return video.currentTime")
    wait(browser, f"{video} return video.currentTime !== arguments[0]", "its next frames", before)
    picture = "const image = document.querySelector('.stage img'); return image && image.naturalWidth > 0 && image.alt"
    assert wait(browser, picture, "the picture").startswith("Oil painting of")
    totals = browser.execute_script("return document.getElementById('totals').innerText")
    assert "28" in totals
    assert "$0.14" in totals
    # Out of the sandbox of the frame: to the service in another window, to the task in this one.
    here = browser.current_window_handle
    browser.find_element("xpath", "//a[text()='At the service']").click()
    WebDriverWait(browser, TIMEOUT_SECONDS).until(lambda driver: len(driver.window_handles) == 2)
    (other,) = set(browser.window_handles) - {here}
    browser.switch_to.window(other)
    browser.close()
    browser.switch_to.window(here)
    browser.switch_to.frame(browser.find_element("css selector", "iframe"))
    browser.execute_script("document.querySelectorAll('.card')[1].querySelector('.links a').click()")
    browser.switch_to.default_content()
    wait(browser, "return location.pathname.endsWith('/tasks/video')", "the page of the task")


def test_the_tab_of_the_task_shows_its_render_only(browser: Chrome, finished: Stage) -> None:
    run = quote(finished.runs[DAG], safe="")
    browser.get(f"{finished.url}/dags/{DAG}/runs/{run}/tasks/image/plugin/seedance-task")
    enter_frame(browser)
    wait(browser, "return document.querySelectorAll('.card').length === 1", "the render")
    assert count(browser, ".stage img") == 1
    browser.switch_to.default_content()


def test_the_navigation_leads_to_the_runs(browser: Chrome, finished: Stage) -> None:
    browser.get(f"{finished.url}/plugin/seedance-renders")
    enter_frame(browser)
    wait(browser, "return document.querySelectorAll('.run').length >= 2", "the runs")
    browser.execute_script(
        "[...document.querySelectorAll('.run')].find((link) => link.textContent.includes(arguments[0])).click()",
        DAG,
    )
    wait(browser, "return document.querySelectorAll('.card').length === 2", "the renders of the run")
    browser.switch_to.default_content()


def test_filters(browser: Chrome, finished: Stage) -> None:
    open_page(browser, finished.page(DAG))
    visible = (
        "return [...document.querySelectorAll('.card:not([hidden]) .prompt')].map((node) => node.textContent)"
    )
    assert len(browser.execute_script(visible)) == 2
    browser.find_element("css selector", "body").send_keys("/")
    search = browser.switch_to.active_element
    assert search.get_attribute("id") == "search"
    search.send_keys("oil PAINT")
    (only,) = browser.execute_script(visible)
    assert only.startswith("Oil painting")
    assert browser.execute_script("return document.getElementById('shown').textContent") == "1 of 2 renders"
    browser.refresh()
    wait(browser, "return document.querySelectorAll('.card:not([hidden])').length === 1", "the kept filter")
    browser.find_element("css selector", "#search").clear()
    browser.execute_script("document.getElementById('search').dispatchEvent(new Event('input'))")
    browser.find_element("css selector", ".chip[value=succeeded]").click()
    assert len(browser.execute_script(visible)) == 2
    assert browser.execute_script("return location.hash") == "#state=succeeded"
    browser.find_element("css selector", "#search").send_keys("nothing has this")
    assert browser.execute_script("return document.getElementById('blank').innerText").startswith(
        "Nothing matches"
    )


def test_the_keyboard_reaches_every_card(browser: Chrome, finished: Stage) -> None:
    from selenium.webdriver.common.keys import Keys

    open_page(browser, finished.page(DAG))
    assert browser.execute_script("return document.querySelectorAll('.card[tabindex=\"0\"]').length") == 1
    browser.execute_script("document.querySelector('.card').focus()")
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    second = "return document.activeElement === document.querySelectorAll('.card')[1]"
    assert browser.execute_script(second)
    assert browser.execute_script("return document.activeElement.querySelector('video').controls")
    playing = "return !document.querySelector('video').paused"
    wait(browser, playing, "the video playing")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert not browser.execute_script(playing)
    assert browser.execute_script("return document.activeElement.getAttribute('aria-label')").startswith(
        "Succeeded: "
    )
    browser.switch_to.active_element.send_keys(Keys.HOME)
    assert not browser.execute_script(second)


@pytest.mark.parametrize(
    ("task_id", "shown"), [("video", True), ("store", True), ("other", not SCOPED_VIEWS.there)]
)
def test_the_tab_of_a_task_is_there_on_tasks_of_this_package(
    browser: Chrome, finished: Stage, task_id: str, shown: bool
) -> None:
    run = quote(finished.runs[SECRET], safe="")
    browser.get(f"{finished.url}/dags/{SECRET}/runs/{run}/tasks/{task_id}")
    tabs = "return document.querySelector('a[href*=\"/rendered_templates\"]') !== null"
    wait(browser, tabs, "the tabs of Airflow")
    tab = "return document.querySelector('a[href$=\"/plugin/seedance-task\"]') !== null"
    if shown:
        wait(browser, tab, "the tab")
        return
    read = "return performance.getEntriesByType('resource').some((e) => e.name.endsWith(arguments[0]) && e.responseEnd)"
    wait(browser, read, "the task, which decides on the tab", f"/dags/{SECRET}/tasks/{task_id}")
    time.sleep(1)  # for the page to draw it
    assert not browser.execute_script(tab)


def test_dark_as_the_browser_or_as_airflow(browser: Chrome, finished: Stage) -> None:
    def prefer(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def is_shown(background: str) -> None:
        script = "return getComputedStyle(document.body).backgroundColor === arguments[0]"
        wait(browser, script, background, background)

    light, dark = "rgb(246, 247, 249)", "rgb(22, 29, 45)"
    open_page(browser, finished.page(DAG))
    browser.execute_script("localStorage.removeItem('theme')")
    prefer("light")
    open_page(browser, finished.page(DAG))
    is_shown(light)
    prefer("dark")
    is_shown(dark)
    # What is chosen in Airflow is stronger, and followed at once.
    prefer("light")
    browser.get(f"{finished.url}/plugin/seedance-renders")
    wait(browser, "return document.querySelector('iframe') !== null", "the frame")
    for theme, background in (("dark", dark), ("light", light)):
        browser.execute_script(
            "document.documentElement.classList.remove('dark', 'light');"
            "document.documentElement.classList.add(arguments[0])",
            theme,
        )
        browser.switch_to.frame(browser.find_element("css selector", "iframe"))
        is_shown(background)
        browser.switch_to.default_content()


def test_ids_as_airflow_3_1_writes_them(browser: Chrome, finished: Stage) -> None:
    run_id = finished.runs[DAG]
    assert "+" in run_id
    address = (
        f"{finished.url}/seedance/renders?dag_id={DAG}&run_id={run_id}&task_id=image&map_index={{MAP_INDEX}}"
    )
    open_page(browser, address)
    assert count(browser, ".card") == 1


@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_is_cut_off(browser: Chrome, finished: Stage, width: int) -> None:
    with sized(browser, width):
        open_page(browser, finished.page(SECRET))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_hostile_words_stay_words(browser: Chrome, finished: Stage) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    open_page(browser, finished.page(SECRET))
    assert browser.execute_script("return document.querySelector('.prompt').textContent") == HOSTILE
    assert count(browser, ".card script, .card img") == 0
    assert browser.execute_script("return window.hacked === undefined")
    # Nor through the address of the page itself.
    open_page(browser, f"{finished.page(HOSTILE, HOSTILE)}#q={quote(HOSTILE)}&state={quote(HOSTILE)}")
    assert browser.execute_script("return window.hacked === undefined")
    # And if there were a hole, the policy closes it.
    browser.execute_script(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"window.hacked = 1\">')"
    )
    # Chromium compiles the handler, and reports it, when the image has failed to load.
    WebDriverWait(browser, TIMEOUT_SECONDS).until(
        lambda driver: any("Content Security Policy" in line["message"] for line in driver.get_log("browser"))
    )
    assert browser.execute_script("return window.hacked === undefined")


def test_empty_missing_and_unreachable(browser: Chrome, finished: Stage) -> None:
    blank = "return document.getElementById('blank').innerText"
    open_page(browser, finished.page(DAG, "no such run"))
    assert "There is no such Dag run" in browser.execute_script(blank)
    open_page(browser, f"{finished.page(DAG)}&task_id=report")
    assert "No renders" in browser.execute_script(blank)
    open_page(browser, finished.page(DAG))
    browser.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    try:
        browser.execute_script("document.dispatchEvent(new Event('visibilitychange'))")
        wait(
            browser,
            "return document.getElementById('notice').innerText.includes('does not respond')",
            "the notice",
        )
        assert count(browser, ".card") == 2
    finally:
        online = {**offline, "offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", online)
    browser.execute_script("document.dispatchEvent(new Event('visibilitychange'))")
    wait(browser, "return document.getElementById('notice').hidden", "the end of the notice")


def test_a_second_user_sees_nothing_of_a_hidden_dag(browser: Chrome, finished: Stage) -> None:
    media = finished.api(SECRET, "media", task_id="store")
    with signed_in(browser, finished, "viewer"):
        open_page(browser, finished.page(SECRET))
        text = browser.execute_script("return document.body.innerText")
        assert "You may not see the renders of this Dag" in text
        assert HOSTILE not in text
        assert count(browser, ".card") == 0
        status = browser.execute_script("return fetch(arguments[0]).then((answer) => answer.status)", media)
        assert status == 403
        open_page(browser, f"{finished.url}/seedance/renders")
        listed = browser.execute_script("return document.getElementById('grid').innerText")
        assert DAG in listed
        assert SECRET not in listed
        browser.delete_cookie("_token")
        open_page(browser, finished.page(SECRET))
        assert "signed out" in browser.execute_script("return document.body.innerText")


@pytest.fixture(scope="module")
def big(finished: Stage) -> Stage:
    """A run of the demo Dag with a thousand renders, made of copies of the one there is."""
    copy_renders(finished)
    return finished


def test_a_thousand_renders(browser: Chrome, big: Stage) -> None:
    open_page(browser, big.page(DAG, BIG))
    assert count(browser, ".card") == MANY
    loaded = "return document.querySelectorAll('video[src]').length"
    wait(browser, loaded, "the first videos")
    # Only what is near the window is loaded, and what was is let go again.
    assert browser.execute_script(loaded) < 60
    browser.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    wait(
        browser,
        "return document.querySelector('.card:last-child video').hasAttribute('src')",
        "the last video",
    )
    wait(
        browser,
        "return !document.querySelector('.card:first-child video').hasAttribute('src')",
        "the first, gone",
    )
    assert browser.execute_script(loaded) < 60
    playing = "return [...document.querySelectorAll('video')].filter((video) => !video.paused).length"
    wait(browser, playing, "the videos in sight playing")
    assert browser.execute_script(playing) <= 8
    hostile = browser.execute_script(
        "const card = document.querySelectorAll('.card')[1];"
        "return [card.querySelector('.details').textContent, card.querySelectorAll('video, img').length,"
        " [...card.querySelectorAll('a')].map((link) => link.protocol).join()]"
    )
    assert HOSTILE in hostile[0]
    assert hostile[1:] == [0, "http:"]
    assert browser.execute_script("return window.hacked === undefined")
    browser.find_element("css selector", "#search").send_keys("copy-77")
    assert count(browser, ".card:not([hidden])") == 11


# ---------------------------------------------------------------------- who may see what


def test_a_user_without_access_to_the_dag_sees_nothing(finished: Stage) -> None:
    (render,) = finished.renders(SECRET)
    (file,) = render["files"]
    media = finished.api(SECRET, "media", task_id=file["task_id"], map_index=-1, index=0)
    assert finished.ask(media).status == 200
    for path in (finished.api(SECRET), finished.api(SECRET, task_id="video"), media):
        refused = finished.ask(path, "viewer")
        assert refused.status == 403
        assert refused.json == {"detail": "Forbidden"}
        assert finished.ask(path, None).status == 401
    assert finished.ask(media, "viewer", "HEAD").status == 403
    # A Dag that does not exist is not distinguishable from Airflow's own refusal.
    assert finished.ask(finished.api("no_such_dag", run_id="x")).status == 404
    assert len(finished.renders(DAG, "viewer")) == 2
    every, seen = (
        {run["dag_id"] for run in finished.ask("/seedance/api/runs", user).json["runs"]}
        for user in ("admin", "viewer")
    )
    assert {DAG, SECRET} <= every
    assert seen == every - {SECRET}
    assert finished.ask("/seedance/api/runs", None).status == 401


def test_a_file_of_a_hidden_dag_cannot_be_reached_through_another(finished: Stage) -> None:
    for query in (
        {"task_id": "store", "run_id": finished.runs[SECRET]},
        {"task_id": "store", "index": 5},
        {"task_id": "video"},
        {"task_id": "../secret"},
        {"task_id": "store", "path": "/etc/passwd", "map_index": 3},
    ):
        run_id = query.pop("run_id", None)
        assert (
            finished.ask(finished.api(DAG, "media", str(run_id) if run_id else None, **query)).status == 404
        )


# ---------------------------------------------------------------------- files and answers


def test_a_stored_file_is_served_in_parts(finished: Stage) -> None:
    path = finished.api(DAG, "media", task_id="store")
    (file,) = (finished.stored / DAG).iterdir()
    content = file.read_bytes()
    whole = finished.ask(path, Accept_Encoding="gzip")
    assert (whole.status, whole.body, whole.header("Content-Type")) == (200, content, "video/mp4")
    assert whole.header("Accept-Ranges") == "bytes"
    assert "sandbox" in str(whole.header("Content-Security-Policy"))
    assert str(whole.header("Content-Disposition")).startswith("inline")
    assert whole.header("X-Content-Type-Options") == "nosniff"
    part = finished.ask(path, Range="bytes=100-199", Accept_Encoding="gzip")
    assert (part.status, part.body) == (206, content[100:200])
    assert part.header("Content-Range") == f"bytes 100-199/{len(content)}"
    head = finished.ask(path, method="HEAD")
    assert (head.status, head.body, head.header("Content-Length")) == (200, b"", str(len(content)))
    assert finished.ask(path, If_None_Match=str(whole.header("ETag"))).status == 304


def test_a_second_view_costs_few_requests(finished: Stage, emulator: Any) -> None:
    # Other runs of this Airflow may go on.
    ids = {render["generation_id"] for render in finished.renders(DAG)}

    def requests() -> int:
        return sum(entry.generation_id in ids for entry in emulator.ledger.requests)

    before = requests()
    first = finished.ask(finished.api(DAG))
    again = finished.ask(finished.api(DAG), If_None_Match=str(first.header("ETag")))
    assert (again.status, again.body) == (304, b"")
    assert before
    assert requests() == before, "a viewer has cost requests of the quota"
