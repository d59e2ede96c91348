"""
Callbacks on a real Airflow: how soon a task ends after its render, and how many calls at once are honoured.

    python benchmarks/callbacks.py [--renders 12] [--at-once 500]

For each service that calls back, renders of 15 to 30 s in four ways side by side: called back or polled for,
ended by a worker or without one. Then hundreds of callbacks within a second for as many deferred tasks, to
one API server beside a triggerer that waits for the same renders, on sqlite.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx
from deferred import CALLBACK_SECRET, Bench, bench, wait_until
from private_airflow import LocalAirflow

from airflow_provider_seedance.callbacks import tokens
from airflow_provider_seedance.testing import SeedanceEmulator

SERVICES = ("seedance2api", "seedanceapi-v1", "seedanceapi-v2", "ark")

#: The targets.
REQUESTS, MEDIAN, STARTS = 2.2, 2.0, 1.0
#: Seconds of emulated time that a render takes, at this speed.
MIN_SECONDS, MAX_SECONDS, SPEED = 90.0, 180.0, 6.0

WAYS = {
    "called": "called back, ended by a worker",
    "called_end": "called back, end_from_trigger",
    "polled": "polled, ended by a worker",
    "polled_end": "polled, end_from_trigger",
}

DAG = """
from airflow.sdk import DAG

from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator

with DAG("{dag_id}", schedule=None, max_active_tasks=1000):
    for way in {ways}:
        SeedanceGenerateVideoOperator.partial(
            task_id=way,
            seedance_conn_id="seedance_{dag_id}",
            use_callback=way.startswith("called"),
            end_from_trigger=way.endswith("end"),
        ).expand(prompt=[f"{{way}} {{number}}" for number in range({renders})])
