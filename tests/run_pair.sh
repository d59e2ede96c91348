#!/usr/bin/env bash
# Run the tests on one pair of Airflow and Python, in an environment made for it.
#
#   tests/run_pair.sh 3.1-py3.11 .venv 2 short|all CONSTRAINTS [arguments of pytest]
set -euo pipefail
cd "$(dirname "$0")/.."

pair=$1 venv=$2-$1 jobs=$3 form=$4 constraints=$5
shift 5
airflow=${pair%-py*} python=${pair#*-py}

say() { printf '\n== Airflow %s, Python %s: %s\n' "$airflow" "$python" "$*"; }

if ! python_of_pair=$(tests/find_python.sh "$python"); then
    say "SKIPPED, there is no Python $python here"
    exit 0
fi

if [ ! -e "$venv/installed" ] || [ pyproject.toml -nt "$venv/installed" ]; then
    say "installing into $venv (once; a minute or two)"
    "$python_of_pair" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --upgrade pip
    tests/install_airflow.sh "$venv/bin/python" "$airflow" -e '.[dev]' ${constraints:+--constraint "$constraints"}
    touch "$venv/installed"
fi

say "$("$venv/bin/python" -c 'import sys, importlib.metadata as m; print("Airflow", m.version("apache-airflow-core"), "on Python", sys.version.split()[0])')"
run() {
    local status=0
    "$venv/bin/python" -m pytest -q --dist loadgroup "$@" | tee "$venv/output" || status=$?
    results+=$'\n   '$(tail -1 "$venv/output")
    return "$status"
}

began=$SECONDS
failed=0
results=
if [ "$form" = short ]; then
    # All at once, so that the units fill the time in which the others wait for Airflow. Left out is what says little
    # of this version for its time: commands, hundreds of triggers, and what any version does with a pool or a kill.
    ignored=(--ignore=tests/integration/{test_{packaging,triggerer,commands},shared_airflow/test_{backfill,harness,secrets}}.py)
    run -n "$jobs" "${ignored[@]}" -m 'not variant' "$@" || failed=$?
else
    run -n "$jobs" --dist worksteal -m 'not integration' "$@" || failed=$?
    run -n 3 -m integration --durations=10 tests/integration "$@" || failed=$?
    run tests/*/test_processes.py "$@" || failed=$?
fi
say "$([ "$failed" = 0 ] && echo passed || echo FAILED) after $((SECONDS - began)) s$results"
exit "$failed"
