"""Figures of one whole model."""
