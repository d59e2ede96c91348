"""
The requests of a Dag over a range of dates, read from its file; nothing is executed or written.

Templates are rendered as far as possible outside of a run. Values that need a run (XCom, results of other tasks)
are reported as unknown: an estimate must not guess.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pendulum
from airflow.dag_processing.bundles.manager import DagBundlesManager

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance import version_compat
from airflow_provider_seedance.batch.requests import read_requests
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.operators.base import SeedanceOperator
from airflow_provider_seedance.operators.batch import SeedanceGenerateVideoBatchOperator

log = logging.getLogger(__name__)

#: Placeholders for arguments that are unknown until the task runs, and that no price depends on.
UNKNOWN_PROMPT = "(unknown until it runs)"
UNKNOWN_INPUT = "https://unknown-until-it-runs.example/input.png"
_PRICE_NEUTRAL: Mapping[str, Any] = {"prompt": UNKNOWN_PROMPT, "images": [UNKNOWN_INPUT], "seed": None}

#: Limits of one estimate, so that a mistyped date or a product of long lists does not take hours.
MAX_RUNS = 10_000
MAX_MAPPED_TASKS = 10_000

#: A connection, and the arguments of a request to its service.
Request = tuple[str, dict[str, Any]]

#: The logical date of a run, and the start and end of its data interval.
DagRunDates = tuple[datetime, datetime, datetime]


@dataclass(frozen=True, kw_only=True)
class TaskRequests:
    """
    The requests of one task in one run.

    :param requests: Requests with known arguments.
    :param unpriced: The connection of each further request, whose arguments are unknown until it runs.
    :param uncounted: Whether there may be more requests, in an unknown number.
    :param notes: Unknown facts, for the user.
    """

    task_id: str
    operator: type[SeedanceOperator]
    requests: tuple[Request, ...] = ()
    unpriced: tuple[str, ...] = ()
    uncounted: bool = False
    notes: tuple[str, ...] = ()


def load_dag(dag_id: str, file: str | None = None) -> Any:
    """Parse the file of a Dag, or all bundles, as Airflow does, but without writing to the database."""
    if file and not Path(file).expanduser().exists():
        raise errors.SeedanceConfigurationError(f"There is no file {file}. Nothing was sent.")
    problems: list[str] = []
    for bundle, path in _bundles_and_paths(file):
        module = version_compat.dag_bag_module()
        bag = module.BundleDagBag(dag_folder=str(path), bundle_path=bundle)
        if dag := bag.dags.get(dag_id):
            return dag
        problems += [
            f"{broken}: {str(error).strip().splitlines()[-1]}" for broken, error in bag.import_errors.items()
        ]
    broken = f" Files that cannot be imported: {'; '.join(problems[:5])}." if problems else ""
    raise errors.SeedanceConfigurationError(
        f"There is no Dag {dag_id!r} {f'in {file}' if file else 'in the bundles of this Airflow'}.{broken} "
        "Nothing was sent."
    )


def _bundles_and_paths(file: str | None) -> Iterator[tuple[Path, Path]]:
    """Yield the root of each bundle, from which Dag files import, with the path to parse."""
    if file is None:
        yield from ((bundle, bundle) for bundle in _bundles())
        return
    path = Path(file).expanduser().absolute()
    try:
        bundle = next((folder for folder in _bundles() if path.is_relative_to(folder)), None)
    except errors.SeedanceConfigurationError as error:
        log.debug("%s", error)
        bundle = None
    yield bundle or (path if path.is_dir() else path.parent), path


def _bundles() -> Iterator[Path]:
    try:
        manager: Any = DagBundlesManager()  # type: ignore[no-untyped-call]
        for bundle in manager.get_all_dag_bundles():
            bundle.initialize()
            yield Path(bundle.path).absolute()
    except Exception as error:  # each kind of bundle has its own
        raise errors.SeedanceConfigurationError(
            f"The Dag bundles of this Airflow could not be read ({type(error).__name__}: {error}). Name the file of "
            "the Dag with --file. Nothing was sent."
        ) from error


def runs_between(dag: Any, since: datetime, until: datetime) -> list[DagRunDates]:
    """Return the dates of each run that a backfill of this range creates."""
    serialized = version_compat.serialized(dag)
    if not serialized.timetable.periodic:
        raise errors.SeedanceConfigurationError(
            f"{dag.dag_id} has no periodic schedule, so a range of dates does not determine its runs. Omit --from "
            "and --to to estimate one run. Nothing was sent."
        )
    found = []
    for info in itertools.islice(serialized.iter_dagrun_infos_between(since, until), MAX_RUNS + 1):
        if info.logical_date is None or info.data_interval is None:
            found.append((info.run_after, info.run_after, info.run_after))
        else:
            found.append((info.logical_date, info.data_interval.start, info.data_interval.end))
    if len(found) > MAX_RUNS:
        raise errors.SeedanceConfigurationError(
            f"The range holds more than {MAX_RUNS} runs of {dag.dag_id}; choose a shorter one. Nothing was sent."
        )
    return found


def day_range(since: str, until: str) -> tuple[datetime, datetime]:
    """Read ``--from`` and ``--to``; a date without a time includes its whole day."""
    try:
        first, last = (datetime.fromisoformat(text.strip()) for text in (since, until))
    except ValueError as error:
        raise errors.SeedanceConfigurationError(
            f"--from and --to take dates such as 2026-01-31: {error}. Nothing was sent."
        ) from None
    first, last = (date if date.tzinfo else date.replace(tzinfo=UTC) for date in (first, last))
    if len(until.strip()) <= len("2026-01-31"):
        last += timedelta(days=1, microseconds=-1)
    if last < first:
        raise errors.SeedanceConfigurationError(f"--to {until} is before --from {since}. Nothing was sent.")
    return pendulum.instance(first), pendulum.instance(last)


@dataclass(frozen=True)
class _TaskInstance:
    """The known part of a task instance before the run; templates that use more of it fail."""

    task_id: str
    map_index: int


class _TaskInspector:
    """Inspector of one task in one run, which finds its requests."""

    def __init__(self, task: Any, operator: type[SeedanceOperator], context: Mapping[str, Any]) -> None:
        self.task = task
        self.operator = operator
        self.context = context
        self.is_mapped = bool(getattr(task, "is_mapped", False))
        self.is_decorated = hasattr(operator, "custom_operator_name")
        self.is_batch = issubclass(operator, SeedanceGenerateVideoBatchOperator)
        self.fields = (*operator.request_fields, *(("requests",) if self.is_batch else ()))
        self.environment = task.get_template_env()
        self.notes: list[str] = []

    def inspect(self) -> TaskRequests:
        """Return the requests of the task."""
        if self._is_dry_run():
            return self._result("dry_run: it sends nothing")
        mappings = self._mappings()
        if mappings is None:
            return self._result("mapped: how many renders is unknown until it runs", uncounted=True)
        if len(mappings) > MAX_MAPPED_TASKS:
            return self._result(f"mapped to more than {MAX_MAPPED_TASKS} tasks", uncounted=True)
        requests: list[Request] = []
        unpriced: list[str] = []
        uncounted = False
        for index, mapping in enumerate(mappings):
            values, unknown = self._render(index if self.is_mapped else -1, mapping)
            given = values.pop("seedance_conn_id", None) or SeedanceHook.default_conn_name
            conn_id = str(
                given[0] if isinstance(given, (list, tuple)) else given
            )  # where it is submitted first
            found = self._requests(values, unknown)
            if found is None and self.is_batch:
                uncounted = True
            elif found is None:
                unpriced.append(conn_id)
            requests += [(conn_id, request) for request in found or ()]
        return self._result(requests=tuple(requests), unpriced=tuple(unpriced), uncounted=uncounted)

    def _result(self, note: str | None = None, **found: Any) -> TaskRequests:
        notes = dict.fromkeys([*self.notes, *([note] if note else ())])
        return TaskRequests(task_id=self.task.task_id, operator=self.operator, notes=tuple(notes), **found)

    def _is_dry_run(self) -> bool:
        if self.is_mapped:
            return bool(self.task.partial_kwargs.get("dry_run"))
        return bool(getattr(self.task, "only_estimate", False))

    def _mappings(self) -> list[Any] | None:
        """
        Return the mapped arguments of each task instance; ``None`` if their number is unknown until it runs.

        Only lists that stand in the Dag file are known. An unmapped task has one task instance.
        """
        if not self.is_mapped:
            is_in_mapped_group = any(self.task.iter_mapped_task_groups())
            return None if is_in_mapped_group else [{}]
        # The arguments of a decorated task go to its function.
        expansion = self.task.op_kwargs_expand_input if self.is_decorated else self.task.expand_input
        if isinstance(expansion.value, list):
            return list(expansion.value)
        if not isinstance(expansion.value, Mapping):
            return None
        values = list(expansion.value.values())
        if not all(isinstance(each, list | tuple) for each in values):
            return None
        combinations = itertools.islice(itertools.product(*values), MAX_MAPPED_TASKS + 1)
        return [dict(zip(expansion.value, each, strict=True)) for each in combinations]

    def _given(self, mapping: Any) -> dict[str, Any]:
        """Return the arguments of the operator as they stand in the Dag file."""
        if not self.is_mapped:
            return {name: getattr(self.task, name, None) for name in (*self.fields, "seedance_conn_id")}
        mapped = mapping if isinstance(mapping, Mapping) and not self.is_decorated else {}
        return {**self.task.partial_kwargs, **mapped}

    def _render(self, map_index: int, mapping: Any) -> tuple[dict[str, Any], list[str]]:
        """Return the arguments of a task instance, and the names of those that are unknown until it runs."""
        given = self._given(mapping)
        ti = _TaskInstance(self.task.task_id, map_index)
        context = {**self.context, "ti": ti, "task_instance": ti, "task": self.task}
        values: dict[str, Any] = {}
        unknown: list[str] = []
        for name in (*self.fields, "seedance_conn_id"):
            try:
                value = self.task.render_template(given.get(name), context, self.environment, set())
            except Exception as error:
                log.debug("%s of %s: %s", name, self.task.task_id, error)
                if name not in _PRICE_NEUTRAL:
                    unknown.append(name)
                value = _PRICE_NEUTRAL.get(name)
            if value is not None:
                values[name] = value
        if not isinstance(mapping, Mapping):
            unknown.append("an element of expand_kwargs()")
        return values, unknown

    def _requests(self, given: dict[str, Any], unknown: list[str]) -> list[dict[str, Any]] | None:
        """Return the arguments of each request, or add a note and return ``None`` if they are unknown."""
        if unknown:
            effect = "its renders are not counted" if "requests" in unknown else "its price is unknown"
            self.notes.append(f"{' and '.join(unknown)}: unknown until it runs, {effect}")
            return None
        if self.is_batch:
            return self._read_requests(given)
        if self.is_decorated:
            given["prompt"] = UNKNOWN_PROMPT
            self.notes.append("its function may set other arguments; those of the decorator are priced")
        return [{"prompt": UNKNOWN_PROMPT, **given}]

    def _read_requests(self, given: dict[str, Any]) -> list[dict[str, Any]] | None:
        try:
            return [item.arguments for item in read_requests(given.pop("requests", None), given)]
        except errors.SeedanceError as error:
            # Often a file that an earlier task of the run writes.
            self.notes.append(f"its renders are not counted: {error.message}")
            return None


def requests_of_run(dag: Any, run: DagRunDates | None) -> list[TaskRequests]:
    """Return the requests of each task of this package in one run; ``None`` is a run now."""
    context = _context(dag, run)
    return [
        _TaskInspector(task, operator, {**context, "params": _params(dag, task)}).inspect()
        for task in dag.tasks
        if (operator := _operator_of(task)) is not None
    ]


def _operator_of(task: Any) -> type[SeedanceOperator] | None:
    operator = getattr(task, "operator_class", None) if getattr(task, "is_mapped", False) else type(task)
    return operator if isinstance(operator, type) and issubclass(operator, SeedanceOperator) else None


def _params(dag: Any, task: Any) -> dict[str, Any]:
    """Return the default values of the params; those without a default are missing."""
    found: dict[str, Any] = {}
    for params in (dag.params, getattr(task, "params", None) or {}):
        for name in params:
            try:
                found[name] = params[name]
            except Exception as error:
                log.debug("params.%s: %s", name, error)
    return found


def _context(dag: Any, run: DagRunDates | None) -> dict[str, Any]:
    logical, start, end = (pendulum.instance(date) for date in (run or (pendulum.now("UTC"),) * 3))
    context: dict[str, Any] = {
        "dag": dag,
        "logical_date": logical,
        "data_interval_start": start,
        "data_interval_end": end,
        "ds": logical.to_date_string(),
        "ds_nodash": logical.format("YYYYMMDD"),
        "ts": logical.isoformat(),
        "ts_nodash": logical.format("YYYYMMDDTHHmmss"),
        "ts_nodash_with_tz": logical.isoformat().replace("-", "").replace(":", ""),
        "run_id": f"backfill__{logical.isoformat()}",
    }
    try:
        from airflow.sdk.execution_time import macros
        from airflow.sdk.execution_time.context import ConnectionAccessor, VariableAccessor

        variables = {
            "value": VariableAccessor(deserialize_json=False),
            "json": VariableAccessor(deserialize_json=True),
        }
        context |= {"macros": macros, "conn": ConnectionAccessor(), "var": variables}
    except ImportError as error:
        log.debug("Templates that use macros, variables or connections stay unknown: %s", error)
    return context
