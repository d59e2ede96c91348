"""The pages: code that runs, links that lead somewhere, every public name and every message."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import yaml
from airflow.configuration import retrieve_configuration_description
from airflow.sdk import DAG
from helpers import error_classes
from source_tree import MODULES, nodes_of, tree_of
from troubleshooting import has_parts
from versions import STATE_STORE, needs

from airflow_provider_seedance import exceptions
from airflow_provider_seedance.apis.registry import SERVICES
from airflow_provider_seedance.get_provider_info import get_provider_info

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "airflow_provider_seedance"
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])

#: Public modules. Everything else may change with any release.
PUBLIC = (
    "decorators.seedance",
    "exceptions",
    "generations",
    "hooks.seedance",
    "links.seedance",
    "operators.seedance",
    "policies.retry",
    "sensors.seedance",
    "testing",
    "transfers.seedance_to_object_storage",
    "triggers.seedance",
)

# ---------------------------------------------------------------------- code in the pages


def blocks(page: Path) -> Iterator[tuple[str, int, str]]:
    """Return each Python block of a page: the comment before it, its line, and its code."""
    pattern = r"(?:^ *<!-- (?P<note>[^>]*) -->\n)?^(?P<indent> *)```python\n(?P<code>.*?)^ *```$"
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(pattern, text, flags=re.MULTILINE | re.DOTALL):
        code = re.sub(rf"^{found['indent']}", "", found["code"], flags=re.MULTILINE)
        yield found["note"] or "", text[: found.start("code")].count("\n") + 1, code


BLOCKS = [(note, code, f"{page.name}:{line}") for page in PAGES for note, line, code in blocks(page)]


def test_every_python_block_compiles() -> None:
    for _, code, place in BLOCKS:
        # A reader replaces the ellipsis.
        compile(code.replace("…", "..."), place, "exec")


def test_every_dag_on_the_pages_is_valid() -> None:
    """Run each block with a Dag as Airflow runs a Dag file."""
    run = [block for block in BLOCKS if "DAG(" in block[1] and not block[0].startswith("before")]
    assert run
    for note, code, place in run:
        names: dict[str, Any] = {"__name__": "page", "RecordedDAG": RecordedDAG}
        exec(compile(code.replace(" DAG(", " RecordedDAG("), place, "exec"), names)
        dag = RecordedDAG.created.pop()
        assert dag.tasks
        if note.startswith("after: "):
            assert ", ".join(sorted(task.task_id for task in dag.tasks)) == note.removeprefix("after: ")


class RecordedDAG(DAG):
    """A Dag that the test finds after its file ran."""

    created: ClassVar[list[DAG]] = []

    def __enter__(self) -> DAG:
        self.created.append(self)
        return super().__enter__()


# ---------------------------------------------------------------------- links


def links(page: Path) -> Iterator[str]:
    """Return each link of a page into this repository."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            yield target


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors that a code host gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_has_a_target() -> None:
    for page in PAGES:
        for target in links(page):
            path, _, anchor = target.partition("#")
            to = (page.parent / path).resolve() if path else page
            assert to.exists(), f"{page}: {target} does not exist"
            assert not anchor or anchor in anchors(to), f"{page}: {target}: no such heading"


# ---------------------------------------------------------------------- the reference


def test_the_reference_has_every_public_module() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    assert sorted(re.findall(r"automodule:: airflow_provider_seedance\.(\S+)", text)) == sorted(PUBLIC)


def test_every_public_name_has_a_docstring() -> None:
    """The reference leaves out names without a docstring."""
    for module in PUBLIC:
        members = import_module(f"{PACKAGE.name}.{module}")
        for name in public_names(module):
            assert getattr(members, name).__doc__, f"{module}.{name} has no docstring"


def public_names(module: str) -> list[str]:
    """Return the public names that a module defines or exports."""
    members = import_module(f"{PACKAGE.name}.{module}")
    own = [
        name for name, value in vars(members).items() if getattr(value, "__module__", "") == members.__name__
    ]
    public = [name for name in own if callable(getattr(members, name)) and not name.startswith("_")]
    return list(getattr(members, "__all__", public))


def test_every_module_in_the_provider_info_is_public() -> None:
    info = get_provider_info()
    modules = {
        name
        for kind in ("hooks", "operators", "sensors", "triggers")
        for item in info[kind]
        for name in item["python-modules"]
    }
    modules |= {item["python-module"] for item in info["transfers"]}
    modules |= {item["class-name"].rpartition(".")[0] for item in info["task-decorators"]}
    modules |= {name.rpartition(".")[0] for name in info["extra-links"]}
    assert modules <= {f"{PACKAGE.name}.{module}" for module in PUBLIC}


# ---------------------------------------------------------------------- troubleshooting

ERRORS = [cls.__name__ for cls in error_classes()]
TROUBLE = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")


