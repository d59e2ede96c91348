"""What Airflow learns of this package at discovery, without importing anything heavy."""

from __future__ import annotations

from typing import Any

from airflow_provider_seedance.apis.registry import DEFAULT_API, SERVICES

_TEXT = {"type": ["string", "null"]}


def get_provider_info() -> dict[str, Any]:
    """Return the description of the provider, by Airflow's ``provider_info.schema.json``."""
    package = "airflow_provider_seedance"
    integration = "ByteDance Seedance"
    return {
        "package-name": "airflow-provider-seedance",
        "name": "Seedance",
        "description": "Video and image generation with ByteDance `Seedance and Seedream "
        "<https://www.byteplus.com/en/product/seedance>`__.",
        "integrations": [
            {
                "integration-name": integration,
                "external-doc-url": "https://docs.byteplus.com/en/docs/ModelArk/1520757",
                "tags": ["service"],
            },
            {
                "integration-name": "Object Storage",
                "external-doc-url": "https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/objectstorage.html",
                "tags": ["software"],
            },
        ],
        "hooks": [{"integration-name": integration, "python-modules": [f"{package}.hooks.seedance"]}],
        "operators": [{"integration-name": integration, "python-modules": [f"{package}.operators.seedance"]}],
        "sensors": [{"integration-name": integration, "python-modules": [f"{package}.sensors.seedance"]}],
        "triggers": [{"integration-name": integration, "python-modules": [f"{package}.triggers.seedance"]}],
        "transfers": [
            {
                "source-integration-name": integration,
                "target-integration-name": "Object Storage",
                "python-module": f"{package}.transfers.seedance_to_object_storage",
            }
        ],
        "extra-links": [f"{package}.links.seedance.SeedanceOutputLink"],
        "task-decorators": [
            {
                "class-name": f"{package}.decorators.seedance.seedance_video_task",
                "name": "seedance_video",
            }
        ],
        "cli": [f"{package}.cli.get_seedance_cli_commands"],
        "connection-types": [_connection_type(f"{package}.hooks.seedance.SeedanceHook")],
    }


def _connection_type(hook: str) -> dict[str, Any]:
    return {
        "connection-type": "seedance",
        "hook-class-name": hook,
        "hook-name": "Seedance",
        "ui-field-behaviour": {
            "hidden-fields": ["schema", "login", "port"],
            "relabeling": {"password": "API key", "host": "Base URL"},
            "placeholders": {"host": "left empty: the address of the chosen service"},
        },
        "conn-fields": {
            "api": {
                "label": "Service",
                "description": "The service that the API key belongs to.",
                "schema": {
                    "type": ["string", "null"],
                    "default": DEFAULT_API,
                    "enum": list(SERVICES),
                },
            },
            "auth_header": {
                "label": "Authentication header",
                "description": "seedance2api only; the other services take the Authorization header.",
                "schema": {"type": ["string", "null"], "enum": ["authorization", "x-api-key", None]},
            },
            "model": {
                "label": "Default model",
                "description": "Used where a task names none. Left empty: the service's default.",
                "schema": _TEXT,
            },
            "timeout": {
                "label": "Timeout per call (seconds)",
                "description": "30, and 600 for synchronous images, if left empty.",
                "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
            },
            "requests_per_hour": {
                "label": "Requests per hour",
                "description": "The quota of the plan, submissions included. Left empty: none known.",
                "schema": {"type": ["integer", "null"], "minimum": 1},
            },
            "callback_base_url": {
                "label": "Callback base URL",
                "description": "Public address of this Airflow's API server, for callbacks of the service.",
                "schema": _TEXT,
            },
            "callback_secret": {
                "label": "Callback secret",
                "description": "Signs the callback addresses.",
                "schema": {"type": ["string", "null"], "format": "password"},
            },
            "callback_signature_header": {
                "label": "Callback signature header",
                "description": "Header in which the service signs its callbacks. Left empty: it does not.",
                "schema": _TEXT,
            },
            "callback_signature_scheme": {
                "label": "Callback signature scheme",
                "description": "hmac-sha256 of the raw body, or hmac-sha256-timestamp of time, dot and body.",
                "schema": {
                    "type": ["string", "null"],
                    "enum": ["hmac-sha256", "hmac-sha256-timestamp", None],
                },
            },
            "callback_signature_secret": {
                "label": "Callback signature secret",
                "description": "What the service signs with; left empty, the callback secret.",
                "schema": {"type": ["string", "null"], "format": "password"},
            },
            "callback_timestamp_header": {
                "label": "Callback timestamp header",
                "description": "Header that carries the signed time; X-Timestamp if left empty.",
                "schema": _TEXT,
            },
            "media_hosts": {
                "label": "Media hosts",
                "description": "Hosts, separated by commas, that media may come from in addition to public "
                "https ones: anything private, loopback or plain http.",
                "schema": _TEXT,
            },
            "max_media_bytes": {
                "label": "Largest download (bytes)",
                "description": "A longer output is not downloaded. Left empty: 20 GiB.",
                "schema": {"type": ["integer", "null"], "minimum": 1},
            },
            "proxy": {
                "label": "Proxy",
                "description": "URL of a proxy for calls and downloads.",
                "schema": {"type": ["string", "null"], "format": "password"},
            },
            "verify": {
                "label": "Verify TLS",
                "description": "true, false, or the path of a CA bundle.",
                "schema": _TEXT,
            },
        },
    }
