"""Waiting: schedule, quota, the hub of a triggerer, and what the end of a wait means."""
