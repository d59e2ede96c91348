"""
Prices of renders: rules of a connection, and the tables that services publish, which the package ships as data.

The first rule that matches a request counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.resources import files
from typing import Any, get_args

from airflow_provider_seedance.generations import COMPARED, Estimate, GenerationRequest, Media, read_number

#: Amount by which a rule states its price, and the property of a request by which it is multiplied.
_AMOUNTS: Mapping[str, str | None] = {
    "usd": None,
    "usd_per_second": "duration",
    "usd_per_image": "num_images",
    "usd_per_million_tokens": "output_tokens",
    "credits": None,
    "credits_per_second": "duration",
}

#: Amounts by which a generation is priced again when it has ended.
COUNTED_AMOUNTS = ("usd_per_million_tokens", "usd_per_image")

_RATE = "usd_per_credit"

#: Types of the properties by which a rule chooses requests; `media` is one of two words.
_PROPERTIES = {"model": str, "resolution": str | None, "duration": int | float | None, "audio": bool | None}

_TAKES = (
    'a list of rules such as [{"model": "seedance-2.0*", "resolution": "720p", "audio": true, "media": "video", '
    f'"usd_per_second": 0.14}}]: each with one of {", ".join(_AMOUNTS)}, a number of at least 0; or '
    f'[{{"{_RATE}": 0.005}}]'
)


@dataclass(frozen=True, kw_only=True)
class PriceRule:
    """
    Price of the requests that it matches; a property that is ``None`` matches all.

    :param amount: One of the amounts, such as ``usd_per_second``.
    :param model: Pattern of the model.
    :param audio: Whether a sound track is requested.
    """

    amount: str
    price: float
    model: str = "*"
    resolution: str | None = None
    duration: float | None = None
    audio: bool | None = None
    media: Media | None = None

    @property
    def in_credits(self) -> bool:
        """True if the price is in credits."""
        return self.amount.startswith("credits")

    def matches(self, request: GenerationRequest) -> bool:
        """Return whether the rule is about a request."""
        return (
            fnmatchcase(request.model or "", self.model)
            and (self.resolution or "").lower() in ("", str(request.resolution or "").lower())
            and self.duration in (None, read_number(getattr(request, "duration", None)))
            and self.audio in (None, bool(getattr(request, "generate_audio", None)))
            and self.media in (None, request.media)
        )

    def cost(self, request: GenerationRequest, output_tokens: float | None) -> float | None:
        """Return the cost of a request, or ``None`` where it depends on what is not known before the render."""
        if (by := _AMOUNTS[self.amount]) is None:
            return self.price
        known = {"output_tokens": None if output_tokens is None else output_tokens / 1e6}
        given = getattr(request, by, None)
        known |= {"duration": read_number(given), "num_images": 1 if given is None else read_number(given)}
        quantity = known[by]
        return None if quantity is None or quantity < 0 else round(self.price * quantity, 6)


@dataclass(frozen=True, kw_only=True)
class Prices:
    """
    The prices of a connection.

    :param usd_per_credit: US dollars for a credit of the service.
    """

    rules: tuple[PriceRule, ...] = ()
    usd_per_credit: float | None = None

    def estimate(self, request: GenerationRequest, published: Estimate) -> Estimate:
        """
        Return the cost of a prepared request.

        :param published: Cost by the published prices of the service, for what no rule says.
        """
        credits, cost_usd = published.credits, published.cost_usd
        if rule := self._first(request, in_credits=True):
            credits = rule.cost(request, published.output_tokens)
        if self.usd_per_credit is not None and credits is not None:
            cost_usd = round(credits * self.usd_per_credit, 6)
        if rule := self.usd_rule(request):
            cost_usd = rule.cost(request, published.output_tokens)
        return Estimate(credits=credits, cost_usd=cost_usd, output_tokens=published.output_tokens)

    def usd_rule(self, request: GenerationRequest) -> PriceRule | None:
        """Return the rule that states the US dollars of a request."""
        return self._first(request, in_credits=False)

    def _first(self, request: GenerationRequest, *, in_credits: bool) -> PriceRule | None:
        matching = (rule for rule in self.rules if rule.in_credits is in_credits and rule.matches(request))
        return next(matching, None)

    @classmethod
    def parse(cls, value: Any) -> Prices:
        """
        Read the prices of a connection.

        :raises ValueError: with what they take.
        """
        if isinstance(value, Prices):
            return value
        given = [dict(item) for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
        if not isinstance(value, list) or len(given) != len(value):
            raise ValueError(_TAKES)
        rates = [_amount(item.pop(_RATE)) for item in given if _RATE in item]
        return cls(
            rules=tuple(_rule(item) for item in given if item), usd_per_credit=rates[0] if rates else None
        )


@dataclass(frozen=True, kw_only=True)
class PublishedPrices:
    """
    Price table of a service.

    :param source: Address of the page.
    :param date: Day on which it was read.
    """

    prices: Prices = field(default_factory=Prices)
    source: str = ""
    date: str = ""

    @classmethod
    def of(cls, api: str) -> PublishedPrices:
        """Read the table of a service, which is empty where it publishes none."""
        file = files("airflow_provider_seedance") / "apis" / "prices" / f"{api}.json"
        if not file.is_file():
            return cls()
        table = json.loads(file.read_text(encoding="utf-8"))
        return cls(prices=Prices.parse(table["prices"]), source=table["source"], date=table["date"])


@dataclass(frozen=True, kw_only=True)
class ResultDefaults:
    """
    Values of the result that the request determines, for services that do not report them.

    Stored in the record and in trigger kwargs, so that the result is the same from every path. Both are
    visible to users, so it contains neither prompt nor URL.

    :param usd_per_credit: Price of the connection for a credit that the service reports.
    :param fixed_usd: Price of the connection that replaces one that follows from reported credits.
    :param usd_per_million_tokens: Price for the tokens that the service reports.
    :param usd_per_image: Price for each image that was made, which may be fewer than requested.
    """

    model: str | None = None
    duration: float | None = None
    resolution: str | None = None
    credits: float | None = None
    cost_usd: float | None = None
    aspect_ratio: str | None = None
    generate_audio: bool | None = None
    num_images: int | None = None
    output_format: str | None = None
    usd_per_credit: float | None = None
    fixed_usd: float | None = None
    usd_per_million_tokens: float | None = None
    usd_per_image: float | None = None

    @classmethod
    def of(cls, request: GenerationRequest, **costs: float | None) -> ResultDefaults:
        """Return the defaults of a request, with its cost."""
        requested: dict[str, Any] = {name: getattr(request, name, None) for name in ("model", *COMPARED)}
        return cls(**{**requested, "duration": read_number(requested["duration"]), **costs})

    def as_dict(self) -> dict[str, Any]:
        """Return the values that are known."""
        return {key: value for key, value in self.__dict__.items() if value is not None}


def _rule(given: dict[str, Any]) -> PriceRule:
    amounts = [name for name in _AMOUNTS if name in given]
    if len(amounts) != 1:
        raise ValueError(_TAKES)
    rule = PriceRule(
        amount=amounts[0],
        price=_amount(given.pop(amounts[0])),
        model=given.pop("model", "*"),
        resolution=given.pop("resolution", None),
        duration=given.pop("duration", None),
        audio=given.pop("audio", None),
        media=given.pop("media", None),
    )
    fits = all(isinstance(getattr(rule, name), kind) for name, kind in _PROPERTIES.items())
    if given or not fits or rule.media not in (*get_args(Media), None):
        raise ValueError(_TAKES)
    return rule


def _amount(value: Any) -> float:
    number = read_number(value)
    if number is None or number < 0:
        raise ValueError(_TAKES)
    return float(number)
