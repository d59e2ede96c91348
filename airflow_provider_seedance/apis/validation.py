"""Judging a request by the rules of a service, before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_seedance.apis.messages import DEEPEST
from airflow_provider_seedance.apis.rules import Inputs, Rule, Text
from airflow_provider_seedance.exceptions import SeedanceRequestError
from airflow_provider_seedance.generations import GenerationRequest, ImageRequest, MediaInput, ResultDefaults
from airflow_provider_seedance.urls import MediaHosts

if TYPE_CHECKING:
    from airflow_provider_seedance.apis.base import Api


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """
    A request that its service will take.

    :param request: The request with every required default filled in.
    :param asked: The request as the user and the connection gave it, without the service's defaults.
    :param defaults: What was filled in, in words.
    :param warnings: What is doubtful, in words.
    :param facts: What the request already tells of the result.
    """

    request: GenerationRequest
    asked: GenerationRequest
    defaults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    result_defaults: ResultDefaults = field(default_factory=ResultDefaults)


def judge(
    api: Api,
    request: GenerationRequest,
    base_url: str,
    hosts: MediaHosts,
    connection_model: str | None,
) -> Prepared:
    """Fill in defaults and judge a request; see :meth:`~airflow_provider_seedance.apis.base.Api.prepare`."""
    if malformed := _malformed(api, request, base_url):
        raise _refused(api, malformed)
    filled = []
    if connection_model and request.model is None and _fits(connection_model, request):
        request = request.with_default(model=connection_model)
        filled.append(f"model={connection_model!r} (from the connection)")
    asked = request
    rules = api.rules(request, base_url)
    if not rules:
        makes = "videos" if isinstance(request, ImageRequest) else "images"
        raise SeedanceRequestError(
            f"{api.name} ({api.title}) makes {makes} only; nothing was sent. "
            f"Choose a connection whose api makes {request.media}s."
        )
    defaults = {
        name: value
        for name, value in api.defaults(request, base_url).items()
        if getattr(request, name) is None
    }
    if defaults:
        request = request.with_default(**defaults)
        filled += [f"{name}={value!r} (default of {api.name})" for name, value in defaults.items()]
        rules = api.rules(request, base_url)
    problems = _problems(api, request, rules, hosts)
    problems += api.cross_check(request, base_url) if not problems else []
    problems += _unwritable(api, request) if not problems else []
    if problems:
        source = " The model comes from the connection." if filled and "model" not in rules else ""
        raise _refused(api, problems, source)
    doubts = [
        f"{name}: {doubt}"
        for name, value in request.arguments().items()
        if name in rules and (doubt := rules[name].warning(value))
    ]
    return Prepared(
        request=request,
        asked=asked,
        defaults=tuple(filled),
        warnings=tuple(doubts),
        result_defaults=api.result_defaults(request),
    )


def _refused(api: Api, problems: Iterable[str], source: str = "") -> SeedanceRequestError:
    return SeedanceRequestError(
        f"The request cannot be sent to {api.name}: {'; '.join(problems)}.{source} Nothing was sent."
    )


def _malformed(api: Api, request: GenerationRequest, base_url: str) -> list[str]:
    """
    Return what the rules cannot even look at.

    What is nested too deep breaks every message and digest of it, and the model decides which rules there are.
    """
    given = request.arguments()
    found = [
        f"{name} is nested deeper than {DEEPEST} levels" for name, value in given.items() if _too_deep(value)
    ]
    if not found and not isinstance(given.get("model", ""), str):
        rule = api.rules(replace(request, model=None), base_url).get("model", Text())
        found.append(f"model={_shown(given['model'])} is not accepted: {api.name} takes {rule.describe()}")
    return found


def _too_deep(value: Any) -> bool:
    # Level by level, and each object once a level: what holds itself has no end.
    level = [value]
    for _ in range(DEEPEST + 1):
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


def _fits(model: str, request: GenerationRequest) -> bool:
    # One connection serves both operators; its default model is for the kind of media it names.
    return ("seedream" in model.lower()) == isinstance(request, ImageRequest)


def _problems(
    api: Api, request: GenerationRequest, rules: Mapping[str, Rule], hosts: MediaHosts
) -> list[str]:
    found = _prompt_problems(api, request)
    for name, value in request.arguments().items():
        if name == "extra_params":
            if not isinstance(value, Mapping):
                found.append(f"extra_params must be a dict of the service's own fields, not {value!r}")
            continue
        if name == "prompt" and not isinstance(value, str):
            continue
        rule = rules.get(name)
        if rule is None:
            takes = ", ".join(sorted(rules))
            found.append(f"{name}={_shown(value)} is not an argument of {api.name}, which takes {takes}")
        elif isinstance(rule, Inputs):
            if wrong := rule.problems(value, hosts):
                found.append(f"images: {', '.join(wrong)}; {api.name} takes {rule.describe()}")
        elif not rule.accepts(value):
            found.append(f"{name}={_shown(value)} is not accepted: {api.name} takes {rule.describe()}")
    return found


def _prompt_problems(api: Api, request: GenerationRequest) -> list[str]:
    prompt: Any = request.prompt
    if not isinstance(prompt, str):
        return [f"prompt must be text, not {_shown(prompt)}"]
    if not prompt.strip() and not api.prompt_optional(request):
        return ["prompt is empty"]
    if prompt.strip() == "None":
        return ["prompt is the text 'None', which is what a template makes of a missing value"]
    return []


def _unwritable(api: Api, request: GenerationRequest) -> list[str]:
    # Found later, between the intent and the POST, it would look like a submission of unknown fate.
    try:
        json.dumps(api.submit_call(request).json, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return [f"it cannot be written as JSON ({error}); every value must be plain JSON data"]
    return []


def _shown(value: Any, limit: int = 80) -> str:
    shown = repr(value)
    if len(shown) <= limit:
        return shown
    size = f" ({len(value)} characters)" if isinstance(value, str) else ""
    return shown[:limit] + "…" + size
