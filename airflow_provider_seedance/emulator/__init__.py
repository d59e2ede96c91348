"""
A local emulator of the five documented services. See :class:`airflow_provider_seedance.testing.SeedanceEmulator`.

It runs in tests and in the demo only, and does not import the adapters that production uses: it is a second,
independent implementation of the vendors' documents.
"""
