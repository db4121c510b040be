"""Several methods on one bench."""
