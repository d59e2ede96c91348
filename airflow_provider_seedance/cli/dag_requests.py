"""
What a Dag will ask to be generated over a range of dates, read from its file; nothing is run or written.

Templates are rendered as far as that is possible outside of a run. What needs one (XCom, results of other
tasks) stays unknown, and is said to be: an estimate that guesses is worth less than one that does not know.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pendulum

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance import version_compat
from airflow_provider_seedance.operators.base import SeedanceOperator
from airflow_provider_seedance.operators.batch import SeedanceGenerateVideoBatchOperator

log = logging.getLogger(__name__)

#: Stand for what only a run can know, and what no price depends on.
UNKNOWN_PROMPT = "(known in a run)"
UNKNOWN_INPUT = "https://known-in-a-run.example/input.png"
_FREE: Mapping[str, Any] = {"prompt": UNKNOWN_PROMPT, "images": [UNKNOWN_INPUT], "seed": None}

#: Runs of one Dag, and tasks mapped from one, that are looked at.
MOST_RUNS = 10_000
MOST_MAPPED = 10_000

DEFAULT_CONNECTION = "seedance_default"

#: Combinations of values of one mapped task whose price is told, where their number is not known.
MOST_COMBINATIONS = 100

#: Stands for the unknown names that expand_kwargs() may give arguments to.
ANY = "what expand_kwargs() is given"


#: A connection, and the arguments of a request to its service.
Request = tuple[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """
    What one task asks in one run.

    :param requests: Those of which it is known that they will be made, each once.
    :param unpriced: The connection of each further one, whose arguments only the run knows.
    :param several: Those of which only the run knows how often they will be made.
    :param uncounted: Whether there may be more, of which not even the price of one is known.
    :param notes: What is not known, in words.
    """

    task_id: str
    operator: type[SeedanceOperator]
    requests: tuple[Request, ...] = ()
    unpriced: tuple[str, ...] = ()
    several: tuple[Request, ...] = ()
    uncounted: bool = False
    notes: tuple[str, ...] = ()


# ---------------------------------------------------------------------- finding a Dag and its runs


def load_dag(dag_id: str, file: str | None = None) -> Any:
    """
    Parse the file of a Dag, as Airflow does, but without telling the database.

    :param file: The file; without it all bundles are searched.
    :raises SeedanceConfigurationError: there is no such Dag.
    """
    if file and not Path(file).expanduser().exists():
        raise errors.SeedanceConfigurationError(f"There is no file {file}. Nothing was sent.")
    problems: list[str] = []
    for bundle, path in _places(file):
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


def _places(file: str | None) -> Iterator[tuple[Path, Path]]:
    """Return what to parse, with the folder of its bundle, from which Dag files import."""
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
        from airflow.dag_processing.bundles.manager import DagBundlesManager

        manager: Any = DagBundlesManager()  # type: ignore[no-untyped-call]
        for bundle in manager.get_all_dag_bundles():
            bundle.initialize()
            yield Path(bundle.path).absolute()
    except Exception as error:  # each kind of bundle has its own
        raise errors.SeedanceConfigurationError(
            f"The Dag bundles of this Airflow could not be read ({type(error).__name__}: {error}). Name the file of "
            "the Dag with --file. Nothing was sent."
        ) from error


def runs_between(dag: Any, since: datetime, until: datetime) -> list[tuple[datetime, datetime, datetime]]:
    """
    Return the logical date and the data interval of each run that a backfill of this range makes.

    :raises SeedanceConfigurationError: the Dag has no schedule that could be followed.
    """
    serialized = version_compat.serialized(dag)
    if not serialized.timetable.periodic:
        raise errors.SeedanceConfigurationError(
            f"{dag.dag_id} has no periodic schedule, so a range of dates says nothing of its runs. Leave --from and "
            "--to out to estimate one run. Nothing was sent."
        )
    found = []
    for info in itertools.islice(serialized.iter_dagrun_infos_between(since, until), MOST_RUNS + 1):
        if info.logical_date is None or info.data_interval is None:
            found.append((info.run_after, info.run_after, info.run_after))
        else:
            found.append((info.logical_date, info.data_interval.start, info.data_interval.end))
    if len(found) > MOST_RUNS:
        raise errors.SeedanceConfigurationError(
            f"The range holds more than {MOST_RUNS} runs of {dag.dag_id}; take a shorter one. Nothing was sent."
        )
    return found


def day_range(since: str, until: str) -> tuple[datetime, datetime]:
    """
    Read ``--from`` and ``--to``; a date without a time includes its whole day.

    :raises SeedanceConfigurationError: they are no dates, or the wrong way round.
    """
    try:
        first, last = (datetime.fromisoformat(text.strip()) for text in (since, until))
    except ValueError as error:
        raise errors.SeedanceConfigurationError(
            f"--from and --to take dates such as 2026-01-31: {error}. Nothing was sent."
        ) from None
    first, last = (one if one.tzinfo else one.replace(tzinfo=UTC) for one in (first, last))
    if len(until.strip()) <= len("2026-01-31"):
        last += timedelta(days=1, microseconds=-1)
    if last < first:
        raise errors.SeedanceConfigurationError(f"--to {until} is before --from {since}. Nothing was sent.")
    return pendulum.instance(first), pendulum.instance(last)


# ---------------------------------------------------------------------- what the tasks of a run ask


class _TaskInstance:
    """
    Of a task instance, what is known before the run: which of the mapped ones it is.

    Everything else is missing, so that a template that asks for it fails, and is unknown.
    """

    def __init__(self, task_id: str, map_index: int) -> None:
        self.task_id = task_id
        self.map_index = map_index


@dataclass
class _Known:
    """The arguments of one task instance, rendered, and the names of those that only a run knows."""

    conn_id: str = DEFAULT_CONNECTION
    arguments: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


class _Reading:
    """One task in one run."""

    def __init__(self, task: Any, kind: type[SeedanceOperator], context: Mapping[str, Any]) -> None:
        self.task = task
        self.kind = kind
        self.context = context
        self.mapped = bool(getattr(task, "is_mapped", False))
        self.environment = task.get_template_env()
        self.batch = issubclass(kind, SeedanceGenerateVideoBatchOperator)
        self.fields = (*kind.request_fields, *(("requests",) if self.batch else ()))
        self.notes: list[str] = []

    def asked(self) -> Asked:
        """Return what the task asks."""
        if self._given({}).get("dry_run") or getattr(self.task, "only_estimate", False):
            return self._of("dry_run: it sends nothing")
        count, own = self._expansion()
        if count is None:
            return self._several(own)
        if count > MOST_MAPPED:
            return self._of(f"mapped to {count} tasks, which is more than is looked at", uncounted=True)
        requests: list[Request] = []
        unpriced: list[str] = []
        uncounted = False
        for index in range(count):
            known = self._render(index, self._mapping(own, index))
            found = self._requests(known)
            if found is None and self.batch:
                uncounted = True
            elif found is None:
                unpriced.append(known.conn_id)
            requests += [(known.conn_id, one) for one in found or ()]
        return self._of(requests=tuple(requests), unpriced=tuple(unpriced), uncounted=uncounted)

    def _of(self, note: str | None = None, **found: Any) -> Asked:
        notes = dict.fromkeys([*self.notes, *([note] if note else ())])
        return Asked(task_id=self.task.task_id, operator=self.kind, notes=tuple(notes), **found)

    # ------------------------------------------------------------------ mapping

    def _expansion(self) -> tuple[int | None, Any]:
        """Return how many tasks this one becomes, if that is known, and what they differ in."""
        own = None
        if self.mapped:
            own = self.task._get_specified_expand_input()
            inputs = [own]
        else:
            groups = getattr(self.task, "iter_mapped_task_groups", lambda: ())()
            inputs = [group._expand_input for group in groups]
        counts = [_count(one) for one in inputs]
        if None in counts or len(counts) > 1:
            return None, own
        return (counts[0] if counts else 1), own

    def _mapping(self, own: Any, index: int) -> dict[str, Any]:
        """Return the arguments that belong to one mapped task; :data:`ANY` if they are not known."""
        if own is None:
            return {}
        try:
            mapping, _ = own.resolve({**self.context, "ti": _TaskInstance(self.task.task_id, index)})
        except Exception as error:
            log.debug("%s: %s", self.task.task_id, error)
            return {ANY: None}
        return dict(mapping)

    def _several(self, own: Any) -> Asked:
        """Return what a task asks of which only the run knows how many there will be."""
        literal, unknown = self._axes(own)
        found: list[Request] = []
        for combination in itertools.islice(itertools.product(*literal.values()), MOST_COMBINATIONS):
            known = self._render(-1, dict(zip(literal, combination, strict=True)), unknown)
            found += [(known.conn_id, one) for one in self._requests(known) or ()]
        self.notes.append(
            f"mapped over {self._origin(own)}: how many renders is known in a run only, "
            + ("see the price of one" if found else "and none is counted")
        )
        return self._of(several=tuple(found), uncounted=True)

    def _axes(self, own: Any) -> tuple[dict[str, list[Any]], list[str]]:
        """Return the arguments that are mapped over values in the Dag file, and those that only a run knows."""
        if own is None or self._is_decorated:
            return {}, []  # of a group: rendering finds out; of a decorated task: they go to the function
        if not isinstance(own.value, Mapping):
            return {}, [ANY]
        literal = {name: found for name, given in own.value.items() if (found := _values(given)) is not None}
        return literal, [name for name in own.value if name not in literal]

    def _origin(self, own: Any) -> str:
        """Say what the task is mapped over."""
        inputs = (
            [own] if own is not None else [one._expand_input for one in self.task.iter_mapped_task_groups()]
        )
        try:
            names = sorted({operator.task_id for one in inputs for operator, _ in one.iter_references()})
        except Exception as error:
            log.debug("%s: %s", self.task.task_id, error)
            names = []
        return f"the result of another task ({', '.join(names)})" if names else "several levels"

    # ------------------------------------------------------------------ arguments

    @property
    def _is_decorated(self) -> bool:
        return hasattr(self.kind, "custom_operator_name")

    def _given(self, mapping: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the operator as they stand in the Dag file."""
        if self.mapped:
            return {**self.task.partial_kwargs, **({} if self._is_decorated else mapping)}
        return {name: getattr(self.task, name, None) for name in (*self.fields, "seedance_conn_id")}

    def _render(self, index: int, mapping: Mapping[str, Any], unknown: Sequence[str] = ()) -> _Known:
        given = self._given(mapping)
        context = {**self.context, "ti": _TaskInstance(self.task.task_id, index), "task": self.task}
        context["task_instance"] = context["ti"]
        known = _Known()
        for name in (*self.fields, "seedance_conn_id"):
            value = given.get(name)
            try:
                if name in unknown:
                    raise LookupError(name)
                value = self.task.render_template(value, context, self.environment, set())
            except Exception as error:
                log.debug("%s of %s: %s", name, self.task.task_id, error)
                if name not in _FREE:
                    known.missing.append(name)
                value = _FREE.get(name)
            known.arguments[name] = value
        known.conn_id = str(known.arguments.pop("seedance_conn_id", None) or DEFAULT_CONNECTION)
        if ANY in mapping or ANY in unknown:
            known.missing.append(ANY)
        return known

    def _requests(self, known: _Known) -> list[dict[str, Any]] | None:
        """Return the arguments of each request, or ``None``, with a note, if they are not known."""
        if known.missing:
            names = " and ".join(known.missing)
            what = "its renders are not counted" if "requests" in known.missing else "its price is unknown"
            self.notes.append(f"{names}: known in a run only, {what}")
            return None
        given = {name: value for name, value in known.arguments.items() if value is not None}
        if self.batch:
            return self._listed(given)
        if self._is_decorated:
            given["prompt"] = UNKNOWN_PROMPT
            self.notes.append("its function may set more than the prompt; counted as the decorator says")
        return [{"prompt": UNKNOWN_PROMPT, **given}]

    def _listed(self, given: dict[str, Any]) -> list[dict[str, Any]] | None:
        from airflow_provider_seedance.batch.requests import read_requests

        try:
            return [item.arguments for item in read_requests(given.pop("requests", None), given)]
        except errors.SeedanceError as error:
            # Often a file that an earlier task of the run is to write.
            self.notes.append(f"its renders are not counted: {error.message}")
            return None


