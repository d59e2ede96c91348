"""What services say when they call back, and what this Airflow makes of it."""
