"""Published and simple ways to choose layers, on the same games and budgets as everything else."""
