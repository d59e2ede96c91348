"""A local stand-in for the five services. See :class:`airflow_provider_seedance.testing.SeedanceEmulator`.

Nothing here is imported in production, and nothing here imports the adapters that production uses: it is
a second, independent reading of the vendors' documents.
"""
