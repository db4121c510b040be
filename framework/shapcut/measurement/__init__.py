"""Measurements of a finished model."""
