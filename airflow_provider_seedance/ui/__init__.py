"""The Renders page: what it shows, who may see it, and the files it plays. Only the API server imports this."""
