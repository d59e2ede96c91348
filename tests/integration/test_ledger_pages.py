"""The pages about the ledger in a real browser, on a real Airflow, with a hundred thousand renders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from harness import TestAirflow
from ledger.rows import add, row, uncertain
from renders_stage import (
    AUTH_MANAGER,
    EXAMPLE,
    EXAMPLES,
    TWO_USERS,
    Stage,
    count,
    enter_frame,
    open_page,
    signed_in,
    sized,
    wait,
)
from sqlalchemy import Select, func, insert, select, update
from versions import REGIONS, needs

from airflow_provider_seedance.emulator.media_encoder import encode_video
from airflow_provider_seedance.emulator.models import MediaSpec
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.ledger.configuration import LedgerConfig
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.tables import submissions

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

MANY = 100_000
WRITTEN = 5000
WORDS = [
    "quartz",
    "heron",
    "lake",
    "paper",
    "boat",
    "rainy",
    "street",
    "cinematic",
    "slow",
    "dolly",
    "golden",
]

CHOICE = "example_seedance_choose"
SINGLE = """
from airflow.sdk import DAG
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator

with DAG("single", schedule=None):
    SeedanceGenerateVideoOperator(task_id="video", prompt="A kestrel", aspect_ratio="16:9", poll_interval=2)

with DAG("takes", schedule=None):
    takes = SeedanceGenerateVideoOperator.partial(task_id="video", aspect_ratio="16:9", poll_interval=2)
    takes.expand(prompt=["A kite", "A lamp", "A kite"])
"""

PASSES = """
from airflow.sdk import DAG, task_group
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator

@task_group
def improve():
    SeedanceGenerateVideoOperator.partial(task_id="video", poll_interval=2).expand(prompt=["A kite", "A lamp"])

with DAG("passes", schedule=None):
    improve.loop(max_iterations=2)
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """A ledger with many renders, the latest of which is uncertain, and an old one with rare words and a file."""
    home = tmp_path_factory.mktemp("ledger")
    made = Database(LedgerConfig(location=f"sqlite:///{home}/ledger.db"))
    clip, now = home / "clip.mp4", utc_now()
    encode_video(MediaSpec(kind="video", prompt="A zebra", width=320, height=180, seconds=4.0), clip)
    add(made, [uncertain(MANY, dag_id=EXAMPLE, created_at=now, intended_at=now)])
    add(
        made,
        (
            row(
                number,
                dag_id=EXAMPLE if number % 3 else "gone",
                model=f"model-{number % 4}",
                prompt=" ".join(WORDS[number * step % len(WORDS)] for step in range(1, 20)),
                **dict.fromkeys(("created_at", "intended_at"), now - timedelta(minutes=5 * number)),
            )
            for number in range(WRITTEN)
        ),
    )
    with made.transaction() as connection:
        for start in range(WRITTEN, MANY, WRITTEN):
            connection.execute(insert(submissions).from_select(list(submissions.c), _copies(start)))
    files = [{"path": str(clip), "sha256": "", "conn_id": None}]
    old = now - timedelta(days=340)
    add(made, [row(MANY + 1, dag_id=EXAMPLE, prompt="A Zebra crossing", created_at=old, stored_files=files)])
    return made


