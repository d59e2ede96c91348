"""
The services this package speaks to, by the name that the connection's ``api`` gives them.

Adding a service is one file with a subclass of :class:`~airflow_provider_seedance.apis.base.Api` and one
line here (docs/adding-a-service.md). Nothing is imported: Airflow reads this at discovery, for the
connection form.
"""

#: Name of the service, and the module whose ``API`` speaks to it.
SERVICES: dict[str, str] = {
    "seedance2api": "airflow_provider_seedance.apis.seedance2api",
    "seedanceapi-v1": "airflow_provider_seedance.apis.seedanceapi_v1",
    "seedanceapi-v2": "airflow_provider_seedance.apis.seedanceapi_v2",
    "runbase": "airflow_provider_seedance.apis.runbase",
    "ark": "airflow_provider_seedance.apis.ark",
}

#: The service of a connection that names none.
DEFAULT_API = "seedanceapi-v2"