"""


@dataclass(frozen=True)
class Row:
    """
    Measurements of one way with one service.

    :param requests: Per render, the submission included.
    :param starts: Of workers, per render.
    :param delays: Seconds from the end of each render to the end of its task.
    """

    service: str
    way: str
    requests: float
    starts: float
    delays: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.delays)

    @property
    def late(self) -> float:
        """The 95th percentile."""
        return sorted(self.delays)[max(0, round(0.95 * len(self.delays)) - 1)]

    @property
    def met(self) -> bool:
        """Met targets."""
        if not self.way.startswith("called"):
            return not self.way.endswith("end") or self.starts <= STARTS
        few = self.requests <= REQUESTS and (not self.way.endswith("end") or self.starts <= STARTS)
        return few and self.median < MEDIAN


# ---------------------------------------------------------------------- how soon


def how_soon(directory: Path, renders: int, parallelism: int) -> list[Row]:
    """Render with every service, one after the other."""
    (directory / "dags").mkdir(parents=True)
    for service in SERVICES:
        dag_id = service.replace("-", "_")
        source = DAG.format(dag_id=dag_id, ways=tuple(WAYS), renders=renders)
        (directory / "dags" / f"{dag_id}.py").write_text(source)
    with SeedanceEmulator(media=False, speed=SPEED, render_seconds=MAX_SECONDS, concurrency=1000) as emulator:
        airflow = LocalAirflow(
            home=directory / "home",
            dags_folder=directory / "dags",
            connections={},
            config={("core", "parallelism"): str(parallelism)},
        )
        for service in SERVICES:
            name = f"AIRFLOW_CONN_SEEDANCE_{service.replace('-', '_').upper()}"
            airflow.environment[name] = emulator.connection_json(
                service, callback_base_url=airflow.url, callback_secret=CALLBACK_SECRET
            )
        rows: list[Row] = []
        with airflow:
            for service in SERVICES:
                rows += one_service(airflow, emulator, service, renders)
        return rows


def one_service(airflow: LocalAirflow, emulator: SeedanceEmulator, service: str, renders: int) -> list[Row]:
    """Render in every way at once."""
    dag_id = service.replace("-", "_")
    airflow.wait_parsed(dag_id, 120)
    run_id = airflow.trigger(dag_id)
    end_some(emulator, dag_id, 4 * renders)
    state = airflow.wait_run(dag_id, run_id, 600)
    if state != "success":
        raise RuntimeError(f"{dag_id} ended as {state}")
    ended = {
        (task["task_id"], task["map_index"]): task["end_date"].timestamp()
        for task in airflow.database.task_instances(dag_id, run_id)
    }
    requested = [entry.generation_id for entry in emulator.ledger.requests]
    renderings = {
        (way, int(number)): generation
        for generation in emulator.generations
        if generation.api == service
        for way, number in [generation.prompt.rsplit(" ", 1)]
    }
    rows = []
    for way in WAYS:
        of_way = {key: generation for key, generation in renderings.items() if key[0] == way}
        rows.append(
            Row(
                service=service,
                way=way,
                requests=sum(requested.count(generation.id) for generation in of_way.values()) / len(of_way),
                starts=starts(airflow, run_id, way) / len(of_way),
                delays=[
                    ended[key] - generation.ended_at
                    for key, generation in of_way.items()
                    if generation.ended_at is not None
                ],
            )
        )
        print(line(rows[-1]), flush=True)
    return rows


def end_some(emulator: SeedanceEmulator, dag_id: str, count: int) -> None:
    """
    End the renders one by one, evenly between the shortest and the longest time.

    The emulator's own times would be those of one second in all services: here they differ from task to task.
    """
    seen: dict[str, float] = {}
    deadline = time.monotonic() + 600
    while len(seen) < count or any(seen.values()):
        for number, generation in enumerate(emulator.generations):
            if generation.api.replace("-", "_") == dag_id and generation.id not in seen:
                share = (number * 0.618034) % 1.0
                seconds = (MIN_SECONDS + share * (MAX_SECONDS - MIN_SECONDS - 6.0)) / SPEED
                seen[generation.id] = generation.created_at + seconds
        for generation_id, due in seen.items():
            if due and due <= time.time():
                emulator.finish(generation_id)
                seen[generation_id] = 0.0
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(seen)} of {count} renders of {dag_id} were submitted")
        time.sleep(0.02)


def starts(airflow: LocalAirflow, run_id: str, task_id: str) -> int:
    """Return how often a worker was started for a task, by its logs."""
    folder = Path(airflow.config["logging", "base_log_folder"])
    logs = [log for log in folder.rglob("*.log") if f"run_id={run_id}" in str(log)]
    mine = [log for log in logs if f"task_id={task_id}/" in str(log) and ".trigger." not in log.name]
    return sum(log.read_text(errors="replace").count('"event":"::group::Pre Execute"') for log in mine)


def line(row: Row) -> str:
    """Return a row of the table."""
    cells = (
        row.service,
        WAYS[row.way],
        f"{row.requests:.2f}",
        f"{row.median:.2f} s",
        f"{row.late:.2f} s",
        f"{row.starts:.2f}",
    )
    return "| " + " | ".join(cells) + " |"


# ---------------------------------------------------------------------- how many at once


def how_many(directory: Path, count: int, *, end: bool) -> bool:
    """Send callbacks for a number of deferred tasks within a second; return whether all resumed."""
    kind = "called_end" if end else "called"
    with bench(count + 100, directory) as made:
        made.fill(kind, count)
        triggerer = made.start(kind)
        server = api_server(made)
        try:
            time.sleep(6)  # none of them resumes within five seconds of its deferral
            made.ask("finish")
            began = time.monotonic()
            fired, answers = asyncio.run(fire(made.airflow.url, kind, count))
            taken = time.monotonic() - began
            waited = wait_until(lambda: made.deferred() == 0, 300, "all to resume")
            whole = time.monotonic() - began
        except TimeoutError as error:
            print(error, flush=True)
            return False
        finally:
            server.kill()
            server.wait()
        triggerer.stop()
        honoured = honoured_of(made, end=end)
        how = "without a worker" if end else "on a worker"
        print(
            f"{count} callbacks fired within {fired:.2f} s, to be ended {how}: {answers.count(202)} answered with 202 "
            f"within {taken:.1f} s, {honoured} honoured; the last task was resumed {whole:.1f} s after the first call "
            f"({waited:.1f} s after the last answer).",
            flush=True,
        )
        return honoured == count == answers.count(202)


def honoured_of(made: Bench, *, end: bool) -> int:
    """Return how many tasks a callback has resumed or ended; the polls of the triggerer do not count."""
    if end:
        # The triggerer ends tasks in the same way, so what it did is left out by what it logged.
        done = made.number("select count(*) from task_instance where state = 'success'")
        logs = Path(made.airflow.config["logging", "base_log_folder"]).rglob("*.trigger.*.log")
        return done - sum("Trigger fired event" in log.read_text() for log in logs)
    rows = made.query("select next_kwargs from task_instance where state = 'scheduled'")
    return sum('"callback"' in str(row[0]) for row in rows)


def api_server(made: Bench) -> subprocess.Popen[bytes]:
    """Start the API server, and wait until it serves the route."""
    port = made.airflow.url.rpartition(":")[2]
    log = (made.airflow.home / "api-server.log").open("wb")
    command = [sys.executable, "-m", "airflow", "api-server", "--apps", "core", "--port", port]
    server = subprocess.Popen(command, env=made.airflow.environment, stdout=log, stderr=log)

    def serves() -> bool:
        try:
            return httpx.post(f"{made.airflow.url}/seedance/callbacks/none").status_code == 404
        except httpx.HTTPError:
            return False

    wait_until(serves, 600, "the API server")
    return server


async def fire(url: str, kind: str, count: int) -> tuple[float, list[int]]:
    """Post all callbacks at once; returns the seconds that took to send, and the answers."""
    from fill import CALLED, called_id, called_nonce

    async def one(number: int, http: httpx.AsyncClient) -> int:
        claims = tokens.CallbackClaims(
            dag_id="waiting",
            run_id=kind,
            task_id="task",
            map_index=number,
            conn_id=CALLED[number % len(CALLED)],
            nonce=called_nonce(number),
            expires=int(time.time()) + 3600,
        )
        body = {"id": called_id(number), "status": "succeeded"}
        if "seedance2api" in claims.conn_id:
            body = {"task_id": called_id(number), "status": "completed"}
        address = tokens.callback_url(url, tokens.sign(claims, CALLBACK_SECRET))
        try:
            return (await http.post(address, content=json.dumps(body))).status_code
        except httpx.HTTPError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            return 0

    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as http:
        began = time.monotonic()
        answers = [asyncio.create_task(one(number, http)) for number in range(count)]
        await asyncio.sleep(0)
        fired = time.monotonic() - began
        return fired, list(await asyncio.gather(*answers))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--renders", type=int, default=12, help="of each service in each way; 0 leaves this out"
    )
    parser.add_argument(
        "--at-once", type=int, default=500, help="callbacks within a second; 0 leaves this out"
    )
    parser.add_argument("--parallelism", type=int, default=8)
    options = parser.parse_args()
    met = True
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if options.at_once:
            raise_limit(4 * options.at_once)
            for end in (False, True):
                where = directory / f"at_once_{end}"
                where.mkdir()
                met &= how_many(where, options.at_once, end=end)
        if options.renders:
            print("\n| service | | requests per render | median | 95 % | worker starts per render |")
            print("| --- | --- | --- | --- | --- | --- |", flush=True)
            rows = how_soon(directory / "how_soon", options.renders, options.parallelism)
            met &= all(row.met for row in rows)
            print("\n| all services | " + "requests | median | 95 % |\n| --- | --- | --- | --- |")
            for way, words in WAYS.items():
                print(f"| {words} | {together(rows, way)} |")
    print("\nAll targets are met." if met else "\nA target is missed.")
    return 0 if met else 1


def together(rows: Iterable[Row], way: str) -> str:
    """Return the cells for one way with all services."""
    mine = [row for row in rows if row.way == way]
    delays = list(itertools.chain.from_iterable(row.delays for row in mine))
    whole = Row("all", way, statistics.mean(row.requests for row in mine), 0.0, delays)
    return f"{whole.requests:.2f} | {whole.median:.2f} s | {whole.late:.2f} s"


def raise_limit(files: int) -> None:
    """Set the limit of open files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, max(files, 4096)), most))


if __name__ == "__main__":
    sys.exit(main())
