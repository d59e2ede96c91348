"""Code of Airflow's API server: the callback route and the Renders page. No other process imports it."""
