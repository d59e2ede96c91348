"""The connection that environment variables describe."""

from __future__ import annotations

import json

import pytest
from helpers import connection

from airflow_provider_seedance.cli.connection import connection_from_environment
from airflow_provider_seedance.exceptions import SeedanceConfigurationError
from airflow_provider_seedance.settings import Settings, read_settings


def described(**variables: str) -> Settings:
    text = connection_from_environment({"SEEDANCE_API_KEY": "key", **variables})
    fields = json.loads(text)
    return read_settings(
        "c", connection(host=fields.get("host"), password=fields["password"], extra=fields["extra"])
    )


def test_a_key_is_enough() -> None:
    settings = described()
    assert (settings.api.name, settings.key) == ("seedanceapi-v2", "key")
    assert settings.media_hosts.names == frozenset()
    assert connection_from_environment({"SEEDANCE_MEDIA_HOSTS": "minio"}) is None


def test_service_and_address() -> None:
    settings = described(SEEDANCE_API="ark", SEEDANCE_BASE_URL="http://127.0.0.1:8123/x")
    assert (settings.api.name, settings.base_url) == ("ark", "http://127.0.0.1:8123/x")


def test_the_variable_of_runbase_is_its_key() -> None:
    text = connection_from_environment({"SEEDANCE_API": "runbase", "RUNBASE_API_KEY": "theirs"})
    assert json.loads(text or "")["password"] == "theirs"
    assert described(SEEDANCE_API="runbase", RUNBASE_API_KEY="theirs").key == "key"
    assert connection_from_environment({"RUNBASE_API_KEY": "theirs"}) is None


def test_media_hosts_with_commas() -> None:
    both = {"minio:9000", "*.cdn.example"}
    for value, names in [
        ("minio:9000,*.cdn.example", both),
        (" minio:9000 , ,*.cdn.example,", both),
        ("", set()),
        (" , ", set()),
    ]:
        assert described(SEEDANCE_MEDIA_HOSTS=value).media_hosts.names == names


def test_a_service_without_a_key() -> None:
    with pytest.raises(SeedanceConfigurationError, match="SEEDANCE_API_KEY is not"):
        connection_from_environment({"SEEDANCE_API": "ark"})
