"""Waiting: schedule, quota, the hub of a triggerer, and the end of a wait."""
