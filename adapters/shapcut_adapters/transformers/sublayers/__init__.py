"""Attention and MLP as players: how a block comes apart, and how it runs without one of them."""
