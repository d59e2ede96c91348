"""Airflow's object storage: locations, writers and text files."""
