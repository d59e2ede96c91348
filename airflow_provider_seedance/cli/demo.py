"""
``airflow seedance demo``: the main job on a private Airflow, from prompt to stored file.

By default it runs against the emulator and costs nothing. With ``SEEDANCE_API_KEY`` and ``SEEDANCE_API`` it
uses the real service, after printing the estimate and a confirmation.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any
from urllib.parse import quote

import airflow_provider_seedance
from airflow_provider_seedance import generations
from airflow_provider_seedance.cli.connection import KEY_VARIABLE, connection_from_environment
from airflow_provider_seedance.cli.demo_airflow import DemoAirflow, DemoError
from airflow_provider_seedance.cli.interrupts import interruptible
from airflow_provider_seedance.cli.render import price_text, print_fetch_command
from airflow_provider_seedance.exceptions import SeedanceConfigurationError
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.ledger import spending
from airflow_provider_seedance.ledger.account import Filter
from airflow_provider_seedance.ledger.configuration import LedgerConfig
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.plugin import PREFIX, RUN_ROUTE

PROMPT = "A paper boat sails down a rainy street, cinematic"

#: Limits of a run: renders of the emulator take seconds, those of a real service up to an hour.
EMULATOR_TIMEOUT_SECONDS = 150.0
SERVICE_TIMEOUT_SECONDS = 3600.0

#: Maximum silence, so that a long render does not look like a hang.
PROGRESS_INTERVAL_SECONDS = 10.0
_POLL_INTERVAL_SECONDS = 0.5

#: Prints a line with the seconds since the start.
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """The run of an example Dag, with its tasks that generate and store the video."""

    dag_id: str
    store_task: str
    video_task: str
    #: Connection id to JSON.
    connections: dict[str, str]
    timeout_seconds: float
    is_billed: bool


def demo(args: argparse.Namespace) -> int:
    """Run the demo and return the exit code."""
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:4.0f} s] {line}", flush=True)

    output = Path(args.output).absolute()
    with interruptible():
        try:
            with ExitStack() as stack:
                plan = _real_plan(args) or _emulated_plan(args, stack)
                _run(plan, output, keep=args.keep, stack=stack, say=say)
        except KeyboardInterrupt:
            say("Interrupted; all processes of the demo have been stopped.")
            return 130
        except Exception as error:
            is_explained = isinstance(error, DemoError | SeedanceConfigurationError)
            kind = "" if is_explained else f"{type(error).__name__}: "
            print(f"\nThe demo failed: {kind}{error}", file=sys.stderr)
            return 1
    return 0


def _emulated_plan(args: argparse.Namespace, stack: ExitStack) -> DemoPlan:
    try:
        from airflow_provider_seedance.testing import SeedanceEmulator

        emulator = stack.enter_context(SeedanceEmulator(speed=args.speed))
    except ImportError as error:
        raise DemoError(str(error)) from error
    print(
        f"No {KEY_VARIABLE} is set, so nothing is billed: an emulator of the services runs at\n"
        f"{emulator.url} and renders {args.speed:g} times faster than the real ones.\n"
    )
    return DemoPlan(
        dag_id="example_seedance_image_to_video",
        store_task="store",
        video_task="video",
        connections={
            "seedance_images": emulator.connection_json("seedance2api"),
            # The service with a published price list, so that the demo can print a price.
            "seedance_default": emulator.connection_json("seedanceapi-v1"),
        },
        timeout_seconds=EMULATOR_TIMEOUT_SECONDS,
        is_billed=False,
    )


def _real_plan(args: argparse.Namespace) -> DemoPlan | None:
    connection = connection_from_environment()
    if connection is None:
        return None
    # The hook reads connections as every Airflow process does: from the environment.
    os.environ["AIRFLOW_CONN_SEEDANCE_DEFAULT"] = connection
    hook = SeedanceHook()
    image = generations.ImageRequest(prompt=PROMPT)
    images = bool(hook.settings.api.rules(image, hook.settings.base_url))
    requests: list[generations.GenerationRequest] = [
        *([image] if images else []),
        generations.VideoRequest(prompt=PROMPT),
    ]
    print(f"This uses {hook.settings.api.title} with the key in {KEY_VARIABLE} and costs money:")
    for request in requests:
        print(f"  1 {request.media}: {price_text(hook.estimate(request))}")
    if not args.yes and not _confirmed():
        raise DemoError("not confirmed; nothing was sent. --yes confirms without a prompt.")
    return DemoPlan(
        dag_id="example_seedance_image_to_video" if images else "example_seedance_upload",
        store_task="store" if images else "upload",
        video_task="video" if images else "render",
        connections={"seedance_default": connection, **({"seedance_images": connection} if images else {})},
        timeout_seconds=SERVICE_TIMEOUT_SECONDS,
        is_billed=True,
    )


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("Go on? [y/N] ").strip().lower() in ("y", "yes")


def _run(plan: DemoPlan, output: Path, *, keep: bool, stack: ExitStack, say: Say) -> None:
    folder = tempfile.TemporaryDirectory(prefix="seedance-demo-", ignore_cleanup_errors=True)
    home = Path(stack.enter_context(folder))
    output.mkdir(parents=True, exist_ok=True)
    (home / "dags").mkdir()
    # Only this file: another example is scheduled daily, which would spend money with a real key.
    shutil.copy(_example_dags() / f"{plan.dag_id}.py", home / "dags")
    say("Starting Airflow: scheduler, Dag processor, triggerer and API server …")
    ledger = LedgerConfig(location=f"sqlite:///{output / 'ledger.db'}")
    variables = {
        "SEEDANCE_EXAMPLE_DESTINATION": output.as_uri(),
        "AIRFLOW__SEEDANCE__LEDGER": ledger.location,
    }
    airflow = stack.enter_context(DemoAirflow(home=home, connections=plan.connections, variables=variables))
    airflow.wait_for_dag(plan.dag_id)
    run_id = airflow.trigger(plan.dag_id)
    say(f"Airflow runs {plan.dag_id}:")
    try:
        _watch(airflow, plan, run_id, say)
        _report(airflow, plan, run_id, say)
        _report_spending(ledger, plan, run_id)
    except BaseException:
        if plan.is_billed:
            _print_recovery(airflow, plan, run_id, output)
        raise
    if keep:
        url = f"{airflow.url}/dags/{quote(plan.dag_id)}/runs/{quote(run_id, safe='')}"
        print(
            f"\nAirflow is still running: {url}\nPress Ctrl-C to stop it.\n\nRenders: {url}/plugin/{RUN_ROUTE}\n"
            f"Spend:   {airflow.url}{PREFIX}/spend",
            flush=True,
        )
        # Ctrl-C is the normal end of --keep.
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        say("Stopping Airflow.")


def _watch(airflow: DemoAirflow, plan: DemoPlan, run_id: str, say: Say) -> None:
    shown: dict[str, str | None] = {}
    started = printed = time.monotonic()
    while True:
        run_state, states = airflow.states(plan.dag_id, run_id)
        for task, state in states.items():
            if state is not None and shown.get(task) != state:
                say(f"  {task:<8} {_STATE_TEXTS.get(state, state)}")
                printed = time.monotonic()
        shown = states
        if run_state == "success":
            return
        if run_state == "failed":
            failed = [task for task, state in states.items() if state == "failed"]
            logs = "\n".join(f"--- log of {task}\n{airflow.log(task)}" for task in failed)
            raise DemoError(f"the Dag run failed in {', '.join(failed)}\n{logs}")
        if time.monotonic() > started + plan.timeout_seconds:
            raise DemoError(f"the Dag run has not ended within {plan.timeout_seconds:g} s:\n{airflow.log()}")
        if time.monotonic() > printed + PROGRESS_INTERVAL_SECONDS:
            waiting = [task for task, state in states.items() if state in ("running", "deferred", "queued")]
            say(f"  … {', '.join(waiting) or 'Airflow'} still running")
            printed = time.monotonic()
        time.sleep(_POLL_INTERVAL_SECONDS)


_STATE_TEXTS = {"deferred": "deferred: waiting in the triggerer, holding no worker", "success": "done"}


def _report(airflow: DemoAirflow, plan: DemoPlan, run_id: str, say: Say) -> None:
    stored: dict[str, Any] = airflow.xcom(plan.dag_id, run_id, plan.store_task)
    video: dict[str, Any] = airflow.xcom(plan.dag_id, run_id, plan.video_task)
    path = Path(str(stored["path"]).removeprefix("file://"))
    if not path.is_file() or path.stat().st_size != stored["bytes"]:
        raise DemoError(f"the stored file {path} is not what the upload task reported: {stored}")
    say("Finished.\n")
    print(f"Video:  {path}")
    print(f"        {stored['bytes']:,} bytes")
    price = price_text(generations.Estimate(credits=video["credits"], cost_usd=video["cost_usd"]))
    print(f"Price:  {'' if plan.is_billed else 'at the real service '}{price}", flush=True)


def _report_spending(ledger: LedgerConfig, plan: DemoPlan, run_id: str) -> None:
    found = spending.spend(Database(ledger), Filter(dag_ids={plan.dag_id}, run_id=run_id), ("dag_id",), UTC)
    for total in found:
        price = price_text(generations.Estimate(credits=total["credits"], cost_usd=total["cost_usd"]))
        renders = generations.counted(total["generations"], "render")
        print(f"Spent:  {'' if plan.is_billed else 'at the real service '}{price} for {renders}")
    command = f"{shlex.quote(sys.executable)} -m airflow_provider_seedance ledger spend --by dag"
    print(f"        AIRFLOW__SEEDANCE__LEDGER={shlex.quote(ledger.location)} {command}", flush=True)


def _print_recovery(airflow: DemoAirflow, plan: DemoPlan, run_id: str, output: Path) -> None:
    """Print the commands that fetch the generations which have been submitted, and so billed."""
    found = False
    outputs: list[tuple[str, generations.Media, str]] = [
        ("image", "image", "image.png"),
        (plan.video_task, "video", "video.mp4"),
    ]
    for task_id, media, file_name in outputs:
        # No such task, or it has not submitted.
        with suppress(OSError):
            generation_id = str(airflow.xcom(plan.dag_id, run_id, task_id, "generation_id"))
            print_fetch_command(generation_id, str(output / file_name), media)
            found = True
    if not found:
        print(
            "\nNo generation is known, but a request may have been sent. Look in the console of the service before "
            "you run the demo again.",
            file=sys.stderr,
        )


def _example_dags() -> Path:
    package = Path(airflow_provider_seedance.__file__).parent
    for folder in (package / "example_dags", package.parent / "example_dags"):
        if folder.is_dir():
            return folder
    raise DemoError("the example Dags are not installed")
