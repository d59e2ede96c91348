"""
Facets of OpenLineage; imported only where its client is installed.

They name the schema of their base class, which allows further fields, as Airflow's own facets do.
"""

from __future__ import annotations

from typing import Any

import attrs
from openlineage.client.facet_v2 import DatasetFacet, JobFacet, RunFacet


@attrs.define(kw_only=True, slots=False)
class _Generations:
    """
    Generations of a run, a job or a dataset.

    :param api: The service, or several separated by commas.
    :param generationIds: Ids of the first hundred.
    :param generations: Number of generations.
    :param credits: Sum in the service's own unit.
    """

    api: str | None = None
    model: str | None = None
    generationIds: list[str] = attrs.field(factory=list)
    generations: int = 0
    credits: float | None = None
    costUsd: float | None = None


@attrs.define(kw_only=True)
class SeedanceRunFacet(_Generations, RunFacet):
    """Generations of a run."""

    counts: dict[str, Any] | None = None
    manifest: str | None = None


@attrs.define(kw_only=True)
class SeedanceJobFacet(_Generations, JobFacet):
    """Generations of the latest run of a job."""

    counts: dict[str, Any] | None = None
    manifest: str | None = None


@attrs.define(kw_only=True)
class SeedanceDatasetFacet(_Generations, DatasetFacet):
    """Generations that a dataset holds."""

    bytes: int | None = None
    sha256: list[str] = attrs.field(factory=list)
