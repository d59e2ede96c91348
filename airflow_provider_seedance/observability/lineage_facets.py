"""
Facets and datasets of OpenLineage; imported only where its client and provider are installed.

The facets name the schema of their base class, which allows further fields, as Airflow's own facets do.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import Dataset
from openlineage.client.facet_v2 import DatasetFacet, JobFacet, RunFacet

#: Maximum number of generations that are named.
MAX_NAMED = 100

#: Name of the facets; OpenLineage requires a prefix.
FACET = "seedance_generation"

#: OpenLineage's names of stores.
_STORES = {"": "file", "local": "file", "gcs": "gs", "s3a": "s3", "s3n": "s3"}


@attrs.define(kw_only=True, slots=False)
class _Generations:
    """
    Generations of a run, a job or a dataset; unknown values are left out.

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
    outputTokens: float | None = None
    counts: dict[str, Any] | None = None
    manifest: str | None = None
    bytes: int | None = None
    sha256: list[str] | None = None


@attrs.define(kw_only=True)
class SeedanceRunFacet(_Generations, RunFacet):
    """Generations of a run."""


@attrs.define(kw_only=True)
class SeedanceJobFacet(_Generations, JobFacet):
    """Generations of the latest run of a job."""


@attrs.define(kw_only=True)
class SeedanceDatasetFacet(_Generations, DatasetFacet):
    """Generations that a dataset holds."""


def of_generations(result: Mapping[str, Any]) -> OperatorLineage:
    """Return the lineage of a task that generates, from its result, single or batch."""
    made = [result] if "generation_id" in result else list(result.get("succeeded") or [])
    values = {
        **_common_values(made),
        "credits": result.get("credits"),
        "costUsd": result.get("cost_usd"),
        "counts": dict(result.get("counts") or {}) or None,
        "manifest": _without_connection(str(result.get("manifest") or "")) or None,
    }
    return OperatorLineage(
        outputs=[_generation(one) for one in made[:MAX_NAMED]],
        run_facets={FACET: SeedanceRunFacet(**values)},
        job_facets={FACET: SeedanceJobFacet(**values)},
    )


def of_transfer(result: Mapping[str, Any], made: Iterable[Any]) -> OperatorLineage:
    """Return the lineage of a transfer, from its result and the generations that were stored."""
    results = [generation.result() for generation in made]
    values = _common_values(results)
    namespace, name = _stored_at(result)
    stored = SeedanceDatasetFacet(
        **values,
        credits=_sum(one["credits"] for one in results),
        costUsd=_sum(one["cost_usd"] for one in results),
        bytes=result.get("bytes"),
        sha256=list(result.get("sha256") or [])[:MAX_NAMED],
    )
    return OperatorLineage(
        inputs=[_generation(one) for one in results[:MAX_NAMED]],
        outputs=[Dataset(namespace=namespace, name=name, facets={FACET: stored})],
        job_facets={FACET: SeedanceJobFacet(**values)},
    )


def _generation(one: Mapping[str, Any]) -> Dataset:
    facet = SeedanceDatasetFacet(
        **_common_values([one]), credits=one.get("credits"), costUsd=one.get("cost_usd")
    )
    return Dataset(
        namespace=f"seedance://{one.get('api')}", name=str(one["generation_id"]), facets={FACET: facet}
    )


def _common_values(made: list[Any]) -> dict[str, Any]:
    return {
        "api": _one(made, "api"),
        "model": _one(made, "model"),
        "generationIds": [str(one["generation_id"]) for one in made[:MAX_NAMED]],
        "generations": len(made),
        "outputTokens": _sum((one.get("usage") or {}).get("output_tokens") for one in made),
    }


def _one(made: list[Any], name: str) -> str | None:
    found = sorted({str(one[name]) for one in made if one.get(name)})
    return ", ".join(found) or None


def _sum(values: Iterable[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 6) if known else None


def _stored_at(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return the dataset of the stored files: the file, or the directory of several."""
    names = [dataset_name(str(path)) for path in result.get("paths") or ()]
    path = str(result["path"])
    if len(names) < 2 or path.endswith("/"):
        return dataset_name(path)
    # A generation with several outputs: its path is the first of them.
    return names[0][0], posixpath.commonpath([posixpath.dirname(name) for _, name in names]) or "/"


def dataset_name(path: str) -> tuple[str, str]:
    """Return namespace and name of a path of Airflow's object storage, as OpenLineage names datasets."""
    scheme, separator, rest = _without_connection(path).partition("://")
    if not separator:
        scheme, rest = "", path
    scheme = _STORES.get(scheme, scheme)
    if scheme == "file":
        return "file", rest.rstrip("/") or "/"
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key.strip("/") or "/"


def _without_connection(path: str) -> str:
    return re.sub(r"(?<=://)[^/]*@", "", path)
