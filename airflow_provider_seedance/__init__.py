"""Apache Airflow provider for ByteDance Seedance (video) and Seedream (images).

Nothing is imported here: Dag files, the scheduler and every task process import this package,
and each of them should pay only for the module it asks for.
"""

__version__ = "1.0.0"