def _copies(start: int) -> Select[Any]:
    """The rows that were written, as earlier ones: the database copies in a tenth of the time."""
    earlier = f"-{5 * start} minutes"
    times = ("created_at", "intended_at")
    changed = {
        "instance": submissions.c.instance + f"-{start}",
        "generation_id": submissions.c.generation_id + f"-{start}",
        "map_index": submissions.c.map_index + start,
        **{name: func.strftime("%Y-%m-%d %H:%M:%f000", submissions.c[name], earlier) for name in times},
    }
    columns = [changed.get(column.name, column) for column in submissions.c]
    return select(*columns).where(submissions.c.map_index < WRITTEN)


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, database_template: Path, emulator: Any, database: Database
) -> Iterator[Stage]:
    """An Airflow with this ledger, and one user who may read only."""
    home = tmp_path_factory.mktemp("pages")
    dags = home / "dags"
    dags.mkdir()
    shutil.copy(EXAMPLES / f"{EXAMPLE}.py", dags)
    (dags / "two_users.py").write_text(AUTH_MANAGER)
    (dags / "single.py").write_text(SINGLE)
    choice = (EXAMPLES / f"{CHOICE}.py").read_text()
    (dags / f"{CHOICE}.py").write_text(choice.replace('"retries": 2', '"seedance_conn_id": "seedance_v2"'))
    connection = json.loads(emulator.connection_json("seedanceapi-v1"))
    connection["extra"] = {**dict(connection["extra"]), "budgets": [{"usd": 50, "per": "day"}]}
    with TestAirflow(
        home=home / "airflow",
        dags_folder=dags,
        connections={
            "seedance_default": json.dumps(connection),
            "seedance_v2": emulator.connection_json("seedanceapi-v2"),
        },
        config={
            ("seedance", "ledger"): database.config.location,
            **TWO_USERS,
        },
        database_template=database_template,
    ) as airflow:
        for dag_id in (EXAMPLE, CHOICE, "single", "takes"):
            airflow.wait_parsed(dag_id)
        yield Stage(airflow=airflow, runs={}, stored=home)


def test_words_are_found_among_all_renders(stage: Stage) -> None:
    (found,) = stage.ask("/seedance/api/library?text=zebra+crossing").json["renders"]
    assert found["prompt"] == "A Zebra crossing"


def test_the_chart_and_the_budgets(browser: Chrome, stage: Stage) -> None:
    open_page(browser, f"{stage.url}/seedance/spend")
    assert count(browser, ".stack") == 30
    (name,) = browser.execute_script(
        "return [...document.querySelectorAll('#groups tbody th')].map((cell) => cell.textContent)"
    )
    assert name == EXAMPLE  # Airflow does not know the other one
    budget = browser.execute_script("return document.querySelector('.budget').innerText")
    assert "$50 per day" in budget
    assert "renews on" in budget
    browser.find_element("css selector", "#by button[value=model]").click()
    wait(browser, "return document.querySelectorAll('.legend li').length === 5", "the models")
    browser.find_element("css selector", "#period button[value='12m']").click()
    wait(browser, "return document.querySelectorAll('.stack').length === 12", "the months")


@pytest.fixture(scope="module")
def begun(stage: Stage) -> Stage:
    """The same, with runs that go on while other things are tested."""
    stage.runs.update((dag_id, stage.airflow.trigger(dag_id)) for dag_id in ("single", CHOICE, "takes"))
    return stage


def test_the_library_plays_what_it_finds(browser: Chrome, begun: Stage) -> None:
    open_page(browser, f"{begun.url}/seedance/library")
    assert count(browser, ".card") == 60
    browser.find_element("css selector", "body").send_keys("/")
    browser.switch_to.active_element.send_keys("crossing ZEBRA")
    wait(browser, "return document.querySelectorAll('.card').length === 1", "the render")
    wait(
        browser,
        "const video = document.querySelector('video'); return video && video.currentTime > 0",
        "the clip",
    )
    assert browser.execute_script("return location.hash") == "#q=crossing+ZEBRA"
    browser.refresh()
    wait(browser, "return document.querySelectorAll('.card').length === 1", "the kept search")


def test_more_renders(browser: Chrome, stage: Stage) -> None:
    open_page(browser, f"{stage.url}/seedance/library#q=heron")
    browser.execute_script("document.getElementById('more').click()")
    wait(browser, "return document.querySelectorAll('.card').length === 120", "the next renders")
    open_page(browser, f"{stage.url}/seedance/library#q=nothing-has-this")
    assert browser.execute_script("return document.getElementById('blank').innerText").startswith("Nothing")


