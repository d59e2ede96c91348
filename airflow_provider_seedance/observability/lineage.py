"""
What this package tells OpenLineage of a task: which generations it made, with which model, for how much.

For whoever has the OpenLineage provider; without it nothing is told and nothing is imported. Nothing here
ever raises: a task that paid for a render does not fail for its lineage. No prompt, no URL of a vendor and no
key is told.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

log = logging.getLogger(__name__)

#: So many generations of a campaign are named.
MOST_NAMED = 100

#: Under what name the facets are found: OpenLineage wants a prefix of one's own and a name.
FACET = "seedance_generation"

#: Other names of a store, and the one that OpenLineage gives it.
_STORES = {"": "file", "local": "file", "gcs": "gs", "s3a": "s3", "s3n": "s3"}


def of_generations(result: Mapping[str, Any] | None) -> Any:
    """
    Return the lineage of a task that generates: a dataset for each generation, and what they cost.

    :param result: What the task returned, single or batch; ``None`` if it returned nothing.
    """
    return _told(_generations, result)


def of_transfer(result: Mapping[str, Any] | None, made: Iterable[Any] = ()) -> Any:
    """
    Return the lineage of a transfer: from the generations to the file, or to the directory of many.

    :param result: What the task returned.
    :param made: The generations that were stored.
    """
    return _told(_transfer, result, made)


def _told(make: Any, result: Mapping[str, Any] | None, *rest: Any) -> Any:
    try:
        from airflow.providers.openlineage.extractors import OperatorLineage

        # OpenLineage warns in the task's log if it is told None; an empty answer is one.
        return make(result, *rest) if result else OperatorLineage()
    except ImportError as error:
        log.debug("No lineage: %s", error)
    except Exception as error:
        log.warning("The lineage of this task could not be told: %s", error)
    return None


def _generations(result: Mapping[str, Any]) -> Any:
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_seedance.observability import lineage_facets as facets

    single = "generation_id" in result
    made = [result] if single else list(result.get("succeeded") or [])
    facts = {
        **_facts(made),
        "credits": result.get("credits"),
        "costUsd": result.get("cost_usd"),
        "counts": dict(result.get("counts") or {}) or None,
        "manifest": _without_connection(result.get("manifest")),
    }
    return OperatorLineage(
        outputs=[_generation(one) for one in made[:MOST_NAMED]],
        run_facets={FACET: facets.SeedanceRunFacet(**facts)},
        job_facets={FACET: facets.SeedanceJobFacet(**facts)},
    )


def _transfer(result: Mapping[str, Any], made: Iterable[Any]) -> Any:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import Dataset

    from airflow_provider_seedance.observability import lineage_facets as facets

    results = [generation.result() for generation in made]
    facts = _facts(results)
    namespace, name = _stored_at(result)
    stored = facets.SeedanceDatasetFacet(
        **facts,
        credits=_sum(one["credits"] for one in results),
        costUsd=_sum(one["cost_usd"] for one in results),
        bytes=result.get("bytes"),
        sha256=list(result.get("sha256") or [])[:MOST_NAMED],
    )
    return OperatorLineage(
        inputs=[_generation(one) for one in results[:MOST_NAMED]],
        outputs=[Dataset(namespace=namespace, name=name, facets={FACET: stored})],
        job_facets={FACET: facets.SeedanceJobFacet(**facts)},
    )


def _generation(one: Mapping[str, Any]) -> Any:
    from openlineage.client.event_v2 import Dataset

    from airflow_provider_seedance.observability import lineage_facets as facets

    facet = facets.SeedanceDatasetFacet(
        **_facts([one]), credits=one.get("credits"), costUsd=one.get("cost_usd")
    )
    return Dataset(
        namespace=f"seedance://{one.get('api')}", name=str(one["generation_id"]), facets={FACET: facet}
    )


def _facts(made: list[Any]) -> dict[str, Any]:
    return {
        "api": _one(made, "api"),
        "model": _one(made, "model"),
        "generationIds": [str(one["generation_id"]) for one in made[:MOST_NAMED]],
        "generations": len(made),
    }


def _one(made: list[Any], name: str) -> str | None:
    found = sorted({str(one[name]) for one in made if one.get(name)})
    return ", ".join(found) or None


def _sum(values: Iterable[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 6) if known else None


def _stored_at(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return the dataset of what was stored: the file, or the directory if there are several."""
    names = [dataset_name(str(path)) for path in result.get("paths") or ()]
    path = str(result["path"])
    if len(names) < 2 or path.endswith("/"):
        return dataset_name(path)
    # One generation of several outputs: its path is the first of them.
    return names[0][0], posixpath.commonpath([posixpath.dirname(name) for _, name in names]) or "/"


def dataset_name(path: str) -> tuple[str, str]:
    """
    Return namespace and name of a path, as OpenLineage names datasets in object storage.

    :param path: As Airflow's object storage shows it: what is before an ``@`` is a connection.
    """
    scheme, separator, rest = path.partition("://")
    if not separator:
        scheme, rest = "", path
    scheme = _STORES.get(scheme, scheme)
    if scheme == "file":
        # Of file://connection@/path only the path is a place.
        name = rest[rest.find("/") :] if separator else rest
        return "file", name.rstrip("/") or "/"
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket.rpartition('@')[2]}", key.strip("/") or "/"


def _without_connection(path: Any) -> str | None:
    if not path:
        return None
    scheme, separator, rest = str(path).partition("://")
    if not separator:
        return scheme
    bucket, slash, key = rest.partition("/")
    return f"{scheme}://{bucket.rpartition('@')[2]}{slash}{key}"
