"""Post-pruning steps, and the game of compensated models."""