@pytest.mark.parametrize("page", ["library", "spend"])
@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_is_cut_off(browser: Chrome, stage: Stage, page: str, width: int) -> None:
    with sized(browser, width):
        open_page(browser, f"{stage.url}/seedance/{page}")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_the_chart_is_drawn_anew_for_another_width(browser: Chrome, stage: Stage) -> None:
    open_page(browser, f"{stage.url}/seedance/spend")
    scale = (
        "const svg = document.querySelector('#chart svg'); return svg.clientWidth / svg.viewBox.baseVal.width"
    )
    with sized(browser, 400):
        wait(browser, f"{scale} > 0.95 && innerWidth === 400", "readable labels")
    wait(browser, f"{scale} < 1.05 && innerWidth > 400", "labels of the same size")


#: A card without a page around it, which shows one state of a render after the other.
CARD = """
const [states, done] = arguments;
import('/seedance/static/cards.js').then(({ Card }) => {
  const render = {
    id: '1', task_id: 'clips', map_index: -1, iteration: null, label: null, key: 'shoe', api: 'ark', model: null,
    prompt: 'A shoe', request: {}, files: [], urls: [], progress: null, error: null, count: null, duration: null,
    resolution: null, credits: null, cost_usd: null, started_at: '2026-01-01T00:00:00Z', ended_at: null, ends_at: null,
    expires_at: null, generation_id: null, console: null,
  };
  const card = new Card({ dag_id: 'd', run_id: 'r' }, { ...render, state: 'waiting' });
  done(states.map((change) => {
    card.update({ ...render, ...change }, Date.now());
    return ['.placeholder', '.badge', '.time', '.details'].map((name) => card.node.querySelector(name).textContent);
  }));
});
"""


def test_a_card_says_what_its_render_does_now(browser: Chrome, stage: Stage) -> None:
    open_page(browser, f"{stage.url}/seedance/renders")
    expired = {"expires_at": "2026-01-01T00:00:00Z"}
    states = ("waiting", "running", "skipped", "uncertain", "succeeded")
    changes = [{"state": state} for state in states] + [{"state": "succeeded", **expired}]
    shown = browser.execute_async_script(CARD, changes)
    assert [placeholder for placeholder, *_ in shown] == [
        "Waiting to be submitted",
        "Rendering",
        "Not submitted",
        "It is unknown whether the service took this submission",
        "No file was stored, and no link to the service that plays is kept",
        "The URL of the service has expired, and no file was stored",
    ]
    badges = ["Waiting", "Running", "Not submitted", "Uncertain", "Succeeded", "Succeeded"]
    assert [badge for _, badge, *_ in shown] == badges
    assert [bool(time) for *_, time, _ in shown] == [True, True, True, False, True, True]
    assert shown[0][-1] == "arkitem shoe"


def test_an_error_is_shown_in_full_and_moves_no_button_that_is_pressed(browser: Chrome, stage: Stage) -> None:
    open_page(browser, f"{stage.url}/seedance/library#uncertain=")
    height = (
        "const card = document.querySelector('.card');"
        "card.querySelector('.error').hidden = false;"
        "card.querySelector('.error').textContent = 'It is long. '.repeat(200);"
        "card.querySelector(arguments[0]).focus(); return card.querySelector('.error').clientHeight"
    )
    short = browser.execute_script(height, ".action")
    assert short < 100
    browser.execute_script("document.querySelector('.card').focus()")
    assert browser.execute_script(height, ".action") > 3 * short


def test_the_navigation_has_the_pages(browser: Chrome, stage: Stage) -> None:
    browser.get(f"{stage.url}/plugin/seedance-renders")
    enter_frame(browser)
    wait(browser, "return document.querySelector('#tabs:not([hidden])') !== null", "the pages")
    browser.execute_script("document.querySelector('#tabs a[href=spend]').click()")
    wait(browser, "return document.querySelector('svg .stack') !== null", "the chart")
    browser.switch_to.default_content()


