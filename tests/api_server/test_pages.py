"""The Renders page: its security policy and its static files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from airflow_provider_seedance.api_server import app, pages
from airflow_provider_seedance.api_server.app import build

SCRIPTS = sorted(pages.STATIC.glob("*.js"))


def test_the_policy_allows_no_foreign_code() -> None:
    rules = dict(rule.split(" ", 1) for rule in pages.content_security_policy("airflow.example").split("; "))
    assert rules["default-src"] == "'none'"
    for name in ("script-src", "style-src", "connect-src", "frame-ancestors"):
        assert rules[name] == "'self'"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["media-src"] == rules["img-src"] == "'self' https:"


def test_loopback_media_is_allowed_only_on_loopback() -> None:
    assert "http://127.0.0.1:*" in pages.content_security_policy("localhost")
    assert "http:" not in pages.content_security_policy("10.0.0.1").replace("https:", "")
    assert "http:" not in pages.content_security_policy(None).replace("https:", "")


@pytest.fixture(scope="module")
def http() -> TestClient:
    return TestClient(build())


def test_only_static_files_are_served(http: TestClient) -> None:
    for name in [
        "../pages.py", "%2e%2e/pages.py", "..%2fpages.py", "nothing.js", "", ".", "renders.html.bak", "%00",
        "a%0Ab",
    ]:  # fmt: skip
        assert http.get(f"/static/{name}").status_code == 404


def test_static_files_have_a_content_type_and_an_etag(http: TestClient) -> None:
    for name, content_type in [
        ("renders.js", r"(text|application)/javascript"),
        ("renders.css", "text/css"),
        ("icon.svg", r"image/svg\+xml"),
    ]:
        first = http.get(f"/static/{name}")
        assert first.content == (pages.STATIC / name).read_bytes()
        assert re.match(content_type, first.headers["content-type"])
        assert "no-cache" in first.headers["cache-control"]
        again = http.get(f"/static/{name}", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_another_version_of_a_file_is_sent_even_if_it_is_older(http: TestClient) -> None:
    cached = {"If-None-Match": '"another"', "If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}
    assert http.get("/static/renders.js", headers=cached).status_code == 200
    etag = http.get("/static/renders.js").headers["etag"]
    compressed = {"If-None-Match": f'"another", W/{etag}'}
    assert http.get("/static/renders.js", headers=compressed).status_code == 304


def test_files_that_an_installer_has_linked_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "renders.js").symlink_to(pages.STATIC / "renders.js")
    monkeypatch.setattr(app, "STATIC", tmp_path)
    assert TestClient(app.build()).get("/static/renders.js").status_code == 200


def test_the_page_has_its_own_policy(http: TestClient) -> None:
    for path in ["/renders", "/"]:
        page = http.get(path)
        assert page.headers["content-type"].startswith("text/html")
        assert page.headers["content-security-policy"] == pages.content_security_policy("testserver")


def test_no_script_parses_markup() -> None:
    dangerous = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|srcdoc"
    )
    assert [path.name for path in SCRIPTS if re.search(dangerous, path.read_text(encoding="utf-8"))] == []


def test_every_imported_name_exists() -> None:
    sources = {path.name: path.read_text(encoding="utf-8") for path in SCRIPTS}
    for text in sources.values():
        for names, other in re.findall(r"import \{([^}]*)\} from \"\./([^\"]+)\"", text):
            for name in map(str.strip, names.split(",")):
                exported = rf"export (async )?(function|const|class) {re.escape(name)}[ (]"
                assert re.search(exported, sources[other]), f"{name} of {other}"


def test_the_page_has_no_inline_code() -> None:
    page = (pages.STATIC / "renders.html").read_text(encoding="utf-8")
    assert re.findall(r"<script[^>]*>", page) == ['<script type="module" src="static/renders.js">']
    assert not re.search(r"\son\w+=|\sstyle=|<style", page)


@pytest.fixture
def shown(tmp_path: Path) -> Callable[[str], Any]:
    """Return the value of an expression with the functions of ``format.js``."""
    if shutil.which("node") is None:
        pytest.skip("needs Node.js")
    module = tmp_path / "format.mjs"
    module.write_text((pages.STATIC / "format.js").read_text(encoding="utf-8"))

    def evaluate(expression: str) -> Any:
        script = f"import * as format from {str(module)!r}; console.log(JSON.stringify({expression}))"
        node = ["node", "--input-type=module", "-e", script]
        return json.loads(subprocess.run(node, check=True, capture_output=True, text=True).stdout)

    return evaluate


def test_words_are_counted_together(shown: Callable[[str], Any]) -> None:
    tasks = {"deferred": 3, "running": 1, "skipped": 2, "upstream_failed": 1, "scheduled": 1, "none": 4}
    counts = shown(f"[...format.tallies({json.dumps(tasks)})]")
    assert counts == [["running", 4], ["not submitted", 3], ["waiting", 5]]


def test_a_last_frame_is_an_image(shown: Callable[[str], Any]) -> None:
    urls = ["https://a.example/v.mp4?X=1.png", "https://a.example/last.JPEG?X=1", "https://a.example/v"]
    render = {"media": "video", "files": [], "urls": urls}
    media = shown(f"format.sources({{}}, {json.dumps(render)}, 0).map((one) => one.media)")
    assert media == ["video", "image", "video"]


def test_the_link_of_a_pass_of_a_loop_names_its_region(shown: Callable[[str], Any]) -> None:
    region_id = "018f3a1e-0000-7000-8000-00000000000a"
    places = [(-1, ""), (2, None), (-1, f"{region_id.replace('-', '')}.1"), (2, f"{region_id}.2")]
    tasks = [{"task_id": "a b", "map_index": index, "region": region} for index, region in places]
    run = json.dumps({"dag_id": "d", "run_id": "r/1"})
    task = "../dags/d/runs/r%2F1/tasks/a%20b"
    assert shown(f"{json.dumps(tasks)}.map((task) => format.taskPage({run}, task, '/tab'))") == [
        f"{task}/tab",
        f"{task}/mapped/2/tab",
        f"{task}/tab?region_id={region_id}&region_index=1",
        f"{task}/mapped/2/tab?region_id={region_id}&region_index=2",
    ]
