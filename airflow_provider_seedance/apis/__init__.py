"""The services: one file each, of pure functions that build requests and parse replies."""
