"""Submitting at most once: the decision table, the records, the store that keeps them, and the submitter."""
