"""What Airflow's API server runs: the callback route and the Renders page. No other process imports it."""
