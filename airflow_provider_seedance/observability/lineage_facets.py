"""
The facets that OpenLineage is told; imported only where its client is installed.

They name the schema of their base class, which allows further fields, as Airflow's own facets do.
"""

from __future__ import annotations

from typing import Any

import attrs
from openlineage.client.facet_v2 import DatasetFacet, JobFacet, RunFacet


@attrs.define(kw_only=True)
class SeedanceRunFacet(RunFacet):
    """
    What a run generated.

    :param api: The service, or several with commas between them.
    :param generationIds: Of the first hundred.
    :param generations: How many there are.
    :param credits: Of all of them, in the service's own unit.
    """

    api: str | None = None
    model: str | None = None
    generationIds: list[str] = attrs.field(factory=list)
    generations: int = 0
    credits: float | None = None
    costUsd: float | None = None
    counts: dict[str, Any] | None = None
    manifest: str | None = None


@attrs.define(kw_only=True)
class SeedanceJobFacet(JobFacet):
    """What the latest run of a job generated; see :class:`SeedanceRunFacet`."""

    api: str | None = None
    model: str | None = None
    generationIds: list[str] = attrs.field(factory=list)
    generations: int = 0
    credits: float | None = None
    costUsd: float | None = None
    counts: dict[str, Any] | None = None
    manifest: str | None = None


@attrs.define(kw_only=True)
class SeedanceDatasetFacet(DatasetFacet):
    """Which generations a dataset holds, and what they cost; see :class:`SeedanceRunFacet`."""

    api: str | None = None
    model: str | None = None
    generationIds: list[str] = attrs.field(factory=list)
    generations: int = 0
    credits: float | None = None
    costUsd: float | None = None
    bytes: int | None = None
    sha256: list[str] = attrs.field(factory=list)