def rows(section: str) -> list[list[str]]:
    """Return the rows of the table in a section of the page, without its header."""
    text = TROUBLE.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_error_is_listed_with_its_retry_and_its_bill() -> None:
    listed = {row[0].strip("`"): row for row in rows("Look up an error class")}
    assert list(listed) == [name for name in listed if name in ERRORS]
    assert set(listed) == set(ERRORS)
    for name, (_, retry, bill) in listed.items():
        if name != "SeedanceError":
            assert retry.startswith("helps") == getattr(exceptions, name).retry_helps, name
        assert bill


#: Commands report errors of their own arguments, and the emulator is for testers.
_NOT_IN_TASKS = ("cli", "emulator")


def _template(node: ast.expr) -> str | None:
    """Return the text of a message with X for each value; ``None`` if it has no text of its own."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
    if isinstance(node, ast.BinOp):
        return (_template(node.left) or "X") + (_template(node.right) or "X")
    return None


@cache
def messages() -> dict[str, str]:
    """Return the place of each message of an error in a task."""
    found = {}
    for path in MODULES:
        where = path.relative_to(PACKAGE)
        if where.parts[0] in _NOT_IN_TASKS:
            continue
        for node in nodes_of(tree_of(path)):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            text = _template(node.args[0]) if name in ERRORS else None
            # Some messages repeat another text and add only punctuation.
            if text and re.search("[a-z]{4}", text.replace("Nothing was sent", "")):
                found[text] = f"{where}:{node.lineno}"
    return found


@cache
def parts_of_messages() -> list[list[str]]:
    """Return the messages of the page in parts, without those that match almost everything."""
    return [
        found.split("…")
        for found in re.findall(r"^\| `([^`]+)` \|", TROUBLE, flags=re.MULTILINE)
        if found not in ERRORS and len(found.replace("…", "")) > 5
    ]


def test_every_message_is_on_the_page() -> None:
    assert len(messages()) > 50
    assert {
        where: text
        for text, where in messages().items()
        if not any(text.startswith(parts[0]) and has_parts(text, parts) for parts in parts_of_messages())
    } == {}


def all_texts() -> str:
    """Return all strings of the package but the docstrings."""
    texts = list(messages())
    for path in MODULES:
        tree = tree_of(path)
        alone = {id(node.value) for node in nodes_of(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in nodes_of(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
                texts.append(node.value)
    return "\n".join(texts)


def test_every_message_on_the_page_exists() -> None:
    assert len(parts_of_messages()) > 50
    texts = all_texts()
    longest = {max(parts, key=len).strip() for parts in parts_of_messages()}
    assert {text for text in longest if text not in texts} == set()


# ---------------------------------------------------------------------- completeness


def test_every_service_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [api for api in SERVICES if f"| `{api}` |" not in readme] == []


def test_the_map_of_the_package_names_existing_modules() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) > 40
    for row in rows:
        folders = re.findall(r"`([a-z_]+)/`", row.split("|")[1]) or ["."]
        for name in re.findall(r"`([a-z_/]+\.py)`", row):
            places = [PACKAGE / folder / name for folder in folders] + [PACKAGE / name, ROOT / name]
            assert any(place.exists() for place in places), f"{name} in {row}"


def test_the_search_finds_the_page_of_a_task() -> None:
    """The search of the site ranks words of headings first."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.is_relative_to(DOCS))
    headings = "\n".join(re.findall(r"^#+ (.+)$", pages, flags=re.MULTILINE))
    for word in ("rotate", "month", "budget", "Helm", "Compose", "offline"):
        assert re.search(rf"\b{word}\b", headings, flags=re.IGNORECASE), word


# ---------------------------------------------------------------------- files of a deployment


def options_of_deployments() -> Iterator[tuple[str, str]]:
    """Return section and name of each option of Airflow that the files set."""
    compose = yaml.safe_load((DOCS / "compose" / "compose.yaml").read_text(encoding="utf-8"))
    values = yaml.safe_load((DOCS / "compose" / "helm-values.yaml").read_text(encoding="utf-8"))
    names = [*compose["x-airflow"]["environment"], *(variable["name"] for variable in values["env"])]
    for name in names:
        if name.startswith("AIRFLOW__"):
            _, section, option = name.lower().split("__")
            yield section, option
    for section, options in values["config"].items():
        yield from ((section, option) for option in options)


@needs(STATE_STORE)  # they run the newest Airflow, and some of its options are not older
def test_deployments_set_options_that_exist() -> None:
    found = set(options_of_deployments())
    assert {("seedance", "ledger"), ("triggerer", "capacity")} <= found
    own = get_provider_info()["config"]["seedance"]["options"]
    known = retrieve_configuration_description(include_providers=False)
    for section, option in found:
        assert option in (own if section == "seedance" else known[section]["options"]), (
            f"[{section}] {option}"
        )
