"""Description of the provider, which Airflow reads at discovery in every process."""

from __future__ import annotations

from typing import Any

from airflow_provider_seedance.apis.registry import DEFAULT_API, SERVICES


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
        **{
            kind: [{"integration-name": integration, "python-modules": [f"{package}.{kind}.seedance"]}]
            for kind in ("hooks", "operators", "sensors", "triggers")
        },
        "transfers": [
            {
                "source-integration-name": integration,
                "target-integration-name": "Object Storage",
                "python-module": f"{package}.transfers.seedance_to_object_storage",
            }
        ],
        "extra-links": [f"{package}.links.seedance.SeedanceOutputLink"],
        "task-decorators": [
            {"class-name": f"{package}.decorators.seedance.seedance_video_task", "name": "seedance_video"}
        ],
        "cli": [f"{package}.cli.get_seedance_cli_commands"],
        "config": {"seedance": {"description": "Settings of the Seedance provider.", "options": _OPTIONS}},
        "connection-types": [_connection_type(f"{package}.hooks.seedance.SeedanceHook")],
    }


def _option(description: str, *, type: str, default: str, example: str | None = None) -> dict[str, Any]:
    known = {"description": description, "type": type, "default": default, "example": example}
    return {**known, "version_added": "1.0.0"}


#: Options of the section ``[seedance]`` of Airflow's configuration.
_OPTIONS = {
    "ledger": _option(
        "Database in which every submission is recorded: the id of a connection to PostgreSQL or MySQL, or the "
        "absolute path of a SQLite file, which works on one machine. Empty: no ledger.",
        type="string",
        default="",
        example="sqlite:////srv/seedance/ledger.db",
    ),
    "ledger_namespace": _option(
        "Name of this Airflow in the ledger. Two Airflows that share a database need two names.",
        type="string",
        default="default",
    ),
    "ledger_prompts": _option("Whether the ledger contains prompts.", type="boolean", default="True"),
}


def _field(
    section: str, label: str, description: str, *, type: str = "string", **schema: Any
) -> dict[str, Any]:
    # Airflow groups fields by section. A select that is cleared stores null, so it needs no entry for that.
    schema = {"type": [type, "null"], "section": section, **schema}
    return {"label": label, "description": description, "schema": schema}


#: Fields of the connection form, each a key of the extra.
_FIELDS = {
    "api": _field(
        "Service",
        "Service",
        "The service of the API key. Example: ark, ByteDance's own",
        enum=[*SERVICES],
        default=DEFAULT_API,
    ),
    "auth_header": _field(
        "Service",
        "Authentication header",
        "For seedance2api only. Empty: the Authorization header. Example: x-api-key",
        enum=["authorization", "x-api-key"],
    ),
    "model": _field(
        "Service",
        "Default model",
        "For tasks without a model. Empty: the service's. Example: seedance-2.0-fast",
    ),
    "timeout": _field(
        "Limits",
        "Timeout per call (seconds)",
        "Empty: 30, and 600 for images. Example: 60",
        type="number",
        exclusiveMinimum=0,
    ),
    "requests_per_hour": _field(
        "Limits",
        "Requests per hour",
        "Quota of the plan, with submissions. Empty: unknown. Example: 1000",
        type="integer",
        minimum=1,
    ),
    "submissions_per_minute": _field(
        "Limits",
        "Submissions per minute",
        'Limit of the plan, also by model. Empty: as documented. Example: {"*/4k": 15, "*": 180}',
    ),
    "max_media_bytes": _field(
        "Limits",
        "Largest download (bytes)",
        "Larger outputs are refused. Empty: 20 GiB. Example: 1073741824 (1 GiB)",
        type="integer",
        minimum=1,
    ),
    "prices": _field(
        "Money",
        "Prices",
        "Rules for the cost of a render, before the published prices. "
        'Example: [{"model": "seedance-2.0*", "usd_per_second": 0.14}]',
        type="array",
        items={"type": "object"},
    ),
    "budgets": _field(
        "Money",
        "Budgets",
        "Limits of the cost of renders, which need a ledger. "
        'Example: [{"usd": 50, "per": "day", "dag_id": "ads_*"}]',
        type="array",
        items={"type": "object"},
    ),
    "callback_base_url": _field(
        "Callbacks",
        "Callback base URL",
        "Public address of this Airflow's API server. Example: https://airflow.example.com",
    ),
    "callback_secret": _field(
        "Callbacks",
        "Callback secret",
        "Signs the callback addresses. Example: the output of openssl rand -base64 32",
        format="password",
    ),
    "callback_signature_header": _field(
        "Callbacks",
        "Signature header",
        "Header in which the service signs its callbacks. Empty: not signed. Example: X-Signature",
    ),
    "callback_signature_scheme": _field(
        "Callbacks",
        "Signature scheme",
        "Empty: hmac-sha256, of the raw body. Example: hmac-sha256-timestamp, of time, dot and body",
        enum=["hmac-sha256", "hmac-sha256-timestamp"],
    ),
    "callback_signature_secret": _field(
        "Callbacks",
        "Signature secret",
        "Empty: the callback secret. Example: the signing secret from the service's console",
        format="password",
    ),
    "callback_timestamp_header": _field(
        "Callbacks",
        "Timestamp header",
        "Header with the signed time. Empty: X-Timestamp. Example: X-Signed-At",
    ),
    "media_hosts": _field(
        "Network",
        "Media hosts",
        "Hosts beside public https ones that media may come from: private, loopback, plain http. "
        "Example: 127.0.0.1:8300, *.media.internal",
    ),
    "proxy": _field(
        "Network", "Proxy", "For calls and downloads. Example: http://proxy.internal:3128", format="password"
    ),
    "verify": _field(
        "Network", "Verify TLS", "true, false, or the path of a CA bundle. Example: /etc/ssl/own.pem"
    ),
}


def _connection_type(hook: str) -> dict[str, Any]:
    return {
        "connection-type": "seedance",
        "hook-class-name": hook,
        "hook-name": "Seedance",
        "ui-field-behaviour": {
            "hidden-fields": ["schema", "login", "port"],
            "relabeling": {"password": "API key", "host": "Base URL"},
            "placeholders": {
                "host": "Empty: the service's. Example: https://ark.cn-beijing.volces.com/api/v3",
                "password": "Example: sk-0123456789abcdef",
            },
        },
        "conn-fields": _FIELDS,
    }
