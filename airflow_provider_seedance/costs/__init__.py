"""Costs of renders: prices and budgets of a connection; values without I/O but for the published tables."""
