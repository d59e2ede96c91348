"""``python -m airflow_provider_seedance``: the commands, on every Airflow."""

from airflow_provider_seedance.cli import main

main()
