"""The provider info that Airflow reads at discovery: valid by its schema, and true."""

from __future__ import annotations

import json
import pkgutil
import re
from importlib.metadata import entry_points
from importlib.resources import files

import jsonschema
from helpers import connection

from airflow_provider_seedance import settings
from airflow_provider_seedance.apis import registry
from airflow_provider_seedance.get_provider_info import get_provider_info
from airflow_provider_seedance.hooks.seedance import SeedanceHook

INFO = get_provider_info()
(TYPE,) = INFO["connection-types"]
FIELDS = TYPE["conn-fields"]


def test_it_is_valid_by_airflows_schema() -> None:
    schema = json.loads((files("airflow") / "provider_info.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(INFO, schema)
    assert json.loads(json.dumps(INFO)) == INFO


def test_airflow_finds_it() -> None:
    entries = entry_points(group="apache_airflow_provider")
    (found,) = [entry for entry in entries if entry.value.startswith("airflow_provider_seedance")]
    assert found.load() is get_provider_info


def test_every_path_leads_somewhere() -> None:
    found = set(re.findall(r'"(airflow_provider_seedance\.[^"]+)"', json.dumps(INFO)))
    assert len(found) >= 9
    for path in found:
        assert pkgutil.resolve_name(path)


def test_integrations_are_declared() -> None:
    declared = {item["integration-name"] for item in INFO["integrations"]}
    for kind in ("hooks", "operators", "sensors", "triggers"):
        assert {item["integration-name"] for item in INFO[kind]} <= declared
    for item in INFO["transfers"]:
        assert {item["source-integration-name"], item["target-integration-name"]} <= declared


def test_every_field_of_the_form_has_an_example() -> None:
    shown = {name: field["description"] for name, field in FIELDS.items()}
    shown |= TYPE["ui-field-behaviour"]["placeholders"]
    assert {"host", "password"} < shown.keys()
    assert [name for name, text in shown.items() if "Example: " not in text] == []


def test_fields_are_in_sections() -> None:
    sections = [field["schema"]["section"] for field in FIELDS.values()]
    assert list(dict.fromkeys(sections)) == ["Service", "Limits", "Money", "Callbacks", "Network"]
    assert sections == sorted(sections, key=list(dict.fromkeys(sections)).index)


def test_secrets_are_hidden_in_the_form() -> None:
    hidden = {name for name, field in FIELDS.items() if field["schema"].get("format") == "password"}
    assert hidden == {"callback_secret", "callback_signature_secret", "proxy"}


def test_a_form_left_empty_is_a_good_connection() -> None:
    """The form stores what its schema allows; every default of it must be readable, and an empty field, too."""
    for empty in (None, ""):
        defaults = {name: field["schema"].get("default", empty) for name, field in FIELDS.items()}
        for extra in (defaults, dict.fromkeys(FIELDS, empty)):
            read = settings.read_settings("c", connection(extra=extra))
            assert (read.api.name, read.timeout, read.verify) == (registry.DEFAULT_API, None, True)
            assert read.warnings == ()


def test_the_hook_and_the_form_agree() -> None:
    assert TYPE["connection-type"] == SeedanceHook.conn_type == "seedance"
    assert TYPE["hook-name"] == SeedanceHook.hook_name
    assert SeedanceHook.default_conn_name == "seedance_default"
    assert TYPE["ui-field-behaviour"]["relabeling"] == {"password": "API key", "host": "Base URL"}


def test_the_form_has_every_key_and_offers_every_service() -> None:
    assert set(FIELDS) == set(settings.ConnectionExtra.model_fields)
    for field in FIELDS.values():
        jsonschema.Draft202012Validator.check_schema(field["schema"])
        assert None not in field["schema"].get("enum", [])
    assert FIELDS["api"]["schema"]["enum"] == list(registry.SERVICES)
    assert FIELDS["api"]["schema"]["default"] == registry.DEFAULT_API
    offered = {name for name in FIELDS["auth_header"]["schema"]["enum"] if name}
    assert offered == {name for api in registry.SERVICES for name in registry.get_api(api).auth_headers}
