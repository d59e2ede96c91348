"""
Estimated cost of a batch by the published prices, before anything is sent; pure functions.

A request without a published price stays unknown: it never counts as free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from airflow_provider_seedance.apis.validation import Prepared
from airflow_provider_seedance.batch.items import BatchItem, known_sum
from airflow_provider_seedance.batch.preparation import validate_items
from airflow_provider_seedance.generations import counted
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission.decisions import listed

UNKNOWN = "unknown"

#: Shown for an argument that is left to the service.
DEFAULT = "(default)"


@dataclass(frozen=True, kw_only=True)
class Row:
    """
    Requests of the same model and resolution.

    :param credits: Sum of their credits; ``None`` if the price of any is unknown.
    :param cost_usd: The same in US dollars.
    """

    model: str | None
    resolution: str | None
    renders: int
    credits: float | None
    cost_usd: float | None


@dataclass(frozen=True, kw_only=True)
class BatchEstimate:
    """
    Estimated cost of requests.

    :param problems: Requests that the service does not accept, which cost nothing: key and reason.
    :param unpriced: Number of requests without any price.
    :param known_credits: Credits of those that have one; ``None`` if none has.
    :param known_usd: The same in US dollars.
    :param output_tokens: Tokens of all, where the service counts them; ``None`` if any is unknown.
    """

    api: str
    rows: tuple[Row, ...]
    problems: tuple[tuple[str, str], ...] = ()
    unpriced: int = 0
    known_credits: float | None = None
    known_usd: float | None = None
    output_tokens: float | None = None

    @property
    def renders(self) -> int:
        """Number of requests."""
        return sum(row.renders for row in self.rows)

    @property
    def credits(self) -> float | None:
        """Credits of all; ``None`` if any is unknown."""
        return None if any(row.credits is None for row in self.rows) else self.known_credits

    @property
    def cost_usd(self) -> float | None:
        """US dollars of all; ``None`` if any is unknown."""
        return None if any(row.cost_usd is None for row in self.rows) else self.known_usd

    @property
    def _is_lower_bound(self) -> bool:
        return (self.credits, self.cost_usd) != (self.known_credits, self.known_usd)

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON value; unknown values are ``None``."""
        return {
            "api": self.api,
            "renders": self.renders,
            "credits": self.credits,
            "cost_usd": self.cost_usd,
            "output_tokens": self.output_tokens,
            "unknown": self.unpriced,
            "at_least": {"credits": self.known_credits, "cost_usd": self.known_usd},
            "rows": [asdict(row) for row in self.rows],
            "refused": [{"key": key, "error": error} for key, error in self.problems],
        }

    def table(self) -> str:
        """Return it as a text table."""
        head = ("model", "resolution", "renders", "credits", "cost")
        lines = [
            (
                row.model or DEFAULT,
                row.resolution or DEFAULT,
                str(row.renders),
                _amount(row.credits),
                _dollars(row.cost_usd),
            )
            for row in self.rows
        ]
        credits = _at_least(_amount, self.credits, self.known_credits)
        cost = _at_least(_dollars, self.cost_usd, self.known_usd)
        lines.append(("total", "", str(self.renders), credits, cost))
        widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
        shown = [
            "  ".join(
                cell.ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in (head, *lines)
        ]
        if self.unpriced and self._is_lower_bound:
            shown.append(f"{self.summary()}.")
        if refusals := self._refusals():
            shown.append(listed(refusals, "\n"))
        return "\n".join(shown)

    def summary(self) -> str:
        """Return the sum in one line: ``at least 588 credits ($2.94), 2 renders of unknown price``."""
        credits = "" if self.known_credits is None else f"{_amount(self.known_credits)} credits"
        usd = "" if self.known_usd is None else _dollars(self.known_usd)
        known = f"{credits} ({usd})" if credits and usd else credits or usd
        unknown = f"{counted(self.unpriced, 'render')} of {UNKNOWN} price" if self.unpriced else ""
        return ", ".join(filter(None, (f"at least {known}" if self._is_lower_bound else known, unknown)))

    def _refusals(self) -> list[str]:
        """Return a line for each distinct refusal; many runs of a Dag repeat the same one."""
        counts = Counter(self.problems)
        return [
            f"refused: {key}: {error}{f' ({count} times)' if count > 1 else ''}"
            for (key, error), count in counts.items()
        ]


def estimate_items(connections: Sequence[Settings], items: Sequence[BatchItem]) -> BatchEstimate:
    """
    Validate and price the requests of a batch; nothing is sent, and an invalid request fails its item.

    Each has the price of the first connection that can make it.
    """
    valid = validate_items(connections, items)
    return estimate(
        connections[0],
        [next(iter(item.prepared.values())) for item, _ in valid],
        [(item.key, item.failure.error) for item in items if item.failure],
    )


def estimate(
    settings: Settings,
    prepared: Iterable[Prepared],
    problems: Sequence[tuple[str, str]] = (),
    *,
    unknown: int = 0,
) -> BatchEstimate:
    """
    Price validated requests.

    :param unknown: Number of further requests of unknown arguments.
    """
    groups: dict[tuple[str, str], list[tuple[float | None, float | None]]] = {}
    tokens = []
    for request in prepared:
        price = request.price
        tokens.append(price.output_tokens)
        defaults = request.result_defaults
        group = (
            str(defaults.model or request.request.model or ""),
            str(defaults.resolution or request.request.resolution or ""),
        )
        groups.setdefault(group, []).append((price.credits, price.cost_usd))
    rows = [_row(group, prices) for group, prices in sorted(groups.items())]
    if unknown:
        rows.append(Row(model=UNKNOWN, resolution=UNKNOWN, renders=unknown, credits=None, cost_usd=None))
    every = [price for prices in groups.values() for price in prices]
    return BatchEstimate(
        output_tokens=None if unknown or None in tokens else sum(filter(None, tokens)),
        api=settings.api.name,
        rows=tuple(rows),
        problems=tuple(problems),
        unpriced=unknown + sum(price == (None, None) for price in every),
        known_credits=known_sum(credits for credits, _ in every) if every or unknown else 0.0,
        known_usd=known_sum(usd for _, usd in every) if every or unknown else 0.0,
    )


def _row(group: tuple[str, str], prices: Sequence[tuple[float | None, float | None]]) -> Row:
    credits, usd = zip(*prices, strict=True)
    return Row(
        model=group[0] or None,
        resolution=group[1] or None,
        renders=len(prices),
        credits=None if None in credits else known_sum(credits),
        cost_usd=None if None in usd else known_sum(usd),
    )


def _at_least(write: Callable[[float | None], str], whole: float | None, known: float | None) -> str:
    return write(known) if whole == known else f"at least {write(known)}"


def _amount(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,g}" if value < 1e6 else f"{value:,.0f}"


def _dollars(value: float | None) -> str:
    # A credit costs half a cent: a small sum must not be rounded away.
    return UNKNOWN if value is None else f"${value:,.2f}" if round(value, 2) == value else f"${value:,.3f}"