def test_an_uncertain_submission_is_settled(browser: Chrome, stage: Stage, database: Database) -> None:
    from selenium.webdriver.common.keys import Keys

    with signed_in(browser, stage, "viewer"):
        open_page(browser, f"{stage.url}/seedance/library#uncertain=")
        wait(browser, "return document.querySelectorAll('.card').length === 1", "the submission")
        assert count(browser, ".action") == 0
    open_page(browser, f"{stage.url}/seedance/library#uncertain=")
    wait(browser, "return document.querySelectorAll('.card').length === 1", "the submission")
    browser.find_element("css selector", ".action").send_keys(Keys.ENTER)
    assert browser.execute_script("return document.querySelector('.primary').disabled")
    browser.switch_to.active_element.send_keys("g-paid")
    text = browser.execute_script("return document.querySelector('dialog').innerText")
    assert "Then clear the task: its next try delivers this render, and pays nothing." in text
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    wait(browser, "return document.querySelector('dialog') === null", "the end of the dialog")
    wait(browser, "return document.querySelectorAll('.card').length === 0", "the settled submission")
    with database.reading() as connection:
        query = select(submissions.c.state).where(submissions.c.generation_id == "g-paid")
        assert connection.execute(query).scalars().all() == ["submitted"]


def test_another_render_of_the_same_request(browser: Chrome, begun: Stage, emulator: Any) -> None:
    stage, run_id = begun, begun.runs["single"]
    assert stage.airflow.wait_run("single", run_id) == "success"
    first = stage.airflow.xcom("single", run_id, "video")["generation_id"]
    open_page(browser, stage.page("single"))
    wait(browser, "return document.querySelector('.action')", "the button").click()
    confirm = wait(browser, "return document.querySelector('dialog .primary')", "the dialog")
    assert confirm.text == "Render again for $0.14"
    confirm.click()
    wait(browser, "return document.querySelector('dialog') === null", "the end of the dialog")
    assert stage.airflow.wait_run("single", run_id) == "success"
    second = stage.airflow.xcom("single", run_id, "video")["generation_id"]
    paid = [entry.generation_id for entry in emulator.ledger.submissions if entry.prompt == "A kestrel"]
    assert paid == [first, second]
    totals = "return document.getElementById('totals').innerText.replaceAll('\\n', ' ')"
    wait(browser, f"{totals}.includes('delivered; $0.28 spent')", "the cost of both takes")
    open_page(browser, f"{stage.url}/seedance/library#q={second}")
    assert wait(browser, "return document.querySelector('.action')", "the button").text == "Render again…"
    # A page that was not loaded again names the render that was replaced.
    decision = {"run_id": run_id, "task_id": "video", "generation_id": first}
    path, content = "/seedance/api/dags/single/library/again", json.dumps(decision).encode()
    assert stage.ask(path, "admin", "POST", content, Content_Type="application/json").status == 409
    assert stage.ask(path, "viewer", "POST", content, Content_Type="application/json").status == 403


@needs(REGIONS)
def test_a_mapped_task_in_a_loop(stage: Stage, database: Database) -> None:
    """The page, Airflow and the ledger agree on the passes, and the page has the cost of the ledger."""
    stage.airflow.load_dag("passes", PASSES)
    run_id, state = stage.airflow.run("passes")
    assert state == "success"
    run = f"dags/passes/runs/{quote(run_id)}"
    cost = submissions.c.cost_usd
    with database.transaction() as connection:
        connection.execute(update(submissions).where(submissions.c.dag_id == "passes").values(cost_usd=1))
        query = select(submissions.c.loop_index, submissions.c.map_index, cost).order_by(
            "loop_index", "map_index"
        )
        paid = connection.execute(query.where(submissions.c.run_id == run_id)).all()
    assert paid == [(0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1)]
    shown = stage.ask(f"/seedance/api/{run}/renders").json
    places = sorted((render["iteration"], render["map_index"]) for render in shown["renders"])
    assert (places, shown["totals"]["spent"]["cost_usd"]) == ([row[:2] for row in paid], 4)
    for render in shown["renders"]:
        region_id, _, index = render["region"].partition(".")
        place = f"{render['task_id']}/{render['map_index']}?region_id={region_id}&region_index={index}"
        task = stage.ask(f"/api/v2/{run.replace('/runs/', '/dagRuns/')}/taskInstances/{place}").json
        assert task["loop_iteration"]["iteration"] == render["iteration"]


