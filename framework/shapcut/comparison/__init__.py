"""Comparison of methods at equal budgets."""
