"""Experts as players: where they are, how a layer runs without some of them, and how they are removed."""
