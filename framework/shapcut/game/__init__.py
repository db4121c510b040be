"""Players, coalitions, values, budgets, the store, contributions, targets and plans; numpy only."""
