"""The part of an Airflow on this machine that does not depend on what its processes are."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from local_airflow import environment
from local_airflow.api import Api
from local_airflow.client import Client, LocalAirflowError
from local_airflow.database import Database
from local_airflow.processes import Component, Guard

JOBS = {"scheduler": "SchedulerJob", "dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}


class Installation(Client):
    """An Airflow whose components are processes that end with this one.

    :param commands: the arguments of ``airflow`` for each component.
    """

    def __init__(
        self,
        *,
        home: Path,
        config: environment.Config,
        variables: dict[str, str],
        commands: dict[str, list[str]],
        database: Database,
        api: Api,
        python: str = sys.executable,
    ) -> None:
        super().__init__(database=database, api=api, task_logs=Path(config["logging", "base_log_folder"]))
        self.home, self.config, self.environment, self.python = home, config, variables, python
        self._guard: Guard | None = None
        self._lock = threading.RLock()
        self._components = {
            name: Component(name, arguments, home / "logs" / f"{name}.log")
            for name, arguments in commands.items()
        }

    def start(self) -> None:
        """Start everything, and wait until it works."""
        raise NotImplementedError

    def stop(self) -> None:
        """End everything."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def pid(self, component: str) -> int:
        """Return the process id of a component, which is also its session id."""
        process = self._components[component].process
        if process is None:
            raise LocalAirflowError(f"{component} does not run")
        return process.pid

    def cli(self, *arguments: str, timeout: float = 240.0) -> subprocess.CompletedProcess[str]:
        """Run ``airflow …`` in this Airflow and return the completed process, also of a failure."""
        return subprocess.run(
            [self.python, "-m", "airflow", *arguments],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            start_new_session=True,
        )

    def _run(self, *arguments: str) -> None:
        done = self.cli(*arguments)
        if done.returncode != 0:
            raise LocalAirflowError(f"`airflow {' '.join(arguments)}` failed:\n{done.stdout}\n{done.stderr}")

    def _check(self) -> None:
        for component in self._components.values():
            if component.died() and component.process is not None:
                code = component.process.returncode
                raise LocalAirflowError(f"the {component.name} ended with {code}:\n{component.tail()}")

    def _report(self) -> list[str]:
        return [f"--- {each.name}\n{each.tail(25)}" for each in self._components.values()]