def test_takes_of_a_prompt_are_side_by_side(browser: Chrome, begun: Stage) -> None:
    assert begun.airflow.wait_run("takes", begun.runs["takes"]) == "success"
    open_page(browser, begun.page("takes"))
    visible = (
        "return [...document.querySelectorAll('.card:not([hidden]) .prompt')].map((node) => node.textContent)"
    )
    assert len(browser.execute_script(visible)) == 3
    browser.find_element("css selector", "#takes").click()
    assert browser.execute_script(visible) == ["A kite", "A kite"]
    browser.refresh()
    wait(browser, "return document.querySelectorAll('.card:not([hidden])').length === 2", "the kept filter")


def test_a_choice_is_made_on_the_cards(browser: Chrome, begun: Stage, emulator: Any) -> None:
    with signed_in(browser, begun, "viewer"):
        open_page(browser, begun.page(CHOICE))
        wait(browser, "return !document.getElementById('choice').hidden", "the question")
        question = browser.execute_script("return document.getElementById('choice').innerText")
        assert "You do not have the right to answer." in question
        assert "None of them" not in question
        assert count(browser, ".action") == 0
    open_page(browser, begun.page(CHOICE))
    wait(browser, "return document.querySelectorAll('.action.primary').length === 4", "the options")
    assert count(browser, ".card:not([hidden])") == 4
    question = browser.execute_script("return document.getElementById('choice').innerText")
    assert "becomes the full render?" in question
    assert "None of them" in question
    browser.execute_script("document.querySelectorAll('.action.primary')[2].click()")
    confirm = wait(browser, "return document.querySelector('dialog .primary')", "the dialog")
    assert confirm.text == "Choose “From above”"
    confirm.click()
    wait(browser, "return document.getElementById('choice').hidden", "the end of the choice")
    assert begun.airflow.wait_run(CHOICE, begun.runs[CHOICE]) == "success"
    assert emulator.ledger.submissions[-1].prompt.endswith("seen from above, slow descent")


def test_the_list_has_costs_and_is_searched(browser: Chrome, begun: Stage) -> None:
    open_page(browser, f"{begun.url}/seedance/renders")
    listed = "return [...document.querySelectorAll('.run-card')].map((node) => node.innerText).join()"
    assert CHOICE in browser.execute_script(listed)
    browser.find_element("css selector", "body").send_keys("/")
    browser.switch_to.active_element.send_keys("SINGLE manual")
    one = "return document.querySelectorAll('.run-card').length === 1"
    wait(browser, one, "the run")
    assert "spent 56 credits / $0.28" in browser.execute_script(listed)  # of both takes
    assert browser.execute_script("return document.getElementById('shown').textContent").startswith("1 run")
    browser.refresh()
    wait(browser, one, "the kept search")
    two_days_ago = (
        "const input = document.getElementById('until');"
        "input.value = new Date(Date.now() - 2 * 86400000).toISOString().slice(0, 10);"
        "input.dispatchEvent(new Event('input'))"
    )
    browser.execute_script(two_days_ago)
    wait(browser, "return document.querySelectorAll('.run-card').length === 0", "no run of the day")
    assert "Nothing matches" in browser.execute_script("return document.getElementById('blank').innerText")


@pytest.mark.parametrize(
    ("user", "headers", "status"),
    [
        ("viewer", {}, 403),
        (None, {}, 403),
        ("admin", {"Origin": "https://evil.example"}, 403),
        ("admin", {}, 409),
    ],
)
def test_who_may_settle(stage: Stage, user: str | None, headers: dict[str, str], status: int) -> None:
    settlement = {"run_id": "run", "task_id": "video", "record_key": "generation", "generation_id": None}
    path, content = f"/seedance/api/dags/{EXAMPLE}/library/resolve", json.dumps(settlement).encode()
    answer = stage.ask(path, user, "POST", content, Content_Type="application/json", **headers)
    assert answer.status == status
