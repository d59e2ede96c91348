"""Validation of a request by the rules of a service, before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from airflow_provider_seedance.apis.base import Api
from airflow_provider_seedance.apis.messages import MAX_JSON_DEPTH
from airflow_provider_seedance.apis.rules import Rule, text
from airflow_provider_seedance.costs.pricing import COUNTED_AMOUNTS, Prices, ResultDefaults
from airflow_provider_seedance.exceptions import SeedanceRequestError
from airflow_provider_seedance.generations import Estimate, GenerationRequest, ImageRequest
from airflow_provider_seedance.urls import MediaHosts, MediaInput


class ServiceSettings(Protocol):
    """The settings of a connection that decide which requests its service accepts."""

    @property
    def api(self) -> Api: ...
    @property
    def base_url(self) -> str: ...
    @property
    def media_hosts(self) -> MediaHosts: ...
    @property
    def model(self) -> str | None: ...
    @property
    def prices(self) -> Prices: ...


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """
    A validated request.

    :param request: The request with every required default filled in.
    :param as_requested: The request as the user and the connection gave it, without the service's defaults.
    :param defaults: The defaults that were filled in, for the log.
    :param warnings: Warnings for the log.
    :param price: Cost of it, as far as that is known before it is submitted.
    :param result_defaults: Values of the result that the request already determines.
    """

    request: GenerationRequest
    as_requested: GenerationRequest
    defaults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    price: Estimate = field(default_factory=Estimate)
    result_defaults: ResultDefaults = field(default_factory=ResultDefaults)


def prepare_request(settings: ServiceSettings, request: GenerationRequest) -> Prepared:
    """
    Fill in the defaults of a request and validate it.

    :raises SeedanceRequestError: the service does not accept it, with every problem in one message;
        nothing was sent, a retry cannot help.
    """
    api, base_url = settings.api, settings.base_url
    if problems := _structural_problems(api, request, base_url):
        raise _refused(api, problems)
    # A connection is used for videos and images; its default model is for one of them.
    fits = ("seedream" in (settings.model or "").lower()) == isinstance(request, ImageRequest)
    model = settings.model if request.model is None and fits else None
    as_requested = request.with_default(model=model)
    if not api.rules(as_requested, base_url):
        makes = "videos" if isinstance(request, ImageRequest) else "images"
        raise SeedanceRequestError(
            f"{api.name} ({api.title}) makes {makes} only; nothing was sent. "
            f"Choose a connection whose api makes {request.media}s."
        )
    defaults = {
        name: value
        for name, value in api.defaults(as_requested, base_url).items()
        if getattr(as_requested, name) is None
    }
    prepared = as_requested.with_default(**defaults)
    rules = api.rules(prepared, base_url)
    if problems := _problems(settings, prepared, rules):
        source = " The model comes from the connection." if model and "model" not in rules else ""
        raise _refused(api, problems, source)
    price = settings.prices.estimate(prepared, api.price(prepared))
    filled = [f"model={model!r} (from the connection)"] if model else []
    filled += [f"{name}={value!r} (default of {api.name})" for name, value in defaults.items()]
    return Prepared(
        request=prepared,
        as_requested=as_requested,
        defaults=tuple(filled),
        warnings=tuple(
            f"{name}: {warning}"
            for name, value in prepared.arguments().items()
            if name in rules and (warning := rules[name].warning(value))
        ),
        price=price,
        result_defaults=_result_defaults(settings, prepared, price),
    )


def _result_defaults(
    settings: ServiceSettings, request: GenerationRequest, price: Estimate
) -> ResultDefaults:
    prices, published = settings.prices, settings.api.published.prices
    by_rule = prices.usd_rule(request)
    billed, derives_usd = settings.api.billed(request), published.usd_per_credit is not None
    rule = by_rule or (published.usd_rule(billed) if billed else None)
    return ResultDefaults.of(
        request,
        credits=price.credits,
        cost_usd=price.cost_usd,
        usd_per_credit=None if by_rule else prices.usd_per_credit,
        fixed_usd=price.cost_usd if by_rule and derives_usd else None,
        **({rule.amount: rule.price} if rule and rule.amount in COUNTED_AMOUNTS else {}),
    )


def _problems(settings: ServiceSettings, request: GenerationRequest, rules: Mapping[str, Rule]) -> list[str]:
    api = settings.api
    return (
        _argument_problems(api, request, rules, settings.media_hosts)
        or api.cross_check(request, settings.base_url)
        or _not_serializable(api, request)
    )


def _refused(api: Api, problems: Iterable[str], source: str = "") -> SeedanceRequestError:
    return SeedanceRequestError(
        f"The request cannot be sent to {api.name}: {'; '.join(problems)}.{source} Nothing was sent."
    )


def _structural_problems(api: Api, request: GenerationRequest, base_url: str) -> list[str]:
    """
    Return problems that prevent the rules from being applied.

    Deep nesting breaks messages and digests, and the model decides which rules apply.
    """
    given = request.arguments()
    found = [
        f"{name} is nested deeper than {MAX_JSON_DEPTH} levels"
        for name, value in given.items()
        if _too_deep(value)
    ]
    if not found and not isinstance(given.get("model", ""), str):
        rule = api.rules(replace(request, model=None), base_url).get("model", text())
        found.append(f"model={_preview(given['model'])} is not accepted: {api.name} takes {rule.takes}")
    return found


def _too_deep(value: Any) -> bool:
    # Level by level, and each object once per level: an object may contain itself.
    level = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        if not (level := [inner for outer in level for inner in _parts(outer)]):
            return False
        level = list({id(inner): inner for inner in level}.values())
    return True


def _parts(value: Any) -> list[Any]:
    if isinstance(value, MediaInput):
        return [value.url, value.role]
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else []


def _argument_problems(
    api: Api, request: GenerationRequest, rules: Mapping[str, Rule], hosts: MediaHosts
) -> list[str]:
    found = _prompt_problems(api, request)
    for name, value in request.arguments().items():
        rule = rules.get(name)
        if name == "extra_params":
            if not isinstance(value, Mapping):
                found.append(f"extra_params must be a dict of the service's own fields, not {value!r}")
        elif name == "prompt" and not isinstance(value, str):
            pass  # already found
        elif rule is None:
            takes = ", ".join(sorted(rules))
            found.append(f"{name}={_preview(value)} is not an argument of {api.name}, which takes {takes}")
        elif rule.problems:
            if found_inputs := rule.problems(value, hosts):
                found.append(f"images: {', '.join(found_inputs)}; {api.name} takes {rule.takes}")
        elif not rule.accepts(value):
            found.append(f"{name}={_preview(value)} is not accepted: {api.name} takes {rule.takes}")
    return found


def _prompt_problems(api: Api, request: GenerationRequest) -> list[str]:
    prompt: Any = request.prompt
    if not isinstance(prompt, str):
        return [f"prompt must be text, not {_preview(prompt)}"]
    if not prompt.strip() and not api.prompt_optional(request):
        return ["prompt is empty"]
    if prompt.strip() == "None":
        return ["prompt is the text 'None', which a template renders for a missing value"]
    return []


def _not_serializable(api: Api, request: GenerationRequest) -> list[str]:
    # Between the intent and the POST, this error would make the submission uncertain.
    try:
        json.dumps(api.submit_call(request).json, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return [f"it cannot be written as JSON ({error}); every value must be plain JSON data"]
    return []


def _preview(value: Any, limit: int = 80) -> str:
    shown = repr(value)
    if len(shown) <= limit:
        return shown
    size = f" ({len(value)} characters)" if isinstance(value, str) else ""
    return shown[:limit] + "…" + size
