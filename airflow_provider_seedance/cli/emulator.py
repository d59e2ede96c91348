"""``airflow seedance emulator``."""

from __future__ import annotations

import argparse
import sys


def emulator(args: argparse.Namespace) -> int:
    """Serve the stand-in until Ctrl-C."""
    try:
        from airflow_provider_seedance.emulator.serve import run
    except ImportError as error:
        print(
            f"The emulator needs its extra ({error.name} is missing): "
            "pip install 'airflow-provider-seedance[emulator]'",
            file=sys.stderr,
        )
        return 1
    try:
        run(host=args.host, port=args.port, speed=args.speed, key=args.key, echo=_echo)
    except OSError as error:
        print(f"The emulator cannot listen on {args.host}:{args.port}: {error}", file=sys.stderr)
        return 1
    return 0


def _echo(line: str) -> None:
    print(line, flush=True)
