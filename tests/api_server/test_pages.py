"""The Renders page: its security policy and its static files."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from airflow_provider_seedance.api_server import pages

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


@pytest.mark.parametrize("name", ["../pages.py", "nothing.js", "", ".", "renders.html.bak"])
def test_only_static_files_are_served(name: str) -> None:
    with pytest.raises(pages.HTTPException) as refused:
        asyncio.run(pages.static(name))
    assert refused.value.status_code == 404


def test_static_files_have_a_content_type_and_an_etag() -> None:
    first = asyncio.run(pages.static("renders.js"))
    assert first.headers["content-type"].startswith("text/javascript")
    again = asyncio.run(pages.static("renders.js", first.headers["etag"]))
    assert (again.status_code, again.body) == (304, b"")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_parses_markup(path: Path) -> None:
    dangerous = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|srcdoc"
    )
    assert not re.search(dangerous, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_imported_name_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for names, other in re.findall(r"import \{([^}]*)\} from \"\./([^\"]+)\"", text):
        source = (pages.STATIC / other).read_text(encoding="utf-8")
        for name in names.split(","):
            assert re.search(
                rf"export (async )?(function|const|class) {re.escape(name.strip())}[ (]", source
            ), f"{name} of {other}"


def test_the_page_has_no_inline_code() -> None:
    page = (pages.STATIC / "renders.html").read_text(encoding="utf-8")
    assert re.findall(r"<script[^>]*>", page) == ['<script type="module" src="static/renders.js">']
    assert not re.search(r"\son\w+=|\sstyle=|<style", page)
