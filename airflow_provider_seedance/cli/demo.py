"""
``airflow seedance demo``: the main job on a private Airflow, from prompt to stored file.

Without further ado it runs against the emulator and costs nothing. With ``SEEDANCE_API_KEY`` and
``SEEDANCE_API`` it uses the real service, after printing the estimate and asking.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import airflow_provider_seedance
from airflow_provider_seedance.cli.connection import KEY_VARIABLE, connection_from_environment, makes_images
from airflow_provider_seedance.exceptions import SeedanceConfigurationError
from airflow_provider_seedance.generations import Estimate, GenerationRequest, ImageRequest, VideoRequest

if TYPE_CHECKING:
    from airflow_provider_seedance.local_airflow import LocalAirflow

PROMPT = "A paper boat sails down a rainy street, cinematic"

#: Seconds after which a run counts as stuck. A real service may take long for its renders.
PATIENCE_EMULATOR = 150.0
PATIENCE_SERVICE = 3600.0

#: Seconds between the lines that say that it still goes on.
HEARTBEAT = 10.0


class DemoError(Exception):
    """The demo failed; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """
    What the demo runs.

    :param dag_id: The example Dag.
    :param store_task: Its task that stores the file.
    :param connections: Connection id to JSON.
    :param patience: Seconds for the run.
    """

    dag_id: str
    store_task: str
    video_task: str
    connections: dict[str, str]
    patience: float


