"""From a game and a budget to contributions."""
