"""HTTP: the client of the services, the flows it drives, downloads of media, and deadlines."""