def asked_in(dag: Any, moment: tuple[datetime, datetime, datetime] | None) -> list[Asked]:
    """
    Return what each task of this package asks in one run.

    :param moment: Logical date and data interval; ``None`` for now.
    """
    context = _context(dag, moment)
    return [
        _Reading(task, kind, {**context, "params": _params(dag, task)}).asked()
        for task in dag.tasks
        if (kind := _kind(task)) is not None
    ]


def _kind(task: Any) -> type[SeedanceOperator] | None:
    kind = getattr(task, "operator_class", None) if getattr(task, "is_mapped", False) else type(task)
    return kind if isinstance(kind, type) and issubclass(kind, SeedanceOperator) else None


def _values(given: Any) -> list[Any] | None:
    """Return what ``expand()`` goes through, if it stands in the Dag file."""
    if isinstance(given, Mapping):
        return list(given.items())
    if isinstance(given, Sequence) and not isinstance(given, str):
        return list(given)
    return None


def _count(expansion: Any) -> int | None:
    value = getattr(expansion, "value", None)
    if isinstance(value, Mapping):
        lengths = [None if (found := _values(one)) is None else len(found) for one in value.values()]
        return None if None in lengths else math.prod(length or 0 for length in lengths)
    return len(value) if isinstance(value, Sequence) and not isinstance(value, str) else None


def _params(dag: Any, task: Any) -> dict[str, Any]:
    """Return the params that have a value; a run can be given others, but nobody knows which."""
    found: dict[str, Any] = {}
    for params in (dag.params, getattr(task, "params", None) or {}):
        for name in params:
            try:
                value = params[name]
            except Exception as error:
                log.debug("params.%s: %s", name, error)
                continue
            found[name] = value
    return found


def _context(dag: Any, moment: tuple[datetime, datetime, datetime] | None) -> dict[str, Any]:
    logical, start, end = (pendulum.instance(one) for one in (moment or (pendulum.now("UTC"),) * 3))
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

        context |= {
            "macros": macros,
            "conn": ConnectionAccessor(),
            "var": {
                "value": VariableAccessor(deserialize_json=False),
                "json": VariableAccessor(deserialize_json=True),
            },
        }
    except ImportError as error:
        log.debug("Templates that use macros, variables or connections stay unknown: %s", error)
    return context
