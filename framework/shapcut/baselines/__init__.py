"""Published and simple baselines, on the same games and budgets as other methods."""
