"""From contributions to the set of players to remove."""
