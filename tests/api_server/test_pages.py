"""The shell of the page: its policy, its files, and what they do not contain."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from airflow_provider_seedance.api_server import pages

SCRIPTS = sorted(pages.STATIC.glob("*.js"))


def test_policy_allows_nothing_foreign_to_run() -> None:
    rules = dict(rule.split(" ", 1) for rule in pages.policy("airflow.example").split("; "))
    assert rules["default-src"] == "'none'"
    for name in ("script-src", "style-src", "connect-src", "frame-ancestors"):
        assert rules[name] == "'self'"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["media-src"] == rules["img-src"] == "'self' https:"


def test_media_of_this_machine_only_for_a_viewer_on_this_machine() -> None:
    assert "http://127.0.0.1:*" in pages.policy("localhost")
    assert "http:" not in pages.policy("10.0.0.1").replace("https:", "")
    assert "http:" not in pages.policy(None).replace("https:", "")


@pytest.mark.parametrize("name", ["../pages.py", "nothing.js", "", ".", "renders.html.bak"])
def test_only_the_files_of_the_page_are_served(name: str) -> None:
    with pytest.raises(pages.HTTPException) as refused:
        asyncio.run(pages.static(name))
    assert refused.value.status_code == 404


def test_static_files_have_a_type_and_a_tag() -> None:
    first = asyncio.run(pages.static("renders.js"))
    assert first.headers["content-type"].startswith("text/javascript")
    again = asyncio.run(pages.static("renders.js", first.headers["etag"]))
    assert (again.status_code, again.body) == (304, b"")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_markup_of_text(path: Path) -> None:
    dangerous = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|srcdoc"
    )
    assert not re.search(dangerous, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_imports_what_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for names, other in re.findall(r"import \{([^}]*)\} from \"\./([^\"]+)\"", text):
        source = (pages.STATIC / other).read_text(encoding="utf-8")
        for name in names.split(","):
            assert re.search(
                rf"export (async )?(function|const|class) {re.escape(name.strip())}[ (]", source
            ), f"{name} of {other}"


def test_the_shell_has_no_inline_code() -> None:
    shell = (pages.STATIC / "renders.html").read_text(encoding="utf-8")
    assert re.findall(r"<script[^>]*>", shell) == ['<script type="module" src="static/renders.js">']
    assert not re.search(r"\son\w+=|\sstyle=|<style", shell)