def demo(args: argparse.Namespace) -> int:
    """Run the demo; returns the exit code."""
    began = time.monotonic()
    output = Path(args.output).absolute()
    with _interruptible():
        try:
            with ExitStack() as stack:
                plan = _real_plan(args) or _emulated_plan(args, stack)
                _run(plan, output, keep=args.keep, began=began, stack=stack)
        except KeyboardInterrupt:
            _say(began, "Interrupted; everything that was started has been stopped.")
            return 130
        except (DemoError, SeedanceConfigurationError) as error:
            print(f"\nThe demo failed: {error}", file=sys.stderr)
            return 1
        except Exception as error:
            print(f"\nThe demo failed: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
    return 0


# ---------------------------------------------------------------------- what to run


def _emulated_plan(args: argparse.Namespace, stack: ExitStack) -> Plan:
    try:
        from airflow_provider_seedance.testing import SeedanceEmulator

        emulator = stack.enter_context(SeedanceEmulator(speed=args.speed))
    except ImportError as error:
        raise DemoError(str(error)) from error
    print(
        f"No {KEY_VARIABLE} is set, so nothing is paid: a stand-in for the services runs at\n"
        f"{emulator.url} and renders {args.speed:g} times faster than the real ones.\n"
    )
    return Plan(
        dag_id="example_seedance_image_to_video",
        store_task="store",
        video_task="video",
        connections={
            "seedance_images": emulator.connection_json("seedance2api"),
            # The service with a published price list, so that the demo can say what it would cost.
            "seedance_default": emulator.connection_json("seedanceapi-v1"),
        },
        patience=PATIENCE_EMULATOR,
    )


def _real_plan(args: argparse.Namespace) -> Plan | None:
    connection = connection_from_environment()
    if connection is None:
        return None
    from airflow_provider_seedance.hooks.seedance import SeedanceHook

    # The hook reads connections as every Airflow process does: from the environment.
    os.environ["AIRFLOW_CONN_SEEDANCE_DEFAULT"] = connection
    hook = SeedanceHook()
    images = makes_images(hook.settings)
    requests: list[GenerationRequest] = [ImageRequest(prompt=PROMPT)] if images else []
    requests.append(VideoRequest(prompt=PROMPT))
    print(f"This uses {hook.settings.api.title} with the key in {KEY_VARIABLE} and costs money:")
    for request in requests:
        print(f"  1 {request.media}: {_price(hook.estimate(request))}")
    if not args.yes and not _agreed():
        raise DemoError("not agreed to; nothing was sent. --yes agrees without asking.")
    return Plan(
        dag_id="example_seedance_image_to_video" if images else "example_seedance_upload",
        store_task="store" if images else "upload",
        video_task="video" if images else "render",
        connections={"seedance_default": connection, **({"seedance_images": connection} if images else {})},
        patience=PATIENCE_SERVICE,
    )


def _agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("Go on? [y/N] ").strip().lower() in ("y", "yes")


def _price(estimate: Estimate) -> str:
    if estimate.credits is None:
        return "the service publishes no price"
    return f"{estimate.credits:g} credits (${estimate.cost_usd:g})"


# ---------------------------------------------------------------------- running it


def _run(plan: Plan, output: Path, *, keep: bool, began: float, stack: ExitStack) -> None:
    from airflow_provider_seedance.local_airflow import LocalAirflow
    from airflow_provider_seedance.local_airflow.api import quoted
    from airflow_provider_seedance.plugin import RUN_ROUTE

    home = Path(
        stack.enter_context(tempfile.TemporaryDirectory(prefix="seedance-demo-", ignore_cleanup_errors=True))
    )
    output.mkdir(parents=True, exist_ok=True)
    dags = home / "dags"
    dags.mkdir()
    # Only this one: another example runs by itself every day, which a real key would pay for.
    shutil.copy(_examples() / f"{plan.dag_id}.py", dags)
    _say(began, "Starting Airflow: scheduler, Dag processor, triggerer and API server …")
    airflow = LocalAirflow(
        home=home / "airflow",
        dags_folder=dags,
        connections=plan.connections,
        env={"SEEDANCE_EXAMPLE_DESTINATION": output.as_uri()},
    )
    stack.enter_context(airflow)
    airflow.wait_parsed(plan.dag_id, 60)
    airflow.unpause(plan.dag_id)
    run_id = airflow.trigger(plan.dag_id)
    _say(began, f"Airflow runs {plan.dag_id}:")
    _watch(airflow, plan, run_id, began)
    _report(airflow, plan, run_id, began)
    if keep:
        run = f"{airflow.url}/dags/{quoted(plan.dag_id)}/runs/{quoted(run_id)}"
        print(
            f"\nAirflow is still running: {run}\nPress Ctrl-C to stop it.\n\nRenders: {run}/plugin/{RUN_ROUTE}",
            flush=True,
        )
        # Stopping what was kept is how a demo that succeeded ends.
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        _say(began, "Stopping Airflow.")


def _watch(airflow: LocalAirflow, plan: Plan, run_id: str, began: float) -> None:
    told: dict[str, str | None] = {}
    changed = threading.Event()

    def on_change(states: dict[str, str | None]) -> None:
        for task, state in states.items():
            if state is not None and told.get(task) != state:
                told[task] = state
                changed.set()
                _say(began, f"  {task:<8} {_WORDS.get(state, state)}")

    with _heartbeat(told, changed, began):
        state = airflow.wait_run(plan.dag_id, run_id, plan.patience, on_change)
    if state != "success":
        failed = [task for task, state in told.items() if state in ("failed", "upstream_failed")]
        logs = "\n".join(
            f"--- log of {task}\n{airflow.task_log(plan.dag_id, run_id, task)[-3000:]}"
            for task in failed
            if told[task] == "failed"
        )
        raise DemoError(f"the Dag run ended as {state}; failed: {', '.join(failed)}\n{logs}")


_WORDS = {
    "deferred": "deferred: waiting in the triggerer, holding no worker",
    "success": "done",
}


@contextmanager
def _heartbeat(told: dict[str, str | None], changed: threading.Event, began: float) -> Iterator[None]:
    """Say now and then what is being waited for, so that silence never looks like a hang."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT):
            if not changed.is_set():
                waiting = [task for task, state in told.items() if state in ("running", "deferred", "queued")]
                _say(began, f"  … {', '.join(waiting) or 'Airflow'} still at it")
            changed.clear()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _report(airflow: LocalAirflow, plan: Plan, run_id: str, began: float) -> None:
    stored: dict[str, Any] = airflow.xcom(plan.dag_id, run_id, plan.store_task)
    video: dict[str, Any] = airflow.xcom(plan.dag_id, run_id, plan.video_task)
    path = Path(str(stored["path"]).removeprefix("file://"))
    if not path.is_file() or path.stat().st_size != stored["bytes"]:
        raise DemoError(f"the stored file {path} is not what the upload task reported: {stored}")
    _say(began, "Finished.\n")
    print(f"Video:  {path}")
    print(f"        {stored['bytes']:,} bytes, {_playable(path)}")
    price = _price(Estimate(credits=video["credits"], cost_usd=video["cost_usd"]))
    real = KEY_VARIABLE in os.environ
    print(f"Price:  {'' if real else 'at the real service '}{price}", flush=True)


def _playable(path: Path) -> str:
    try:
        import av
    except ImportError:
        return "not checked further (PyAV is not installed)"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        if not frames:
            raise DemoError(f"{path} holds no frames")
        seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        return f"{seconds:.1f} s, {stream.width}x{stream.height}, {frames} frames, all decoded"


# ---------------------------------------------------------------------- small helpers


def _examples() -> Path:
    package = Path(airflow_provider_seedance.__file__).parent
    for folder in (package / "example_dags", package.parent / "example_dags"):
        if folder.is_dir():
            return folder
    raise DemoError("the example Dags are not installed")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM stop everything in order, as Ctrl-C does."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _say(began: float, line: str) -> None:
    print(f"[{time.monotonic() - began:4.0f} s] {line}", flush=True)
