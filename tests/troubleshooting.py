"""Check that a whole run of the unit tests produces each message of the troubleshooting page."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "troubleshooting.md"


def messages_on_the_page() -> list[str]:
    """Return each message of the page, with "…" for what varies, without its tables of classes and of symptoms."""
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")
    rows = [
        line
        for section in sections
        for line in section.splitlines()
        if not section.startswith(("Look up an error class", "Airflow behaves"))
    ]
    return [
        text for row in rows if row.startswith("| `") for text in re.findall("`([^`]+)`", row.split("|")[1])
    ]


def has_parts(message: str, parts: list[str]) -> bool:
    """Return whether a message contains these parts in this order."""
    end = 0
    for part in parts:
        if (start := message.find(part, end)) < 0:
            return False
        end = start + len(part)
    return True


class Messages:
    """Plugin of pytest: the messages of the page that no test has produced yet, as an error or in a log."""

    def __init__(self) -> None:
        self.missing = {text: text.split("…") for text in messages_on_the_page()}

    def note(self, message: str) -> None:
        for text in [text for text, parts in self.missing.items() if has_parts(message, parts)]:
            del self.missing[text]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, bool, bool]:
        """Note the messages of all errors and log records of this process, if it runs tests itself."""
        if session.config.pluginmanager.hasplugin("dsession"):
            return (yield)
        from airflow_provider_seedance.exceptions import SeedanceError

        make, handle = SeedanceError.__init__, logging.Logger.handle

        def noting_make(error: SeedanceError, message: str, **facts: Any) -> None:
            make(error, message, **facts)
            self.note(message)

        def noting_handle(logger: logging.Logger, record: logging.LogRecord) -> None:
            self.note(record.getMessage())
            handle(logger, record)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SeedanceError, "__init__", noting_make)
            patch.setattr(logging.Logger, "handle", noting_handle)
            return (yield)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["missing_messages"] = list(self.missing)
        elif self.missing and session.exitstatus == 0 and is_whole(session.config):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        missing = getattr(node, "workeroutput", {}).get("missing_messages", self.missing)
        self.missing = {text: parts for text, parts in self.missing.items() if text in missing}

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        if self.missing and is_whole(config):
            terminalreporter.section("messages of docs/troubleshooting.md that no test produced", red=True)
            for text in self.missing:
                terminalreporter.line(text)


def is_whole(config: pytest.Config) -> bool:
    """Return whether this is a run of all unit tests."""
    return (
        config.args_source is pytest.Config.ArgsSource.TESTPATHS
        and (config.option.markexpr, config.option.keyword) == ("not integration", "")
        and not (config.option.ignore or config.option.deselect or config.option.collectonly)
    )
