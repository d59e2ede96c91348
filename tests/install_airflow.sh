#!/usr/bin/env bash
# Install the newest release of an Airflow version, or its newest beta while it has no release.
#
#   tests/install_airflow.sh .venv/bin/python 3.4 -e '.[dev]'
set -euo pipefail

python=$1 airflow=$2
shift 2

airflow_requirement="apache-airflow==$airflow.*"
if ! "$python" -m pip install --quiet --dry-run --no-deps "$airflow_requirement" >/dev/null 2>&1; then
    # Only this requirement allows betas: pip's --pre would install those of every package.
    airflow_requirement="apache-airflow>=$airflow.0a1,<$airflow.1"
fi
# Airflow 3.2 does not start with later versions of FastAPI, and does not say so before 3.3; its constraints would.
[ "$airflow" = 3.2 ] && bounds=('fastapi<0.137') || bounds=()
"$python" -m pip install --quiet "$airflow_requirement" "${bounds[@]}" "$@"
