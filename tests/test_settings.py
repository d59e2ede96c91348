"""The connection: every key of the extra, every form of the host, and every way to get them wrong."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from helpers import ALL_APIS, KEY, connection, image, prepare, settings, video

from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.exceptions import SeedanceConfigurationError
from airflow_provider_seedance.settings import read_settings
from airflow_provider_seedance.urls import MediaHosts

OFFICIAL = {
    "seedance2api": "https://api.seedance2api.com/v1",
    "seedanceapi-v1": "https://seedanceapi.org/v1",
    "seedanceapi-v2": "https://seedanceapi.org/v2",
    "runbase": "https://runbase.net/api/v1",
    "ark": "https://ark.ap-southeast.bytepluses.com/api/v3",
    "fal": "https://queue.fal.run",
    "replicate": "https://api.replicate.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
}


def test_a_connection_with_nothing_but_a_key() -> None:
    found = read_settings("c", connection())
    assert found.api.name == "seedanceapi-v2"
    assert found.base_url == "https://seedanceapi.org/v2"
    assert found.key == KEY
    assert found.auth() == {"Authorization": f"Bearer {KEY}"}
    assert (found.call_timeout, found.image_timeout) == (30, 600)
    assert found.verify is True
    assert found.media_hosts == MediaHosts()
    assert found.model is found.timeout is found.requests_per_hour is found.proxy is None
    assert found.callback_base_url is found.callback_secret is None
    assert found.warnings == ()


def test_the_services_and_their_addresses() -> None:
    assert set(ALL_APIS) == set(OFFICIAL)
    for name, url in OFFICIAL.items():
        assert settings(api=name).base_url == url
        assert settings(api=name).api is get_api(name)


def test_every_key_is_read() -> None:
    found = settings(
        api="seedance2api",
        auth_header="X-API-Key",
        model="seedance-2.0",
        timeout="12.5",
        requests_per_hour="1000",
        callback_base_url="https://airflow.example.com/",
        callback_secret="hush-hush",
        media_hosts=["minio:9000"],
        proxy="http://u:p@proxy.example:3128",
        verify="/etc/ca.pem",
    )
    assert found.auth() == {"X-API-Key": KEY}
    assert found.model == "seedance-2.0"
    assert (found.timeout, found.call_timeout, found.image_timeout) == (12.5, 12.5, 12.5)
    assert found.requests_per_hour == 1000
    assert found.callback_base_url == "https://airflow.example.com"
    assert found.callback_secret == "hush-hush"
    assert found.media_hosts.allows("minio", 9000)
    assert found.proxy == "http://u:p@proxy.example:3128"
    assert found.verify == "/etc/ca.pem"
    assert found.warnings == ()


def test_verify() -> None:
    for value, verify in [(True, True), (False, False), ("true", True), ("False", False), ("/ca", "/ca")]:
        assert settings(verify=value).verify == verify


#: Key, malformed values, and words of their message.
MALFORMED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("api", ("openai",), "seedance2api, seedanceapi-v1, seedanceapi-v2, runbase, ark"),
    ("api", (5,), "api in the extra is 5"),
    ("api", ("arc",), "openrouter. Did you mean 'ark'?"),
    ("api", (["ark"],), "api in the extra is"),
    ("auth_header", ("cookie", 5), "authorization"),
    ("auth_header", ("x-api-key",), "authorization with api seedanceapi-v2"),
    ("model", (5,), "text"),
    ("timeout", (0, -1, "soon", True, "inf", [30]), "positive number of seconds"),
    ("timeout", (1e10, 86401, 1e-300, "0.05", 10**400), "0.1 to 86400"),
    ("requests_per_hour", (1_000_001, 1e300), "at most 1000000"),
    ("max_media_bytes", (1e308, 2**50 + 1), "at most 1125899906842624"),
    ("max_media_bytes", ("lots",), "whole number of bytes"),
    ("requests_per_hour", (0,), "at least 1"),
    ("requests_per_hour", (1.5, "many", True), "whole number"),
    ("submissions_per_minute", (0, "many", {"*": 0}, {"*": "many"}, [], "{"), ""),
    ("callback_base_url", (5,), "text"),
    ("callback_base_url", ("airflow.example.com",), "airflow.example.com'; it takes the plain http"),
    ("callback_base_url", ("ftp://airflow.example.com", "https://", "https://a.example/?x=1"), "plain http"),
    ("callback_base_url", tuple(f"https://h{end}" for end in (":70000", ":-1", ":0", "\x00")), "plain http"),
    ("callback_secret", (5,), "text"),
    ("media_hosts", (5, {"a": 1}), "list of host names"),
    ("proxy", ("proxy.example:3128",), "takes a URL"),
    ("proxy", (5,), "text"),
    ("proxy", ("http://", "http://u:p@", "http://:3128", "http://[x"), "with a host"),
    ("proxy", ("http://h:70000", "http://h:-1", "http://h:0"), "1 to 65535"),
    ("proxy", ("http://\ud800", "http://h\n"), "ASCII"),
    ("verify", ("\x00", "/etc/ca\n.pem", "\ud800", 1, []), "true, false, or the path"),
)


def test_every_malformed_value_is_one_clear_error() -> None:
    for key, values, says in MALFORMED:
        for value in values:
            with pytest.raises(SeedanceConfigurationError, match=key) as caught:
                settings(**{key: value})
            assert says in str(caught.value)


PASTED = "sk-pasted-Key-0123"


#: Extras of connections with a key in the wrong field.
PASTED_EXTRAS: tuple[dict[str, Any], ...] = (
    *({key: PASTED} for key in ("auth_header", "api", "callback_signature_scheme", "timeout", "proxy")),
    {"auth_header": f"Bearer {PASTED}"},
    {"callback_base_url": f"ftp://u:{PASTED}@x"},
    {"requests_per_hour": [PASTED]},
    *({key: {PASTED: 1}} for key in ("api", "media_hosts")),
    {"verify": {PASTED: PASTED}},
)


def test_no_message_repeats_a_key_in_the_wrong_field() -> None:
    places: list[dict[str, Any]] = [{"extra": extra} for extra in PASTED_EXTRAS]
    places += [{"host": f"seedance://:{PASTED}@https%3A%2F%2Fx"}, {"host": f"https://u:{PASTED}@[x"}]
    # In these, only the password shows that it is a key.
    hidden = [{"host": f"https://{PASTED}:x"}, {"host": f"ftp://{PASTED}"}, {"host": "h", "schema": PASTED}]
    for place in (*places, *({**place, "password": PASTED} for place in (*places, *hidden))):
        with pytest.raises(SeedanceConfigurationError) as caught:
            read_settings("c", connection(**place))
        # The messages of the whole chain, without frames.
        said = "".join(traceback.format_exception(caught.value, limit=0)) + repr(caught.value.__context__)
        assert PASTED.lower() not in said.lower()


def test_no_message_and_no_warning_repeats_a_secret() -> None:
    for key in ["callback_secret", "callback_signature_secret"]:
        with pytest.raises(SeedanceConfigurationError) as caught:
            settings(**{key: "hush-hush", "api": "hush-hush"})
        assert "hush" not in str(caught.value)
    assert settings(callback_secret="hush\ud800").redact("so hush\ud800.") == "so ***."
    found = read_settings("c", connection(password=PASTED, extra={PASTED: 1}))
    assert PASTED not in str(found.warnings)


def test_the_bounds_themselves_are_taken() -> None:
    for key, bound in [
        ("timeout", 0.1),
        ("timeout", 86_400),
        ("requests_per_hour", 10**6),
        ("max_media_bytes", 2**50),
    ]:
        assert getattr(settings(**{key: bound}), key) == bound


def test_an_extra_other_than_a_json_object() -> None:
    for extra in ["{", "api=ark", "[]", '"ark"', "5", "true", "[" * 100_000, b"\xff"]:
        with pytest.raises(SeedanceConfigurationError, match="'c': the extra"):
            read_settings("c", connection(extra=extra))


def test_an_extra_that_is_empty_or_read_already() -> None:
    for extra in [None, "", "  ", "{}"]:
        assert read_settings("c", connection(extra=extra)).api.name == "seedanceapi-v2"
    given = connection()
    given.extra = {"api": "ark"}
    assert read_settings("c", given).api.name == "ark"


def test_unknown_keys_are_named_once_each_without_their_values() -> None:
    found = settings(apy="ark", timeut="hush-hush")
    assert len(found.warnings) == 2
    assert "'apy'" in found.warnings[0]
    assert "hush-hush" not in str(found.warnings)


def test_keys() -> None:
    assert read_settings("c", connection(password=f" {KEY}\n")).key == KEY
    for password in [None, "", "   ", "\n"]:
        with pytest.raises(SeedanceConfigurationError, match="has no API key"):
            read_settings("c", connection(password=password))
    for password in ["sk-a b", "sk-a\nb", "sk-“quoted”", "sk-é", "a\x00b", "a\tb"]:
        with pytest.raises(SeedanceConfigurationError, match="characters that no key has") as caught:
            read_settings("c", connection(password=password))
        assert password not in str(caught.value)


def test_hosts() -> None:
    for host, port, schema, base in [
        ("127.0.0.1", 8123, "http", "http://127.0.0.1:8123"),
        ("seedanceapi.org", None, None, "https://seedanceapi.org/v2"),
        ("https://seedanceapi.org/", None, None, "https://seedanceapi.org/v2"),
        ("", None, None, "https://seedanceapi.org/v2"),
        (None, 8123, None, "https://seedanceapi.org/v2"),
    ]:
        assert read_settings("c", connection(host=host, port=port, schema=schema)).base_url == base
    for port in [70_000, -1, "x"]:
        with pytest.raises(SeedanceConfigurationError, match="1 to 65535"):
            read_settings("c", connection(host="h", port=port))


CHINA = "https://ark.cn-beijing.volces.com/api/v3"


def test_the_region_of_ark_follows_the_host() -> None:
    for host, base, model in [
        (None, "https://ark.ap-southeast.bytepluses.com/api/v3", "dreamina-seedance-2-0-260128"),
        ("ark.cn-beijing.volces.com", CHINA, "doubao-seedance-2-0-260128"),
        (CHINA, CHINA, "doubao-seedance-2-0-260128"),
        ("https://evilvolces.com/api/v3", "https://evilvolces.com/api/v3", "dreamina-seedance-2-0-260128"),
    ]:
        found = settings(host, api="ark")
        assert found.base_url == base
        assert prepare("ark", video(), base_url=found.base_url).request.model == model


def test_no_secret_shows() -> None:
    proxy = "http://u:pass-word@proxy.example:3128"
    found = settings(callback_secret="hush-hush", proxy=proxy)
    for secret in (KEY, "hush-hush", "pass-word"):
        assert secret not in f"{found!r} {found}"
    assert found.redact(f"{KEY} hush-hush {proxy} rest") == "*** *** *** rest"
    assert KEY not in str(found.identity)


def test_connections_of_one_key_and_address_share_a_quota() -> None:
    assert settings().identity == settings(model="m").identity
    assert settings().identity != settings("https://other.example").identity
    other = read_settings("c", connection(password="sk-other-key"))
    assert other.identity != settings().identity


def test_the_default_model_of_the_connection_is_for_its_kind_of_media() -> None:
    prepared = prepare("seedance2api", video(), model="seedance-2.0")
    assert prepared.request.model == "seedance-2.0"
    assert prepared.defaults[0] == "model='seedance-2.0' (from the connection)"
    assert prepare("seedance2api", image(), model="seedance-2.0").request.model == "seedream-4.5"
    assert prepare("seedance2api", image(), model="seedream-5.0").request.model == "seedream-5.0"
    assert prepare("seedance2api", video(), model="seedream-5.0").request.model == "seedance-1.5-pro"
    assert prepare("seedance2api", video(model="m"), model="seedance-2.0").request.model == "m"


def test_the_path_of_a_connection_written_as_a_uri_is_not_dropped() -> None:
    from airflow.sdk import Connection

    dropped = Connection.from_uri("seedance://:key@api.example.com/v1", conn_id="c")
    with pytest.raises(SeedanceConfigurationError, match="becomes the schema and is lost"):
        read_settings("c", dropped)
    kept = Connection.from_uri("seedance://:key@https%3A%2F%2Fapi.example.com%2Fv1", conn_id="c")
    assert read_settings("c", kept).base_url == "https://api.example.com/v1"


def test_the_signature() -> None:
    assert settings(callback_secret="hush-hush").callback_signing is None
    assert settings(callback_signature_secret="other").callback_signing is None
    fallback = settings(callback_secret="hush-hush", callback_signature_header="X-Signature").callback_signing
    assert (fallback.header, fallback.secret) == ("X-Signature", "hush-hush")
    assert (fallback.scheme, fallback.timestamp_header) == ("hmac-sha256", "X-Timestamp")
    found = settings(
        callback_secret="hush-hush",
        callback_signature_header="X-Signature",
        callback_signature_scheme="hmac-sha256-timestamp",
        callback_signature_secret="of the service",
        callback_timestamp_header="X-Time",
    )
    signing = found.callback_signing
    assert (signing.secret, signing.timestamp_header) == ("of the service", "X-Time")
    assert signing.scheme == "hmac-sha256-timestamp"
    assert "of the service" not in repr(found)
    assert found.redact("is it of the service?") == "is it ***?"
    assert found.warnings == ()


def test_a_malformed_signature() -> None:
    for extra, says in [
        ({"callback_signature_scheme": "md5"}, "hmac-sha256 or hmac-sha256-timestamp"),
        ({"callback_signature_header": "X-Signature"}, "needs callback_signature_secret"),
        ({"callback_signature_header": 5}, "text"),
        ({"callback_signature_secret": ["x"]}, "text"),
        ({"callback_timestamp_header": True}, "text"),
    ]:
        with pytest.raises(SeedanceConfigurationError, match=says):
            settings(**extra)
