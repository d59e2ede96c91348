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
from source_tree import MODULES, nodes_of, source_of, tree_of
from troubleshooting import PAGE, has_parts
from versions import STATE_STORE, needs

from airflow_provider_seedance import exceptions
from airflow_provider_seedance.apis.registry import SERVICES
from airflow_provider_seedance.get_provider_info import get_provider_info

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "airflow_provider_seedance"
DOCS = ROOT / "docs"
README = ROOT / "README.md"
MAP = ROOT / "CONTRIBUTING.md"
PAGES = sorted([*DOCS.rglob("*.md"), README, MAP])

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
    text = source_of(page)
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


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors that a code host gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", source_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_has_a_target() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", source_of(page), flags=re.MULTILINE | re.DOTALL)
        # Without links to other sites.
        for path, _, anchor in re.findall(r"\]\((?![^)\s]*://)([^)#\s]*)(#?)([^)\s]*)\)", text):
            to = (page.parent / path).resolve() if path else page
            assert to.exists(), f"{page}: {path} does not exist"
            assert not anchor or anchor in anchors(to), f"{page}: {path}#{anchor}: no such heading"


# ---------------------------------------------------------------------- the reference


def test_the_reference_has_every_public_module() -> None:
    text = "".join(source_of(page) for page in (DOCS / "reference").glob("*.md"))
    assert sorted(re.findall(r"automodule:: airflow_provider_seedance\.(\S+)", text)) == sorted(PUBLIC)


def test_every_public_name_has_a_docstring() -> None:
    """The reference leaves out names without a docstring."""
    for module in PUBLIC:
        members = import_module(f"{PACKAGE.name}.{module}")
        own = [
            name
            for name, value in vars(members).items()
            if getattr(value, "__module__", "") == members.__name__ and callable(value) and name[0] != "_"
        ]
        for name in getattr(members, "__all__", own):
            assert getattr(members, name).__doc__, f"{module}.{name} has no docstring"


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


def test_every_error_is_listed_with_its_retry_and_its_bill() -> None:
    section = source_of(PAGE).partition("## Look up an error class\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` +\| (.*?) +\| (.*?) +\|$", section, flags=re.MULTILINE)
    assert sorted(name for name, _, _ in listed) == sorted(ERRORS)
    for name, retry, bill in listed:
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
    found = re.findall(r"^\| `([^`]+)` \|", source_of(PAGE), flags=re.MULTILINE)
    return [text.split("…") for text in found if text not in ERRORS and len(text.replace("…", "")) > 5]


def test_every_message_is_on_the_page() -> None:
    assert len(messages()) > 50
    assert {
        where: text
        for text, where in messages().items()
        if not any(text.startswith(parts[0]) and has_parts(text, parts) for parts in parts_of_messages())
    } == {}


def test_every_message_on_the_page_exists() -> None:
    texts = list(messages())
    for tree in map(tree_of, MODULES):
        docstrings = {id(node.value) for node in nodes_of(tree) if isinstance(node, ast.Expr)}
        constants = [node for node in nodes_of(tree) if isinstance(node, ast.Constant)]
        texts += [str(node.value) for node in constants if id(node) not in docstrings]
    said = "\n".join(texts)
    assert len(parts_of_messages()) > 50
    longest = {max(parts, key=len).strip() for parts in parts_of_messages()}
    assert {text for text in longest if text not in said} == set()


# ---------------------------------------------------------------------- completeness


def test_every_service_is_in_the_readme() -> None:
    assert [api for api in SERVICES if f"| `{api}` |" not in source_of(README)] == []


def test_the_map_of_the_package_names_existing_modules() -> None:
    rows = [line for line in source_of(MAP).splitlines() if line.startswith("|")]
    assert len(rows) > 40
    for row in rows:
        folders = re.findall(r"`([a-z_]+)/`", row.split("|")[1]) or ["."]
        for name in re.findall(r"`([a-z_/]+\.py)`", row):
            places = [PACKAGE / folder / name for folder in folders] + [PACKAGE / name, ROOT / name]
            assert any(place.exists() for place in places), f"{name} in {row}"


def test_the_search_finds_the_page_of_a_task() -> None:
    """The search of the site ranks words of headings first."""
    pages = "\n".join(source_of(page) for page in PAGES if page.is_relative_to(DOCS))
    headings = "\n".join(re.findall(r"^#+ (.+)$", pages, flags=re.MULTILINE))
    for word in ("rotate", "month", "budget", "Helm", "Compose", "offline"):
        assert re.search(rf"\b{word}\b", headings, flags=re.IGNORECASE), word


# ---------------------------------------------------------------------- files of a deployment

DEPLOYMENTS = ("compose.yaml", "helm-values.yaml")


@needs(STATE_STORE)  # they run the newest Airflow, and some of its options are not older
def test_deployments_set_options_that_exist() -> None:
    compose, values = (yaml.safe_load(source_of(DOCS / "compose" / name)) for name in DEPLOYMENTS)
    names = [*compose["x-airflow"]["environment"], *(variable["name"] for variable in values["env"])]
    found = {tuple(name.lower().split("__")[1:]) for name in names if name.startswith("AIRFLOW__")}
    found |= {(section, option) for section, options in values["config"].items() for option in options}
    assert {("seedance", "ledger"), ("triggerer", "capacity")} <= found
    known = retrieve_configuration_description(include_providers=False)
    known |= get_provider_info()["config"]
    for section, option in found:
        assert option in known[section]["options"], f"[{section}] {option}"
